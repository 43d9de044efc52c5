"""Backbones: detectron2's ResNet as DETR needs it, and timm's."""
