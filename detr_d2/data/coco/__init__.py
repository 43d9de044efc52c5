"""COCO annotation files: read, checked, kept as tables."""
