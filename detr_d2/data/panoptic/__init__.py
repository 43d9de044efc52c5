"""Panoptic annotations: files, registration, targets."""
