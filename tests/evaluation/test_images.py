"""Scores and predictions of images."""

import jax
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from jdmm import (
    MDMM,
    InputError,
    LossWeights,
    Modality,
    NearestValue,
    SigmaPointSSM,
    TrainSettings,
    fit,
    load,
    predict,
    predict_all,
    save,
    series_from_arrays,
)
from jdmm.data.base import Split
from jdmm.evaluation import scores
from jdmm.evaluation.images import CHUNK, ssim
from jdmm.likelihoods import Bernoulli, Categorical, Normal
from jdmm.networks import BATCH_STATS, Image


def reference(first, second):
    return structural_similarity(
        first,
        second,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
        channel_axis=-1,
    )


@pytest.mark.parametrize("shape", [(12, 11, 1), (20, 32, 3)])
def test_ssim_against_scikit_image(shape):
    """Of noise, of equal, constant and opposite images."""
    random = np.random.default_rng(0)
    first, noise = random.random((2, 5, *shape))
    second = 0.7 * first + 0.3 * noise
    first[1] = second[1]
    first[2], second[2] = 0.2, 0.5
    first[3], second[3] = 0.0, 1.0
    second[4] = 1 - first[4]
    found = ssim(first, second)
    np.testing.assert_allclose(
        found, [reference(*pair) for pair in zip(first, second, strict=True)]
    )
    assert found[1] == 1.0
    assert found[2] == pytest.approx((2 * 0.2 * 0.5 + 1e-4) / (0.2**2 + 0.5**2 + 1e-4))
    assert found[4] < 0


def test_ssim_of_many_frames_is_that_of_each():
    frames = np.random.default_rng(0).random((2, 3, CHUNK, 11, 11, 1)).astype(np.float32)
    found = ssim(*frames)
    assert found.shape == (3, CHUNK)
    np.testing.assert_allclose(found[2, 5], ssim(frames[0, 2, 5], frames[1, 2, 5]), rtol=1e-12)
    assert ssim(frames[0, :0], frames[1, :0]).shape == (0, CHUNK)


FORM = (16, 16, 1)


def modalities(background: str):
    image = Image(FORM, (2, 2), "group", background)
    return (
        Modality("video", likelihood=Normal(), image=image),
        Modality("mask", likelihood=Bernoulli(), image=Image(FORM, (2, 2))),
        Modality("action", likelihood=Categorical(3)),
    )


def data(seed: int = 0):
    """Series of two lengths, with missing frames."""
    rng = np.random.default_rng(seed)
    video = rng.uniform(size=(4, 8, 256))
    mask = (rng.uniform(size=(4, 8, 256)) < 0.5).astype(float)
    action = np.broadcast_to(rng.integers(0, 3, (4, 1, 1)), (4, 8, 1)).astype(float)
    video[rng.uniform(size=(4, 8)) < 0.3] = np.nan
    mask[2] = np.nan
    arrays = {"video": video, "mask": mask, "action": action}
    return series_from_arrays(arrays, lengths=np.array([8, 3, 8, 2]))


MODALITIES = modalities("mean")


def sigma_points(background: str):
    own = modalities(background)
    updates = {m.name: "encoder" for m in own}
    return SigmaPointSSM(own, 2, 4, updates=updates, decoded_samples=1)


WEIGHTS = LossWeights(filter=0.0, time_reversal=0.0)
MODELS = {
    "bfvi": MDMM(MODALITIES, 2, 4, weights=WEIGHTS),
    "bfvi, recalled": MDMM(modalities("recalled"), 2, 4, weights=WEIGHTS),
    "sigma points": sigma_points("mean"),
    "sigma points, recalled": sigma_points("recalled"),
}


@pytest.fixture(scope="module", params=MODELS)
def fitted(request):
    model = MODELS[request.param]
    return model, jax.jit(model.init)(jax.random.key(1), data())


def test_the_background_of_a_series_reaches_its_prediction(fitted):
    """It adds to the logit of a decoder, here untrained: hidden frames look like the others."""
    model, variables = fitted
    series = data()
    found = predict(model, variables, series, jax.random.key(0), 0).mean["video"]
    brighter = series.replace(
        values={**series.values, "video": np.where(series.observed["video"], 0.9, 0.0)}
    )
    other = predict(model, variables, brighter, jax.random.key(0), 0).mean["video"]
    hidden = np.asarray(series.valid)[..., None] & ~series.observed["video"]
    hidden &= series.observed["video"].any(1, keepdims=True)
    assert np.mean(np.where(hidden, other, np.nan)[hidden]) > 0.7
    assert np.mean(np.asarray(found)[hidden]) < 0.65


def test_moments_of_images_are_those_of_their_samples(fitted):
    model, variables = fitted
    found = predict(model, variables, data(), jax.random.key(0), 400, data(), return_samples=True)
    for name in ("video", "mask"):
        drawn = np.asarray(found.samples[name])
        valid = np.asarray(data().valid)
        np.testing.assert_allclose(
            np.asarray(found.expected[name])[valid], drawn.mean(0)[valid], atol=0.15
        )
        error = np.asarray(found.sd[name])[valid] - drawn.std(0)[valid]
        assert np.abs(error).mean() < 0.02
        assert not any(name in field for field in (found.pit, found.lower, found.log_prob))
    assert "action" in found.probabilities and "action" in found.log_prob
    with pytest.raises(InputError, match="expected no return_log_weights for images"):
        predict(model, variables, data(), jax.random.key(0), 4, return_log_weights=True)


