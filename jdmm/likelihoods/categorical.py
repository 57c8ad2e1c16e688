"""Categories."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np
from jax import numpy as jnp

from jdmm.errors import InputError
from jdmm.likelihoods.base import VARIANCE_FLOOR, Likelihood, Raw


@dataclass(frozen=True)
class Categorical(Likelihood):
    """Whole numbers 0 .. classes - 1, held as floats; raw output (logits ``(..., classes)``,).

    Raises:
        InputError: for fewer than two classes.
    """

    classes: int
    outputs: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Checks the number of classes."""
        if self.classes < 2:
            raise InputError(f"expected Categorical of at least 2 classes, got {self.classes}")
        object.__setattr__(self, "support", f"whole numbers from 0 to {self.classes - 1}")

    def in_support(self, values: np.ndarray) -> np.ndarray:
        """Whether each value is one of the classes."""
        return (values >= 0) & (values < self.classes) & (values == np.floor(values))

    def log_prob(self, raw: Raw, value: jax.Array) -> jax.Array:
        """Log mass in nats."""
        onehot = jax.nn.one_hot(value.astype(jnp.int32), self.classes, dtype=raw[0].dtype)
        return jnp.sum(onehot * jax.nn.log_softmax(raw[0]), -1)

    def mean(self, raw: Raw) -> jax.Array:
        """The mode: the most probable class."""
        return jnp.argmax(raw[0], -1).astype(raw[0].dtype)

    def probabilities(self, raw: Raw) -> jax.Array:
        """Probabilities ``(..., feature, classes)``."""
        return jax.nn.softmax(raw[0])

    def statistics(self, value: jax.Array) -> jax.Array:
        """One-hot, without the last class, which follows from the others."""
        onehot = jax.nn.one_hot(value.astype(jnp.int32), self.classes)[..., :-1]
        return onehot.reshape(*value.shape[:-1], -1)

    def moments(self, raw: Raw) -> tuple[jax.Array, jax.Array]:
        """P and p (1 - p) of each class but the last, without their covariances.

        Variances have the floor `VARIANCE_FLOOR`.
        """
        p = self.probabilities(raw)[..., :-1]
        p = p.reshape(*p.shape[:-2], -1)
        return p, jnp.maximum(p * (1 - p), VARIANCE_FLOOR)

    def sample(self, raw: Raw, key: jax.Array) -> jax.Array:
        """A sample."""
        return jax.random.categorical(key, raw[0]).astype(raw[0].dtype)

    def rescale(self, raw: Raw, scale: Any) -> Raw:
        """The logits divided by the temperature `scale`."""
        return (raw[0] / scale,)
