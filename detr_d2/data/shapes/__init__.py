"""Datasets of coloured shapes, made here."""
