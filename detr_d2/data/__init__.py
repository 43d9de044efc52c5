"""Data: COCO files of one's own, checks before training, DETR's mapper, numbered draws, and the shapes dataset."""

from .checks import DatasetReport, check_datasets
from .dataset_mapper import DetrDatasetMapper, build_detr_augmentation
from .loader import build_detr_train_loader, build_train_mapper, uses_detr_augmentation
from .registration import register_coco, register_datasets, resolve_num_classes

__all__ = [
    "DatasetReport",
    "DetrDatasetMapper",
    "build_detr_augmentation",
    "build_detr_train_loader",
    "build_train_mapper",
    "check_datasets",
    "register_coco",
    "register_datasets",
    "resolve_num_classes",
    "uses_detr_augmentation",
]
