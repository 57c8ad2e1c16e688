"""Sources of series."""
