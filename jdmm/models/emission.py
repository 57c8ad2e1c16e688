"""Encoders and decoders of modalities, and the evidence that encoders give."""

from collections.abc import Callable, Mapping, Sequence
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
from jdmm.networks import ImageDecoder, ImageEncoder, LabelEncoder, MLPDecoder, MLPEncoder
from jdmm.networks.backgrounds import RECALLED, Frames, background_of, frames_of
from jdmm.series import Series


def make_encoder(modality: Modality, latent: int, hidden: int) -> nn.Module:
    """The modality's own encoder, or the default one of its likelihood.

    Raises:
        InputError: for several categorical features, which the default encoder cannot take.
    """
    if modality.encoder is not None:
        return modality.encoder
    if modality.image is not None:
        return ImageEncoder(latent, modality.image)
    if not isinstance(modality.likelihood, Categorical):
        return MLPEncoder(latent, hidden, modality.likelihood)
    if modality.features > 1:
        raise InputError(
            f"expected one categorical feature in modality {modality.name!r}, got "
            f"{modality.features}: make each a modality, or give an encoder"
        )
    return LabelEncoder(modality.likelihood.classes, latent, hidden)


def make_decoder(modality: Modality, hidden: int) -> nn.Module:
    """The modality's own decoder, or the default one."""
    if modality.decoder is None and modality.image is not None:
        return ImageDecoder(modality.image, modality.likelihood)
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

    Numbers go in as `Likelihood.inputs`, such as the logs of counts.

    With more than one feature the mask is part of the inputs, because a 0 may be a value or a gap.
    Images are the inputs of convolutions, without the mask.
    """
    if modality.image is not None:
        return values
    if isinstance(modality.likelihood, Categorical):
        onehot = jax.nn.one_hot(values.astype(jnp.int32), modality.likelihood.classes)
        values = jnp.where(observed[..., None], onehot, 0.0).reshape(*values.shape[:-1], -1)
    else:
        values = modality.likelihood.inputs(values)
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


def init_encoders(
    modalities: Sequence[Modality], encoders: Mapping[str, nn.Module], series: Series, latent: int
) -> None:
    """Uses the parameters of every encoder once, for `init`.

    Raises:
        InputError: for an encoder whose outputs are no moments of the state, naming the modality.
    """
    for modality in modalities:
        name = modality.name
        given = encoders[name](series.values[name], series.observed[name])
        shape = (*series.values[name].shape[:-1], latent)
        _check_outputs(f"encoder of modality {name!r}", given, 2, shape, "moments of the state")


def init_decoders(
    modalities: Sequence[Modality], decoders: Mapping[str, nn.Module], size: int
) -> None:
    """Uses the parameters of every decoder once, for `init`.

    Args:
        modalities: of the model.
        decoders: modality -> decoder, a bound module.
        size: of the states that they take.

    Raises:
        InputError: for a decoder that does not fit its likelihood, naming the modality.
    """
    for modality in modalities:
        likelihood = modality.likelihood
        classes = () if likelihood.classes is None else (likelihood.classes,)
        raw = decoders[modality.name](jnp.zeros((1, 1, size)))
        shape = (1, 1, modality.features, *classes)
        what = f"decoder of modality {modality.name!r}"
        _check_outputs(what, raw, likelihood.outputs, shape, f"raw outputs of {likelihood}")


def _check_outputs(
    network: str, outputs: Any, count: int, shape: tuple[int, ...], what: str
) -> None:
    """Checks what a network returns: a tuple of `count` arrays of one shape."""
    found = [getattr(leaf, "shape", None) for leaf in outputs] if isinstance(outputs, tuple) else []
    if found != [shape] * count:
        got = f"shapes {', '.join(map(str, found))}" if found else type(outputs).__name__
        raise InputError(
            f"expected the {network} to return {what}, a tuple of {count} with shape {shape}, "
            f"got {got}"
        )


def evidence_of(encoders: NetworkGroups, series: Series) -> dict[str, Gaussian]:
    """Each modality's evidence p(z | x) / p(z), (0, 0) where all its features are missing."""

    def evidence(encoder: Callable[..., Moments], values: Any, observed: Any) -> Gaussian:
        given = gaussian.natural(encoder(values, observed))
        return gaussian.mask(given, jnp.any(observed, -1, keepdims=True))

    return encoders.map(evidence, masked_values(series), series.observed)


