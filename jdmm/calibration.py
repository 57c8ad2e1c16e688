"""Intervals that hold what they promise: two scales, chosen on validation series.

A posterior of diagonal Gaussians is surer of itself than it should be where it extrapolates, and
emissions that were trained on its draws hold part of its uncertainty a second time. So the noise of
posterior draws is multiplied by one number (the covariance inflation of ensemble filters, Anderson
& Anderson 1999), the spread of the emissions by another. Both minimise the continuous ranked
probability score, which is proper, of what was hidden of the validation series. Means, likelihoods
and bounds are those of the model itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from jdmm.prediction import AS_IT_IS, Calibration, Model, batches
from jdmm.series import Series

POSTERIOR = (0.7, 0.85, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.25, 2.5, 3.0)
EMISSION = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)
"""What is tried."""


def calibrate(
    model: Model,
    variables: Any,
    shown: Sequence[Series],
    targets: Series,
    key: jax.Array,
    draws: int = 30,
    batch_size: int = 100,
) -> Calibration:
    """The scales of the lowest CRPS of what each of `shown` hides of `targets`, all alike.

    Args:
        model: as for prediction.
        variables: its variables.
        shown: the same series as `targets`, each time with other values hidden.
        targets: complete series that the model has not been trained on.
        key: of the draws.
        draws: from the posterior, per pair of scales.
        batch_size: series at a time.

    Returns:
        The scales; those of the model itself if nothing is hidden.
    """
    scales = jnp.array(EMISSION)

    @jax.jit
    def one(
        variables: Any, seen: Series, values: Mapping[str, Any], weights: Any, scale: Any, key: Any
    ) -> jax.Array:
        """Weighted sums of scores, ``(emission scale,)``."""
        draw_key, emission_key = jax.random.split(key)
        states = model.draw(variables, seen, draw_key, draws, scale).states
        drawn = model.decode(variables, states)

        def total(emission: jax.Array) -> jax.Array:
            scores = jnp.zeros(())
            for index, (name, likelihood) in enumerate(model.likelihoods.items()):
                raw = likelihood.spread(drawn[name], emission)
                emitted = likelihood.sample(raw, jax.random.fold_in(emission_key, index))
                scores += jnp.sum(weights[name] * _ranked_probability_score(emitted, values[name]))
            return scores

        return jax.lax.map(total, scales)

    weighed = [(seen, _weights(seen, targets)) for seen in shown]
    weighed = [pair for pair in weighed if any(weight.any() for weight in pair[1].values())]
    if not weighed:
        return AS_IT_IS
    every, weights = jax.tree.map(lambda *leaves: np.concatenate(leaves), *weighed)
    values = {name: np.concatenate([leaf] * len(weighed)) for name, leaf in targets.values.items()}
    scores = np.zeros((len(POSTERIOR), len(EMISSION)))
    for index, rows in enumerate(batches(every.batch, batch_size)):
        new = index * len(rows) + np.arange(len(rows)) < every.batch  # else it fills up the last
        own = {name: leaf[rows] * new[:, None, None] for name, leaf in weights.items()}
        truth = {name: leaf[rows] for name, leaf in values.items()}
        for row, scale in enumerate(POSTERIOR):
            batch_key = jax.random.fold_in(key, index)
            scores[row] += one(variables, every.take(rows), truth, own, scale, batch_key)
    row, column = np.unravel_index(np.argmin(scores), scores.shape)
    return Calibration(POSTERIOR[row], EMISSION[column])


def _ranked_probability_score(draws: jax.Array, value: jax.Array) -> jax.Array:
    """As in `jdmm.prediction`, without sorting: from pairs of neighbours, unbiased too."""
    distance = jnp.abs(draws - jnp.roll(draws, 1, 0))
    return jnp.mean(jnp.abs(draws - value[None]), 0) - jnp.mean(distance, 0) / 2


def _weights(seen: Series, targets: Series) -> dict[str, np.ndarray]:
    """1 / number of what is hidden of `targets` where it is, 0 elsewhere."""
    hidden = {
        name: np.asarray(mask) & ~np.asarray(seen.observed[name])
        for name, mask in targets.observed.items()
    }
    count = sum(mask.sum() for mask in hidden.values())
    return {name: mask / max(count, 1) for name, mask in hidden.items()}
