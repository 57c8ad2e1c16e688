"""For models of numbers, which take the features of all modalities side by side."""

import jax
from jax import numpy as jnp

from jdmm.errors import InputError
from jdmm.likelihoods import Normal, Raw, unpositive
from jdmm.models.base import Modality
from jdmm.series import Series


def check_numbers(modalities: tuple[Modality, ...], what: str) -> None:
    """Refuses categories.

    Raises:
        InputError: naming the modality, and `what` the model is.
    """
    for modality in modalities:
        if not isinstance(modality.likelihood, Normal):
            raise InputError(f"expected numbers in {modality.name!r} for {what}")


def side_by_side(series: Series) -> tuple[jax.Array, jax.Array]:
    """Values and masks of all modalities, ``(batch, time, feature)``."""
    trees = (series.values, series.observed)
    values, seen = (jnp.concatenate([jnp.asarray(v) for v in t.values()], -1) for t in trees)
    return values, seen


def apart(modalities: tuple[Modality, ...], states: jax.Array, sd: jax.Array) -> dict[str, Raw]:
    """Raw outputs of each modality from means ``(..., feature)`` and sd that broadcast to them."""
    raw_sd = jnp.broadcast_to(unpositive(sd), states.shape)
    raw, start = {}, 0
    for modality in modalities:
        own = slice(start, start + modality.features)
        raw[modality.name] = (states[..., own], raw_sd[..., own])
        start += modality.features
    return raw
