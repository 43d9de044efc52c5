"""Detectors on the same images, with and without NMS: one page."""
