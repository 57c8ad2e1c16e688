"""Counts."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from jax import numpy as jnp
from jax.scipy import special

from jdmm.likelihoods import negative_binomial
from jdmm.likelihoods.base import Raw
from jdmm.likelihoods.counts import Counts, draw_counts


@dataclass(frozen=True)
class Poisson(Counts):
    """Counts whose variance is their mean; raw output (log of rate / size,).

    Whole numbers from 0, held as floats. Rescaled ones have a second raw array, the excess
    ``variance / mean - 1``; they are negative binomial where it is above 0.

    Attributes:
        size: a typical count; see `Counts`.
    """

    size: float = 1.0
    outputs: ClassVar[int] = 1

    def log_prob(self, raw: Raw, value: jax.Array) -> jax.Array:
        """Log mass in nats."""
        log_rate = self.log_mean(raw)
        own = value * log_rate - jnp.exp(log_rate) - special.gammaln(value + 1)
        if len(raw) == 1:
            return own
        wide = negative_binomial.log_mass(log_rate, self._dispersion(raw), value)
        return jnp.where(raw[1] > 0, wide, own)

    def cdf(self, raw: Raw, value: jax.Array) -> jax.Array:
        """The distribution function."""
        rate = self.mean(raw)
        own = special.gammaincc(jnp.floor(jnp.maximum(value, 0.0)) + 1, rate)
        own = jnp.where(value < 0, 0.0, own)
        if len(raw) == 1:
            return own
        return jnp.where(
            raw[1] > 0, negative_binomial.distribution(rate, self._dispersion(raw), value), own
        )

    def moments(self, raw: Raw) -> tuple[jax.Array, jax.Array]:
        """Mean and variance."""
        mean = self.mean(raw)
        return mean, mean if len(raw) == 1 else mean * (1 + raw[1])

    def sample(self, raw: Raw, key: jax.Array) -> jax.Array:
        """A sample, without a gradient."""
        log_rate = self.log_mean(raw)
        if len(raw) > 1:
            rate_key, key = jax.random.split(key)
            wide = negative_binomial.log_rate(log_rate, self._dispersion(raw), rate_key)
            log_rate = jnp.where(raw[1] > 0, wide, log_rate)
        return draw_counts(log_rate, key)

    def rescale(self, raw: Raw, scale: Any) -> Raw:
        """The sd multiplied by `scale` at the same mean, but not below that of a Poisson."""
        before = jnp.zeros_like(raw[0]) if len(raw) == 1 else raw[1]
        return raw[0], jnp.maximum(scale**2 * (1 + before) - 1, 0.0)

    def _dispersion(self, raw: Raw) -> jax.Array:
        """Of the negative binomial with the excess; any number where there is none."""
        return self.mean(raw) / jnp.where(raw[1] > 0, raw[1], 1.0)
