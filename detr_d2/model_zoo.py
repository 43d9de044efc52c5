"""Configs and trained weights by name; configs are in a checkout (`configs/`) or in the wheel (`detr_d2/configs/`)."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from torch import nn

from .checkpoint import Checkpointer
from .config import get_cfg
from .modeling import build_model

_BASE_CONFIG = "Base-DETR.yaml"


@dataclass(frozen=True)
class TrainedModel:
    """Weights that the authors have published.

    Args:
        url: of the file; its name ends in the first digits of its SHA-256, which are checked after the download.
        box_ap: published AP of boxes on COCO val2017 (0-100).
        mask_ap: the same of masks, of models with a mask head.
        panoptic_quality: published PQ on COCO panoptic val2017 (0-100), of panoptic models.
    """

    url: str
    box_ap: float
    mask_ap: float | None = None
    panoptic_quality: float | None = None


_AUTHORS = "https://dl.fbaipublicfiles.com/detr"

# Carion et al. 2020, Table 1: 500 epochs.
TRAINED = {
    "detr_r50.yaml": TrainedModel(f"{_AUTHORS}/detr-r50-e632da11.pth", 42.0),
    "detr_r50_dc5.yaml": TrainedModel(f"{_AUTHORS}/detr-r50-dc5-f0fb7ef5.pth", 43.3),
    "detr_r101.yaml": TrainedModel(f"{_AUTHORS}/detr-r101-2c7b67e5.pth", 43.5),
    "detr_r101_dc5.yaml": TrainedModel(f"{_AUTHORS}/detr-r101-dc5-a2e86def.pth", 44.9),
    # Table 5; AP of boxes from the authors' README.
    "detr_r50_panoptic.yaml": TrainedModel(f"{_AUTHORS}/detr-r50-panoptic-00ce5173.pth", 38.8, 31.1, 43.4),
    "detr_r50_dc5_panoptic.yaml": TrainedModel(f"{_AUTHORS}/detr-r50-dc5-panoptic-da08f1b1.pth", 40.2, 31.9, 44.6),
    "detr_r101_panoptic.yaml": TrainedModel(f"{_AUTHORS}/detr-r101-panoptic-40021d53.pth", 40.1, 33.0, 45.1),
}


def _config_root() -> Path:
    package = Path(__file__).resolve().parent
    for root in (package / "configs", package.parent / "configs"):
        if (root / _BASE_CONFIG).is_file():
            return root
    raise FileNotFoundError(
        f"{package / 'configs'}: the config files of detr_d2 are missing here and beside the package; "
        "install detr_d2 again."
    )


def list_configs() -> list[str]:
    """Names of all config files, sorted, such as `detr_r50.yaml` and `quickstart/detr_shapes.yaml`."""
    root = _config_root()
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.yaml"))


def get_config_file(name: str) -> str:
    """Path of a config file that this package ships.

    Args:
        name: path relative to `configs/`, such as `detr_r50.yaml`; the ending may be left out.

    Raises:
        ValueError: there is no such config; names the closest ones.
    """
    return str(_config_root() / _full_name(name))


def _full_name(name: str) -> str:
    names = list_configs()
    full = name if name.endswith(".yaml") else f"{name}.yaml"
    if full not in names:
        close = difflib.get_close_matches(full, names, n=3, cutoff=0.5) or names
        raise ValueError(f"detr_d2 has no config {name!r}; expected a name below configs/, such as {', '.join(close)}.")
    return full


def get_trained(name: str) -> TrainedModel:
    """The weights that the authors have trained for a config.

    Raises:
        ValueError: there is no such config, or they have not trained it; names those that they have.
    """
    full = _full_name(name)
    if full not in TRAINED:
        raise ValueError(f"there are no trained weights for {full}, only for {', '.join(TRAINED)}.")
    return TRAINED[full]


def get_config(name: str, trained: bool = False) -> CfgNode:
    """A config of this package with all its parents merged, still writable.

    Args:
        name: as for `get_config_file`.
        trained: set MODEL.WEIGHTS to the weights that the authors have trained on COCO.

    Raises:
        ValueError: there is no such config, or no such weights.
    """
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(name))
    if trained:
        cfg.MODEL.WEIGHTS = get_trained(name).url
    return cfg


def get(name: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """Builds the model of a config and loads weights, as `detectron2.model_zoo.get` does.

    Args:
        name: as for `get_config_file`; of a config whose number of classes is that of COCO, or of registered data.
        trained: load the authors' weights, downloaded once; otherwise those that training starts from.
        device: "cpu", "cuda" or the like; default: a GPU where there is one.

    Returns:
        The model, in training mode.

    Raises:
        ValueError: there is no such config or no such weights, they cannot be downloaded, or are not what the authors
            have published.
    """
    cfg = get_config(name, trained)
    cfg.MODEL.DEVICE = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(cfg)
    checkpointer = Checkpointer(model)
    if trained:
        checkpointer.load_trained(cfg.MODEL.WEIGHTS)
    else:
        checkpointer.load(cfg.MODEL.WEIGHTS)
    return model
