"""DETR's masks and panoptic segmentation."""
