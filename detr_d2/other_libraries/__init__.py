"""The implementations that stand beside this one in `benchmark` and in `convert --verify`."""
