"""Looking inside DETR: attention, object queries and matchings, from outside; no model code knows of it."""

from .looks import Frame, Inside, Look, detection_looks, grid_points, look_inside, point_looks

__all__ = ["Frame", "Inside", "Look", "detection_looks", "grid_points", "look_inside", "point_looks"]
