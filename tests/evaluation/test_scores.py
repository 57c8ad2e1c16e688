"""Scores of predictions, computed by hand beside them."""

import numpy as np
import pytest

from jdmm import Categorical, Modality, series_from_arrays
from jdmm.data.base import Split
from jdmm.evaluation import scores
from jdmm.evaluation.prediction import Prediction

MODALITIES = (Modality("x", features=2), Modality("label", likelihood=Categorical(3)))
X = np.random.default_rng(0).normal(size=(2, 4, 2)).astype(np.float32)
LABEL = np.array([[0, 1, 2, 2], [1, 1, 0, 0]], np.float32)
SERIES = series_from_arrays({"x": X, "label": LABEL}, lengths=np.array([4, 3]))


def prediction(mean_x, mean_label, pit=0.5, crps=1.0, log_prob=-2.0):
    """As of a model: labels have a density, but neither intervals nor a CRPS."""
    numbers = {"pit": pit, "crps": crps, "sd": 1.0}
    fields = {name: {"x": np.full((2, 4, 2), number)} for name, number in numbers.items()}
    fields["mean"] = {"x": mean_x, "label": np.reshape(mean_label, (2, 4, 1))}
    fields["log_prob"] = {
        "x": np.full((2, 4, 2), log_prob),
        "label": np.full((2, 4, 1), 10 * log_prob),
    }
    return Prediction(**{**dict.fromkeys(Prediction._fields, {}), **fields})  # type: ignore[arg-type]


def show(x_steps, label_steps):
    steps = np.arange(4)[None, :, None]
    return SERIES.hide({"x": steps < x_steps, "label": steps < label_steps})


def test_squared_error_is_of_numbers_alone_and_sums_features():
    error = np.array([[1, 0, 2, 0], [3, 0, 0, 100]])[..., None] * np.array([1.0, 2.0])
    found = scores.score(prediction(X + error, 7 * LABEL), show(2, 2), Split(SERIES), MODALITIES)
    each = np.array([(1 + 4 + 4 + 16) / 4, (9 + 36) / 3])  # the second series has three steps
    assert found["mse"]["mean"] == pytest.approx(each.mean())
    assert found["mse"]["sd"] == pytest.approx(each.std())
    assert "mse_truth" not in found
    truth = {"x": X + 1.0, "label": LABEL[..., None]}
    found = scores.score(prediction(X, LABEL), show(2, 2), Split(SERIES, truth), MODALITIES)
    assert found["mse"]["mean"] == 0
    assert found["mse_truth"]["mean"] == pytest.approx(2.0, rel=1e-5)


def test_accuracy_is_of_the_hidden_classes_or_of_all():
    predicted = np.array([[0, 0, 2, 2], [1, 1, 1, 0]])  # wrong at steps 1 and 2
    split, own = Split(SERIES), prediction(X, predicted)
    assert scores.score(own, show(4, 2), split, MODALITIES)["accuracy"] == pytest.approx(2 / 3)
    assert scores.score(own, show(4, 4), split, MODALITIES)["accuracy"] == pytest.approx(5 / 7)
    assert scores.score(own, show(1, 4), split, MODALITIES)["accuracy"] == pytest.approx(5 / 7)


def test_intervals_are_of_hidden_numbers_and_densities_of_all_hidden_values():
    found = scores.score(prediction(X, LABEL), show(2, 3), Split(SERIES), MODALITIES)
    assert found["coverage50"] == found["coverage95"] == 1.0
    assert found["crps"] == pytest.approx(1.0)
    hidden_x, hidden_labels = 2 * 2 + 1 * 2, 1
    assert found["nll"] == pytest.approx(
        (2.0 * hidden_x + 20.0 * hidden_labels) / (hidden_x + hidden_labels)
    )
    found = scores.score(prediction(X, LABEL, pit=0.06), show(2, 3), Split(SERIES), MODALITIES)
    assert (found["coverage50"], found["coverage80"], found["coverage95"]) == (0.0, 0.0, 1.0)
    only_labels = scores.score(prediction(X, LABEL), show(4, 3), Split(SERIES), MODALITIES)
    assert "crps" not in only_labels and "coverage95" not in only_labels
    assert only_labels["nll"] == pytest.approx(20.0)


def test_without_a_second_observation_nothing_shown_is_scored_by_intervals():
    shown = show(4, 4)
    found = scores.score(prediction(X, LABEL), shown, Split(SERIES), MODALITIES)
    assert set(found) == {"mse", "accuracy"}
    second = {name: array + 1 for name, array in SERIES.values.items()}
    found = scores.score(prediction(X, LABEL), shown, Split(SERIES, None, second), MODALITIES)
    assert found["crps"] == pytest.approx(1.0)
    np.testing.assert_array_equal(
        scores.scored_values(shown, Split(SERIES, None, second))["x"][1, :3], X[1, :3] + 1
    )


def test_scored_values_are_observed_ones_where_hidden_and_second_ones_elsewhere():
    second = {name: array + 1 for name, array in SERIES.values.items()}
    shown = show(2, 0)
    found = scores.scored_values(shown, Split(SERIES, None, second))
    np.testing.assert_array_equal(found["x"][0], np.concatenate([X[0, :2] + 1, X[0, 2:]]))
    np.testing.assert_array_equal(found["label"][..., 0], SERIES.values["label"][..., 0])


def test_missing_values_are_not_scored():
    x = X.copy()
    x[0, 1] = np.nan
    series = series_from_arrays({"x": x, "label": LABEL})
    error = np.zeros_like(X)
    error[0, 1], error[0, 0, 0] = 1e3, 3.0
    shown = series.hide({"x": np.array(True), "label": np.array(True)})
    found = scores.score(prediction(X + error, LABEL), shown, Split(series), MODALITIES)
    assert found["mse"]["mean"] == pytest.approx(9 / 3 / 2, rel=1e-5)  # over the steps with a value
