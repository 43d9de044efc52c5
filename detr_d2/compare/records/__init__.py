"""What a comparison writes down, as records: the schema of its `results.json`; computes nothing."""
