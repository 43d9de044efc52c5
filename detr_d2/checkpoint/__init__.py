"""Checkpoints are data: dictionaries read without running code, converted by rules, and written atomically."""

from .checkpointer import Checkpointer
from .fitting import LoadReport
from .layouts.torchvision_resnet import register_torchvision_handler
from .locations import local_file, register_huggingface_handler
from .reading.open import read_checkpoint

register_torchvision_handler()
register_huggingface_handler()

__all__ = ["Checkpointer", "LoadReport", "local_file", "read_checkpoint"]
