"""The features of all modalities as one vector, for models of real numbers."""

import jax
from jax import numpy as jnp

from jdmm.data.modality import Modality, by_name
from jdmm.errors import UnsuitableDataError
from jdmm.likelihoods import Normal, Raw, unconstrain_sd
from jdmm.series import Series


def check_normal(modalities: tuple[Modality, ...], model: str) -> None:
    """Refuses modalities that the model would not use as given.

    Raises:
        UnsuitableDataError: naming the modality that is not Normal, has a fixed sd, or has a
            network of its own.
    """
    for modality in modalities:
        if not isinstance(modality.likelihood, Normal):
            raise UnsuitableDataError(
                f"expected a Normal likelihood in modality {modality.name!r} for {model}, got "
                f"{modality.likelihood}"
            )
        if modality.likelihood.sd is not None:
            raise UnsuitableDataError(
                f"expected modality {modality.name!r} without a fixed sd for {model}, which fits "
                f"the sd, got {modality.likelihood}: use Normal()"
            )
        if modality.encoder is not None or modality.decoder is not None:
            raise UnsuitableDataError(
                f"expected modality {modality.name!r} without encoder and decoder for {model}, "
                "which uses no networks"
            )


def concatenate_features(series: Series) -> tuple[jax.Array, jax.Array]:
    """Values and masks of all modalities, ordered by name, ``(batch, time, feature)``."""
    values, observed = (
        jnp.concatenate([jnp.asarray(tree[name]) for name in sorted(tree)], -1)
        for tree in (series.values, series.observed)
    )
    return values, observed


def split_features(
    modalities: tuple[Modality, ...], mean: jax.Array, sd: jax.Array
) -> dict[str, Raw]:
    """Raw outputs of each modality from means ``(..., feature)`` and sd that broadcast to them."""
    raw_sd = jnp.broadcast_to(unconstrain_sd(sd), mean.shape)
    raw, start = {}, 0
    for modality in by_name(modalities):
        own = slice(start, start + modality.features)
        raw[modality.name] = (mean[..., own], raw_sd[..., own])
        start += modality.features
    return {modality.name: raw[modality.name] for modality in modalities}
