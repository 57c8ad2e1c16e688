"""Optimisation: the train step, schedules, checkpoints, devices."""
