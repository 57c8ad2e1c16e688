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

from jdmm.prediction import (
    AS_IT_IS,
    LEVELS,
    Calibration,
    Model,
    batches,
    probability_integral_transform,
)
from jdmm.series import Series

POSTERIOR = tuple(round(1.1**n, 2) for n in range(-4, 14))
EMISSION = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9, 1.0, 1.2)
"""What is tried: 0.68 to 3.45 times the noise, 0.3 to 1.2 times the spread."""


def calibrate(
    model: Model,
    variables: Any,
    shown: Sequence[Series],
    targets: Series,
    key: jax.Array,
    draws: int = 60,
    batch_size: int = 100,
) -> Calibration:
    """The scales of the least error of coverage, over `LEVELS`, `shown` and the modalities.

    Squared errors are in units of binomial variance: 1 % is more where 95 % should be covered.

    Args:
        model: as for prediction.
        variables: its variables.
        shown: the same series as `targets`, each time with other values hidden.
        targets: complete series that the model has not been trained on.
        key: of the draws.
        draws: from the posterior, per pair of scales; 95 % intervals need 39.
        batch_size: series at a time.

    Returns:
        The scales; those of the model itself if nothing is hidden.
    """
    scales = jnp.array(EMISSION)

    @jax.jit
    def one(
        variables: Any, seen: Series, values: Mapping[str, Any], weights: Any, scale: Any, key: Any
    ) -> jax.Array:
        """Weights of what is covered in each series, ``(emission, modality, level, batch)``."""
        draw_key, emission_key = jax.random.split(key)
        states = model.draw(variables, seen, draw_key, draws, scale).states
        drawn = model.decode(variables, states)

        def covered(emission: jax.Array) -> jax.Array:
            shares = []
            for index, (name, likelihood) in enumerate(model.likelihoods.items()):
                raw = likelihood.spread(drawn[name], emission)
                emitted = likelihood.sample(raw, jax.random.fold_in(emission_key, index))
                off = jnp.abs(probability_integral_transform(emitted, values[name]) - 0.5)
                inside = off[None] <= jnp.array(LEVELS).reshape(-1, 1, 1, 1) / 2
                shares.append(jnp.sum(jnp.where(inside, weights[name][None], 0.0), (-2, -1)))
            return jnp.stack(shares)

        return jax.lax.map(covered, scales)

    weighed = [(seen, _weights(seen, targets)) for seen in shown]
    weighed = [pair for pair in weighed if any(weight.any() for weight in pair[1].values())]
    if not weighed:
        return AS_IT_IS
    every, weights = jax.tree.map(lambda *leaves: np.concatenate(leaves), *weighed)
    values = {name: np.concatenate([leaf] * len(weighed)) for name, leaf in targets.values.items()}
    sizes = (len(POSTERIOR), len(EMISSION), len(weights), len(LEVELS))
    coverage = np.zeros((*sizes, every.batch))
    for index, rows in enumerate(batches(every.batch, batch_size)):
        own = {name: leaf[rows] for name, leaf in weights.items()}
        truth = {name: leaf[rows] for name, leaf in values.items()}
        for number, scale in enumerate(POSTERIOR):
            batch_key = jax.random.fold_in(key, index)
            found = one(variables, every.take(rows), truth, own, scale, batch_key)
            coverage[number][..., rows] = found  # what fills up the last batch comes out the same
    each = coverage.reshape(*sizes, len(weighed), -1).sum(-1)
    level = np.array(LEVELS)[:, None]
    counted = [[own[name].any() for _, own in weighed] for name in weights]
    errors = (each - level) ** 2 / (level * (1 - level)) * np.array(counted)[:, None]
    errors = errors.sum((-3, -2, -1))
    row, column = np.unravel_index(np.argmin(errors), errors.shape)
    return Calibration(POSTERIOR[row], EMISSION[column])


def _weights(seen: Series, targets: Series) -> dict[str, np.ndarray]:
    """1 / number of a modality's hidden values of `targets` at each of them, 0 elsewhere."""
    hidden = {
        name: np.asarray(mask) & ~np.asarray(seen.observed[name])
        for name, mask in targets.observed.items()
    }
    return {name: mask / max(mask.sum(), 1) for name, mask in hidden.items()}
