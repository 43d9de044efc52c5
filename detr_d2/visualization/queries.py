"""What each object query predicts over a dataset: where its boxes fall, which classes, how often it fires.

Paper: Carion et al. 2020, Sec. 4.3 "Decoder output slot analysis" and Fig. 7.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..modeling import DETR

SMALL_AREA = 32.0**2
"""Square pixels below which COCO calls an object small."""

KINDS = ("small", "large horizontal", "large vertical")


@dataclass(frozen=True)
class QueryPredictions:
    """Predictions of Q queries on N images, by the last decoder layer.

    Attributes:
        boxes_cxcywh: (N, Q, 4), normalised by the image.
        scores: (N, Q), of the best class.
        classes: (N, Q), the best class, "no object" apart.
        sizes: (N, 2), height and width of the images in pixels.
    """

    boxes_cxcywh: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    sizes: np.ndarray

    def kinds(self, small_area: float = SMALL_AREA) -> np.ndarray:
        """(N, Q) indices into `KINDS`: small by its area in pixels of the image, else as wide as high or wider, else
        higher than wide."""
        width = self.boxes_cxcywh[..., 2] * self.sizes[:, None, 1]
        height = self.boxes_cxcywh[..., 3] * self.sizes[:, None, 0]
        return np.where(width * height < small_area, 0, np.where(width >= height, 1, 2))


@torch.no_grad()
def collect_queries(model: DETR, inputs: Iterable[dict[str, Any]]) -> QueryPredictions:
    """Runs a model over images, one after the other.

    Args:
        model: in eval mode, with queries that are the same for all images.
        inputs: of each image "image" (C, H, W), and "height" and "width" in pixels of the original; at least one.
    """
    assert not model.training
    boxes, scores, classes, sizes = [], [], [], []
    for x in inputs:
        logits, boxes_cxcywh = model.predict(model.preprocess_image([x]), all_layers=False)[:2]
        score, label, query = (y[0].cpu().numpy() for y in model.classification.select(logits[-1], None))
        _, best = np.unique(query, return_index=True)  # best first: the first of a query is its best class
        boxes.append(boxes_cxcywh[-1, 0].float().cpu().numpy())
        scores.append(score[best])
        classes.append(label[best])
        sizes.append((x["height"], x["width"]))
    return QueryPredictions(np.stack(boxes), np.stack(scores), np.stack(classes), np.array(sizes))


def summarise_queries(
    predictions: QueryPredictions,
    class_names: Sequence[str],
    *,
    score_threshold: float = 0.5,
    small_area: float = SMALL_AREA,
) -> list[dict[str, Any]]:
    """What can be said of each query, as JSON.

    Args:
        predictions: of all queries.
        class_names: K names.
        score_threshold: a query fires in an image if its score is at least this.
        small_area: in square pixels of the image.

    Returns:
        For each query: "query"; "fires", the share of images in which it does; "classes", name -> number of images in
        which it fires for that class, most frequent first; "kinds", name -> share of its boxes; "centre_mean" and
        "centre_std" (x, y), "size_mean" (width, height), all by the image; "score_mean". Boxes and scores are those of
        all images, whether it fires or not.
    """
    kinds = predictions.kinds(small_area)
    fired = predictions.scores >= score_threshold
    summaries = []
    for query in range(predictions.scores.shape[1]):
        boxes = predictions.boxes_cxcywh[:, query]
        counts = np.bincount(predictions.classes[fired[:, query], query], minlength=len(class_names))
        order = np.argsort(-counts, kind="stable")
        share = np.bincount(kinds[:, query], minlength=len(KINDS)) / len(kinds)
        summaries.append(
            {
                "query": query,
                "fires": float(fired[:, query].mean()),
                "classes": {class_names[k]: int(counts[k]) for k in order if counts[k]},
                "kinds": dict(zip(KINDS, share.tolist(), strict=True)),
                "centre_mean": boxes[:, :2].mean(0).tolist(),
                "centre_std": boxes[:, :2].std(0).tolist(),
                "size_mean": boxes[:, 2:].mean(0).tolist(),
                "score_mean": float(predictions.scores[:, query].mean()),
            }
        )
    return summaries
