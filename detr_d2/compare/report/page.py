"""The page of `compare`: one HTML file that shows a comparison without network."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path
from typing import Any

from ...files import write_text
from ..records.comparison import Comparison
from ..records.figures import FEWEST
from .confusion import confusions
from .gallery import MAX_SIDE, make_gallery
from .removed import removed_strips
from .verdicts import differences, headline, summary

GALLERY_IMAGES = 24
"""Images that are embedded unless another number is asked for: at 640 pixels, two megabytes or less together."""

SECTIONS = {
    "summary": "Summary",
    "precision-recall": "Precision and recall",
    "masks": "Masks",
    "speed": "AP against time",
    "nms": "The effect of NMS",
    "layers": "AP of each decoder layer",
    "crowding": "Crowded objects",
    "removed": "What NMS removed",
    "duplicates": "Duplicates",
    "gallery": "Where the models disagree",
    "counting": "Counting",
    "errors": "Kinds of error",
    "confusion": "What is taken for what",
    "queries": "The limit of queries",
    "cost": "Cost",
    "classes": "Classes",
    "made": "How this was made",
}

_WITHOUT_MODELS = ("summary", "made")

_TEMPLATES = Path(__file__).with_name("templates")


def write_report(comparison: Comparison, path: str | os.PathLike[str], *, gallery: int = GALLERY_IMAGES) -> None:
    """Writes the page; it appears whole or not at all.

    Args:
        comparison: the record.
        path: of the HTML file.
        gallery: most images to embed; 0 leaves the gallery out.

    Raises:
        ImportError: jinja2 or matplotlib is missing; names the extra.
        ValueError: `gallery` is negative.
    """
    if gallery < 0:
        raise ValueError(f"gallery is {gallery}, expected the number of images to embed: 0 or more")
    write_text(path, render(comparison, gallery=gallery))


def render(comparison: Comparison, *, gallery: int = GALLERY_IMAGES) -> str:
    """The page as text."""
    try:
        import jinja2

        figures, tables = page_figures(comparison), _tables(comparison)
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in ("jinja2", "matplotlib"):
            raise
        raise ImportError(f'the report needs {error.name}: pip install "detr_d2[report]".') from error
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    script = _template("report.js")
    return environment.get_template("report.html").render(
        comparison=comparison,
        dataset=comparison.dataset,
        models=comparison.models,
        sections=_sections(comparison),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=_template("report.css"),
        figures=figures,
        tables=tables,
        summary=summary(comparison),
        differences=differences(comparison),
        headline=headline(comparison),
        gallery=make_gallery(comparison, gallery),
        removed=removed_strips(comparison),
        confusions=confusions(comparison),
        max_side=MAX_SIDE,
        fewest=FEWEST,
    )


def _sections(comparison: Comparison) -> dict[str, str]:
    """Id -> heading of those that can say something."""
    working = sum(not model.failed for model in comparison.models)
    if not working:
        return {name: SECTIONS[name] for name in _WITHOUT_MODELS}
    sections = SECTIONS if working > 1 else {**SECTIONS, "gallery": "Pictures"}
    masks = any(model.masks is not None or model.panoptic is not None for model in comparison.models)
    return {name: title for name, title in sections.items() if name != "masks" or masks}


def _template(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def page_figures(comparison: Comparison) -> dict[str, Any]:
    """Name -> what a section draws: a `Plot`, several, or None; and the swatches of legends."""
    from .plots import accuracy, sets
    from .plots.plot import live_series, swatches

    series = live_series(comparison)
    rooms = {
        accuracy: ("precision_recall", "speed", "errors", "stages", "throughput"),
        sets: ("nms_sweep", "layers", "crowding", "counting", "missed"),
    }
    figures = {name: getattr(room, name)(series) for room, names in rooms.items() for name in names}
    return {"swatches": swatches(series), **figures}


def _tables(comparison: Comparison) -> dict[str, Any]:
    from . import tables, use_tables

    rooms = {
        tables: ("nms", "crowding", "duplicates", "counting", "errors", "queries", "classes", "masks", "panoptic"),
        use_tables: ("cost", "made"),
    }
    found = {name: getattr(room, f"{name}_table")(comparison) for room, names in rooms.items() for name in names}
    return {"layers": tables.layer_tables(comparison), **found}
