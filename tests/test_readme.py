"""What the README says in Python runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from tiny_models import tiny_cfg, tiny_detr

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_predictor_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    start = README.index("    import detr_d2 ")
    snippet = README[start : README.index("\n\ndetectron2's own scripts", start)]
    code = "\n".join(line.removeprefix("    ") for line in snippet.splitlines())
    assert "DefaultPredictor(cfg)(image_bgr)" in code
    (tmp_path / "tiny.yaml").write_text(tiny_cfg().dump())
    torch.save({"model": tiny_detr().state_dict()}, tmp_path / "model_final.pth")
    code = code.replace('"model_final.pth", 80', '"model_final.pth", 3')  # the small model of the tests
    code = code.replace('detr_d2.model_zoo.get_config_file("detr_r50.yaml")', '"tiny.yaml"')
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"image_bgr": np.zeros((60, 80, 3), np.uint8)}
    exec(code, names)
    assert isinstance(names["instances"], Instances)


def test_detectron2s_own_get_cfg_takes_the_configs_after_one_line():
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    import detr_d2

    cfg = get_cfg()
    detr_d2.add_detr_config(cfg)
    cfg.merge_from_file(detr_d2.model_zoo.get_config_file("quickstart/detr_shapes.yaml"))
    cfg.MODEL.DEVICE, cfg.MODEL.DETR.NUM_CLASSES = "cpu", 3
    assert type(build_model(cfg)) is detr_d2.modeling.DETR


def test_files_and_folders_that_the_readme_names_exist():
    root = Path(__file__).parents[1]
    names = [
        "training",
        "results",
        "checkpoints",
        "parity",
        "differences",
        "comparison",
        "looking_inside",
        "deformable",
        "segmentation",
        "performance",
    ]
    pages = [f"docs/{x}.md" for x in names]
    for name in [*pages, "docs/images/quickstart.png", "CHANGELOG.md", "LICENSE"]:
        assert name in README
        assert (root / name).is_file(), name
    tree = README[README.index("## The tree") : README.index("## What was not run")]
    paths = [line.split()[0] for line in tree.splitlines() if line.startswith("    ")]
    assert len(paths) > 8
    for path in paths:
        assert (root / path).exists(), path
