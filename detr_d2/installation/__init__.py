"""The environment: made, completed by detectron2, checked; works without torch."""
