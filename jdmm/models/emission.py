"""Encoders and decoders of modalities, and the evidence that encoders give."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn
from jax import numpy as jnp

from jdmm.data.modality import Modality
from jdmm.errors import InputError
from jdmm.inference import gaussian
from jdmm.inference.gaussian import Gaussian, Moments
from jdmm.inference.posterior import States
from jdmm.likelihoods import Categorical, Raw
from jdmm.models.grouping import NetworkGroups
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

    With more than one feature the mask is part of the inputs, because a 0 may be a value or a gap.
    """
    if isinstance(modality.likelihood, Categorical):
        onehot = jax.nn.one_hot(values.astype(jnp.int32), modality.likelihood.classes)
        values = jnp.where(observed[..., None], onehot, 0.0).reshape(*values.shape[:-1], -1)
    if observed.shape[-1] > 1:
        values = jnp.concatenate([values, observed.astype(values.dtype)], -1)
    return values


def masked_values(series: Series) -> dict[str, jax.Array]:
    """The values, 0 where they are not observed, whatever the series hold there."""
    return {
        name: jnp.where(series.observed[name], values, 0.0)
        for name, values in series.values.items()
    }


def bind(networks: nn.Module, variables: Any) -> Callable[..., Callable[..., Any]]:
    """The methods of a module as pure functions: ``bind(networks, variables)(Networks.decode)``."""
    return lambda method: lambda *inputs: networks.apply(variables, *inputs, method=method)


def evidence_of(encoders: NetworkGroups, series: Series) -> dict[str, Gaussian]:
    """Each modality's evidence p(z | x) / p(z), (0, 0) where all its features are missing."""

    def evidence(encoder: Callable[..., Moments], values: Any, observed: Any) -> Gaussian:
        given = gaussian.natural(encoder(values, observed))
        return gaussian.mask(given, jnp.any(observed, -1, keepdims=True))

    return encoders.map(evidence, masked_values(series), series.observed)


def raw_outputs(decoders: NetworkGroups, states: States) -> dict[str, Raw]:
    """Raw outputs of every modality's likelihood from states ``(..., state)``, or its own."""
    own = states if isinstance(states, Mapping) else dict.fromkeys(decoders, states)
    return decoders.map(lambda decoder, each: decoder(each), own)
