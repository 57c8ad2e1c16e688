"""Real numbers with outliers."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from jax import numpy as jnp
from jax.scipy import special

from jdmm.likelihoods.base import Likelihood, Raw, constrain_sd, unconstrain_sd

LARGEST = 1e15
"""Bound on location and scale, whose squares float32 still holds."""

MOST_DEGREES = 1e4
"""Bound on the degrees of freedom: with as many, the distribution is normal for all purposes."""


@dataclass(frozen=True)
class StudentT(Likelihood):
    """Student's t; raw outputs (location, unconstrained scale, unconstrained degrees of freedom).

    There are more than 2 degrees of freedom, so that there is a variance,
    ``scale^2 degrees / (degrees - 2)``.
    """

    outputs: ClassVar[int] = 3
    spreads = (1, 2)
    scalable = True

    def log_prob(self, raw: Raw, value: jax.Array) -> jax.Array:
        """Log density in nats."""
        location, scale, degrees = _parameters(raw)
        square = ((value - location) / scale) ** 2
        # by the beta function: a difference of two large log-gammas would lose the digits
        constant = special.betaln(0.5, 0.5 * degrees) + 0.5 * jnp.log(degrees) + jnp.log(scale)
        return -0.5 * (degrees + 1) * jnp.log1p(square / degrees) - constant

    def mean(self, raw: Raw) -> jax.Array:
        """The location."""
        return _parameters(raw)[0]

    def cdf(self, raw: Raw, value: jax.Array) -> jax.Array:
        """The distribution function."""
        location, scale, degrees = _parameters(raw)
        t = (value - location) / scale
        inside = special.betainc(jnp.full_like(t, 0.5), 0.5 * degrees, t**2 / (degrees + t**2))
        return 0.5 * (1 + jnp.sign(t) * inside)

    def moments(self, raw: Raw) -> tuple[jax.Array, jax.Array]:
        """Mean and variance."""
        location, scale, degrees = _parameters(raw)
        return location, scale**2 * (1 + 2 / (degrees - 2))

    def sample(self, raw: Raw, key: jax.Array) -> jax.Array:
        """A sample."""
        location, scale, degrees = _parameters(raw)
        return location + scale * jax.random.t(key, degrees, location.shape)

    def rescale(self, raw: Raw, scale: Any) -> Raw:
        """The scale multiplied by `scale`."""
        return raw[0], unconstrain_sd(scale * _parameters(raw)[1]), raw[2]


def _parameters(raw: Raw) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Location, scale and degrees of freedom."""
    location, scale = (jnp.clip(leaf, -LARGEST, LARGEST) for leaf in raw[:2])
    above_2 = constrain_sd(jnp.clip(raw[2], -MOST_DEGREES, MOST_DEGREES))
    return location, constrain_sd(scale), 2 + above_2
