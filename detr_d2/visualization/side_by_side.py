"""Pictures for comparing detectors by eye: ground truth and the detections of several models, beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import Visualizer

from ..panoptic_classes import PanopticClasses

_TITLE_HEIGHT = 28  # pixels
_GAP = 8  # pixels of white between pictures


def draw_detections(
    image_rgb: np.ndarray, instances: Instances, class_names: Sequence[str], *, scale: float = 1.0
) -> np.ndarray:
    """Boxes with class and, where there are some, scores and masks; a class has the same colour in every picture.

    Args:
        image_rgb: (H, W, 3) uint8.
        instances: `pred_classes`, optionally `pred_boxes` (xyxy pixels of that image), `scores` and `pred_masks`
            (N, H, W) or N polygons or run lengths of COCO; on the CPU.
        class_names: K names.
        scale: the picture is enlarged by this before it is drawn on.

    Returns:
        (scale * H, scale * W, 3) uint8, RGB.
    """
    classes = instances.pred_classes.tolist()
    labels = [class_names[index] for index in classes]
    if instances.has("scores"):
        labels = [f"{label} {100 * score:.0f}%" for label, score in zip(labels, instances.scores.tolist(), strict=True)]
    palette = colormap(rgb=True, maximum=1)
    masks: Any = instances.pred_masks if instances.has("pred_masks") else None
    visualizer = Visualizer(image_rgb, Metadata(), scale=scale)
    drawn = visualizer.overlay_instances(
        masks=masks.numpy() if isinstance(masks, torch.Tensor) else masks,
        boxes=instances.pred_boxes.tensor.numpy() if instances.has("pred_boxes") else None,
        labels=labels,
        assigned_colors=[palette[index % len(palette)] for index in classes],
    )
    return drawn.get_image()


def ground_truth(dataset_dict: dict[str, Any], *, masks: bool = False) -> Instances:
    """Ground truth of an image as something `draw_detections` draws; crowd regions are left out.

    Args:
        dataset_dict: detectron2's, with "height", "width" and "annotations".
        masks: also those of the objects, if all objects have one.
    """
    objects = [x for x in dataset_dict.get("annotations", []) if not x.get("iscrowd", 0)]
    boxes = [BoxMode.convert(x["bbox"], x["bbox_mode"], BoxMode.XYXY_ABS) for x in objects]
    instances = Instances((dataset_dict["height"], dataset_dict["width"]))
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.pred_classes = torch.tensor([x["category_id"] for x in objects], dtype=torch.int64)
    if masks and all("segmentation" in x for x in objects):
        instances.pred_masks = [x["segmentation"] for x in objects]
    return instances


def segments_as_instances(
    segment_map: torch.Tensor, segments: Sequence[dict[str, Any]], classes: PanopticClasses
) -> Instances:
    """A panoptic map as something `draw_detections` draws, without boxes; crowd regions are left out.

    Args:
        segment_map: (H, W) ids.
        segments: their `id`, contiguous `category_id` and `isthing`, as detectron2's models and datasets give them.
        classes: of the map; `pred_classes` are their rows.
    """
    shown = [x for x in segments if not x.get("iscrowd", 0)]
    instances = Instances(tuple(segment_map.shape))
    instances.pred_classes = torch.tensor([classes.row(x["category_id"], is_thing=bool(x["isthing"])) for x in shown])
    instances.pred_masks = torch.stack([segment_map == x["id"] for x in shown]) if shown else segment_map[None][:0] > 0
    return instances


def side_by_side(panels: Sequence[np.ndarray], titles: Sequence[str]) -> np.ndarray:
    """Pictures of equal height in a row, a title above each.

    Args:
        panels: (H, W_i, 3) uint8.
        titles: one per panel; "" for none.

    Raises:
        ValueError: different heights, or a different number of titles.
    """
    if len({panel.shape[0] for panel in panels}) != 1:
        raise ValueError(f"panels of heights {[panel.shape[0] for panel in panels]} do not fit beside each other")
    parts = [_with_title(panel, title) for panel, title in zip(panels, titles, strict=True)]
    gap = np.full((parts[0].shape[0], _GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([x for part in parts for x in (gap, part)][1:], axis=1)


def _with_title(panel: np.ndarray, title: str) -> np.ndarray:
    strip = np.full((_TITLE_HEIGHT, panel.shape[1], 3), 255, dtype=np.uint8)
    cv2.putText(strip, title, (4, _TITLE_HEIGHT - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([strip, panel])


def grid(cells: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Pictures in rows of `columns`, each in the upper left corner of a cell as large as the largest picture.

    Args:
        cells: (H_i, W_i, 3) uint8, at least one.
        columns: at least 1; no more than there are pictures are used.
    """
    columns = min(columns, len(cells))
    height = max(cell.shape[0] for cell in cells) + _GAP
    width = max(cell.shape[1] for cell in cells) + _GAP
    rows = -(-len(cells) // columns)
    canvas = np.full((rows * height, columns * width, 3), 255, dtype=np.uint8)
    for index, cell in enumerate(cells):
        top, left = height * (index // columns), width * (index % columns)
        canvas[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return canvas[:-_GAP, :-_GAP]
