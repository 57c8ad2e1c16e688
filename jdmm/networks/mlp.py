"""Encoders and decoders with one hidden layer."""

import jax
from flax import linen as nn
from jax import numpy as jnp

from jdmm.inference.gaussian import Moments
from jdmm.likelihoods import Likelihood, Raw, constrain_sd


class MLPEncoder(nn.Module):
    """The evidence p(z | x) / p(z) of one modality, from one hidden layer.

    With more than one feature the mask is a further input, because a 0 may be a value or a gap.
    """

    latent: int
    hidden: int

    @nn.compact
    def __call__(self, values: jax.Array, observed: jax.Array | None = None) -> Moments:
        """Moments ``(..., latent)`` from values and mask ``(..., feature)``."""
        if observed is not None and values.shape[-1] > 1:
            values = jnp.concatenate([values, observed.astype(values.dtype)], -1)
        inner = nn.relu(nn.Dense(self.hidden, name="hidden_layer")(values))
        mean = nn.Dense(self.latent, name="mean")(inner)
        return Moments(mean, constrain_sd(nn.Dense(self.latent, name="sd")(inner)) ** 2)


class LabelEncoder(nn.Module):
    """Evidence from one category: relu(embedding), then the MLP."""

    classes: int
    latent: int
    hidden: int

    @nn.compact
    def __call__(self, values: jax.Array, observed: jax.Array) -> Moments:
        """Moments ``(..., latent)`` from labels ``(..., 1)``."""
        del observed  # a missing label is the whole modality, whose evidence is masked
        label = values[..., 0].astype(jnp.int32)
        embedded = nn.relu(nn.Embed(self.classes, self.hidden, name="embedding")(label))
        mlp = MLPEncoder(self.latent, self.hidden, name="mlp")
        return mlp(embedded)


class MLPDecoder(nn.Module):
    """z -> the raw outputs of a likelihood, which share one hidden layer."""

    features: int
    likelihood: Likelihood
    hidden: int

    @nn.compact
    def __call__(self, z: jax.Array) -> Raw:
        """Raw arrays ``(..., feature)`` or ``(..., feature, classes)`` from ``(..., latent)``."""
        classes = self.likelihood.classes
        shape = (self.features,) if classes is None else (self.features, classes)
        inner = nn.relu(nn.Dense(self.hidden, name="hidden_layer")(z))
        return tuple(
            nn.DenseGeneral(shape, name=f"output_{i}")(inner)
            for i in range(self.likelihood.outputs)
        )
