"""Real numbers."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from jax import numpy as jnp

from jdmm.likelihoods.base import Likelihood, Raw, constrain_sd, unconstrain_sd


@dataclass(frozen=True)
class Normal(Likelihood):
    """N(mean, sd^2); raw outputs (mean, unconstrained sd)."""

    outputs: ClassVar[int] = 2

    def log_prob(self, raw: Raw, value: jax.Array) -> jax.Array:
        """Log density in nats."""
        mean, sd = raw[0], constrain_sd(raw[1])
        return -0.5 * ((value - mean) / sd) ** 2 - jnp.log(sd) - 0.5 * jnp.log(2 * jnp.pi)

    def mean(self, raw: Raw) -> jax.Array:
        """The mean."""
        return raw[0]

    def moments(self, raw: Raw) -> tuple[jax.Array, jax.Array]:
        """Mean and variance."""
        return raw[0], constrain_sd(raw[1]) ** 2

    def sample(self, raw: Raw, key: jax.Array) -> jax.Array:
        """A sample."""
        return raw[0] + constrain_sd(raw[1]) * jax.random.normal(key, raw[0].shape)

    def rescale(self, raw: Raw, scale: Any) -> Raw:
        """The sd multiplied by `scale`."""
        return raw[0], unconstrain_sd(scale * constrain_sd(raw[1]))
