"""Scores of predictions, computed by hand beside them."""

import numpy as np
import pytest

from jdmm import Bernoulli, Categorical, Modality, Poisson, series_from_arrays
from jdmm.data.base import Split
from jdmm.evaluation import scores
from jdmm.evaluation.images import ssim
from jdmm.evaluation.prediction import Prediction
from jdmm.networks import Image

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


def test_numbers_of_different_likelihoods_have_scores_of_their_own():
    """Counts and scaled numbers have different units."""
    modalities = (Modality("x"), Modality("count", likelihood=Poisson()))
    series = series_from_arrays({"x": X[..., 0], "count": LABEL})
    crps = {"x": np.full((2, 4, 1), 0.5), "count": np.full((2, 4, 1), 30.0)}
    own = prediction(X[..., :1], LABEL)._replace(
        mean={name: np.asarray(series.values[name]) for name in crps},
        pit={name: np.full((2, 4, 1), 0.5) for name in crps},
        log_prob={name: np.full((2, 4, 1), -1.0) for name in crps},
        crps=crps,
    )
    keep = np.arange(4)[None, :, None] < 2
    found = scores.score(own, series.hide(dict.fromkeys(crps, keep)), Split(series), modalities)
    assert (found["crps_x"], found["crps_count"], found["crps"]) == (0.5, 30.0, 15.25)
    shown = series.hide({"x": keep, "count": keep | True})
    assert "crps_count" not in scores.score(own, shown, Split(series), modalities)
    alike = (Modality("x"), Modality("count"))
    assert "crps_x" not in scores.score(own, shown, Split(series), alike)


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


def point_prediction(mean, probabilities=()):
    """Point predictions alone."""
    fields = {"mean": mean, "probabilities": dict(probabilities)}
    return Prediction(**{**dict.fromkeys(Prediction._fields, {}), **fields})  # type: ignore[arg-type]


def test_accuracy_of_each_modality_and_of_whole_series():
    """Series 0 has class 2 and series 1 class 1; the labels of series 2 are not observed."""
    label = np.array([[2, 2, 2], [1, 1, 1], [np.nan] * 3])
    other = np.array([[0, 1, 1], [0, 0, 0], [1, 1, 1]], float)
    series = series_from_arrays({"label": label, "other": other})
    modalities = (
        Modality("label", likelihood=Categorical(3)),
        Modality("other", likelihood=Categorical(2)),
    )
    # at two of three steps class 0 is more probable than 2, but on average it is not
    first = [[0.5, 0.1, 0.4], [0.5, 0.1, 0.4], [0.0, 0.1, 0.9]]
    each = np.array([first, [[0.2, 0.3, 0.5]] * 3, [[1.0, 0.0, 0.0]] * 3])[:, :, None]
    mean = {"label": each.argmax(-1).astype(float), "other": other[..., None]}
    probabilities = {"label": each, "other": np.full((3, 3, 1, 2), 0.5)}
    log_prob = {name: np.full((3, 3, 1), -1.0) for name in mean}
    own = point_prediction(mean, probabilities)._replace(log_prob=log_prob)
    steps = np.arange(3)[None, :, None]
    nothing = series.hide({name: steps < 0 for name in series.values})
    found = scores.score(own, nothing, Split(series), modalities)
    assert found["accuracy_label"] == pytest.approx(1 / 6)
    assert found["accuracy_other"] == 1.0
    assert found["accuracy"] == pytest.approx((1 + 9) / (6 + 9))
    assert found["series_accuracy_label"] == 0.5
    assert "series_accuracy_other" not in found  # it changes within series 0
    # only hidden steps count: without its last step, series 0 is taken for class 0
    late = series.hide({"label": steps == 2, "other": steps >= 0})
    found = scores.score(own, late, Split(series), modalities)
    assert found["series_accuracy_label"] == found["accuracy_label"] == 0.0
    assert "accuracy_other" not in found
    alone = scores.score(
        own, nothing.select(["label"]), Split(series.select(["label"])), modalities[:1]
    )
    assert set(alone) == {"accuracy", "series_accuracy_label", "nll"}


def test_images_are_scored_by_themselves():
    """By the mean over the steps of each series at which the whole image is observed."""
    image = Image((12, 12, 1), (2,))
    modalities = (
        Modality("x"),
        Modality("video", likelihood=Bernoulli(), image=image),
        Modality("small", image=Image((2, 2, 1), (2,))),
    )
    random = np.random.default_rng(0)
    video, small = random.random((3, 4, 144)), random.random((3, 4, 4))
    video[0, 1, 5] = np.nan  # one pixel is missing
    video[2] = np.nan
    values = {"x": np.zeros((3, 4)), "video": video, "small": small}
    series = series_from_arrays(values, lengths=np.array([4, 2, 4]))
    error = np.array([[0.1, 9, 0.2, 0.3], [0, 0.4, 9, 9], [9, 9, 9, 9]])[..., None]
    predicted = {name: series.values[name] + error for name in ("video", "small")}
    own = point_prediction({"x": np.ones((3, 4, 1)), **predicted})._replace(
        pit={"x": np.full((3, 4, 1), 0.5)},
        crps={"x": np.ones((3, 4, 1))},
        log_prob={"x": np.full((3, 4, 1), -3.0)},
    )
    shown = series.hide({name: np.arange(4)[None, :, None] < 2 for name in series.values})
    found = scores.score(own, shown, Split(series), modalities)
    each = [(0.01 + 0.04 + 0.09) / 3, 0.16 / 2]
    assert found["pixel_mse_video"]["mean"] == pytest.approx(np.mean(each), rel=1e-5)
    assert found["pixel_mse_video"]["sd"] == pytest.approx(np.std(each), rel=1e-5)
    frames = series.values["video"].reshape(3, 4, 12, 12, 1)
    similar = ssim(frames, frames + error[..., None, None])
    each = [similar[0, [0, 2, 3]].mean(), similar[1, :2].mean()]
    assert found["ssim_video"]["mean"] == pytest.approx(np.mean(each), rel=1e-5)
    assert found["ssim_video"]["sd"] == pytest.approx(np.std(each), rel=1e-4)
    # of the first series the images of steps 2 and 3 were hidden, of the second one none
    assert found["hidden_ssim_video"]["mean"] == pytest.approx(similar[0, 2:].mean(), rel=1e-5)
    hidden = found["hidden_pixel_mse_video"]
    assert hidden == {"mean": pytest.approx(0.065, rel=1e-5), "sd": 0.0}
    complete = scores.score(own, series, Split(series), modalities)
    assert "hidden_ssim_video" not in complete
    assert "pixel_mse_small" in found and "ssim_small" not in found  # no 11x11 window fits
    assert (found["mse"]["mean"], found["crps"], found["nll"]) == (1.0, 1.0, 3.0)
    alone = series.select(["video"])
    only = scores.score(own, shown.select(["video"]), Split(alone), modalities[1:2])
    kinds = ("ssim_video", "pixel_mse_video")
    assert set(only) == {*kinds, *(f"hidden_{kind}" for kind in kinds)}


def test_values_of_unscored_modalities_stay_as_shown():
    shown = show(2, 2)
    found = scores.scored_values(shown, Split(SERIES), ["x"])
    assert found["x"] is shown.values["x"]
    np.testing.assert_array_equal(found["label"], SERIES.values["label"])
