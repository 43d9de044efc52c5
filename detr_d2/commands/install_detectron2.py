"""`python -m detr_d2 install-detectron2`: detectron2 for the Python that runs it, unless it is there."""

from ..installation.install_detectron2 import build_parser, main

__all__ = ["build_parser", "main"]
