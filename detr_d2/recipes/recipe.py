"""How a config differs from the recipe that a paper describes.

A recipe is a list of settings: what the paper and its authors' code do, with the source, how a config is read, and what
another value changes. `detr_recipe.py` holds DETR's; another paper's is one more such file and one more line in
`RECIPES`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

from detectron2.config import CfgNode
from tabulate import tabulate

from .deformable import DEFORMABLE_RECIPE
from .detr import COCO_TRAIN_IMAGES, DETR_RECIPE
from .settings import DIFFERS, Recipe, Run

# MODEL.DETR.TRANSFORMER.NAME -> recipe; a transformer that is not here is compared with DETR's.
RECIPES = {"DETRTransformer": DETR_RECIPE, "DeformableTransformer": DEFORMABLE_RECIPE}

_KNOWN_SIZES = {"coco_2017_train": COCO_TRAIN_IMAGES}
_CELL = 44  # characters of a cell in the table


@dataclass(frozen=True)
class Row:
    """One setting of a config beside the paper's.

    Attributes:
        setting: its name.
        keys: of the config.
        here: what the config has, as text.
        paper: what the paper has, as text.
        source: where that is written.
        mark: "" where they agree, "differs", or "note" for what is worth knowing but no departure from the recipe.
        effect: what the difference does; "" where there is none.
    """

    setting: str
    keys: tuple[str, ...]
    here: str
    paper: str
    source: str
    mark: str = ""
    effect: str = ""


def recipe_of(cfg: CfgNode) -> Recipe:
    """The recipe of the transformer that a config names.

    Raises:
        ValueError: if the config is not one of DETR.
    """
    if cfg.MODEL.META_ARCHITECTURE != "DETR":
        raise ValueError(
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE!r}: recipes are known for 'DETR' alone, so there "
            "is nothing to compare this config with."
        )
    return RECIPES.get(cfg.MODEL.DETR.TRANSFORMER.NAME, DETR_RECIPE)


def known_training_images(cfg: CfgNode) -> int | None:
    """Number of images of `DATASETS.TRAIN` where it is a published dataset; None otherwise."""
    sizes = [_KNOWN_SIZES.get(name) for name in cfg.DATASETS.TRAIN]
    return sum(size for size in sizes if size is not None) if sizes and None not in sizes else None


def compare(cfg: CfgNode, *, num_images: int | None = None) -> list[Row]:
    """Compares a config with its paper's recipe, setting by setting.

    Args:
        cfg: a config with the keys of `add_detr_config`.
        num_images: training images, from which epochs are counted; None if unknown.

    Returns:
        A row for every setting that applies to the config, in the order of the recipe.

    Raises:
        ValueError: if the config is not one of DETR, or the number of images is not positive.
    """
    recipe = recipe_of(cfg)
    if num_images is not None and num_images < 1:
        raise ValueError(f"the number of training images is {num_images}, expected 1 or more.")
    run = Run(cfg, num_images)
    rows = []
    for setting in recipe.settings:
        value = setting.value(run)
        if value is None:
            continue
        mark = effect = ""
        if not any(_same(value, paper) for paper in setting.paper):
            mark = setting.mark if isinstance(setting.mark, str) else setting.mark(run)
            effect = setting.effect if isinstance(setting.effect, str) else setting.effect(run)
        paper = " or ".join(_text(x) for x in setting.paper)
        rows.append(Row(setting.name, tuple(setting.keys.split()), _text(value), paper, setting.source, mark, effect))
    return rows


def _same(value: Any, paper: Any) -> bool:
    if isinstance(paper, str | bool) or isinstance(value, str | bool):
        return value == paper
    if isinstance(paper, Sequence):
        return (
            isinstance(value, Sequence)
            and len(value) == len(paper)
            and all(_same(a, b) for a, b in zip(value, paper, strict=True))
        )
    return abs(value - paper) <= 1e-6 * abs(paper)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str):
        return value
    return ", ".join(map(_text, value)) or "none"


def table(rows: Sequence[Row]) -> str:
    """The columns setting, this config, the paper, mark, for a terminal."""
    lines = [(row.setting, fill(row.here, _CELL), fill(row.paper, _CELL), row.mark) for row in rows]
    return tabulate(
        lines, headers=("setting", "this config", "the paper", "mark"), tablefmt="simple", disable_numparse=True
    )


def sentences(rows: Sequence[Row], mark: str) -> list[str]:
    """One sentence for each row with that mark: setting, what the difference does, config keys."""
    return [f"{row.setting}: {row.effect} ({', '.join(row.keys)})" for row in rows if row.mark == mark]


def differing_settings(rows: Sequence[Row], *, without_keys: Collection[str] = ()) -> str:
    """The names of the settings that differ as one line of text, "" if there are none.

    Args:
        rows: from `compare`.
        without_keys: leave out the settings of these config keys.
    """
    names = [row.setting for row in rows if row.mark == DIFFERS and not set(row.keys) & set(without_keys)]
    return ", ".join(names)
