"""Likelihoods of the observations given a decoder's raw outputs.

A decoder returns a tuple of raw, unconstrained arrays; a likelihood turns them into densities,
means and samples. Everything is elementwise over ``(..., feature)``: the caller masks and reduces.
A new likelihood is one class with these methods.
"""

from typing import Any, ClassVar, Protocol

import jax
from jax import numpy as jnp
from jax.scipy import special

SD_FLOOR = 1e-3
"""Added to every standard deviation that a network puts out (Tan et al. 2020)."""


Raw = tuple[jax.Array, ...]


def positive(raw: jax.Array) -> jax.Array:
    """A standard deviation from an unconstrained number: ``softplus(raw) + SD_FLOOR``."""
    return jnp.maximum(raw, 0.0) + jnp.log(1.0 + jnp.exp(-jnp.abs(raw))) + SD_FLOOR


def unpositive(sd: jax.Array) -> jax.Array:
    """The inverse of `positive`, down to a tenth of the floor above it."""
    excess = jnp.maximum(sd - SD_FLOOR, 0.1 * SD_FLOOR)
    return excess + jnp.log(-jnp.expm1(-excess))


class Likelihood(Protocol):
    """What the model asks of an emission distribution p(x | z).

    Attributes:
        outputs: how many raw arrays the decoder returns.
        classes: size of an extra last axis of the raw arrays, or None where there is none.
    """

    outputs: ClassVar[int]

    @property
    def classes(self) -> int | None:
        """Size of the raw arrays' extra last axis, None without one."""
        ...

    def log_prob(self, raw: Raw, value: jax.Array) -> jax.Array:
        """Log density or mass of `value` ``(..., feature)``, elementwise, in nats."""
        ...

    def mean(self, raw: Raw) -> jax.Array:
        """Point prediction ``(..., feature)``: the mean, or the mode of a category."""
        ...

    def sample(self, raw: Raw, key: jax.Array) -> jax.Array:
        """A draw ``(..., feature)``."""
        ...

    def spread(self, raw: Raw, scale: Any) -> Raw:
        """Raw outputs of the same distribution made wider (above 1) or narrower."""
        ...


def mixture_log_prob(likelihood: Likelihood, raw: Raw, value: jax.Array) -> jax.Array:
    """Log predictive density of `value` ``(..., feature)`` under draws of the latent state.

    `raw` has the draws in front, ``(sample, ..., feature)``: the density is the average over them,
    so that latent and emission uncertainty both count.
    """
    each = likelihood.log_prob(raw, jnp.broadcast_to(value[None], (raw[0].shape[0], *value.shape)))
    return special.logsumexp(each, axis=0) - jnp.log(float(each.shape[0]))
