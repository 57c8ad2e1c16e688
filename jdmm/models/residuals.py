"""The residuals of a model's features: their order in the filter, and the emissions with them.

See `jdmm.inference.residual`. A filter has the residuals of all statistics in one array, in the
order of the modalities that update it by moments; outside, each modality has its own.
"""

import math
from collections.abc import Mapping, Sequence

import jax
from jax import numpy as jnp

from jdmm.data.modality import Modality
from jdmm.inference import residual
from jdmm.inference.gaussian import Moments
from jdmm.inference.residual import Autoregression, no_residuals
from jdmm.likelihoods import Likelihood, Normal, Raw
from jdmm.models.emission import masked_values
from jdmm.series import Series

Residuals = Mapping[str, Autoregression]
"""Normal modality -> the residuals of its features; other modalities have none."""


def join(residuals: Residuals, modalities: Sequence[Modality]) -> Autoregression | None:
    """The residuals of all statistics; those of modalities without residuals are always 0.

    Args:
        residuals: of the modalities that have some; None is returned if none has.
        modalities: those that update the filter by moments.
    """
    if not residuals:
        return None
    own = [residuals.get(m.name) or no_residuals(_num_statistics(m)) for m in modalities]
    return Autoregression(*(jnp.concatenate(leaves) for leaves in zip(*own, strict=True)))


def split(
    found: Moments | None, residuals: Residuals, modalities: Sequence[Modality]
) -> dict[str, Moments]:
    """Modality -> the filtered residuals of its features, ``(batch, time, feature)``.

    Args:
        found: those of all statistics, ``(time, statistic, batch)``; None without any.
        residuals: as in `join`.
        modalities: as in `join`.
    """
    if found is None:
        return {}
    each, start = {}, 0
    for modality in modalities:
        rows = slice(start, start + _num_statistics(modality))
        start = rows.stop
        if modality.name in residuals:
            each[modality.name] = Moments(*(jnp.moveaxis(leaf[:, rows], -1, 0) for leaf in found))
    return each


def _num_statistics(modality: Modality) -> int:
    features = jax.ShapeDtypeStruct((modality.features,), jnp.float32)
    return jax.eval_shape(modality.likelihood.statistics, features).shape[-1]


def expected_log_prob(
    likelihood: Likelihood, raw: Raw, value: jax.Array, found: Moments
) -> jax.Array:
    """E log N(x; mean + r, R) over r ~ N(rho, q): that at rho, less q / (2 R), in nats.

    Args:
        likelihood: normal.
        raw: of the emissions, ``(..., batch, time, feature)``.
        value: of the same shape.
        found: of `split`, without the leading axes.
    """
    own = Moments(*(jnp.broadcast_to(leaf, value.shape) for leaf in found))
    _, noise = likelihood.moments(raw)
    return likelihood.log_prob(raw, value - own.mean) - 0.5 * own.variance / noise


def add_residuals(
    likelihoods: Mapping[str, Likelihood],
    residuals: Residuals,
    raw: Mapping[str, Raw],
    series: Series,
) -> tuple[dict[str, Raw], dict[str, jax.Array]]:
    """The emissions with the residuals of the features, given the path of the states.

    Args:
        likelihoods: modality -> likelihood.
        residuals: normal modality -> residuals of its features; others are left as they are.
        raw: of the emissions, ``(..., batch, time, feature)``.
        series: what is observed.

    Returns:
        Raw outputs of the same shapes, and of each modality with residuals log p(x | z) of what is
        observed of each series, the residuals integrated out, in nats, ``(..., batch)``.
    """
    found, scores = dict(raw), {}
    values = masked_values(series)
    for name, own in residuals.items():
        likelihood = _normal(likelihoods[name])
        mean, variance = likelihood.moments(raw[name])
        time_first = jnp.moveaxis(mean, (-2, -1), (0, 1))  # (time, feature, ..., batch)
        shape = time_first.shape
        repeats = math.prod(shape[2:-1])
        value, observed = (
            jnp.tile(jnp.moveaxis(jnp.asarray(leaf), 0, -1), (1, 1, repeats))
            for leaf in (values[name], series.observed[name])
        )
        noise = jnp.moveaxis(variance, (-2, -1), (0, 1)).reshape(value.shape)
        error = value - time_first.reshape(value.shape)
        smoothed, log_prob = residual.smooth(own, error, noise, observed)
        shift, sd, scored = (
            jnp.moveaxis(leaf.reshape(shape), (0, 1), (-2, -1))
            for leaf in (smoothed.mean, jnp.sqrt(noise + smoothed.variance), log_prob)
        )
        found[name] = likelihood.raw(mean + shift, sd)
        scores[name] = jnp.sum(scored, (-2, -1))
    return found, scores


def widen(
    likelihoods: Mapping[str, Likelihood],
    residuals: Residuals,
    raw: Mapping[str, Raw],
) -> dict[str, Raw]:
    """The emissions with residuals of which nothing is known; see `add_residuals`."""
    found = dict(raw)
    for name, own in residuals.items():
        likelihood = _normal(likelihoods[name])
        mean, variance = likelihood.moments(raw[name])
        further = jnp.broadcast_to(own.variance[:, 0], mean.shape)
        found[name] = likelihood.raw(mean, jnp.sqrt(variance + further))
    return found


def _normal(likelihood: Likelihood) -> Normal:
    assert isinstance(likelihood, Normal)  # others have no residuals
    return likelihood
