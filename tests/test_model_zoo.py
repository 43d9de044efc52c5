from __future__ import annotations

from pathlib import Path

import pytest

from detr_d2 import model_zoo

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
