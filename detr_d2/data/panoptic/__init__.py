"""Panoptic annotations: files, registration, targets, checks."""
