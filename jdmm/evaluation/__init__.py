"""Predictions of any model and their scores, calibration, likelihood bounds."""
