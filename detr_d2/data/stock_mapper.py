"""detectron2's mapper, for other models than DETR and for evaluation, with this package's reader and messages."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, detection_utils
from detectron2.data import transforms as T

from .augmentation import with_rounding
from .coco.json_values import flag
from .image_errors import naming_image
from .images import read_image, read_labels


class StockMapper(DatasetMapper):
    """`DatasetMapper` that reads images as everything here does, and whose errors name the image."""

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """As detectron2's.

        Raises:
            FileNotFoundError, ValueError: if the image cannot be read, or has another size than the dict says.
            RuntimeError: for whatever else goes wrong.
        """
        with naming_image(dataset_dict):
            return self._map(copy.deepcopy(dataset_dict))

    def _map(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Replaces in `sample` what is read and augmented, in the order in which detectron2 does."""
        image = read_image(sample["file_name"], self.image_format)
        detection_utils.check_image_size(sample, image)
        sem_seg = read_labels(sample.pop("sem_seg_file_name")) if "sem_seg_file_name" in sample else None
        augmented = T.AugInput(image, sem_seg=sem_seg)
        transforms = self.augmentations(augmented)
        size = augmented.image.shape[:2]
        sample["image"] = torch.as_tensor(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        if augmented.sem_seg is not None:
            sample["sem_seg"] = torch.as_tensor(augmented.sem_seg.astype("long"))
        if self.proposal_topk is not None:
            detection_utils.transform_proposals(sample, size, transforms, proposal_topk=self.proposal_topk)
        annotations = sample.pop("annotations", None)
        if self.is_train and annotations is not None:
            sample["instances"] = self._instances(annotations, transforms, size)
        return sample

    def _instances(self, annotations: list[dict[str, Any]], transforms: T.TransformList, size: tuple[int, int]) -> Any:
        unused = [] if self.use_instance_mask else ["segmentation"]
        unused += [] if self.use_keypoint else ["keypoints"]
        kept = [
            detection_utils.transform_instance_annotations(
                {key: value for key, value in annotation.items() if key not in unused},
                transforms,
                size,
                keypoint_hflip_indices=self.keypoint_hflip_indices,
            )
            for annotation in annotations
            if not flag(annotation.get("iscrowd"))
        ]
        instances = detection_utils.annotations_to_instances(kept, size, mask_format=self.instance_mask_format)
        if self.recompute_boxes:  # a crop has cut the masks
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return detection_utils.filter_empty_instances(instances)


def build_stock_mapper(cfg: CfgNode, is_train: bool) -> StockMapper:
    """detectron2's `DatasetMapper(cfg, is_train)`, whose resize rounds as the config says.

    Raises:
        ValueError: if the training augmentation has parts that only DETR's mapper knows.
    """
    unknown = {
        "RANDOM_TRANSPOSE": bool(cfg.INPUT.RANDOM_TRANSPOSE),
        "COLOR_JITTER": cfg.INPUT.COLOR_JITTER != 0,
        "RANDOM_FLIP": cfg.INPUT.RANDOM_FLIP == "both",
    }
    if wanted := [key for key, used in unknown.items() if used and is_train]:
        raise ValueError(
            f"INPUT.{wanted[0]} {cfg.INPUT[wanted[0]]} needs the mapper of DETR, which this model does not use: set "
            'INPUT.DETR_AUGMENTATION "on"'
        )
    arguments = DatasetMapper.from_config(cfg, is_train)
    arguments["augmentations"] = [with_rounding(x, cfg.INPUT.RESIZE_ROUNDING) for x in arguments["augmentations"]]
    return StockMapper(**arguments)
