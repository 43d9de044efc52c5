"""Config files of this package by name, in a checkout (`configs/`) as in an installed wheel (`detr_d2/configs/`)."""

from __future__ import annotations

import difflib
from pathlib import Path

from detectron2.config import CfgNode

from .config import get_cfg

_BASE_CONFIG = "Base-DETR.yaml"


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
        name: path relative to `configs/`, such as `detr_r50.yaml`.

    Raises:
        ValueError: there is no such config; names the closest ones.
    """
    names = list_configs()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names
        raise ValueError(f"detr_d2 has no config {name!r}; expected a name below configs/, such as {', '.join(close)}.")
    return str(_config_root() / name)


def get_config(name: str) -> CfgNode:
    """A config of this package with all its parents merged, still writable.

    Args:
        name: as for `get_config_file`.

    Raises:
        ValueError: there is no such config.
    """
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(name))
    return cfg
