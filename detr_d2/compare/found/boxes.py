"""One run of a model over a dataset that keeps all it knows: before NMS, and from every decoder layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.modeling import GeneralizedRCNN, RetinaNet
from detectron2.structures import Instances
from torch import nn

from ...modeling import DETR, predictions_to_instances
from ...prediction.predictor import ImagePredictor
from ..records.comparison import CrashedImage
from .cache import CandidateCache
from .nms import Candidates


@dataclass(frozen=True)
class Collected:
    """What one model knows of a dataset.

    Args:
        layers: per decoder layer, the last at the end (one for models without decoder), one entry per image.
        crashed: images that the model could not process; their entries are empty.
    """

    layers: list[list[Candidates]]
    crashed: list[CrashedImage]


@torch.no_grad()
def raw_outputs(model: nn.Module, batched_inputs: list[dict[str, Any]]) -> list[list[Instances]]:
    """Detections as they are before NMS has its say about them, if the model's NMS is switched off by its config.

    Args:
        model: in eval mode.
        batched_inputs: detectron2's format.

    Returns:
        For every decoder layer (one for models without decoder) and image, `Instances` in pixels of the image that
        entered the network, not clipped further; of an unknown architecture, in pixels of the output and with its NMS.

    Raises:
        ValueError: the model does not detect boxes.
    """
    if isinstance(model, DETR):
        return _detr_outputs(model, batched_inputs)
    if isinstance(model, GeneralizedRCNN):
        results: Any = model.inference(batched_inputs, do_postprocess=False)
        return [results[0] if isinstance(results, tuple) else results]  # PanopticFPN: and the stuff
    if isinstance(model, RetinaNet):
        images = model.preprocess_image(batched_inputs)
        maps = model.backbone(images.tensor)
        features = [maps[name] for name in model.head_in_features]
        return [model.forward_inference(images, features, model.head(features))]
    outputs = model(batched_inputs)
    if not outputs or "instances" not in outputs[0]:
        raise ValueError("the model returns no 'instances': give a config that detects boxes")
    return [[x["instances"] for x in outputs]]


def _detr_outputs(model: DETR, batched_inputs: list[dict[str, Any]]) -> list[list[Instances]]:
    images = model.preprocess_image(batched_inputs)
    predictions = model.predict(images, all_layers=True)
    # All queries, where each gives one detection; of the focal loss, where each gives one for every class, the best.
    limit = max(model.max_detections, predictions.logits.shape[2])
    return [
        predictions_to_instances(
            logits,
            boxes,
            images.image_sizes,
            score_threshold=model.score_threshold,
            max_detections=limit if model.max_detections >= 0 else -1,
            classification=model.classification,
            num_things=model.num_things,
        )
        for logits, boxes in zip(predictions.logits, predictions.boxes_cxcywh, strict=True)
    ]


def candidates_of(instances: Instances, image_size: tuple[int, int]) -> Candidates:
    """Copies the detections of an image to the CPU.

    Args:
        instances: with the size of the image that entered the network.
        image_size: (height, width) of the original image.
    """
    return Candidates(
        boxes_xyxy=instances.pred_boxes.tensor.float().cpu().numpy(),
        scores=instances.scores.float().cpu().numpy(),
        classes=instances.pred_classes.cpu().numpy().astype(np.int64),
        network_size=(int(instances.image_size[0]), int(instances.image_size[1])),
        image_size=image_size,
    )


def collect(
    predictor: Callable[[], ImagePredictor],
    file_names: Sequence[str],
    cache: CandidateCache,
    *,
    progress: Callable[[int], object] = lambda _: None,
) -> Collected:
    """Runs a model over images, or reads what an earlier run has left, as `ImageCache.collect`.

    Args:
        predictor: gives the model; called only if it has to run.
        file_names: of the N images.
        cache: of this model on this dataset.
        progress: called with the number of images that are done after each step.

    Raises:
        ValueError: none of the first images can be processed, so the model is wrong and not an image.
    """

    def watch(records: Sequence[list[Candidates] | str]) -> None:
        progress(1)
        enough = len(records) >= min(_TRIED, len(file_names))
        if enough and all(isinstance(x, str) for x in records):
            raise ValueError(f"the model fails on every image, first on {file_names[0]}: {records[0]}")

    records = cache.collect(predictor, file_names, _run, watch)
    crashed = [CrashedImage(name, x) for name, x in zip(file_names, records, strict=True) if isinstance(x, str)]
    num_layers = next(len(x) for x in records if not isinstance(x, str))
    nothing = [_nothing()] * num_layers
    layers = zip(*(nothing if isinstance(x, str) else x for x in records), strict=True)
    return Collected(layers=[list(images) for images in layers], crashed=crashed)


_TRIED = 10  # images that must not all fail


def _run(predictor: ImagePredictor, image: np.ndarray) -> list[Candidates]:
    layers = raw_outputs(predictor.model, [predictor.inputs(image)])
    height, width = image.shape[:2]
    return [candidates_of(images[0], (height, width)) for images in layers]


def _nothing() -> Candidates:
    empty = np.zeros(0, np.float32)
    return Candidates(np.zeros((0, 4), np.float32), empty, np.zeros(0, np.int64), (1, 1), (1, 1))
