"""Positive numbers."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np
from jax import numpy as jnp

from jdmm.likelihoods.base import Likelihood, Raw, check_size
from jdmm.likelihoods.normal import Normal

LARGEST_LOG = 80.0
"""Bound on mean and sd of the log, and on the log of a result; float32 ends at e^88."""


@dataclass(frozen=True)
class LogNormal(Likelihood):
    """A value whose log is normal; raw outputs (mean, unconstrained sd) of the log of value / size.

    Its statistic is the log, so that a Gaussian filter updates by it exactly.

    Attributes:
        size: a typical value, from which networks begin.
    """

    size: float = 1.0
    outputs: ClassVar[int] = 2
    spreads = (1,)
    support = "positive numbers"

    def __post_init__(self) -> None:
        """Checks the size."""
        check_size(self.size)

    def in_support(self, values: np.ndarray) -> np.ndarray:
        """Whether each value is positive and finite."""
        return np.isfinite(values) & (values > 0)

    def log_prob(self, raw: Raw, value: jax.Array) -> jax.Array:
        """Log density in nats."""
        log = self.statistics(value)
        return Normal().log_prob(self._of_log(raw), log) - log

    def mean(self, raw: Raw) -> jax.Array:
        """``exp(mean + sd^2 / 2)``."""
        mean, variance = self.moments(raw)
        return _exp(mean + 0.5 * variance)

    def inputs(self, value: jax.Array) -> jax.Array:
        """The log of value / size; 0 for the 0 that stands for a missing value."""
        return jnp.log(jnp.where(value > 0, value / self.size, 1.0))

    def cdf(self, raw: Raw, value: jax.Array) -> jax.Array:
        """The distribution function."""
        return jnp.where(value > 0, Normal().cdf(self._of_log(raw), self.statistics(value)), 0.0)

    def _quantile(self, raw: Raw, level: float | jax.Array) -> jax.Array:
        return _exp(Normal().quantile(self._of_log(raw), level))

    def statistics(self, value: jax.Array) -> jax.Array:
        """The log; 0 for the 0 that stands for a missing value."""
        return jnp.log(jnp.where(value > 0, value, 1.0))

    def moments(self, raw: Raw) -> tuple[jax.Array, jax.Array]:
        """Mean and variance of the log."""
        return Normal().moments(self._of_log(raw))

    def sample(self, raw: Raw, key: jax.Array) -> jax.Array:
        """A sample."""
        return _exp(Normal().sample(self._of_log(raw), key))

    def rescale(self, raw: Raw, scale: Any) -> Raw:
        """The sd of the log multiplied by `scale`; the median stays."""
        mean, sd = Normal().rescale(self._of_log(raw), scale)
        return mean - math.log(self.size), sd

    def _of_log(self, raw: Raw) -> Raw:
        """Raw outputs of the log of the value, within their bounds."""
        given = (raw[0] + math.log(self.size), raw[1])
        return tuple(jnp.clip(leaf, -LARGEST_LOG, LARGEST_LOG) for leaf in given)


def _exp(log: jax.Array) -> jax.Array:
    return jnp.exp(jnp.clip(log, -LARGEST_LOG, LARGEST_LOG))
