"""Normal observations."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from jax import numpy as jnp

from jdmm.likelihoods.base import Raw, positive, unpositive


@dataclass(frozen=True)
class Normal:
    """N(mean, sd^2), raw outputs (mean, unconstrained sd)."""

    outputs: ClassVar[int] = 2

    @property
    def classes(self) -> None:
        """No extra axis."""

    def log_prob(self, raw: Raw, value: jax.Array) -> jax.Array:
        """Log density in nats."""
        mean, sd = raw[0], positive(raw[1])
        return -0.5 * ((value - mean) / sd) ** 2 - jnp.log(sd) - 0.5 * jnp.log(2 * jnp.pi)

    def mean(self, raw: Raw) -> jax.Array:
        """The mean."""
        return raw[0]

    def sample(self, raw: Raw, key: jax.Array) -> jax.Array:
        """A draw."""
        return raw[0] + positive(raw[1]) * jax.random.normal(key, raw[0].shape)

    def spread(self, raw: Raw, scale: Any) -> Raw:
        """The sd times `scale`."""
        return raw[0], unpositive(scale * positive(raw[1]))
