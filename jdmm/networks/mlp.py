"""Encoders and decoders with one hidden layer."""

import math

import jax
from flax import linen as nn
from jax import numpy as jnp

from jdmm.inference.gaussian import Moments
from jdmm.likelihoods import Likelihood, Normal, Raw, constrain_sd
from jdmm.networks.dense import StateDense


class MLPEncoder(nn.Module):
    """The evidence p(z | x) / p(z) of one modality, from one hidden layer.

    With more than one feature the mask is a further input, because a 0 may be a value or a gap.

    Attributes:
        latent: dimensions of the state.
        hidden: units of the hidden layer.
        likelihood: of the modality; the values go in as its `inputs`.
    """

    latent: int
    hidden: int
    likelihood: Likelihood = Normal()

    @nn.compact
    def __call__(self, values: jax.Array, observed: jax.Array | None = None) -> Moments:
        """Moments ``(..., latent)`` from values and mask ``(..., feature)``."""
        values = self.likelihood.inputs(values)
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


class HomoscedasticDecoder(nn.Module):
    """z -> the raw outputs of a likelihood; its `spreads` do not depend on z.

    Its layers have the state first, as the recursions do.

    Attributes:
        features: of the modality.
        likelihood: of the modality.
        hidden: units of the hidden layer; 0 for a linear decoder.
    """

    features: int
    likelihood: Likelihood
    hidden: int

    @nn.compact
    def __call__(self, z: jax.Array) -> Raw:
        """Raw arrays ``(..., feature)`` or ``(..., feature, classes)`` from ``(..., latent)``."""
        classes = self.likelihood.classes
        shape = (self.features,) if classes is None else (self.features, classes)
        inner = jnp.moveaxis(z, -1, 0)
        if self.hidden:
            inner = nn.relu(StateDense(self.hidden, name="hidden_layer")(inner))
        outputs = []
        for i in range(self.likelihood.outputs):
            if i in self.likelihood.spreads:
                name = "sd" if i == 1 else f"spread_{i}"  # "sd" as saved models of normals have it
                spread = self.param(name, nn.initializers.zeros, shape)
                outputs.append(jnp.broadcast_to(spread, (*z.shape[:-1], *shape)))
                continue
            own = StateDense(math.prod(shape), name=f"output_{i}")(inner)
            outputs.append(jnp.moveaxis(own, 0, -1).reshape(*z.shape[:-1], *shape))
        return tuple(outputs)
