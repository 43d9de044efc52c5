"""How stable the Hungarian assignment of queries to objects is from checkpoint to checkpoint.

A query that is asked for another object in every epoch learns slowly: instability of the matching is one reason why
DETR needs long schedules.

Paper: Li et al. 2022, DN-DETR: Accelerate DETR Training by Introducing Query DeNoising, Sec. 3.

Differs from the paper in that the model is in eval mode: what dropout adds is not counted.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure

from ..files import write_figure
from ..modeling import DETR, NonFinitePredictionsError, Targets

UNMATCHED = -1


@dataclass(frozen=True)
class Assignment:
    """Which query every object of a dataset is matched to, in each of L decoder layers.

    Attributes:
        query: (L, M), `UNMATCHED` for the surplus of images with more objects than queries.
        image: (M,) image that holds the object.
        num_images: N, those without objects included.
        num_queries: Q.
    """

    query: np.ndarray
    image: np.ndarray
    num_images: int
    num_queries: int

    def objects_of_queries(self) -> np.ndarray:
        """(L, N, Q): the object that each query of each image is matched to, `UNMATCHED` for none."""
        owner = np.full((len(self.query), self.num_images, self.num_queries), UNMATCHED)
        layer, matched = np.nonzero(self.query != UNMATCHED)
        owner[layer, self.image[matched], self.query[layer, matched]] = matched
        return owner


@torch.no_grad()
def collect_assignment(model: DETR, samples: Iterable[dict[str, Any]]) -> Assignment:
    """Matches a model's predictions to the ground truth of a dataset, by the matcher of its criterion.

    Args:
        model: in eval mode.
        samples: of each image "image" (C, H, W), "instances" with `gt_boxes` and `gt_classes`, "file_name".

    Raises:
        ValueError: the criterion has no matcher, or all predictions for an image are NaN or infinite.
    """
    assert not model.training
    matcher: Any = getattr(model.criterion, "matcher", None)
    if matcher is None:
        raise ValueError(f"the criterion {type(model.criterion).__name__} has no `matcher`, so nothing can be matched")
    queries, images, num_queries, index = [], [], 0, -1
    for index, sample in enumerate(samples):
        logits, boxes_cxcywh = model.predict(model.preprocess_image([sample]), all_layers=True)[:2]
        targets = Targets.from_instances([sample["instances"]], num_classes=model.num_classes, device=model.device)
        try:
            matching = matcher(logits.float(), boxes_cxcywh.float(), targets)
        except NonFinitePredictionsError as error:
            raise ValueError(f"all predictions for {sample.get('file_name')} are NaN or infinite") from error
        query = np.full((len(logits), targets.counts[0]), UNMATCHED)
        np.put_along_axis(query, matching.target.cpu().numpy(), matching.query.cpu().numpy(), axis=1)
        queries.append(query)
        images.append(np.full(targets.counts[0], index))
        num_queries = max(num_queries, logits.shape[2])
    assert index >= 0
    return Assignment(np.concatenate(queries, axis=1), np.concatenate(images), index + 1, num_queries)


def compare_assignments(before: Assignment, after: Assignment) -> list[dict[str, Any]]:
    """What changed between two checkpoints, for each decoder layer, the first one first.

    Returns:
        "layer", counted from 1; "same", the share of objects whose query is the same as before; "instability", the
        paper's IS: the number of queries that are matched to another object, or to none instead of one or one instead
        of none, as a mean over images. An object that moves to a free query counts twice.

    Raises:
        ValueError: the checkpoints differ in queries or layers, or there are no objects.
    """
    if before.query.shape != after.query.shape or before.num_queries != after.num_queries:
        raise ValueError(
            f"the checkpoints have {len(before.query)} and {len(after.query)} decoder layers and {before.num_queries} "
            f"and {after.num_queries} queries; only checkpoints of one model can be compared"
        )
    if not before.query.size:
        raise ValueError("the data hold no objects, so nothing is matched; give images with annotations")
    same = (before.query == after.query).mean(axis=1)
    changed = (before.objects_of_queries() != after.objects_of_queries()).sum(axis=2).mean(axis=1)
    return [
        {"layer": number, "same": float(share), "instability": float(count)}
        for number, (share, count) in enumerate(zip(same, changed, strict=True), start=1)
    ]


def stability(names: Sequence[str], assignments: Sequence[Assignment]) -> list[dict[str, Any]]:
    """`compare_assignments` of each checkpoint with the one before it: "from", "to" and "layers"."""
    pairs = zip(zip(names, assignments, strict=True), zip(names[1:], assignments[1:], strict=True), strict=False)
    return [
        {"from": first, "to": second, "layers": compare_assignments(before, after)}
        for (first, before), (second, after) in pairs
    ]


def save_stability(path: str | os.PathLike[str], transitions: Sequence[dict[str, Any]]) -> None:
    """Writes a PNG with two plots over checkpoints, a line for each decoder layer, the last one darkest.

    Left, the share of objects that keep their query; right, the instability.

    Args:
        path: of the PNG.
        transitions: as `stability` gives them; at least one.
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
