"""DatasetEvaluators for the trainer."""
