"""Counts that vary more than those of a Poisson distribution."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from jax import numpy as jnp
from jax.scipy import special

from jdmm.likelihoods.base import Raw, constrain_sd, unconstrain_sd
from jdmm.likelihoods.counts import Counts, draw_counts

MOST_DISPERSION = 1e4
"""Bound on the dispersion: with as much, a mean of 100 has a variance of 101."""


@dataclass(frozen=True)
class NegativeBinomial(Counts):
    """Counts of variance ``mean + mean^2 / dispersion``.

    Raw outputs (log of mean / size, unconstrained dispersion). Whole numbers from 0, held as
    floats.

    Attributes:
        size: a typical count; see `Counts`.
    """

    size: float = 1.0
    outputs: ClassVar[int] = 2
    spreads = (1,)

    def log_prob(self, raw: Raw, value: jax.Array) -> jax.Array:
        """Log mass in nats."""
        return log_mass(self.log_mean(raw), _dispersion(raw), value)

    def cdf(self, raw: Raw, value: jax.Array) -> jax.Array:
        """The distribution function."""
        return distribution(self.mean(raw), _dispersion(raw), value)

    def moments(self, raw: Raw) -> tuple[jax.Array, jax.Array]:
        """Mean and variance."""
        mean = self.mean(raw)
        return mean, mean + mean**2 / _dispersion(raw)

    def sample(self, raw: Raw, key: jax.Array) -> jax.Array:
        """A sample, without a gradient."""
        rate_key, key = jax.random.split(key)
        return draw_counts(log_rate(self.log_mean(raw), _dispersion(raw), rate_key), key)

    def rescale(self, raw: Raw, scale: Any) -> Raw:
        """The sd multiplied by `scale` at the same mean, but not below that of a Poisson."""
        # scale^2 (mean + mean^2 / before) = mean + mean^2 / after
        after = scale**2 / _dispersion(raw) + (scale**2 - 1) / self.mean(raw)
        return raw[0], unconstrain_sd(1 / jnp.maximum(after, 1 / MOST_DISPERSION))


def _dispersion(raw: Raw) -> jax.Array:
    return constrain_sd(jnp.clip(raw[1], -MOST_DISPERSION, MOST_DISPERSION))


def log_mass(log_mean: jax.Array, dispersion: jax.Array, value: jax.Array) -> jax.Array:
    """Log mass in nats of counts with this log mean and dispersion, elementwise."""
    odds = log_mean - jnp.log(dispersion)
    # by the beta function: differences of large log-gammas would lose the digits
    ways = -jnp.log(value + dispersion) - special.betaln(value + 1, dispersion)
    return ways - dispersion * jax.nn.softplus(odds) - value * jax.nn.softplus(-odds)


def distribution(mean: jax.Array, dispersion: jax.Array, value: jax.Array) -> jax.Array:
    """The distribution function of counts with this mean and dispersion, elementwise."""
    above = jnp.floor(jnp.maximum(value, 0.0)) + 1
    share = mean / (mean + dispersion)
    # each side from the smaller share, which has all its digits
    upper = special.betainc(above, dispersion, share)
    lower = special.betainc(dispersion, above, dispersion / (mean + dispersion))
    return jnp.where(value < 0, 0.0, jnp.where(share < 0.5, 1 - upper, lower))


def log_rate(log_mean: jax.Array, dispersion: jax.Array, key: jax.Array) -> jax.Array:
    """A sample of the log rate of the Poisson distribution: its rate is of a gamma distribution."""
    return log_mean + jax.random.loggamma(key, dispersion) - jnp.log(dispersion)
