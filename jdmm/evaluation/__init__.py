"""Scores of any model: predictions, calibration, likelihood bounds."""
