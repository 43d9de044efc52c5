"""Going on with a training: the last checkpoint and everything beside the weights."""
