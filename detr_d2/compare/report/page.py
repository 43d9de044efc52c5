"""The page of `compare`: one HTML file that shows a comparison without network."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path
from typing import Any

from ...files import write_text
from ..records.comparison import Comparison
from ..records.sets import FEWEST_OBJECTS
from .confusion import confusions
from .gallery import MAX_SIDE, make_gallery
from .operating import slider_data
from .removed import removed_strips
from .summary import differences, interval_notes, summary

GALLERY_IMAGES = 24
"""Images that are embedded unless another number is asked for: at 640 pixels, two megabytes or less together."""

SECTIONS = {
    "summary": ("At a glance", "Glance"),
    "nms": ("What NMS does", "NMS"),
    "crowds": ("Crowds", "Crowds"),
    "set": ("Set behaviour", "Set"),
    "gallery": ("Where the models disagree", "Gallery"),
    "figures": ("All figures", "Figures"),
    "accuracy": ("Precision, recall and errors", "Precision"),
    "masks": ("Masks", "Masks"),
    "cost": ("Speed and cost", "Cost"),
    "classes": ("Classes", "Classes"),
    "made": ("How this was made", "Made"),
}
"""Id -> heading, and its name among the contents."""

_WITHOUT_MODELS = ("summary", "made")

_SCRIPTS = ("report.js", "slider.js", "gallery.js")
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
        from .cards import cards
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in ("jinja2", "matplotlib"):
            raise
        raise ImportError(f'the report needs {error.name}: pip install "detr_d2[report]".') from error
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    script = "\n".join(map(_template, _SCRIPTS))
    return environment.get_template("report.html").render(
        comparison=comparison,
        dataset=comparison.dataset,
        models=comparison.models,
        working=sum(not model.failed for model in comparison.models),
        sections=_sections(comparison),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=_template("report.css"),
        cards=cards(comparison),
        figures=figures,
        tables=tables,
        notes=interval_notes(comparison),
        slider=slider_data(comparison),
        gallery=make_gallery(comparison, gallery),
        removed=removed_strips(comparison),
        confusions=confusions(comparison),
        max_side=MAX_SIDE,
        fewest_objects=FEWEST_OBJECTS,
    )


def _sections(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """Those of `SECTIONS` that can say something."""
    working = sum(not model.failed for model in comparison.models)
    if not working:
        return {name: SECTIONS[name] for name in _WITHOUT_MODELS}
    sections = SECTIONS if working > 1 else {**SECTIONS, "gallery": ("Pictures", "Pictures")}
    masks = any(model.masks is not None or model.panoptic is not None for model in comparison.models)
    return {name: titles for name, titles in sections.items() if name != "masks" or masks}


def _template(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def page_figures(comparison: Comparison) -> dict[str, Any]:
    """Name -> what a section draws: a `Plot`, several, or None; and the swatches of legends."""
    from .plots import accuracy, crowds, sets
    from .plots.plot import live_series, swatches

    series = live_series(comparison)
    rooms = {
        accuracy: ("precision_recall", "speed", "errors", "stages", "throughput"),
        crowds: ("crowds",),
        sets: ("nms_sweep", "layers", "scores", "counting", "missed"),
    }
    figures = {name: getattr(room, name)(series) for room, names in rooms.items() for name in names}
    return {"swatches": swatches(series), **figures}


def _tables(comparison: Comparison) -> dict[str, Any]:
    from . import operating, set_tables, tables, use_tables

    rooms = {
        operating: ("operating",),
        set_tables: ("extra_boxes", "crowds", "counting", "queries", "cures"),
        tables: ("nms", "errors", "classes", "masks", "panoptic"),
        use_tables: ("cost", "made"),
    }
    found = {name: getattr(room, f"{name}_table")(comparison) for room, names in rooms.items() for name in names}
    own = {"summary": summary(comparison), "differences": differences(comparison)}
    return {**own, "layers": tables.layer_tables(comparison), **found}
