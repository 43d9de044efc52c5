"""The config.yaml of runs that finished before keys were renamed, and overrides that were written down then."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from detectron2.config import CfgNode as Detectron2CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.modeling import build_model

from detr_d2 import add_detr_config, get_cfg
from detr_d2.config_file import ConfigFileError
from detr_d2.engine.startup.setup import load_config
from detr_d2.renamed_keys import REMOVED, RENAMED

T = "MODEL.DETR.TRANSFORMER."
OLD: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "old_configs.yaml").read_text())
FAMILIES = [name for name in OLD if name != "detr_d2"]


def old_config(name: str) -> dict[str, Any]:
    """All values of a config of then, nested, as `config.yaml` has them."""
    here = OLD[name]
    values = old_config(here["_BASE_"]) if "_BASE_" in here else yaml.safe_load(get_detectron2_cfg().dump())
    for key, value in here.items():
        node = values
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        if not key.startswith("_"):
            node[last] = value
    return values


def write(values: dict[str, Any], path: Path) -> str:
    path.write_text(yaml.safe_dump(values))
    return str(path)


def value(cfg: Any, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_model_of_an_old_config_is_the_same(name: str, tmp_path: Path) -> None:
    old = old_config(name)
    assert all(name in str(old) for name in ("CHECKPOINT_BACKBONE", "ONE_CYCLE_PCT", "TWO_STAGE"))
    cfg = load_config(write(old, tmp_path / "config.yaml"))
    for key, today in RENAMED.items():
        assert value(cfg, today) == value(old, key)
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = "", "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    assert digest([f"{key} {tuple(x.shape)}" for key, x in model.state_dict().items()]) == OLD[name]["_TENSORS_"]
    assert digest([key for key, p in model.named_parameters() if p.requires_grad]) == OLD[name]["_TRAINED_"]


def test_values_that_make_no_tensors_arrive_too(tmp_path: Path) -> None:
    detr = load_config(write(old_config("quickstart/detr_shapes"), tmp_path / "a.yaml")).MODEL.DETR
    assert (detr.RECOMPUTE_BACKBONE, detr.TRANSFORMER.RECOMPUTE, detr.TRANSFORMER.DETR.PRE_NORM) == (True, True, True)
    cfg = load_config(write(old_config("quickstart/deformable_detr_bccd"), tmp_path / "b.yaml"))
    deformable = cfg.MODEL.DETR.TRANSFORMER.DEFORMABLE
    assert (deformable.SAMPLING_BACKEND, deformable.NUM_POINTS, deformable.MIXED_SELECTION) == ("torch", 2, True)
    assert load_config(write(yaml.safe_load(cfg.dump()), tmp_path / "c.yaml")) == cfg


@pytest.mark.parametrize(
    ("above", "below"),
    [
        ({"TWO_STAGE": True}, {"DEFORMABLE": {"TWO_STAGE": False}}),
        ({"DEFORMABLE": {"TWO_STAGE": True}}, {"TWO_STAGE": False}),
    ],
)
def test_a_file_overrides_its_base_under_either_name(above: Any, below: Any, tmp_path: Path) -> None:
    write({"MODEL": {"DETR": {"TRANSFORMER": below}}}, tmp_path / "base.yaml")
    path = write({"_BASE_": "base.yaml", "MODEL": {"DETR": {"TRANSFORMER": above}}}, tmp_path / "top.yaml")
    assert load_config(path).MODEL.DETR.TRANSFORMER.DEFORMABLE.TWO_STAGE is True


@pytest.mark.parametrize("key", RENAMED)
def test_overrides_and_other_configs_may_have_old_names(key: str) -> None:
    default = value(get_cfg(), RENAMED[key])
    other: Any = {bool: True, int: 7, str: "torch"}[type(default)]
    assert other != default
    cfg = load_config("", [key, str(other)])
    assert value(cfg, RENAMED[key]) == other
    old = get_cfg()
    nested: Any = other
    for part in reversed(key.split(".")):
        nested = {part: nested}
    given = Detectron2CfgNode(nested)
    old.merge_from_other_cfg(given)
    assert old == cfg
    assert value(given, key) == other  # what is merged stays as it is
    assert load_config("", [key, str(other), RENAMED[key], str(default)]) == get_cfg()  # the last one counts


def test_two_names_with_two_values_are_refused(tmp_path: Path) -> None:
    both = {"TWO_STAGE": True, "DEFORMABLE": {"TWO_STAGE": False}}
    path = write({"MODEL": {"DETR": {"TRANSFORMER": both}}}, tmp_path / "a.yaml")
    words = r"a\.yaml: .*\.TRANSFORMER\.TWO_STAGE is the old name of .*DEFORMABLE\.TWO_STAGE, which has another"
    with pytest.raises(ConfigFileError, match=words):
        load_config(path)
    both["DEFORMABLE"] = {"TWO_STAGE": True}
    assert load_config(write({"MODEL": {"DETR": {"TRANSFORMER": both}}}, tmp_path / "a.yaml"))
    for wrong in (None, 3, [1]):
        both["DEFORMABLE"] = wrong
        with pytest.raises(ConfigFileError, match=words):
            load_config(write({"MODEL": {"DETR": {"TRANSFORMER": both}}}, tmp_path / "a.yaml"))


def test_a_removed_key_is_accepted_at_its_old_default_only(tmp_path: Path) -> None:
    assert load_config("", ["SOLVER.ONE_CYCLE_PCT", "0.1"]) == get_cfg()
    with pytest.raises(ValueError, match=r"SOLVER\.ONE_CYCLE_PCT is '0.3', but the schedule OneCycleLR is gone"):
        load_config("", ["SOLVER.ONE_CYCLE_PCT", "0.3"])
    path = write({"SOLVER": {"ONE_CYCLE_PCT": 0.3}}, tmp_path / "a.yaml")
    with pytest.raises(ConfigFileError, match=r"a\.yaml: SOLVER\.ONE_CYCLE_PCT is 0\.3, but"):
        load_config(path)
    assert "ONE_CYCLE_PCT" not in get_cfg().SOLVER


def test_a_config_of_detectron2s_class_says_the_new_name(tmp_path: Path) -> None:
    cfg = get_detectron2_cfg()
    add_detr_config(cfg)
    add_detr_config(cfg)
    path = write(old_config("detr_r50"), tmp_path / "a.yaml")
    with pytest.raises(KeyError, match=r"Key MODEL\.DETR.* was renamed to MODEL\.DETR.* detr_d2\.get_cfg\(\) reads"):
        cfg.merge_from_file(path)
    with pytest.raises(KeyError, match=r"TWO_STAGE was renamed to MODEL\.DETR\.TRANSFORMER\.DEFORMABLE\.TWO_STAGE"):
        cfg.merge_from_list([T + "TWO_STAGE", True])
    cfg.merge_from_list(["SOLVER.ONE_CYCLE_PCT", 0.3])  # with detectron2's warning
    assert "ONE_CYCLE_PCT" not in cfg.SOLVER


def test_no_old_name_is_a_key_of_today() -> None:
    for key in (*RENAMED, *REMOVED):
        with pytest.raises(KeyError):
            value(get_cfg(), key)
