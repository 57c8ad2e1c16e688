"""Categories."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from jax import numpy as jnp

from jdmm.likelihoods.base import Raw


@dataclass(frozen=True)
class Categorical:
    """Whole numbers 0 .. classes - 1, held as floats; raw output (logits ``(..., classes)``,)."""

    classes: int
    outputs: ClassVar[int] = 1

    def log_prob(self, raw: Raw, value: jax.Array) -> jax.Array:
        """Log mass, -log softmax cross-entropy."""
        onehot = jax.nn.one_hot(value.astype(jnp.int32), self.classes, dtype=raw[0].dtype)
        return jnp.sum(onehot * jax.nn.log_softmax(raw[0]), -1)

    def mean(self, raw: Raw) -> jax.Array:
        """The mode: the most probable class."""
        return jnp.argmax(raw[0], -1).astype(raw[0].dtype)

    def sample(self, raw: Raw, key: jax.Array) -> jax.Array:
        """A draw."""
        return jax.random.categorical(key, raw[0]).astype(raw[0].dtype)

    def spread(self, raw: Raw, scale: Any) -> Raw:
        """The logits divided by `scale`, as by a temperature."""
        return (raw[0] / scale,)
