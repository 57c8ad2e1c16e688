"""Intervals that hold what they promise: two scales, chosen on validation series.

A posterior of diagonal Gaussians is surer of itself than it should be where it extrapolates, and
emissions that were trained on its draws hold part of its uncertainty a second time. So the noise of
posterior draws is multiplied by one number (the covariance inflation of ensemble filters, Anderson
& Anderson 1999), the spread of the emissions by another: those with which intervals cover what was
hidden of the validation series as often as they should. Means, likelihoods and bounds are those of
the model itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from jdmm.evaluation.prediction import (
    INTERVAL,
    UNCALIBRATED,
    Calibration,
    batches,
    probability_integral_transform,
)
from jdmm.models.base import Model
from jdmm.series import Series

POSTERIOR = tuple(round(1.1**n, 2) for n in range(-4, 14))
EMISSION = (0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9, 1.0, 1.2)
"""What is tried: 0.68 to 3.45 times the noise, 0.3 to 1.2 times the spread."""

LEVEL = INTERVAL[1] - INTERVAL[0]
"""Of the intervals that are to cover as often as they say."""


def calibrate(
    model: Model,
    variables: Any,
    shown: Sequence[Series],
    held_out: Sequence[Series],
    key: jax.Array,
    draws: int = 60,
    batch_size: int = 100,
) -> Calibration:
    """The scales of the least error of coverage of 95 % intervals, over cases and modalities.

    Errors count to the fourth power: the worst decide, but for those that no scale can mend.

    Args:
        model: as for prediction.
        variables: its variables.
        shown: case by case what is known, of series that the model has not been trained on; cases
            have one form.
        held_out: the same series; what is observed of them is to be covered.
        key: of the draws.
        draws: from the posterior, per pair of scales; 95 % intervals need 39.
        batch_size: series at a time.

    Returns:
        The scales; those of the model itself if nothing is held out.
    """
    scales = jnp.array(EMISSION)

    @jax.jit
    def one(
        variables: Any, seen: Series, values: Mapping[str, Any], weights: Any, scale: Any, key: Any
    ) -> jax.Array:
        """Weights of what is covered in each series, ``(emission, modality, batch)``."""
        draw_key, emission_key = jax.random.split(key)
        states = model.posterior_samples(variables, seen, draw_key, draws, scale).states
        drawn = model.emissions(variables, states)

        def covered(emission: jax.Array) -> jax.Array:
            shares = []
            for index, (name, likelihood) in enumerate(model.likelihoods.items()):
                raw = likelihood.rescale(drawn[name], emission)
                emitted = likelihood.sample(raw, jax.random.fold_in(emission_key, index))
                off = jnp.abs(probability_integral_transform(emitted, values[name]) - 0.5)
                inside = off <= LEVEL / 2
                shares.append(jnp.sum(jnp.where(inside, weights[name], 0.0), (-2, -1)))
            return jnp.stack(shares)

        return jax.lax.map(covered, scales)

    each_weights = [_weights(case) for case in held_out]
    if not any(weight.any() for case in each_weights for weight in case.values()):
        return UNCALIBRATED
    cases = [
        (seen, case.values, weights)
        for seen, case, weights in zip(shown, held_out, each_weights, strict=True)
    ]
    every, values, weights = jax.tree.map(lambda *leaves: np.concatenate(leaves), *cases)
    sizes = (len(POSTERIOR), len(EMISSION), len(weights))
    coverage = np.zeros((*sizes, every.batch))
    for index, rows in enumerate(batches(every.batch, batch_size)):
        own = {name: leaf[rows] for name, leaf in weights.items()}
        truth = {name: leaf[rows] for name, leaf in values.items()}
        for number, scale in enumerate(POSTERIOR):
            batch_key = jax.random.fold_in(key, index)
            found = one(variables, every.take(rows), truth, own, scale, batch_key)
            coverage[number][..., rows] = found  # what fills up the last batch comes out the same
    each = coverage.reshape(*sizes, len(cases), -1).sum(-1)
    counted = np.array([[own[name].any() for own in each_weights] for name in weights])
    errors = np.where(counted, (each - LEVEL) ** 4, 0.0).sum((-2, -1))
    row, column = np.unravel_index(np.argmin(errors), errors.shape)
    return Calibration(POSTERIOR[row], EMISSION[column])


def _weights(held_out: Series) -> dict[str, np.ndarray]:
    """1 / number of a modality's observed values at each of them, 0 elsewhere."""
    return {
        name: np.asarray(mask) / max(np.sum(mask), 1) for name, mask in held_out.observed.items()
    }
