"""Mistakes in datasets, found before training starts."""
