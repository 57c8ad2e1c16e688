"""The expected log-likelihood within the bound that a filter of full covariance learns by."""

from collections.abc import Callable, Mapping, Sequence

import jax
from jax import numpy as jnp

from jdmm.data.modality import Modality
from jdmm.inference import full_smoothing
from jdmm.inference.gaussian import Moments
from jdmm.inference.quadrature import Points
from jdmm.inference.square_root import FullMoments
from jdmm.likelihoods import Raw
from jdmm.models import residuals
from jdmm.models.emission import masked_values
from jdmm.series import Series


def expected_log_prob(
    modalities: Sequence[Modality],
    multipliers: Mapping[str, float],
    decode: Callable[[jax.Array, Mapping[str, jax.Array]], dict[str, Raw]],
    states: FullMoments,
    remembered: Mapping[str, Moments],
    targets: Series,
    points: Points,
) -> jax.Array:
    """E log p(x_t | z_t, r_t) of all targets under the filtered states and residuals, in nats.

    Args:
        modalities: of the model.
        multipliers: modality -> weight of its log-likelihood, 1 where not given.
        decode: raw outputs from states ``(point, batch, time, latent)``, and the mask of the states
            of each modality that enter statistics of the batch.
        states: filtered, time in front.
        remembered: the filtered residuals; see `jdmm.models.residuals.split`.
        targets: what is scored.
        points: of the states, at which they are decoded.
    """
    placed = full_smoothing.place_all(states, points)  # (time, latent, point, batch)
    shape = (placed.shape[2], targets.batch, targets.num_steps)
    counted = {
        name: jnp.broadcast_to(jnp.any(mask, -1)[None], shape)
        for name, mask in targets.observed.items()
    }
    raw = decode(jnp.transpose(placed, (2, 3, 0, 1)), counted)
    total, given = jnp.zeros(()), masked_values(targets)
    for modality in modalities:
        name, likelihood = modality.name, modality.likelihood
        value = jnp.broadcast_to(given[name][None], (placed.shape[2], *given[name].shape))
        if name in remembered:
            each = residuals.expected_log_prob(likelihood, raw[name], value, remembered[name])
        else:
            each = likelihood.log_prob(raw[name], value)
        each = jnp.where(targets.observed[name][None], each, 0.0)
        total += multipliers.get(name, 1.0) * (points.weights @ jnp.sum(each, (1, 2, 3)))
    return total
