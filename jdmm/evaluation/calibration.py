"""Calibrated intervals: two scales of the uncertainty, chosen on validation series.

A posterior of diagonal Gaussians underestimates the uncertainty where it extrapolates. Emissions
that were trained on samples of such a posterior include part of that uncertainty a second time. So
one scale multiplies the noise of posterior samples (the covariance inflation of ensemble filters,
Anderson & Anderson 1999), and another widens the emissions. With coverage_cm the share of the
held-out values of case c and modality m that their 95 % intervals cover, the chosen scales minimise

    sum over c, m of (coverage_cm - 0.95)^4.

The fourth power gives the worst cases the most weight. Point predictions and bounds on the
likelihood do not use the scales.
"""

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
from jax import numpy as jnp

from jdmm.compiling import Static
from jdmm.errors import InputError
from jdmm.evaluation.batching import batches
from jdmm.evaluation.images import image_names
from jdmm.evaluation.prediction import (
    LEVEL,
    UNCALIBRATED,
    Calibration,
    check_same_shape,
)
from jdmm.evaluation.sample_statistics import (
    probability_integral_transform,
    warn_of_few_samples,
)
from jdmm.likelihoods import Raw
from jdmm.models.base import Model, Variables
from jdmm.series import Series

POSTERIOR = tuple(round(1.1**n, 2) for n in range(-4, 14))
"""Scales of the posterior noise to choose from, 0.68 to 3.45 in steps of 10 %."""

EMISSION = (0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9, 1.0, 1.2)
"""Scales of the emissions to choose from."""

COARSE = 3
"""The search looks at every third posterior scale first, then at those around the best."""

SCALES = 2
"""Posterior scales that are evaluated at once; they share the filter and the noise."""


