"""The layouts of checkpoint files: one table of rules per family."""
