"""Figures from numpy arrays, by matplotlib: no models, no files, no change of global settings."""
