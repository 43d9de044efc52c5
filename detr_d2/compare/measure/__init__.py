"""From arrays to figures, by numpy alone."""
