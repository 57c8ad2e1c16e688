"""Binary observations."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from jdmm.likelihoods.base import Raw


@dataclass(frozen=True)
class Bernoulli:
    """Values in [0, 1] (1 with probability sigmoid(logit)); raw output (logit,)."""

    outputs: ClassVar[int] = 1

    @property
    def classes(self) -> None:
        """No extra axis."""

    def log_prob(self, raw: Raw, value: jax.Array) -> jax.Array:
        """Log mass; the negative cross-entropy for values between 0 and 1."""
        return value * raw[0] - jax.nn.softplus(raw[0])

    def mean(self, raw: Raw) -> jax.Array:
        """The probability of 1."""
        return jax.nn.sigmoid(raw[0])

    def sample(self, raw: Raw, key: jax.Array) -> jax.Array:
        """A draw, 0.0 or 1.0."""
        return jax.random.bernoulli(key, self.mean(raw)).astype(raw[0].dtype)

    def spread(self, raw: Raw, scale: Any) -> Raw:
        """The logits divided by `scale`, as by a temperature."""
        return (raw[0] / scale,)
