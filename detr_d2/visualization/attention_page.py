"""Looks as one HTML page that needs nothing else: point at a mark, or move to it by keyboard, and see its map."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..files import write_text
from .looks import Frame, Look

_JPEG_QUALITY = 90


def save_attention_page(
    path: str | os.PathLike[str],
    image_rgb: np.ndarray,
    frame: Frame,
    groups: Mapping[str, Sequence[Look]],
    *,
    name: str,
    model: str,
    notes: Sequence[str] = (),
) -> None:
    """Writes the page.

    Args:
        path: of the HTML file.
        image_rgb: (H, W, 3) uint8, the picture of `frame`.
        frame: how the maps lie over it.
        groups: title, such as "Decoder: detections" -> looks, at least one; the first group is shown first.
        name: of the image.
        model: of the model, for the heading.
        notes: sentences below.

    Raises:
        ImportError: jinja2 is not installed; the message names the extra.
    """
    try:
        import jinja2
    except ImportError as error:
        raise ImportError('the attention page needs jinja2: pip install "detr_d2[report]"') from error
    loader = jinja2.PackageLoader("detr_d2.visualization")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.get_template("attention.html")
    assert template.filename is not None
    script = Path(template.filename).read_text(encoding="utf-8").rpartition("<script>")[2].partition("</script>")[0]
    page = template.render(
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        name=name,
        model=model,
        frame=frame,
        image=_data_uri(image_rgb),
        groups=[{"title": title, "looks": [_mark(x, frame) for x in looks]} for title, looks in groups.items()],
        looks={
            "width": frame.width,
            "covered": [frame.covered_width, frame.covered_height],
            "groups": [[_look_data(look, frame) for look in looks] for looks in groups.values()],
        },
        notes=notes,
    )
    write_text(path, page)


def _data_uri(image_rgb: np.ndarray) -> str:
    ok, jpeg = cv2.imencode(".jpg", image_rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert ok
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()


def _mark(look: Look, frame: Frame) -> dict[str, str]:
    """The button over the picture: small boxes lie above large ones, or they could not be reached."""
    if look.box_xyxy is None:
        assert look.point is not None
        x, y = look.point
        return {"title": look.title, "kind": "point", "style": _percent(left=x / frame.width, top=y / frame.height)}
    limits = [frame.width, frame.height] * 2
    x0, y0, x1, y1 = (min(max(value, 0.0), limit) / limit for value, limit in zip(look.box_xyxy, limits, strict=True))
    area = max(x1 - x0, 0.0) * max(y1 - y0, 0.0)
    style = _percent(left=x0, top=y0, width=max(x1 - x0, 0.0), height=max(y1 - y0, 0.0))
    return {"title": look.title, "kind": "box", "style": f"{style};z-index:{1000 - round(999 * area)}"}


def _percent(**values: float) -> str:
    return ";".join(f"{key}:{100 * value:.2f}%" for key, value in values.items())


def _look_data(look: Look, frame: Frame) -> dict[str, Any]:
    """What the script draws; weights as bytes, 255 being the largest of the look."""
    if look.heat is not None:
        height, width = look.heat.shape
        largest = float(look.heat.max())
        data = base64.b64encode(_to_bytes(look.heat).tobytes()).decode()
        text = f"{look.title}: the brightest of {look.heat.size:,} cells gets {100 * largest:.3g} % of the attention."
        return {"text": text, "heat": {"width": width, "height": height, "data": data}}
    assert look.samples is not None
    samples = look.samples
    inside = (samples[:, :2] >= 0).all(1) & (samples[:, 0] <= frame.width) & (samples[:, 1] <= frame.height)
    weights = _to_bytes(samples[:, 2])
    rows = [
        [round(float(x), 1), round(float(y), 1), int(weight), int(level)]
        for (x, y, _, level), weight in zip(samples[inside], weights[inside], strict=True)
    ]
    text = f"{look.title}: {inside.sum()} of {len(samples)} sampling points lie in the picture."
    return {"text": text, "samples": rows}


def _to_bytes(weights: np.ndarray) -> np.ndarray:
    return np.rint(255 * weights / max(float(weights.max()), 1e-12)).astype(np.uint8)
