"""Real numbers."""

import numbers
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.scipy import stats

from jdmm.errors import InputError
from jdmm.likelihoods.base import Likelihood, Raw, constrain_sd, unconstrain_sd


@dataclass(frozen=True, repr=False)
class Normal(Likelihood):
    """N(mean, sd^2); raw outputs (mean, unconstrained sd), or (mean,) with a fixed sd.

    Attributes:
        sd: a fixed standard deviation in the units of the values; None for one that the decoder
            returns. The fixed one has no floor. Once rescaled, its factor is a second raw array.

    Raises:
        InputError: for an sd that is not positive and finite.
    """

    sd: float | None = None
    spreads = (1,)

    def __post_init__(self) -> None:
        """Checks the sd."""
        if self.sd is None:
            return
        if not isinstance(self.sd, numbers.Real) or not 0 < self.sd < np.inf:
            raise InputError(f"expected Normal with a positive sd or None, got {self.sd!r}")
        object.__setattr__(self, "sd", float(self.sd))

    def __repr__(self) -> str:
        """As it is written in code."""
        return "Normal()" if self.sd is None else f"Normal(sd={self.sd})"

    @property
    def outputs(self) -> int:
        """The mean, and the sd where it is not fixed."""
        return 2 if self.sd is None else 1

    @property
    def scalable(self) -> bool:
        """A fixed sd is in the units of the values, and would not follow them."""
        return self.sd is None

    def _sd(self, raw: Raw) -> jax.Array:
        if self.sd is None:
            return constrain_sd(raw[1])
        factor = jnp.ones_like(raw[0]) if len(raw) == 1 else raw[1]
        return self.sd * factor

    def raw(self, mean: jax.Array, sd: jax.Array) -> Raw:
        """The raw outputs, also of a fixed one made wider, of this mean and sd."""
        return mean, unconstrain_sd(sd) if self.sd is None else sd / self.sd

    def log_prob(self, raw: Raw, value: jax.Array) -> jax.Array:
        """Log density in nats."""
        mean, sd = raw[0], self._sd(raw)
        return -0.5 * ((value - mean) / sd) ** 2 - jnp.log(sd) - 0.5 * jnp.log(2 * jnp.pi)

    def mean(self, raw: Raw) -> jax.Array:
        """The mean."""
        return raw[0]

    def cdf(self, raw: Raw, value: jax.Array) -> jax.Array:
        """The distribution function."""
        return stats.norm.cdf((value - raw[0]) / self._sd(raw))

    def _quantile(self, raw: Raw, level: float | jax.Array) -> jax.Array:
        return raw[0] + self._sd(raw) * stats.norm.ppf(level)

    def moments(self, raw: Raw) -> tuple[jax.Array, jax.Array]:
        """Mean and variance."""
        return raw[0], self._sd(raw) ** 2

    def sample(self, raw: Raw, key: jax.Array) -> jax.Array:
        """A sample."""
        return raw[0] + self._sd(raw) * jax.random.normal(key, raw[0].shape)

    def rescale(self, raw: Raw, scale: Any) -> Raw:
        """The sd multiplied by `scale`."""
        if self.sd is None:
            return raw[0], unconstrain_sd(scale * constrain_sd(raw[1]))
        factor = jnp.ones_like(raw[0]) if len(raw) == 1 else raw[1]
        return raw[0], scale * factor
