"""From a dataset dict to a model input, with DETR's augmentation.

Paper: End-to-End Object Detection with Transformers (Carion et al. 2020), appendix A.4, "Training hyperparameters".

Differs from the reference implementation in
* the rounding of resized images, which is detectron2's unless `INPUT.RESIZE_ROUNDING` is "authors",
* EXIF orientation, which is applied as everywhere in detectron2,
* polygons, which stay polygons unless `INPUT.MASK_FORMAT` is "bitmask".
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import pycocotools.mask
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks, polygons_to_bitmask

from ..panoptic_classes import PanopticClasses
from .augmentation import build_detr_augmentation, build_test_augmentation
from .coco.json_values import flag, plain_value
from .coco.mask_faults import compressed_rle, mask_fault
from .image_errors import naming_image
from .images import read_image, read_labels, read_pillow
from .panoptic.targets import panoptic_annotations
from .pillow_input import PillowInput, blank_array, can_stay_in_pillow, image_tensor

_MIN_SIDE = 1e-5  # pixels; an augmented box with a shorter side has no area (detectron2's own threshold)


class DetrDatasetMapper:
    """Reads an image, augments it with its boxes and masks, and makes the targets.

    Targets: crowd annotations never are. Boxes are clipped to the image, before and after the augmentation, and dropped
    if they have no area; no minimum visibility is asked for. Images without objects get `Instances` of length 0.
    A crop cuts boxes and masks alike, as the authors do: an object goes if nothing of its box is left, its box is not
    tightened around what is left of its mask, and a mask of which nothing is left stays, empty.
    """

    @configurable
    def __init__(
        self,
        is_train: bool = True,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        use_instance_mask: bool = False,
        instance_mask_format: str = "polygon",
        panoptic: PanopticClasses | None = None,
    ) -> None:
        """
        Args:
            is_train: make targets; otherwise annotations are left out, as detectron2's mapper does.
            augmentations: any list of detectron2 augmentations or transforms. They may ask for `image`, `boxes` (of the
                targets, xyxy pixels) and, where the dataset has it, `sem_seg`.
            image_format: "RGB", "BGR" or another format of detectron2's `read_image`.
            use_instance_mask: also make `gt_masks`.
            instance_mask_format: "polygon" keeps polygons (an image with an RLE or a bitmap gets `BitMasks` all the
                same); "bitmask" decodes at the original size and transforms by nearest neighbour, as the authors do.
            panoptic: classes of a panoptic model, whose targets are the segments of `pan_seg_file_name`, things and
                stuff, in place of "annotations"; see `panoptic_annotations`.

        Raises:
            ValueError: on an unknown mask format.
        """
        if instance_mask_format not in ("polygon", "bitmask"):
            raise ValueError(f'INPUT.MASK_FORMAT must be "polygon" or "bitmask", but is {instance_mask_format!r}')
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.use_instance_mask = use_instance_mask
        self.instance_mask_format = instance_mask_format
        self.panoptic = panoptic

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """DETR's augmentation in training, detectron2's resize otherwise.

        Raises:
            ValueError: if the config asks for keypoints, precomputed proposals, or polygons that nothing here can crop.
        """
        for key, wanted in (("KEYPOINT_ON", cfg.MODEL.KEYPOINT_ON), ("LOAD_PROPOSALS", cfg.MODEL.LOAD_PROPOSALS)):
            if wanted:
                raise ValueError(
                    f'the mapper of DETR does not carry what MODEL.{key} needs: set INPUT.DETR_AUGMENTATION "off"'
                )
        crops_polygons = cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "polygon" and cfg.INPUT.CROP.ENABLED
        if is_train and crops_polygons and find_spec("shapely") is None:
            raise ValueError(
                'cropping polygons needs shapely: pip install "detr_d2[masks]", or set INPUT.MASK_FORMAT "bitmask"'
            )
        augmentations = build_detr_augmentation(cfg) if is_train else build_test_augmentation(cfg)
        return {
            "is_train": is_train,
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "use_instance_mask": cfg.MODEL.MASK_ON,
            "instance_mask_format": cfg.INPUT.MASK_FORMAT,
            "panoptic": PanopticClasses.from_config(cfg) if cfg.MODEL.DETR.PANOPTIC.ENABLED else None,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Maps one image.

        Args:
            dataset_dict: detectron2's standard format; left unchanged.

        Returns:
            Its keys without "annotations", with "image" (C, H, W) uint8 and, in training, "instances":
            `gt_boxes` (M, 4) xyxy pixels of the augmented image, `gt_classes` (M,), and `gt_masks` on request.

        Raises:
            ValueError: on an unreadable image or a bad annotation, naming the file.
        """
        with naming_image(dataset_dict):
            return self._map(dict(dataset_dict))

    def _map(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Replaces in `sample`, a copy made by the caller, what is read and augmented."""
        pillow_image = None
        if can_stay_in_pillow(self.augmentations, self.image_format):
            pillow_image = read_pillow(sample["file_name"])
            image = blank_array(pillow_image)
        else:
            image = read_image(sample["file_name"], self.image_format)
        detection_utils.check_image_size(sample, image)
        if self.panoptic is not None and self.is_train:
            sample["annotations"] = panoptic_annotations(sample, image.shape[:2], self.panoptic)
            sample.pop("sem_seg_file_name", None)
        annotations = sample.pop("annotations", [])
        targets, boxes_xyxy = _usable(annotations if self.is_train else [], image.shape[:2])
        sem_seg_file = sample.pop("sem_seg_file_name", None)
        sem_seg = None
        if sem_seg_file is not None and self.is_train:
            sem_seg = read_labels(sem_seg_file)
        if pillow_image is not None:
            augmented = PillowInput(pillow_image, boxes=boxes_xyxy, sem_seg=sem_seg)
        else:
            augmented = T.AugInput(image, boxes=boxes_xyxy, sem_seg=sem_seg)
        transforms = self.augmentations(augmented)
        sample["image"] = image_tensor(augmented, self.image_format)
        if augmented.sem_seg is not None:
            sample["sem_seg"] = torch.as_tensor(augmented.sem_seg.astype("long"))
        if self.is_train:
            sample["instances"] = self._instances(targets, augmented, transforms, image.shape[:2])
        return sample

    def _instances(
        self,
        targets: list[dict[str, Any]],
        augmented: T.AugInput,
        transforms: T.TransformList,
        original_size: tuple[int, int],
    ) -> Instances:
        """The targets that are left in the augmented image."""
        height, width = augmented.image.shape[:2]
        boxes_xyxy = augmented.boxes.clip(0, [width, height, width, height])
        kept = np.flatnonzero((boxes_xyxy[:, 2:] - boxes_xyxy[:, :2] > _MIN_SIDE).all(axis=1))
        targets = [targets[i] for i in kept]
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.as_tensor(boxes_xyxy[kept], dtype=torch.float32))
        instances.gt_classes = torch.tensor([int(target["category_id"]) for target in targets], dtype=torch.int64)
        if self.use_instance_mask:
            segmentations = [_segmentation(target, original_size) for target in targets]
            instances.gt_masks = self._masks(segmentations, transforms, original_size, (height, width))
        return instances

    def _masks(
        self,
        segmentations: list[Any],
        transforms: T.TransformList,
        original_size: tuple[int, int],
        size: tuple[int, int],
    ) -> PolygonMasks | BitMasks:
        """Masks of the targets in the augmented image; an instance whose mask is cropped away keeps an empty one."""
        if self.instance_mask_format == "polygon" and all(isinstance(item, list) for item in segmentations):
            rings = [[np.asarray(ring, dtype=np.float64).reshape(-1, 2) for ring in item] for item in segmentations]
            return PolygonMasks([[ring.reshape(-1) for ring in transforms.apply_polygons(item)] for item in rings])
        masks = [transforms.apply_segmentation(_decode(item, original_size)) for item in segmentations]
        stacked = np.stack(masks).astype(bool) if masks else np.zeros((0, *size), dtype=bool)
        return BitMasks(torch.from_numpy(np.ascontiguousarray(stacked)))


def _usable(annotations: list[dict[str, Any]], size: tuple[int, int]) -> tuple[list[dict[str, Any]], np.ndarray]:
    """The annotations that can be targets, and their (M, 4) xyxy boxes clipped to the original image."""
    candidates = [annotation for annotation in annotations if not flag(plain_value(annotation.get("iscrowd", 0)))]
    boxes = [list(annotation["bbox"]) for annotation in candidates]
    boxes_xyxy = _to_xyxy(boxes, [annotation["bbox_mode"] for annotation in candidates])
    if not np.isfinite(boxes_xyxy).all():
        worst = boxes[int(np.flatnonzero(~np.isfinite(boxes_xyxy).all(axis=1))[0])]
        raise ValueError(f"an annotation has the box {worst}: boxes must be finite numbers")
    height, width = size
    boxes_xyxy = boxes_xyxy.clip(0, [width, height, width, height])
    kept = np.flatnonzero((boxes_xyxy[:, 2:] > boxes_xyxy[:, :2]).all(axis=1))
    return [candidates[i] for i in kept], boxes_xyxy[kept]


def _to_xyxy(boxes: list[list[float]], modes: list[BoxMode]) -> np.ndarray:
    """(M, 4) float64, with the rounding of detectron2, which converts in float32."""
    if len(set(modes)) > 1:
        return np.concatenate([_to_xyxy([box], [mode]) for box, mode in zip(boxes, modes, strict=True)])
    if not boxes:
        return np.zeros((0, 4))
    return BoxMode.convert(torch.tensor(boxes), modes[0], BoxMode.XYXY_ABS).double().numpy()


def _segmentation(annotation: dict[str, Any], size: tuple[int, int]) -> Any:
    segmentation = annotation.get("segmentation")
    if fault := mask_fault(segmentation, width=size[1], height=size[0]):
        raise ValueError(f"the annotation with box {list(annotation['bbox'])} {fault}, but MODEL.MASK_ON needs a mask")
    return segmentation


def _decode(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8 bitmap of polygons (list of lists), an RLE (dict) or a bitmap, without a fault."""
    height, width = size
    if isinstance(segmentation, list):
        rings = [np.asarray(ring, dtype=np.float64) for ring in segmentation]
        mask = polygons_to_bitmask(rings, height, width)
    elif isinstance(segmentation, dict):
        mask = pycocotools.mask.decode(compressed_rle(segmentation))
    else:
        mask = np.asarray(segmentation)
    return mask.astype(np.uint8)
