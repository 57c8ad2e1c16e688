"""The base class of likelihoods, and what they share.

A decoder returns a tuple of raw, unconstrained arrays. A likelihood turns them into densities,
expected values and samples, elementwise over ``(..., feature)``: the caller masks and reduces. A
new likelihood is one class with these methods.
"""

import abc
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.core import Tracer
from jax.scipy import special

from jdmm.errors import InputError

SD_FLOOR = 1e-3
"""Added to every standard deviation that a network outputs (Tan et al. 2020)."""

BISECTIONS = 64
"""Halvings of the interval in which a quantile lies: more than float64 has digits."""

VARIANCE_FLOOR = SD_FLOOR**2
"""Least conditional variance of classes: the square root of 0 has no derivative."""

Raw = tuple[jax.Array, ...]


def constrain_sd(raw: jax.Array) -> jax.Array:
    """A standard deviation from an unconstrained number: ``softplus(raw) + SD_FLOOR``."""
    # (raw + |raw|) / 2 and not max(raw, 0), whose gradient and that of |raw| cancel at 0
    size = jnp.abs(raw)
    return 0.5 * (raw + size) + jnp.log(1.0 + jnp.exp(-size)) + SD_FLOOR


def unconstrain_sd(sd: jax.Array) -> jax.Array:
    """The inverse of `constrain_sd`; an sd below 1.1 times the floor is raised to that."""
    excess = jnp.maximum(sd - SD_FLOOR, 0.1 * SD_FLOOR)
    return excess + jnp.log(-jnp.expm1(-excess))


def check_size(size: float) -> None:
    """Checks a size, about which the values of a likelihood lie.

    Raises:
        InputError: if it is not positive and finite.
    """
    if not 0 < size < float("inf"):
        raise InputError(f"expected a positive size of the values, got {size}")


class Likelihood(abc.ABC):
    """An emission distribution p(x | z); a frozen dataclass, so that models can be compared.

    Attributes:
        outputs: number of raw arrays that the decoder returns.
        spreads: the places among them of those that give the width of the distribution;
            `SigmaPointSSM` learns these as constants, the others as functions of the state.
        classes: size of an extra last axis of the raw arrays; None where there is none.
        support: the values that may be observed, in words, for error messages.
        counts: whether the values are whole numbers from 0.
        scalable: whether the values may be shifted and scaled, as `Standardise` does.
    """

    outputs: int
    spreads: tuple[int, ...] = ()
    classes: int | None = None
    support: str = "finite numbers"
    counts: bool = False
    scalable: bool = False

    def in_support(self, values: np.ndarray) -> np.ndarray:
        """Whether each of `values` may be observed; any shape, on the host."""
        return np.isfinite(values)

    @abc.abstractmethod
    def log_prob(self, raw: Raw, value: jax.Array) -> jax.Array:
        """Log density or mass of `value` ``(..., feature)``, elementwise, in nats."""

    @abc.abstractmethod
    def mean(self, raw: Raw) -> jax.Array:
        """Point prediction ``(..., feature)``: the expected value, or the mode of a category."""

    def probabilities(self, raw: Raw) -> jax.Array | None:
        """Probabilities ``(..., feature, classes)`` of a categorical likelihood, else None."""
        return None

    def inputs(self, value: jax.Array) -> jax.Array:
        """`value` ``(..., feature)`` as the default networks take it, in the same shape; 0 at 0."""
        return value

    def cdf(self, raw: Raw, value: jax.Array) -> jax.Array:
        """The probability of values up to `value` ``(..., feature)``, elementwise.

        Raises:
            InputError: for a likelihood that has none, such as that of categories.
        """
        raise InputError(f"expected a likelihood with a distribution function, got {self}")

    def quantile(self, raw: Raw, level: float | jax.Array) -> jax.Array:
        """The quantile ``(..., feature)`` of a level; of counts the smallest whose cdf reaches it.

        It has no gradient where it has no closed form.

        Args:
            raw: raw outputs.
            level: a number between 0 and 1.

        Raises:
            InputError: for another level, or a likelihood without `cdf` or `moments`.
        """
        if not isinstance(level, Tracer) and not 0 < level < 1:
            raise InputError(f"expected a level between 0 and 1, such as 0.95, got {level}")
        return self._quantile(raw, level)

    def _quantile(self, raw: Raw, level: float | jax.Array) -> jax.Array:
        """Bisects the cdf; for likelihoods whose `statistics` are the values."""
        if not self.has_moments:
            raise InputError(f"expected a likelihood with moments for quantiles, got {self}")
        mean, variance = self.moments(raw)
        sd = jnp.sqrt(variance)
        # Cantelli's inequality: P(x >= mean + k sd) <= 1 / (1 + k^2), and the same below
        low, high = mean - sd * jnp.sqrt(1 / level - 1), mean + sd / jnp.sqrt(1 / level - 1)
        if self.counts:
            low, high = jnp.full_like(mean, -1.0), jnp.ceil(high)

        def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = bounds
            middle = 0.5 * (low + high)
            middle = jnp.floor(middle) if self.counts else middle
            reached = self.cdf(raw, middle) >= level
            return jnp.where(reached, low, middle), jnp.where(reached, middle, high)

        return jax.lax.fori_loop(0, BISECTIONS, halve, (low, high))[1]

    def statistics(self, value: jax.Array) -> jax.Array:
        """Numbers ``(..., statistic)`` of `value` ``(..., feature)``, described by `moments`."""
        return value

    def moments(self, raw: Raw) -> tuple[jax.Array, jax.Array]:
        """Conditional mean and variance of the `statistics`, each ``(..., statistic)``.

        A likelihood without this method cannot update a Gaussian filter; see `has_moments`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no conditional moments")

    @property
    def has_moments(self) -> bool:
        """Whether the likelihood defines `moments`."""
        return type(self).moments is not Likelihood.moments

    @abc.abstractmethod
    def sample(self, raw: Raw, key: jax.Array) -> jax.Array:
        """A sample ``(..., feature)``."""

    @abc.abstractmethod
    def rescale(self, raw: Raw, scale: Any) -> Raw:
        """Raw outputs of the same distribution made wider (scale above 1) or narrower."""


def mixture_log_prob(likelihood: Likelihood, raw: Raw, value: jax.Array) -> jax.Array:
    """Log predictive density of `value` ``(..., feature)`` over samples of the latent state.

    `raw` has the samples in front, ``(sample, ..., feature)``. The density is the average over
    them, so that latent and emission uncertainty both count.
    """
    each = likelihood.log_prob(raw, jnp.broadcast_to(value[None], (raw[0].shape[0], *value.shape)))
    return special.logsumexp(each, axis=0) - jnp.log(float(each.shape[0]))
