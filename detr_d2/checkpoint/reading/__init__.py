"""Model files read as data: nothing that a file says is run."""
