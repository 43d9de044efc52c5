"""Checkpoints are data: dictionaries read without running code, converted, and written atomically."""

from .checkpointer import Checkpointer
from .safe_read import read_checkpoint
from .torchvision_resnet import register_torchvision_handler

register_torchvision_handler()

__all__ = ["Checkpointer", "read_checkpoint"]
