"""A trained model on single images: the steps of the evaluation loop for a file that belongs to no dataset.

Same as detectron2's `DefaultPredictor` (resize of the short side, the config's channel order, `height` and `width` of
the original), so the detections are those of an evaluation. Differs from it in:

* the model is given, so that the weights may come through our own checkpointer;
* `INPUT.RESIZE_ROUNDING` is honoured;
* it returns `Instances` on the CPU, above a threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data.catalog import Metadata
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from torch import nn

from ..data import build_resize, category_ids
from ..data.checks.records import json_id
from ..panoptic_classes import PanopticClasses


@dataclass(frozen=True)
class Categories:
    """The classes of a model: position in the tuples is the class index the model predicts.

    Args:
        names: K names.
        ids: K category ids, as the annotation file of the data has them; written into results.
        by_position: the names are the user's own for the classes of the model, not those of data.

    Raises:
        ValueError: a different number of names and ids, or an id twice.
    """

    names: tuple[str, ...]
    ids: tuple[Any, ...]
    by_position: bool = False

    def __post_init__(self) -> None:
        if len(self.names) != len(self.ids):
            raise ValueError(f"{len(self.names)} class names but {len(self.ids)} category ids, expected as many")
        if len(set(self.ids)) != len(self.ids):
            raise ValueError(f"category ids {list(self.ids)} are not all different")

    @classmethod
    def numbered(cls, names: Sequence[str], *, by_position: bool = False) -> Categories:
        """Names alone: the category ids are the class indices 0..K-1."""
        return cls(names=tuple(names), ids=tuple(range(len(names))), by_position=by_position)

    def picked(self, indices: Sequence[int]) -> Categories:
        """Those at some places, in that order."""
        return Categories(tuple(self.names[i] for i in indices), tuple(self.ids[i] for i in indices))

    @classmethod
    def from_metadata(cls, metadata: Metadata, *, panoptic: bool = False) -> Categories | None:
        """Names and original ids of a registered dataset; None when it knows no class names.

        Args:
            metadata: of the dataset.
            panoptic: of a panoptic model, whose classes are things and stuff.
        """
        if panoptic:
            classes = PanopticClasses.from_metadata(metadata)
            return cls(names=classes.names, ids=classes.dataset_ids) if classes and classes.names else None
        names = metadata.get("thing_classes")
        if not names:
            return None
        return cls(names=tuple(names), ids=tuple(category_ids(metadata)))

    def metadata(self, panoptic: PanopticClasses | None = None) -> Metadata:
        """What detectron2's visualizers ask for.

        Args:
            panoptic: of a panoptic model, which of the names are things.
        """
        if panoptic is None:
            return Metadata().set(thing_classes=list(self.names))
        things, stuff = list(self.names[: panoptic.num_things]), list(self.names[panoptic.num_things :])
        before = ["things"] if panoptic.layout == "separated" else things
        return Metadata().set(thing_classes=things, stuff_classes=before + stuff)

    def to_json(self) -> list[dict[str, Any]]:
        """The "categories" of a COCO file."""
        return [{"id": category_id, "name": name} for category_id, name in zip(self.ids, self.names, strict=True)]


class ImagePredictor:
    """Runs a detection model on one image after the other.

    Args:
        model: any detectron2 model that returns `instances`, on its device; put into eval mode.
        image_format: channel order the model wants, "BGR" or "RGB".
        min_size: the short side is resized to this, in pixels; 0: no resize.
        max_size: unless the long side would exceed this.
        resize_rounding: of the sizes, "detectron2" or "authors"; see `detr_d2.data.augmentation`.
        score_threshold: detections below are dropped; 0 keeps all.
    """

    @configurable
    def __init__(
        self,
        *,
        model: nn.Module,
        image_format: str,
        min_size: int,
        max_size: int,
        resize_rounding: str = "detectron2",
        score_threshold: float = 0.0,
    ) -> None:
        if image_format not in ("BGR", "RGB"):
            raise ValueError(f"INPUT.FORMAT is {image_format!r}, expected 'BGR' or 'RGB'")
        self.model = model.eval()
        self.image_format = image_format
        self.score_threshold = score_threshold
        self.resize = build_resize([min_size, min_size], max_size, rounding=resize_rounding)

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module, score_threshold: float = 0.0) -> dict[str, Any]:
        return {
            "model": model,
            "image_format": cfg.INPUT.FORMAT,
            "min_size": cfg.INPUT.MIN_SIZE_TEST,
            "max_size": cfg.INPUT.MAX_SIZE_TEST,
            "resize_rounding": cfg.INPUT.RESIZE_ROUNDING,
            "score_threshold": score_threshold,
        }

    def inputs(self, image_bgr: np.ndarray) -> dict[str, Any]:
        """(H, W, 3) uint8 in BGR order -> the dict the model takes."""
        image = image_bgr[:, :, ::-1] if self.image_format == "RGB" else image_bgr
        height, width = image.shape[:2]
        resized = self.resize.get_transform(image).apply_image(image)
        chw = torch.as_tensor(resized.astype("float32").transpose(2, 0, 1))
        return {"image": chw, "height": height, "width": width}

    @torch.no_grad()
    def __call__(self, image_bgr: np.ndarray) -> Instances:
        """Detections of one image.

        Args:
            image_bgr: (H, W, 3) uint8, BGR, as `cv2.imread` gives it.

        Returns:
            `pred_boxes` (xyxy pixels of that image), `scores`, `pred_classes` and whatever else the model predicts.

        Raises:
            ValueError: the model predicts something else than instances.
        """
        return self.instances(self.outputs(image_bgr))

    @torch.no_grad()
    def outputs(self, image_bgr: np.ndarray) -> dict[str, Any]:
        """All that the model returns for one image, as `__call__` takes it."""
        outputs: dict[str, Any] = self.model([self.inputs(image_bgr)])[0]
        return outputs

    def instances(self, outputs: dict[str, Any]) -> Instances:
        """What the model returned for one image -> detections on the CPU that reach the score threshold.

        Raises:
            ValueError: there are no instances in it.
        """
        if "instances" not in outputs:
            raise ValueError(f"the model returns {sorted(outputs)}, no 'instances': give a config that detects boxes")
        instances: Instances = outputs["instances"].to("cpu")
        return instances[instances.scores >= self.score_threshold]


def coco_results(instances: Instances, image_id: Any, categories: Categories) -> list[dict[str, Any]]:
    """Detections of one image in COCO's results format.

    Args:
        instances: on the CPU.
        image_id: of the image, as its annotation file has it.
        categories: gives the category ids.

    Returns:
        One dict per detection: `image_id`, `category_id`, `bbox` (x, y, width, height in pixels), `score`, and
        `segmentation` (RLE) where there are masks.
    """
    rows = instances_to_coco_json(instances, json_id(image_id))
    return [{**row, "category_id": categories.ids[row["category_id"]]} for row in rows]


def panoptic_result(
    panoptic_seg: tuple[torch.Tensor, list[dict[str, Any]]],
    image_id: Any,
    file_name: str,
    categories: Categories,
    classes: PanopticClasses,
) -> tuple[np.ndarray, dict[str, Any]]:
    """A panoptic map in COCO's results format.

    Args:
        panoptic_seg: the map (H, W) of ids, and its segments in contiguous ids.
        image_id: of the image, as its annotation file has it.
        file_name: of the PNG that the picture is written to.
        categories: gives the category ids.
        classes: of the model.

    Returns:
        (H, W, 3) uint8 RGB, an id being R + 256 G + 65536 B, and the entry of the JSON file.
    """
    segment_map, segments = panoptic_seg
    ids = segment_map.cpu().numpy()
    picture = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    infos = [
        {
            **segment,
            "category_id": categories.ids[classes.row(segment["category_id"], is_thing=segment["isthing"])],
            "isthing": int(segment["isthing"]),
        }
        for segment in segments
    ]
    return picture, {"image_id": json_id(image_id), "file_name": file_name, "segments_info": infos}