def backgrounds_of(
    modalities: Sequence[Modality], series: Series, scored: bool = False
) -> dict[str, jax.Array | Frames]:
    """What the decoders of images add to; see `Image.background`.

    Args:
        modalities: of the model.
        series: what is shown.
        scored: whether the images that are shown are scored too, and may not be recalled at their
            own step.
    """
    found = {}
    for modality in modalities:
        if modality.image is None or not modality.image.background:
            continue
        values, observed = series.values[modality.name], series.observed[modality.name]
        if modality.image.background == RECALLED:
            found[modality.name] = frames_of(values, observed, own=not scored)
        else:
            found[modality.name] = background_of(values, observed)
    return found


def raw_outputs(
    decoders: NetworkGroups,
    states: States,
    counted: Mapping[str, jax.Array] | None = None,
    backgrounds: Mapping[str, jax.Array | Frames] | None = None,
) -> dict[str, Raw]:
    """Raw outputs of every modality's likelihood from states ``(..., state)``, or its own.

    Args:
        decoders: of the modalities.
        states: of all modalities, or modality -> its own.
        counted: modality -> mask ``(...,)`` of the states that enter statistics of the batch.
        backgrounds: of `backgrounds_of`; the states are those of its series.
    """
    own = states if isinstance(states, Mapping) else dict.fromkeys(decoders, states)
    masks = {name: counted[name] if counted and decoders.normalises(name) else None for name in own}

    static = {name: (backgrounds or {}).get(name) for name in own}

    def decode(
        decoder: Callable[..., Raw],
        each: jax.Array,
        mask: jax.Array | None,
        background: jax.Array | Frames | None,
    ) -> Raw:
        if mask is None and background is None:
            return decoder(each)
        return decoder(each, mask, background)

    return decoders.map(decode, own, masks, static)


def conditional_moments(
    modalities: Sequence[Modality], decode: Callable[[dict[str, jax.Array]], dict[str, Raw]]
) -> Callable[[jax.Array], Moments]:
    """States ``(latent, n)`` -> conditional moments ``(statistic, n)`` of these modalities.

    Args:
        modalities: those that update a filter by their moments; there may be none.
        decode: raw outputs of each modality from its states ``(n, latent)``.
    """

    def emission(states: jax.Array) -> Moments:
        last = jnp.moveaxis(states, 0, -1)
        raw = decode({m.name: last for m in modalities})
        each = [m.likelihood.moments(raw[m.name]) for m in modalities]
        if not each:
            return Moments(*(jnp.zeros((0, states.shape[-1]), states.dtype),) * 2)
        return Moments(
            *(
                jnp.moveaxis(jnp.concatenate(leaves, -1), -1, 0)
                for leaves in zip(*each, strict=True)
            )
        )

    return emission


def observed_statistics(
    modalities: Sequence[Modality], series: Series
) -> tuple[jax.Array, jax.Array]:
    """Statistics of what is observed, as `conditional_moments` orders them, and their masks.

    Returns:
        Two arrays ``(time, statistic, batch)``.
    """
    given = masked_values(series)
    values = [jnp.zeros((series.batch, series.num_steps, 0))]
    masks = [jnp.zeros((series.batch, series.num_steps, 0), bool)]
    for modality in modalities:
        value = modality.likelihood.statistics(given[modality.name])
        repeats = value.shape[-1] // modality.features
        values.append(value)
        masks.append(jnp.repeat(jnp.asarray(series.observed[modality.name]), repeats, -1))
    value, observed = (
        jnp.moveaxis(jnp.concatenate(leaves, -1), 0, -1) for leaves in (values, masks)
    )
    return value, observed
