"""Likelihoods of the observations given a decoder's raw outputs.

A decoder returns a tuple of raw, unconstrained arrays, one per name in `parameters`; a likelihood
turns them into densities, means and draws. Everything is elementwise over ``(..., feature)``: the
caller masks and reduces. Another likelihood is one more class with these methods.
"""

from dataclasses import dataclass
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


@dataclass(frozen=True)
class NormalMixture:
    """A mixture of normals per feature; raw outputs logits, means and unconstrained sd.

    All three are ``(..., feature, classes)``; a class is a component.
    """

    classes: int
    outputs: ClassVar[int] = 3

    def log_prob(self, raw: Raw, value: jax.Array) -> jax.Array:
        """Log density in nats."""
        each = Normal().log_prob(raw[1:], value[..., None])
        return special.logsumexp(jax.nn.log_softmax(raw[0]) + each, axis=-1)

    def mean(self, raw: Raw) -> jax.Array:
        """The mean of the mixture."""
        return jnp.sum(jax.nn.softmax(raw[0]) * raw[1], -1)

    def sample(self, raw: Raw, key: jax.Array) -> jax.Array:
        """A draw; differentiable in the component that it came from."""
        which_key, draw_key = jax.random.split(key)
        which = jax.random.categorical(which_key, raw[0])[..., None]
        mean, sd = (jnp.take_along_axis(leaf, which, -1)[..., 0] for leaf in raw[1:])
        return Normal().sample((mean, sd), draw_key)

    def spread(self, raw: Raw, scale: Any) -> Raw:
        """Each component's sd times `scale`."""
        return raw[0], *Normal().spread(raw[1:], scale)


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


def mixture_log_prob(likelihood: Likelihood, raw: Raw, value: jax.Array) -> jax.Array:
    """Log predictive density of `value` ``(..., feature)`` under draws of the latent state.

    `raw` has the draws in front, ``(sample, ..., feature)``: the density is the average over them,
    so that latent and emission uncertainty both count.
    """
    each = likelihood.log_prob(raw, jnp.broadcast_to(value[None], (raw[0].shape[0], *value.shape)))
    return special.logsumexp(each, axis=0) - jnp.log(float(each.shape[0]))
