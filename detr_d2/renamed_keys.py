"""Config keys that once had other names, or are gone: what old configs and commands are translated by."""

from __future__ import annotations

from typing import Any

_TRANSFORMER = "MODEL.DETR.TRANSFORMER"

RENAMED = {
    "MODEL.DETR.CHECKPOINT_BACKBONE": "MODEL.DETR.RECOMPUTE_BACKBONE",
    f"{_TRANSFORMER}.CHECKPOINT": f"{_TRANSFORMER}.RECOMPUTE",
    f"{_TRANSFORMER}.PRE_NORM": f"{_TRANSFORMER}.DETR.PRE_NORM",
    **{
        f"{_TRANSFORMER}.{name}": f"{_TRANSFORMER}.DEFORMABLE.{name}"
        for name in ("NUM_POINTS", "SAMPLING_BACKEND", "BOX_REFINEMENT", "TWO_STAGE", "MIXED_SELECTION")
    },
}
"""Name of then -> name of today."""

REMOVED: dict[str, tuple[Any, str]] = {
    "SOLVER.ONE_CYCLE_PCT": (
        0.1,
        'the schedule OneCycleLR is gone: set SOLVER.LR_SCHEDULER_NAME to "WarmupCosineLR" and SOLVER.WARMUP_ITERS to '
        "that part of MAX_ITER",
    )
}
"""Name -> the value that it had unless somebody changed it, which is ignored, and what to do instead of another one."""


def translate_keys(values: dict[str, Any]) -> None:
    """Gives the keys of a config their names of today, in place.

    Args:
        values: a config, or a part of one that begins at its root, as nested dictionaries.

    Raises:
        ValueError: a key is there under both names with two values, or is gone and had another value than its default.
    """
    for key in REMOVED:
        for value in _taken(values, key):
            check_removed(key, value)
    for old, new in RENAMED.items():
        for value in _taken(values, old):
            *parents, name = new.split(".")
            node: Any = values
            for parent in parents:
                node = node.setdefault(parent, {}) if isinstance(node, dict) else None
            if not isinstance(node, dict) or node.setdefault(name, value) != value:
                raise ValueError(f"{old} is the old name of {new}, which has another value here; keep the new one.")


def translate_overrides(overrides: list[Any]) -> list[Any]:
    """The same for KEY, VALUE, KEY, VALUE, ...; the list as it is where these are no pairs."""
    if len(overrides) % 2:
        return overrides
    translated = []
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        if key in REMOVED:
            check_removed(key, value)
        else:
            translated += [RENAMED.get(key, key), value]
    return translated


def check_removed(key: str, value: Any) -> None:
    """Raises ValueError if a key that is gone has another value than its default, as a number or as text."""
    default, advice = REMOVED[key]
    if str(value) != str(default):
        raise ValueError(f"{key} is {value!r}, but {advice}.")


def _taken(values: dict[str, Any], key: str) -> list[Any]:
    """Takes a key out; its value, or nothing if it is not there."""
    *parents, name = key.split(".")
    for parent in parents:
        values = values.get(parent, {})
        if not isinstance(values, dict):
            return []
    return [values.pop(name)] if name in values else []
