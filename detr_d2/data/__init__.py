"""Data: COCO files of one's own, checks before training, DETR's mapper, numbered draws, and the shapes dataset."""

from .augmentation import build_detr_augmentation, build_resize
from .checks.datasets import DatasetReport, check_datasets, check_order_of_classes, check_test_images
from .checks.images import check_images, tell_of_images
from .dataset_mapper import DetrDatasetMapper
from .images import read_image
from .loader import build_detr_train_loader, uses_detr_augmentation
from .panoptic.registration import register_coco_panoptic
from .registration import category_ids, register_coco, register_datasets, resolve_num_classes
from .stock_mapper import build_stock_mapper

__all__ = [
    "DatasetReport",
    "DetrDatasetMapper",
    "build_detr_augmentation",
    "build_detr_train_loader",
    "build_resize",
    "build_stock_mapper",
    "category_ids",
    "check_datasets",
    "check_images",
    "check_order_of_classes",
    "check_test_images",
    "read_image",
    "register_coco",
    "register_coco_panoptic",
    "register_datasets",
    "resolve_num_classes",
    "tell_of_images",
    "uses_detr_augmentation",
]
