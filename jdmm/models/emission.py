"""Encoders and decoders of modalities, and the evidence that encoders give."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn
from jax import numpy as jnp

from jdmm.data.modality import Modality
from jdmm.errors import InputError
from jdmm.inference import gaussian
from jdmm.inference.gaussian import Gaussian
from jdmm.likelihoods import Categorical
from jdmm.networks import LabelEncoder, MLPDecoder, MLPEncoder
from jdmm.series import Series


def make_encoder(modality: Modality, latent: int, hidden: int) -> nn.Module:
    """The modality's own encoder, or the default one of its likelihood.

    Raises:
        InputError: for several categorical features, which the default encoder cannot take.
    """
    if modality.encoder is not None:
        return modality.encoder
    if not isinstance(modality.likelihood, Categorical):
        return MLPEncoder(latent, hidden)
    if modality.features > 1:
        raise InputError(
            f"expected one categorical feature in modality {modality.name!r}, got "
            f"{modality.features}: make each a modality, or give an encoder"
        )
    return LabelEncoder(modality.likelihood.classes, latent, hidden)


def make_decoder(modality: Modality, hidden: int) -> nn.Module:
    """The modality's own decoder, or the default one."""
    return modality.decoder or MLPDecoder(modality.features, modality.likelihood, hidden)


def refuse_encoders(modalities: tuple[Modality, ...], model: str) -> None:
    """For models whose inference network takes the observations themselves.

    Raises:
        InputError: naming the modality that has an encoder of its own.
    """
    for modality in modalities:
        if modality.encoder is not None:
            raise InputError(
                f"expected modality {modality.name!r} without an encoder for {model}, which does "
                "not use one, got one"
            )


def network_inputs(modality: Modality, values: jax.Array, observed: jax.Array) -> jax.Array:
    """The inputs of a plain layer from ``(..., feature)``: numbers, or one-hot categories.

    With more than one feature the mask is part of them, because a 0 may be a value or a gap.
    """
    if isinstance(modality.likelihood, Categorical):
        onehot = jax.nn.one_hot(values.astype(jnp.int32), modality.likelihood.classes)
        values = jnp.where(observed[..., None], onehot, 0.0).reshape(*values.shape[:-1], -1)
    if observed.shape[-1] > 1:
        values = jnp.concatenate([values, observed.astype(values.dtype)], -1)
    return values


def bind(networks: nn.Module, variables: Any) -> Callable[..., Callable[..., Any]]:
    """The methods of a module as pure functions: ``bind(networks, variables)(Networks.decode)``."""
    return lambda method: lambda *inputs: networks.apply(variables, *inputs, method=method)


def evidence_of(encoders: Mapping[str, nn.Module], series: Series) -> dict[str, Gaussian]:
    """Each modality's evidence p(z | x) / p(z), (0, 0) where all its features are missing."""
    return {
        name: gaussian.mask(
            gaussian.natural(encoder(series.values[name], series.observed[name])),
            jnp.any(series.observed[name], -1, keepdims=True),
        )
        for name, encoder in encoders.items()
    }
