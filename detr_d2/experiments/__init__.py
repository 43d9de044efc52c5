"""Whole experiments with one runner: the quickstarts and learning curves."""
