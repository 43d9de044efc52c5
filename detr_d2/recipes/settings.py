"""What a recipe is made of; see `recipe.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode

DIFFERS = "differs"
NOTE = "note"


@dataclass(frozen=True)
class Run:
    """What a recipe is compared with.

    Args:
        cfg: a config with the keys of `add_detr_config`.
        num_images: training images; None if unknown.
    """

    cfg: CfgNode
    num_images: int | None = None

    @property
    def batch(self) -> int:
        """Images of one optimizer step."""
        return self.cfg.SOLVER.IMS_PER_BATCH * self.cfg.SOLVER.ACCUM_STEPS

    def get(self, key: str) -> Any:
        """Value of a dotted key."""
        value: Any = self.cfg
        for part in key.split("."):
            value = value[part]
        return value


@dataclass(frozen=True)
class Setting:
    """One line of a recipe.

    Args:
        name: for people.
        keys: of the config, separated by spaces; the value of the first is compared unless `read` is given.
        paper: what the paper has; several values if it has several models or schedules.
        source: where that is written.
        effect: what another value does; a sentence, or a function of the run that makes it.
        read: what the config has, comparable with `paper`; None where it does not apply.
        mark: of a difference: `DIFFERS`, or `NOTE` where it is no departure from the recipe; or a function of the run.
    """

    name: str
    keys: str
    paper: tuple[Any, ...]
    source: str
    effect: str | Callable[[Run], str]
    read: Callable[[Run], Any] | None = None
    mark: str | Callable[[Run], str] = DIFFERS

    def value(self, run: Run) -> Any:
        """What the config has."""
        return self.read(run) if self.read is not None else run.get(self.keys.split()[0])


@dataclass(frozen=True)
class Recipe:
    """A paper's settings, under the name to print."""

    title: str
    settings: Sequence[Setting]
