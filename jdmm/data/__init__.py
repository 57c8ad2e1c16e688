"""Data sets, their modalities and tasks, and what is missing from series."""
