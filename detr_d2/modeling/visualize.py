"""The picture that training puts into the event storage every `VIS_PERIOD` iterations."""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage

MAX_BOXES = 20


def draw_training_image(batched_input: dict[str, Any], detections: Instances, input_format: str) -> None:
    """Puts ground truth (left) and the best predictions (right) of one training image into the event storage.

    Args:
        batched_input: "image" (C, H, W) and "instances" with `gt_boxes`.
        detections: `pred_boxes` in pixels of that image, best first.
        input_format: channel order of the image.
    """
    from detectron2.utils.visualizer import Visualizer  # brings matplotlib, which few processes need

    image = convert_image_to_rgb(batched_input["image"].permute(1, 2, 0), input_format)
    both = (batched_input["instances"].gt_boxes.tensor, detections.pred_boxes.tensor[:MAX_BOXES])
    drawn = [Visualizer(image, None).overlay_instances(boxes=boxes.cpu().numpy()).get_image() for boxes in both]
    picture = np.concatenate(drawn, axis=1).transpose(2, 0, 1)  # (H, 2 W, 3) -> (3, H, 2 W)
    get_event_storage().put_image("Left: ground truth; right: best predictions", picture)
