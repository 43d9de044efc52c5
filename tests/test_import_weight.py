"""`import detr_d2` brings nothing heavy that detectron2's models have not brought already."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json, sys, warnings
warnings.simplefilter("ignore")
import detectron2.data, detectron2.modeling
before = set(sys.modules)
import detr_d2
print(json.dumps(sorted(set(sys.modules) - before)))
"""
HEAVY = {"matplotlib", "pandas", "scipy.optimize", "sklearn", "timm", "transformers", "safetensors"}


def test_nothing_heavy_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    new = set(json.loads(done.stdout.splitlines()[-1]))
    assert "detr_d2.modeling" in new
    assert new & HEAVY == set()