def test_batches_of_similar_length_change_nothing(fitted):
    """Series in batches that end at different steps are predicted as in one."""
    model, variables = fitted
    series, key = data(), jax.random.key(0)
    one = predict(model, variables, series, key, 0)
    for size in (1, 3):
        every = predict_all(model, variables, series, key, 0, batch_size=size)
        valid = np.asarray(series.valid)
        for name, mean in every.mean.items():
            assert mean.shape == one.mean[name].shape
            np.testing.assert_allclose(mean[valid], np.asarray(one.mean[name])[valid], 1e-4, 1e-5)


def test_training_moves_running_statistics_and_validation_uses_them(fitted):
    model, variables = fitted
    series = data()
    still = model.loss(variables, series, series, jax.random.key(0), 1.0)
    moving = model.loss(variables, series, series, jax.random.key(0), 1.0, training=True)
    assert still.statistics is None
    before = jax.tree.leaves(variables[BATCH_STATS])
    after = jax.tree.leaves(moving.statistics)
    assert jax.tree.structure(moving.statistics) == jax.tree.structure(variables[BATCH_STATS])
    assert all(not np.allclose(a, b) for a, b in zip(before, after, strict=True))
    assert not np.isclose(still.total(1.0), moving.total(1.0))


def test_gradients_are_finite_where_nothing_is_observed(fitted):
    model, variables = fitted
    series = data().hide({m.name: np.zeros((4, 8, 1), bool) for m in MODALITIES})

    def total(params):
        own = {**variables, "params": params}
        loss = model.loss(own, series, data(), jax.random.key(0), 1.0, training=True)
        return loss.total(1.0)

    gradient = jax.jit(jax.grad(total))(variables["params"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_a_bound_that_fades_keeps_no_running_statistics():
    with pytest.raises(InputError, match=r"batch normalisation in modality 'mask'"):
        MDMM(MODALITIES, 2, 4, weights=LossWeights(smoother=0.0))
    MDMM(MODALITIES, 2, 4, weights=LossWeights(smoother=0.0, filter_fade=(1.0, 1.0)))


def test_a_trained_model_is_saved_and_loaded(tmp_path):
    model = MODELS["bfvi"]
    fitted = fit(model, data(), None, TrainSettings(epochs=1, batch_size=4))
    save(tmp_path / "model", fitted)
    loaded = load(tmp_path / "model")
    assert loaded.model == model and set(loaded.variables) == {"params", BATCH_STATS}
    for a, b in zip(*map(jax.tree.leaves, (loaded.variables, fitted.variables)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_scores_of_images_and_of_whole_series():
    series = data()
    model = NearestValue(MODALITIES)
    variables = model.fit(series)
    shown = series.hide({m.name: np.full((4, 8, 1), m.name == "video") for m in MODALITIES})
    prediction = jax.device_get(predict(model, variables, shown, jax.random.key(0), 5, series))
    found = scores.score(prediction, jax.device_get(shown), Split(series), MODALITIES)
    assert found["ssim_video"]["mean"] == pytest.approx(1, abs=1e-6)
    assert found["pixel_mse_video"]["mean"] == pytest.approx(0, abs=1e-9)
    expected = variables["mean"]["mask"]
    truth = np.asarray(series.values["mask"])
    each = [np.mean((truth[i, :n] - expected) ** 2) for i, n in ((0, 8), (1, 3), (3, 2))]
    assert found["pixel_mse_mask"]["mean"] == pytest.approx(np.mean(each), rel=1e-3)
    label = np.argmax(variables["mean"]["action"])
    actual = np.asarray(series.values["action"])[:, 0, 0]
    assert found["series_accuracy_action"] == np.mean(actual == label)
    assert "mse" not in found and "coverage95" not in found


def test_the_nearest_value_is_copied():
    x = np.full((2, 6, 1), np.nan)
    x[0, [1, 4], 0] = 5.0, 7.0
    label = np.full((2, 6, 1), np.nan)
    label[0, 3] = 2
    modalities = (Modality("x"), Modality("label", likelihood=Categorical(3)))
    model = NearestValue(modalities)
    training = series_from_arrays({"x": np.arange(6.0)[None], "label": np.zeros((1, 6))})
    variables = model.fit(training)
    series = series_from_arrays({"x": x, "label": label})
    found = predict(model, variables, series, jax.random.key(0), 0).mean
    assert np.asarray(found["x"])[0, :, 0].tolist() == [5, 5, 5, 7, 7, 7]
    np.testing.assert_allclose(found["x"][1, :, 0], 2.5)
    assert np.asarray(found["label"])[0, :, 0].tolist() == [2] * 6
    assert np.asarray(found["label"])[1, :, 0].tolist() == [0] * 6
