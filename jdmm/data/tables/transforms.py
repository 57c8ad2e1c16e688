"""Transforms of columns, which bring skewed values closer to a normal distribution."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Transform(NamedTuple):
    """An increasing function of the values of a column, and the way back.

    forward: of what is observed, before it is scaled.
    backward: its inverse, of every number that a model predicts; it keeps their order.
    valid: which values have a transform.
    support: what they are, for messages.
    """

    forward: Callable[[np.ndarray], np.ndarray]
    backward: Callable[[np.ndarray], np.ndarray]
    valid: Callable[[np.ndarray], np.ndarray]
    support: str


def _exp(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # of likelihoods with heavy tails, whose exp has no mean
        return np.exp(values)


TRANSFORMS = {
    "none": Transform(np.asarray, np.asarray, lambda x: np.full(x.shape, True), "a number"),
    "log": Transform(np.log, _exp, lambda x: x > 0, "a positive number for its logarithm"),
    "root": Transform(
        np.sqrt,
        lambda x: np.maximum(x, 0.0) ** 2,
        lambda x: x >= 0,
        "a number of at least 0 for its root",
    ),
}
"""Name -> transform."""
