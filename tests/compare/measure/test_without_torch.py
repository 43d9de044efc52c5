"""What turns arrays into figures needs numpy and COCO's evaluation, and neither torch nor detectron2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import importlib, pkgutil, sys, types
package = types.ModuleType("detr_d2")  # without what it registers
package.__path__ = [sys.argv[1]]
sys.modules["detr_d2"] = package
for name in ("compare.measure", "compare.report", "compare.report.plots"):
    room = importlib.import_module(f"detr_d2.{name}")
    for module in pkgutil.iter_modules(room.__path__):
        importlib.import_module(f"{room.__name__}.{module.name}")
print(sorted(x for x in ("torch", "torchvision", "detectron2", "fvcore") if x in sys.modules), len(sys.modules) > 100)
"""


def test_measures_and_page_import_no_torch() -> None:
    package = Path(__file__).resolve().parents[3] / "detr_d2"
    done = subprocess.run([sys.executable, "-c", _PROGRAM, str(package)], capture_output=True, text=True, check=True)
    assert done.stdout == "[] True\n"
