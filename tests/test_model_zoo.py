from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.utils.file_io import PathManager

from detr_d2 import model_zoo
from detr_d2.checkpoint.layouts.identify import OFFICIAL, convert
from detr_d2.modeling import DETR

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def test_every_shipped_file_is_listed() -> None:
    names = model_zoo.list_configs()
    assert names == sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))
    assert {"Base-DETR.yaml", "detr_r50.yaml", "quickstart/detr_shapes.yaml"} <= set(names)


def test_a_name_gives_its_file() -> None:
    assert Path(model_zoo.get_config_file("quickstart/detr_shapes.yaml")) == CONFIGS / "quickstart" / "detr_shapes.yaml"


def test_a_config_holds_its_parents() -> None:
    cfg = model_zoo.get_config("detr_r50.yaml")
    assert cfg.MODEL.META_ARCHITECTURE == "DETR"
    assert not cfg.is_frozen()


@pytest.mark.parametrize("name", ["detr_r5.yaml", "../setup.py", "/etc/passwd", "quickstart"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"has no config .*\.yaml"):
        model_zoo.get_config_file(name)


def test_the_closest_name_is_offered() -> None:
    with pytest.raises(ValueError, match=r"detr_r50\.yaml"):
        model_zoo.get_config_file("detr-r50.yaml")


def test_a_wheel_keeps_its_configs_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "detr_d2"
    (package / "configs").mkdir(parents=True)
    (tmp_path / "configs").mkdir()  # of some other package in site-packages
    for path in (package / "configs" / "Base-DETR.yaml", tmp_path / "configs" / "Base-DETR.yaml"):
        path.touch()
    (tmp_path / "configs" / "other.yaml").touch()
    monkeypatch.setattr(model_zoo, "__file__", str(package / "model_zoo.py"))
    assert model_zoo.list_configs() == ["Base-DETR.yaml"]


def test_missing_configs_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_zoo, "__file__", str(tmp_path / "detr_d2" / "model_zoo.py"))
    with pytest.raises(FileNotFoundError, match="install detr_d2 again"):
        model_zoo.list_configs()


def test_the_ending_may_be_left_out() -> None:
    assert model_zoo.get_config_file("detr_r50") == model_zoo.get_config_file("detr_r50.yaml")
    assert model_zoo.get_config("detr_r101").MODEL.RESNETS.DEPTH == 101


def test_trained_weights_carry_their_hash_and_the_papers_ap() -> None:
    published = {  # Carion et al. 2020, Table 1
        "detr_r50": ("e632da11", 42.0),
        "detr_r50_dc5": ("f0fb7ef5", 43.3),
        "detr_r101": ("2c7b67e5", 43.5),
        "detr_r101_dc5": ("a2e86def", 44.9),
        "detr_r50_panoptic": ("00ce5173", 38.8),  # README
        "detr_r50_dc5_panoptic": ("da08f1b1", 40.2),
        "detr_r101_panoptic": ("40021d53", 40.1),
    }
    for name, (digits, ap) in published.items():
        trained = model_zoo.get_trained(name)
        assert trained.url == f"https://dl.fbaipublicfiles.com/detr/{name.replace('_', '-')}-{digits}.pth"
        assert trained.box_ap == ap
        assert trained.url == model_zoo.get_config(name, trained=True).MODEL.WEIGHTS
        assert model_zoo.get_config(name).MODEL.WEIGHTS.startswith("torchvision://")


def test_panoptic_models_carry_the_papers_quality_of_masks() -> None:
    published = {  # Carion et al. 2020, Table 5: AP of masks and PQ
        "detr_r50_panoptic": (31.1, 43.4),
        "detr_r50_dc5_panoptic": (31.9, 44.6),
        "detr_r101_panoptic": (33.0, 45.1),
    }
    for name, figures in published.items():
        trained = model_zoo.get_trained(name)
        assert (trained.mask_ap, trained.panoptic_quality) == figures
    assert model_zoo.get_trained("detr_r50").panoptic_quality is None


def test_what_the_authors_have_not_trained_is_said() -> None:
    with pytest.raises(ValueError, match=r"no trained weights for faster_rcnn_r50_fpn\.yaml, only for detr_r50\.yaml"):
        model_zoo.get_config("faster_rcnn_r50_fpn", trained=True)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A file in the authors' layout where the download of DETR R50 would be."""
    cfg = model_zoo.get_config("detr_r50")
    cfg.MODEL.DETR.NUM_CLASSES = 91
    state = convert(DETR(cfg).state_dict(), OFFICIAL, source="x")
    path = tmp_path / "detr.pth"
    torch.save({"model": state}, path)
    monkeypatch.setattr(PathManager, "get_local_path", lambda *_args, **_kwargs: str(path))
    return {"path": path, "state": state}


def test_a_trained_model_is_ready_to_use(published: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    digits = hashlib.sha256(published["path"].read_bytes()).hexdigest()[:8]
    url = f"https://dl.fbaipublicfiles.com/detr/detr-r50-{digits}.pth"
    monkeypatch.setitem(model_zoo.TRAINED, "detr_r50.yaml", model_zoo.TrainedModel(url, 42.0))
    ours, theirs = model_zoo.get("detr_r50", trained=True, device="cpu").state_dict(), published["state"]
    assert torch.equal(ours["head.class_embed.bias"], theirs["class_embed.bias"][[*model_rows()]])
    assert torch.equal(ours["transformer.query_embed.weight"], theirs["query_embed.weight"])


def model_rows() -> list[int]:
    return [i for i in range(92) if i not in {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}]


def test_a_download_that_is_not_what_was_published_is_an_error(published: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{re.escape(str(published['path']))} is not the file of https.*e632da11"):
        model_zoo.get("detr_r50", trained=True, device="cpu")
