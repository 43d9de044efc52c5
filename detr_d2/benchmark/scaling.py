"""How the time of inference grows: curves over image area, queries and batch, and their picture."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from matplotlib.figure import Figure

from ..files import write_figure
from .contestants import build_contestant, chosen_contestants, network_differences, our_weights
from .inputs import chosen_inputs, model_config, other_configs
from .models import inference_work
from .report import differ, measure, print_machine, write_report

Curve = dict[float, dict[str, float]]
"""Value on the axis -> contestant -> median time in milliseconds."""


def scaling(args: argparse.Namespace) -> int:
    """Inference time against image area, number of queries and batch."""
    cfg = model_config(args)
    names = chosen_contestants(args, cfg)
    curves: dict[str, Curve] = {}
    settings: dict[str, list[tuple[float, str, dict[str, Any]]]] = {
        "megapixels": [(h * w / 1e6, f"{w}x{h}", {"size": (h, w)}) for h, w in args.sizes],
        "queries": [(x, str(x), {"queries": x}) for x in args.queries],
        "images in a batch": [(x, str(x), {"batch": x}) for x in args.batches],
    }
    for axis, points in settings.items():
        for value, label, changes in points:
            times = _timed_point(cfg, names, changes, args)
            if times is None:
                return 1
            curves.setdefault(axis, {})[value] = times
            print(f"{axis} {label}: {', '.join(f'{name} {x:.1f} ms' for name, x in times.items())}", flush=True)
    if args.plot:
        plot_scaling(curves, args.plot)
        print(f"written: {args.plot}")
    print_machine(args)
    rows = {axis: [{"value": x, "median_ms": times} for x, times in curve.items()] for axis, curve in curves.items()}
    write_report({"curves": rows}, args)
    return 0


def _timed_point(
    cfg: CfgNode, names: Sequence[str], changes: Mapping[str, Any], args: argparse.Namespace
) -> dict[str, float] | None:
    """Times of one setting, in milliseconds; None if the contestants disagree."""
    cfg = cfg.clone()
    cfg.MODEL.DETR.NUM_QUERIES = changes.get("queries", cfg.MODEL.DETR.NUM_QUERIES)
    inputs = chosen_inputs(args, **changes)
    state, others = our_weights(cfg, args.seed), other_configs(names, args.device)
    contestants = [build_contestant(name, cfg, state, others, args.device) for name in names]
    if differ(network_differences(contestants, inputs)):
        return None
    return {x.name: x.median_ms for x in measure(inference_work(contestants, inputs, args), args.repeat)}


def plot_scaling(curves: Mapping[str, Curve], path: str) -> None:
    """Writes a picture, one panel for each axis.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not curves:
        raise ValueError("there is nothing to plot: name some --sizes, --queries or --batches")
    figure = Figure(figsize=(4 * len(curves), 3.2), layout="tight")
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for panel, (axis, curve) in zip(panels, curves.items(), strict=True):
        for name in next(iter(curve.values())):
            panel.plot(list(curve), [times[name] for times in curve.values()], marker="o", label=name)
        panel.set(xlabel=axis, xlim=(0, None), ylim=(0, None))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("milliseconds")
    panels[0].legend(frameon=False)
    write_figure(path, figure, dpi=110)
