"""Speed and memory against other implementations, both contestants in turn."""
