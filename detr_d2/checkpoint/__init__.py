"""Checkpoints are data: dictionaries read without running code, converted by rules, and written atomically."""

from detectron2.utils.file_io import PathManager

from .checkpointer import Checkpointer
from .fitting import LoadReport
from .layouts.torchvision_resnet import TorchvisionHandler
from .locations import HuggingFaceHandler, local_file
from .reading.open import read_checkpoint

PathManager.register_handler(TorchvisionHandler(), allow_override=True)
PathManager.register_handler(HuggingFaceHandler(), allow_override=True)

__all__ = ["Checkpointer", "LoadReport", "local_file", "read_checkpoint"]
