"""The page, drawn from the records of a comparison and from nothing else."""
