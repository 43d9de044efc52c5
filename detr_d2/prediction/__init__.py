"""A finished model on images: any detectron2 model in eval mode."""
