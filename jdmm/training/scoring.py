"""Scores of variables on validation series, by which training chooses among epochs and starts."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from jdmm.data import corruption
from jdmm.data.corruption import Deletions
from jdmm.errors import InputError
from jdmm.likelihoods import Likelihood, Raw
from jdmm.models.base import GradientModel, Model, Variables
from jdmm.series import Series
from jdmm.training.progress import Scorer

UserScore = Callable[[Variables, Series], float | Mapping[str, float]]
"""Variables of one model and validation series -> a score to minimise, or figures with "score"."""

LEAST_BRIER_SCORE = 1e-4
"""Smaller Brier scores count as this one; their logarithms would decide the score."""

LEAST_SQUARED_ERROR = 1e-30
"""The same for squared errors, whose units are unknown."""


def held_out_scorer(
    model: Model, validation: Series, deletions: Deletions, seed: int = 0
) -> Scorer:
    """Scores the prediction of validation values that the deletions of the training hide.

    The score is ``mean_m log error_m`` over the modalities m. The error of a modality is the mean
    over its hidden values of the squared error of the expected value, or, for categories, of the
    Brier score ``sum_k (p_k - [k = value])^2``. The logarithm makes it independent of units. Where
    the deletions hide nothing, all observed values are scored.

    Args:
        model: makes the predictions; `for_validation`, if it has that.
        validation: the validation series, with all that is observed of them.
        deletions: what to hide, as at the end of the training.
        seed: of the deletions, which are the same for every score.

    Returns:
        A scorer with the figures "score" and "error/<modality>".

    Raises:
        InputError: if no value is observed.
    """
    predictor = model.for_validation if isinstance(model, GradientModel) else model
    key = jax.random.key(seed)

    @jax.jit
    def hide(series: Series) -> Series:
        return series.hide(corruption.delete(key, series, deletions, 1.0))

    shown = hide(validation)
    scored = _scored(validation, shown)

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None, None, None))
    def held_out_errors(
        variables: Variables, shown: Series, validation: Series, scored: dict[str, Any]
    ) -> dict[str, jax.Array]:
        states = predictor.posterior_mean(variables, shown, key).states
        raw = predictor.emissions_of(variables, states, shown)
        errors = {}
        for name, mask in scored.items():
            each, least = _error(model.likelihoods[name], raw[name], validation.values[name])
            mean = jnp.sum(jnp.where(mask, each, 0.0)) / jnp.sum(mask)
            errors[name] = jnp.maximum(mean, least)
        return errors

    def score(variables: Variables) -> dict[str, Any]:
        errors = jax.device_get(held_out_errors(variables, shown, validation, scored))
        figures = {f"error/{name}": error for name, error in errors.items()}
        return {"score": np.mean([np.log(error) for error in errors.values()], 0), **figures}

    return score


def loss_scorer(model: GradientModel, validation: Series, seed: int) -> Scorer:
    """Scores variables by their loss on complete validation series in one batch, with beta = 1."""

    def evaluate(variables: Variables, series: Series, key: jax.Array) -> tuple[jax.Array, Any]:
        loss = model.loss(variables, series, series, key, 1.0)
        return loss.total(1.0), loss.means()

    every = jax.jit(jax.vmap(evaluate, in_axes=(0, None, None)))

    def score(variables: Variables) -> dict[str, Any]:
        total, terms = jax.device_get(every(variables, validation, jax.random.key(seed)))
        return {"score": total, "loss": total, **terms}

    return score


def user_scorer(function: UserScore, validation: Series) -> Scorer:
    """A scorer that calls a function of the user for each seed.

    Raises:
        InputError: when called, if the function returns figures without "score".
    """

    def score(variables: Variables) -> dict[str, Any]:
        each = []
        for row in range(len(jax.tree.leaves(variables)[0])):
            own = jax.tree.map(lambda leaf, row=row: leaf[row], variables)
            found = function(own, validation)
            figures = dict(found) if isinstance(found, Mapping) else {"score": found}
            if "score" not in figures:
                raise InputError(
                    f"expected a number or figures with 'score' from score, got {sorted(figures)}"
                )
            each.append({name: float(value) for name, value in figures.items()})
        return {name: np.array([figures[name] for figures in each]) for name in each[0]}

    return score


def brier_score(probabilities: jax.Array, value: jax.Array) -> jax.Array:
    """Brier score ``(..., feature)`` of probabilities ``(..., feature, classes)``, elementwise."""
    onehot = jax.nn.one_hot(value.astype(jnp.int32), probabilities.shape[-1])
    return jnp.sum((probabilities - onehot) ** 2, -1)


def _scored(validation: Series, shown: Series) -> dict[str, np.ndarray]:
    """Masks of the hidden values, or of all observed ones if none is hidden.

    Modalities without such values are left out.
    """
    observed = {name: np.asarray(mask) for name, mask in validation.observed.items()}
    hidden = {name: mask & ~np.asarray(shown.observed[name]) for name, mask in observed.items()}
    for masks in (hidden, observed):
        if found := {name: mask for name, mask in masks.items() if mask.any()}:
            return found
    raise InputError("expected observed values in the validation series, got none")


def _error(likelihood: Likelihood, raw: Raw, value: jax.Array) -> tuple[jax.Array, float]:
    """Squared error of the expected value, or Brier score of a category; and its smallest mean."""
    probabilities = likelihood.probabilities(raw)
    if probabilities is None:
        return (likelihood.mean(raw) - value) ** 2, LEAST_SQUARED_ERROR
    return brier_score(probabilities, value), LEAST_BRIER_SCORE
