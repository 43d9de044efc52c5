"""The same numbers, sooner: fused convolutions, and when something else may stand for the call of a module."""