def calibrate(
    model: Model,
    variables: Variables,
    shown: Sequence[Series],
    held_out: Sequence[Series],
    key: jax.Array,
    num_samples: int = 60,
    batch_size: int = 100,
) -> Calibration:
    """The scales of least error of coverage over cases and modalities.

    Categorical modalities and images have no intervals, and do not count.

    Args:
        model: any model.
        variables: its variables.
        shown: per case, what is observed of series that the model was not trained on. All cases
            have the same shape.
        held_out: per case, the same series; their observed values are to be covered.
        key: of all random numbers.
        num_samples: number of posterior samples; 95 % intervals need 39.
        batch_size: number of series in memory at once.

    Returns:
        The scales, or `UNCALIBRATED` if nothing is held out.

    Raises:
        InputError: if the series disagree with the model or with each other, or for an impossible
            number.
    """
    _check(model, shown, held_out, num_samples)
    if not any(np.any(mask) for case in held_out for mask in case.observed.values()):
        return UNCALIBRATED
    shown, held_out = jax.device_get((list(shown), list(held_out)))
    errors = np.full((len(POSTERIOR), len(EMISSION)), np.inf)

    def evaluate(numbers: Sequence[int]) -> None:
        scales = [POSTERIOR[number] for number in numbers]
        errors[numbers] = coverage_errors(
            model, variables, shown, held_out, key, scales, num_samples, batch_size
        )

    coarse = list(range(COARSE // 2, len(POSTERIOR), COARSE))
    evaluate(coarse)
    if np.ptp(errors[coarse]) == 0:  # no numbers are held out, or too few samples to tell
        return UNCALIBRATED
    best = int(np.argmin(errors.min(1)))
    around = range(max(best - COARSE + 1, 0), min(best + COARSE, len(POSTERIOR)))
    evaluate([number for number in around if number != best])
    row, column = np.unravel_index(np.argmin(errors), errors.shape)
    return Calibration(POSTERIOR[row], EMISSION[column])


def coverage_errors(
    model: Model,
    variables: Variables,
    shown: Sequence[Series],
    held_out: Sequence[Series],
    key: jax.Array,
    scales: Sequence[float],
    num_samples: int = 60,
    batch_size: int = 100,
) -> np.ndarray:
    """The sum that `calibrate` minimises, at posterior `scales` and all `EMISSION` scales.

    Returns:
        ``(posterior, emission)``.
    """
    everything, targets = (
        jax.tree.map(lambda *leaves: np.concatenate(leaves), *cases) for cases in (shown, held_out)
    )
    chunks = np.resize(scales, (-(-len(scales) // SCALES), SCALES))  # the last one is filled up
    covered: dict[str, np.ndarray] = {}
    for index, rows in enumerate(batches(everything.batch, batch_size)):
        inputs = variables, everything.take(rows), targets.take(rows)
        batch_key = jax.random.fold_in(key, index)
        for number, chunk in enumerate(chunks):
            counts = covered_values(Static(model), num_samples, *inputs, chunk, batch_key)
            for name, count in counts.items():
                empty = np.zeros((*chunks.shape, len(EMISSION), everything.batch))
                covered.setdefault(name, empty)[number][..., rows] = count
    errors = np.zeros((len(scales), len(EMISSION)))
    for name, count in covered.items():
        cases = count.reshape(chunks.size, len(EMISSION), len(shown), -1)[: len(scales)].sum(-1)
        total = targets.observed[name].reshape(len(shown), -1).sum(-1)
        coverage = cases[..., total > 0] / total[total > 0]
        errors += ((coverage - LEVEL) ** 4).sum(-1)
    return errors


@partial(jax.jit, static_argnums=(0, 1))
def covered_values(
    static: Static[Model],
    num_samples: int,
    variables: Variables,
    shown: Series,
    held_out: Series,
    scales: jax.Array,
    key: jax.Array,
) -> dict[str, jax.Array]:
    """How many held-out values of each series their intervals cover, at posterior `scales`.

    Returns:
        Modality -> ``(posterior, emission, batch)``, without categorical modalities and images.
    """
    model, likelihoods = static.value, static.value.likelihoods
    images = image_names(model.modalities)
    sample_key, emission_key = jax.random.split(key)

    def sample(scale: jax.Array) -> jax.Array:
        return model.posterior_samples(variables, shown, sample_key, num_samples, scale).states

    def count(states: jax.Array) -> dict[str, jax.Array]:
        # sample by sample, because small arrays stay in the processor's cache
        emissions = jax.lax.map(lambda path: model.emissions_of(variables, path, shown), states)
        return {
            name: jax.lax.map(partial(count_modality, index, name, emissions[name]), emission)
            for index, (name, likelihood) in enumerate(likelihoods.items())
            if likelihood.probabilities(emissions[name]) is None and name not in images
        }

    def count_modality(index: int, name: str, raw: Raw, scale: jax.Array) -> jax.Array:
        raw = likelihoods[name].rescale(raw, scale)
        samples = likelihoods[name].sample(raw, jax.random.fold_in(emission_key, index))
        pit = probability_integral_transform(samples, held_out.values[name])
        covered = held_out.observed[name] & (jnp.abs(pit - 0.5) <= LEVEL / 2)
        return jnp.sum(covered, (-2, -1))

    emission = jnp.array(EMISSION)
    # the scales share the filter and the noise: under vmap, both are computed once
    return jax.lax.map(count, jax.vmap(sample)(scales))


def _check(
    model: Model, shown: Sequence[Series], held_out: Sequence[Series], num_samples: int
) -> None:
    if not shown or len(shown) != len(held_out):
        raise InputError(
            "expected at least one case, and as many held out as shown, got "
            f"{len(shown)} shown and {len(held_out)} held out"
        )
    for seen, case in zip(shown, held_out, strict=True):
        model.check(seen)
        model.check(case)
        check_same_shape(shown[0], seen)
        check_same_shape(seen, case)
    if num_samples < 1:
        raise InputError(f"expected num_samples of at least 1, got {num_samples}")
    warn_of_few_samples(num_samples, LEVEL)
