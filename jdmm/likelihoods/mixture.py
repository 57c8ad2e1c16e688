"""Real numbers with several modes."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from jax import numpy as jnp
from jax.scipy import special

from jdmm.likelihoods.base import Likelihood, Raw, constrain_sd
from jdmm.likelihoods.normal import Normal


@dataclass(frozen=True)
class NormalMixture(Likelihood):
    """A mixture of normals per feature; raw outputs logits, means and unconstrained sd.

    All three are ``(..., feature, classes)``; a class is a component.
    """

    classes: int
    outputs: ClassVar[int] = 3
    scalable = True

    def log_prob(self, raw: Raw, value: jax.Array) -> jax.Array:
        """Log density in nats."""
        each = Normal().log_prob(raw[1:], value[..., None])
        return special.logsumexp(jax.nn.log_softmax(raw[0]) + each, axis=-1)

    def mean(self, raw: Raw) -> jax.Array:
        """The mean of the mixture."""
        return jnp.sum(jax.nn.softmax(raw[0]) * raw[1], -1)

    def cdf(self, raw: Raw, value: jax.Array) -> jax.Array:
        """The distribution function."""
        return jnp.sum(jax.nn.softmax(raw[0]) * Normal().cdf(raw[1:], value[..., None]), -1)

    def moments(self, raw: Raw) -> tuple[jax.Array, jax.Array]:
        """Mean and variance of the mixture."""
        weights, mean = jax.nn.softmax(raw[0]), self.mean(raw)
        around = (raw[1] - mean[..., None]) ** 2
        return mean, jnp.sum(weights * (constrain_sd(raw[2]) ** 2 + around), -1)

    def sample(self, raw: Raw, key: jax.Array) -> jax.Array:
        """A sample; differentiable in the component that it came from."""
        which_key, sample_key = jax.random.split(key)
        which = jax.random.categorical(which_key, raw[0])[..., None]
        mean, sd = (jnp.take_along_axis(leaf, which, -1)[..., 0] for leaf in raw[1:])
        return Normal().sample((mean, sd), sample_key)

    def rescale(self, raw: Raw, scale: Any) -> Raw:
        """The sd of each component multiplied by `scale`."""
        return raw[0], *Normal().rescale(raw[1:], scale)
