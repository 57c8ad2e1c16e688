"""Binary values."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np
from jax import numpy as jnp

from jdmm.likelihoods.base import VARIANCE_FLOOR, Likelihood, Raw


@dataclass(frozen=True)
class Bernoulli(Likelihood):
    """1 with probability sigmoid(logit), else 0; raw output (logit,).

    Values between 0 and 1 are scored by their cross-entropy.
    """

    outputs: ClassVar[int] = 1
    support = "values from 0 to 1"

    def in_support(self, values: np.ndarray) -> np.ndarray:
        """Whether each value lies within 0..1."""
        return (values >= 0) & (values <= 1)

    def log_prob(self, raw: Raw, value: jax.Array) -> jax.Array:
        """Log mass; the negative cross-entropy for values between 0 and 1."""
        return value * raw[0] - jax.nn.softplus(raw[0])

    def mean(self, raw: Raw) -> jax.Array:
        """The probability of 1."""
        return jax.nn.sigmoid(raw[0])

    def cdf(self, raw: Raw, value: jax.Array) -> jax.Array:
        """The probability of 0 from 0 on, and 1 from 1 on."""
        below = jnp.where(value < 0, 0.0, jax.nn.sigmoid(-raw[0]))
        return jnp.where(value < 1, below, 1.0)

    def _quantile(self, raw: Raw, level: float | jax.Array) -> jax.Array:
        return (level > jax.nn.sigmoid(-raw[0])).astype(raw[0].dtype)

    def moments(self, raw: Raw) -> tuple[jax.Array, jax.Array]:
        """P and p (1 - p), at least `VARIANCE_FLOOR`."""
        p = self.mean(raw)
        return p, jnp.maximum(p * (1 - p), VARIANCE_FLOOR)

    def sample(self, raw: Raw, key: jax.Array) -> jax.Array:
        """A sample, 0.0 or 1.0."""
        return jax.random.bernoulli(key, self.mean(raw)).astype(raw[0].dtype)

    def rescale(self, raw: Raw, scale: Any) -> Raw:
        """The logits divided by the temperature `scale`."""
        return (raw[0] / scale,)
