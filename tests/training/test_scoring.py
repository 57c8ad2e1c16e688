"""Scores on validation series against errors worked out by hand."""

from dataclasses import dataclass, replace

import chex
import jax
import numpy as np
import pytest
from jax import numpy as jnp
from toy_models import Constant, waves

from jdmm import Categorical, Deletions, InputError, Modality, series_from_arrays
from jdmm.training.scoring import held_out_scorer, loss_scorer, user_scorer

VARIABLES = {"x": jnp.array([0.0, 1.0]), "y": jnp.array([0.5, -2.0])}  # of two seeds


def log_error(values, constants):
    """Log mean squared error of each constant."""
    return [np.log(np.mean((np.asarray(values) - constant) ** 2)) for constant in constants]


def test_a_dropped_modality_is_scored_alone():
    series = waves(5)
    deletions = replace(Deletions.none(), modality_dropout={"y": 1.0})
    figures = held_out_scorer(Constant(), series, deletions)(VARIABLES)
    np.testing.assert_allclose(
        figures["score"], log_error(series.values["y"], VARIABLES["y"]), 1e-5
    )
    assert set(figures) == {"score", "error/y"}


def test_the_score_is_the_mean_of_the_log_errors_of_the_modalities():
    """Without deletions, all observed values are scored."""
    series = waves(5)
    figures = held_out_scorer(Constant(), series, Deletions.none())(VARIABLES)
    x = np.asarray(series.values["x"])[np.asarray(series.observed["x"])]
    expected = np.mean(
        [log_error(x, VARIABLES["x"]), log_error(series.values["y"], VARIABLES["y"])], 0
    )
    np.testing.assert_allclose(figures["score"], expected, 1e-5)


def test_hidden_values_are_the_same_every_time_and_unknown_to_the_model():
    """The number of hidden values is exact, and a model that copies what it sees gets no credit."""

    @dataclass(frozen=True)
    class Copies(Constant):
        """Predicts what it is shown, and 0 where nothing is."""

        def posterior_mean(self, variables, series, key):
            path = super().posterior_mean(variables, series, key)
            return path._replace(states=series.values["y"])

        def emissions(self, variables, states):
            return {name: (states, states) for name in ("x", "y")}

    series = series_from_arrays({name: np.ones((4, 10)) for name in "xy"})
    deletions = replace(Deletions.none(), burst=0.3)
    score = held_out_scorer(Copies(), series, deletions)
    figures = score(VARIABLES)
    np.testing.assert_array_equal(figures["error/y"], 1.0)  # hidden: 0 instead of 1
    chex.assert_trees_all_equal(figures, score(VARIABLES))


def test_categories_have_the_brier_score():
    @dataclass(frozen=True)
    class Labels(Constant):
        modalities: tuple[Modality, ...] = (Modality("label", likelihood=Categorical(3)),)

        def emissions(self, variables, states):
            probabilities = jnp.array([0.5, 0.3, 0.2])
            return {"label": (jnp.log(jnp.broadcast_to(probabilities, (*states.shape, 3))),)}

    series = series_from_arrays({"label": [[0.0, 2.0]]})
    figures = held_out_scorer(Labels(), series, Deletions.none())({"label": jnp.zeros(1)})
    zero = 0.5**2 + 0.3**2 + 0.2**2
    two = 0.5**2 + 0.3**2 + 0.8**2
    np.testing.assert_allclose(figures["score"], np.log((zero + two) / 2), 1e-5)


def test_nothing_observed_is_refused():
    empty = series_from_arrays({name: np.full((1, 3), np.nan) for name in "xy"})
    with pytest.raises(InputError, match="observed values in the validation series"):
        held_out_scorer(Constant(), empty, Deletions())


def test_loss_scorer():
    series, model = waves(5), Constant(noise=0.0)
    figures = loss_scorer(model, series, 0)(VARIABLES)
    for row in range(2):
        variables = jax.tree.map(lambda leaf, row=row: leaf[row], VARIABLES)
        loss = model.loss(variables, series, series, jax.random.key(0))
        assert figures["score"][row] == pytest.approx(float(loss.total(1.0)), rel=1e-5)
        assert figures["error_nll"][row] == pytest.approx(
            float(loss.means()["error_nll"]), rel=1e-5
        )


def test_user_scorer():
    series = waves(5)
    found = user_scorer(lambda variables, validation: variables["x"] + validation.batch, series)
    np.testing.assert_array_equal(found(VARIABLES)["score"], [5.0, 6.0])
    figures = user_scorer(lambda variables, _: {"score": variables["y"], "more": 1}, series)
    chex.assert_trees_all_equal(
        figures(VARIABLES), {"score": np.array([0.5, -2.0]), "more": np.array([1.0, 1.0])}
    )
    with pytest.raises(InputError, match=r"'score' from score, got \['mse'\]"):
        user_scorer(lambda variables, _: {"mse": 1.0}, series)(VARIABLES)
