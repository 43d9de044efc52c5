"""A finished model on images: any detectron2 model in eval mode."""

from .categories import Categories
from .predictor import BatchPredictor, ImagePredictor

__all__ = ["BatchPredictor", "Categories", "ImagePredictor"]
