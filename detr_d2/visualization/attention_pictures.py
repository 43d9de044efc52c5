"""Looks as pictures: a panel each, the image with what was read laid over it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..files import write_figure
from .looks import Frame, Look

COLUMNS = 4
_LEVEL_COLOURS = ("#ffb000", "#fe6100", "#dc267f", "#648fff", "#00c2a8")  # apart for colour-blind eyes as well
_LARGEST_DOT = 70.0  # square points, of a weight as large as the largest of the picture


def save_looks(path: str | os.PathLike[str], image_rgb: np.ndarray, frame: Frame, looks: Sequence[Look]) -> None:
    """Writes a PNG with one panel for each look, four in a row.

    Args:
        path: of the PNG.
        image_rgb: (H, W, 3) uint8, the picture of `frame`.
        frame: how the maps lie over it.
        looks: at least one.
    """
    columns = min(COLUMNS, len(looks))
    rows = math.ceil(len(looks) / columns)
    panel = (3.2, 3.2 * frame.height / frame.width + 0.35)  # inches; room for the title
    figure = Figure(figsize=(columns * panel[0], rows * panel[1]), dpi=120, layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axis, look in zip(axes, looks, strict=False):
        draw_look(axis, image_rgb, frame, look)
    for axis in axes[len(looks) :]:
        axis.set_axis_off()
    write_figure(path, figure)


def draw_look(axis: Axes, image_rgb: np.ndarray, frame: Frame, look: Look) -> None:
    """Draws one look.

    A map is scaled by its own largest weight. Sampling points are dots whose area and opacity grow with their weight,
    one colour for each level.

    Args:
        axis: to draw on.
        image_rgb, frame: see `save_looks`.
        look: what to draw.
    """
    # Without its colours, so that all colours in the panel are those of the attention.
    grey = np.asarray(cv2.cvtColor(np.ascontiguousarray(image_rgb), cv2.COLOR_RGB2GRAY))
    axis.imshow(grey, extent=(0, frame.width, frame.height, 0), cmap="gray", vmin=0, vmax=255)
    if look.heat is not None:
        covered = (0, frame.covered_width, frame.covered_height, 0)
        axis.imshow(look.heat, extent=covered, cmap="inferno", alpha=0.6, vmin=0.0, interpolation="bilinear")
    if look.samples is not None:
        _draw_samples(axis, look.samples)
    if look.box_xyxy is not None:
        x0, y0, x1, y1 = look.box_xyxy
        axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor="#40e0ff", linewidth=1.5))
    if look.point is not None:
        axis.plot(*look.point, marker="x", color="#40e0ff", markersize=9, markeredgewidth=2)
    axis.set_xlim(0, frame.width)
    axis.set_ylim(frame.height, 0)
    axis.set_axis_off()
    axis.set_title(look.title.replace("$", r"\$"), fontsize=8)  # a dollar would begin a formula


def _draw_samples(axis: Axes, samples: np.ndarray) -> None:
    strength = samples[:, 2] / max(float(samples[:, 2].max()), 1e-12)
    for level in range(int(samples[:, 3].max()) + 1):
        chosen = samples[:, 3] == level
        axis.scatter(
            samples[chosen, 0],
            samples[chosen, 1],
            s=4 + _LARGEST_DOT * strength[chosen],
            c=_LEVEL_COLOURS[level % len(_LEVEL_COLOURS)],
            alpha=0.15 + 0.75 * strength[chosen],
            linewidths=0,
        )
