"""Multi-scale deformable attention: one function and its backends."""
