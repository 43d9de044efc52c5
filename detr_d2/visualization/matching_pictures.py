"""The stability of the assignment as a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from ..files import write_figure


def save_stability(path: str | os.PathLike[str], transitions: Sequence[dict[str, Any]]) -> None:
    """Writes a PNG with two plots over checkpoints, a line for each decoder layer, the last one darkest.

    Left, the share of objects that keep their query; right, the instability.

    Args:
        path: of the PNG.
        transitions: see `detr_d2.visualization.matching.stability`; at least one.
    """
    figure = Figure(figsize=(max(9.0, 0.6 * len(transitions) + 6.0), 4.2), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    num_layers = len(transitions[0]["layers"])
    for index in range(num_layers):
        layers = [transition["layers"][index] for transition in transitions]
        colour = colormaps["viridis_r"](0.15 + 0.85 * (index + 1) / num_layers)
        left.plot([100 * x["same"] for x in layers], color=colour, marker="o", label=f"decoder layer {index + 1}")
        right.plot([x["instability"] for x in layers], color=colour, marker="o")
    names = [transition["to"].replace("$", r"\$") for transition in transitions]
    highest = max(x["instability"] for transition in transitions for x in transition["layers"])
    right.set_ylim(0, 1.1 * highest or 1.0)  # room above the highest mark
    for axis in (left, right):
        axis.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=7)
        axis.grid(alpha=0.3)
    left.set_ylim(0, 100)
    left.set_ylabel("objects matched to the same query\nas in the checkpoint before (%)")
    right.set_ylabel("instability IS: queries an image\nthat changed their object")
    left.legend(fontsize=8, frameon=False)
    write_figure(path, figure)
