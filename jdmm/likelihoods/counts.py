"""What the likelihoods of counts share; their first raw output is the log of mean / size."""

import math

import jax
import numpy as np
from jax import numpy as jnp

from jdmm.likelihoods.base import Likelihood, Raw, check_size

LARGEST_LOG_MEAN = 16.0
"""Bound on the log of a mean, up and down: float32 holds every whole number up to 2^24 = e^16.6."""

LARGEST_LOG_RATE = 21.0
"""Bound on the log of a sampled rate: counts are drawn as 32-bit whole numbers."""


class Counts(Likelihood):
    """Whole numbers from 0, held as floats.

    Attributes:
        size: a typical count. The raw output is the log of the mean in units of it, so that
            networks begin with means of about this size.
    """

    size: float
    support = "whole numbers from 0"
    counts = True

    def __post_init__(self) -> None:
        """Checks the size."""
        check_size(self.size)

    def in_support(self, values: np.ndarray) -> np.ndarray:
        """Whether each value is a whole number from 0."""
        return np.isfinite(values) & (values >= 0) & (values == np.floor(values))

    def mean(self, raw: Raw) -> jax.Array:
        """The mean."""
        return jnp.exp(self.log_mean(raw))

    def log_mean(self, raw: Raw) -> jax.Array:
        """The log of the mean, within its bounds."""
        return jnp.clip(raw[0] + math.log(self.size), -LARGEST_LOG_MEAN, LARGEST_LOG_MEAN)

    def inputs(self, value: jax.Array) -> jax.Array:
        """``log(1 + value / size)``: counts reach sizes of which networks learn poorly."""
        return jnp.log1p(jnp.maximum(value, 0.0) / self.size)


def draw_counts(log_rate: jax.Array, key: jax.Array) -> jax.Array:
    """Poisson samples of these log rates, as floats and without a gradient."""
    rate = jnp.exp(jnp.minimum(jax.lax.stop_gradient(log_rate), LARGEST_LOG_RATE))
    return jax.random.poisson(key, rate).astype(log_rate.dtype)
