"""What a model costs: time, memory, parameters, operations."""
