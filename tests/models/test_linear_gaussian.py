"""Filter, smoother, draws and EM against one dense joint Gaussian; the simple baselines by hand."""

import jax
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from jdmm import InputError, Modality, series_from_arrays
from jdmm.inference.kalman import Parameters, kalman_smoother, sample_posterior
from jdmm.likelihoods import constrain_sd
from jdmm.models.baselines import ImputationBaseline
from jdmm.models.linear_gaussian import LinearGaussianSSM, em_step, in_chunks

pytestmark = pytest.mark.usefixtures("x64")

TIME, LATENT, FEATURES = 6, 2, 3
MASKS = {
    "complete": np.ones((TIME, FEATURES), bool),
    "features missing": np.random.default_rng(3).random((TIME, FEATURES)) < 0.5,
    "stretch missing": np.repeat(np.array([1, 0, 0, 0, 1, 1], bool)[:, None], FEATURES, 1),
    "ends missing": np.repeat(np.array([0, 0, 1, 1, 0, 0], bool)[:, None], FEATURES, 1),
    "everything missing": np.zeros((TIME, FEATURES), bool),
}


def parameters(seed=0, inputs=0):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(2, LATENT, LATENT))
    return Parameters(
        initial_mean=rng.normal(size=LATENT),
        initial_covariance=root[0] @ root[0].T + 0.1 * np.eye(LATENT),
        dynamics=0.6 * rng.normal(size=(LATENT, LATENT)),
        dynamics_bias=rng.normal(size=LATENT),
        dynamics_covariance=0.3 * root[1] @ root[1].T + 0.05 * np.eye(LATENT),
        emission=rng.normal(size=(FEATURES, LATENT)),
        emission_bias=rng.normal(size=FEATURES),
        emission_variance=rng.uniform(0.1, 0.5, FEATURES),
        initial_inputs=rng.normal(size=(LATENT, inputs)),
        dynamics_inputs=rng.normal(size=(LATENT, inputs)),
    )


def joint(p, time=TIME):
    """Means and covariances of all states, and of all values given them, as one Gaussian."""
    size = len(p.initial_mean)
    mean, covariance = np.zeros(time * size), np.zeros((time * size, time * size))
    for t in range(time):
        own = slice(t * size, (t + 1) * size)
        past = slice((t - 1) * size, t * size)
        if t == 0:
            mean[own], covariance[own, own] = p.initial_mean, p.initial_covariance
            continue
        mean[own] = p.dynamics @ mean[past] + p.dynamics_bias
        covariance[own, : t * size] = p.dynamics @ covariance[past, : t * size]
        covariance[: t * size, own] = covariance[own, : t * size].T
        covariance[own, own] = (
            p.dynamics @ covariance[past, past] @ p.dynamics.T + p.dynamics_covariance
        )
    emission = np.kron(np.eye(time), p.emission)
    return (
        mean,
        covariance,
        emission,
        np.tile(p.emission_bias, time),
        np.tile(p.emission_variance, time),
    )


def exact(p, values, seen):
    """Posterior mean and covariance of all states, and log p(x), by conditioning."""
    mean, covariance, emission, offset, variance = joint(p, len(values))
    rows = seen.ravel()
    emission, x = emission[rows], values.ravel()[rows] - offset[rows]
    total = emission @ covariance @ emission.T + np.diag(variance[rows])
    gain = np.linalg.solve(total, emission @ covariance).T
    residual = x - emission @ mean
    log_prob = -0.5 * (
        residual @ np.linalg.solve(total, residual)
        + np.linalg.slogdet(total)[1]
        + len(x) * np.log(2 * np.pi)
    )
    return mean + gain @ residual, covariance - gain @ emission @ covariance, log_prob


@pytest.mark.parametrize("name", MASKS)
def test_smoother_is_exact(name):
    p, seen = parameters(), MASKS[name]
    values = np.where(seen, np.random.default_rng(1).normal(0, 2, (TIME, FEATURES)), 0.0)
    mean, covariance, log_prob = exact(p, values, seen)
    found = jax.jit(kalman_smoother)(p, values, seen)
    check(found, mean, covariance, log_prob)


def check(found, mean, covariance, log_prob):
    blocks = covariance.reshape(TIME, LATENT, TIME, LATENT)
    np.testing.assert_allclose(found.mean.ravel(), mean, atol=1e-9)
    for t in range(TIME):
        np.testing.assert_allclose(found.covariance[t], blocks[t, :, t], atol=1e-9)
    for t in range(TIME - 1):
        np.testing.assert_allclose(found.cross_covariance[t], blocks[t + 1, :, t], atol=1e-9)
    np.testing.assert_allclose(found.log_likelihood, log_prob, atol=1e-8)


@pytest.mark.parametrize("name", ["features missing", "ends missing"])
def test_inputs_shift_states_and_values(name):
    """By d_1 = E u_1 and d_t = A d_{t-1} + B u_t, and the values by C d."""
    p, seen, rng = parameters(inputs=2), MASKS[name], np.random.default_rng(1)
    values, inputs = rng.normal(0, 2, (TIME, FEATURES)), rng.normal(size=(TIME, 2))
    shift = [p.initial_inputs @ inputs[0]]
    for own in inputs[1:]:
        shift.append(p.dynamics @ shift[-1] + p.dynamics_inputs @ own)
    shift = np.array(shift)
    mean, covariance, log_prob = exact(p, np.where(seen, values - shift @ p.emission.T, 0.0), seen)
    found = jax.jit(kalman_smoother)(p, np.where(seen, values, 0.0), seen, inputs)
    check(found, mean + shift.ravel(), covariance, log_prob)
    sample = sample_posterior(
        p, np.where(seen, values, 0.0), seen, np.zeros((TIME, LATENT)), inputs
    )
    np.testing.assert_allclose(sample.ravel(), mean + shift.ravel(), atol=1e-9)


def test_draws_have_the_exact_covariance():
    p, seen = parameters(), MASKS["features missing"]
    values = np.where(seen, np.random.default_rng(1).normal(0, 2, (TIME, FEATURES)), 0.0)
    mean, covariance, _ = exact(p, values, seen)
    noise = np.random.default_rng(2).normal(size=(100_000, TIME, LATENT))
    draws = jax.jit(jax.vmap(lambda own: sample_posterior(p, values, seen, own)))(noise)
    draws = np.array(draws).reshape(len(noise), -1)
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert (np.abs(draws.mean(0) - mean) < 5 * np.sqrt(np.diag(covariance) / len(noise))).all()
    assert (np.abs(np.cov(draws.T) - covariance) < 5 * np.sqrt(2 / len(noise)) * scale).all()


def drawn_series(count=60, time=12, inputs=0):
    """From known parameters, a third of the values missing, lengths from 4 on."""
    p, rng = parameters(4, inputs), np.random.default_rng(5)
    known = np.random.default_rng(6).normal(size=(count, time, inputs))
    state = rng.multivariate_normal(p.initial_mean, p.initial_covariance, count)
    state = state + known[:, 0] @ p.initial_inputs.T
    rows = []
    for t in range(time):
        if t:
            step = rng.multivariate_normal(np.zeros(LATENT), p.dynamics_covariance, count)
            state = state @ p.dynamics.T + p.dynamics_bias + step
            state = state + known[:, t] @ p.dynamics_inputs.T
        rows.append(
            state @ p.emission.T
            + p.emission_bias
            + rng.normal(size=(count, FEATURES)) * p.emission_variance**0.5
        )
    values = np.stack(rows, 1)
    values[rng.random(values.shape) < 0.33] = np.nan
    lengths = rng.integers(4, time + 1, count)
    series = series_from_arrays(
        {"x": values[..., :2], "y": values[..., 2]}, None, lengths, known if inputs else None
    )
    return series, p


@pytest.mark.parametrize("inputs", [0, 2])
def test_em_never_lowers_the_likelihood(inputs):
    """From its own start, and from the parameters that drew the series, which it then beats."""
    series, truth = drawn_series(inputs=inputs)
    model = LinearGaussianSSM(
        (Modality("x", features=2), Modality("y")), latent=LATENT, iterations=400, inputs=inputs
    )
    values = np.concatenate([series.values["x"], series.values["y"]], -1).astype(float)
    seen = np.concatenate([series.observed["x"], series.observed["y"]], -1)
    valid = np.array(series.valid)
    known = np.zeros((*valid.shape, 0)) if series.inputs is None else series.inputs.astype(float)
    chunks = [in_chunks(leaf, 25) for leaf in (values, seen, valid, known)]
    for initial in (model.initial_parameters(values, seen), truth):
        told, p = [], initial
        for _ in range(60):
            p, log_likelihood = em_step(p, *chunks)
            told.append(float(log_likelihood))
        assert (np.diff(told) > -1e-6 * np.abs(told[0])).all() and told[-1] > told[0] + 3
    fitted = model.fit(series)
    ours, theirs = (
        float(model.log_likelihood(each, series).sum()) for each in (fitted, truth._asdict())
    )
    assert abs(ours - theirs) < 60


def test_a_series_does_not_depend_on_its_padding():
    model = LinearGaussianSSM(
        (Modality("x", features=2), Modality("y")), latent=LATENT, iterations=3
    )
    series, truth = drawn_series(3)
    short = int(series.lengths[0])
    cut = jax.tree.map(lambda leaf: leaf[:1, :short] if leaf.ndim == 3 else leaf[:1], series)
    key = jax.random.key(0)
    padded = model.posterior_mean(truth._asdict(), series, key).states[:1, :short]
    np.testing.assert_allclose(
        model.posterior_mean(truth._asdict(), cut, key).states, padded, atol=1e-9
    )


X = np.array([[np.nan, 1.0, np.nan, np.nan, 4.0, 6.0, np.nan]])


@pytest.mark.parametrize(
    ("kind", "mean", "steps"),
    [
        ("carry", [3.0, 1, 1, 1, 4, 6, 6], [np.inf, 0, 1, 2, 0, 0, 1]),
        ("interpolate", [1.0, 1, 2, 3, 4, 6, 6], [1, 0, 2 / 3, 2 / 3, 0, 0, 1]),
        ("mean", [3.0, 1, 3, 3, 4, 6, 3], [np.inf, 0, np.inf, np.inf, 0, 0, np.inf]),
    ],
)
def test_simple_baselines(kind, mean, steps):
    """Means, and variances in units of that of one step, at most that of the values."""
    model = ImputationBaseline((Modality("x"),), kind)
    fitted = {"mean": np.array([3.0]), "variance": np.array([9.0]), "step": np.array([2.0])}
    found = model.posterior_mean(fitted, series_from_arrays({"x": X}), jax.random.key(0))
    np.testing.assert_allclose(found.posterior.mean[0, :, 0], mean, rtol=1e-6)
    told, raw_sd = model.emissions(fitted, found.states)["x"]
    np.testing.assert_allclose(told[0, :, 0], mean, rtol=1e-6)
    expected = np.minimum(2.0 * np.array(steps), 9.0)
    np.testing.assert_allclose(found.posterior.variance[0, :, 0], expected, rtol=1e-6)
    sd = np.maximum(np.sqrt(expected), 1.1e-3)  # that of what is seen is as small as it can be
    np.testing.assert_allclose(constrain_sd(raw_sd)[0, :, 0], sd, rtol=1e-5)
    wide = model.posterior_samples(
        fitted, series_from_arrays({"x": X}), jax.random.key(0), 3, 2.0
    ).states
    assert wide.shape == (3, 1, 7, 2)
    np.testing.assert_allclose(wide[2, 0, :, 1], 2 * np.sqrt(expected), rtol=1e-6)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("kind", ["mean", "carry", "interpolate"])
def test_simple_log_likelihood(kind, mask):
    """Against the joint Gaussian of what is observed of each feature."""
    mean, variance, step = np.array([1.0, -1, 0]), np.array([9.0, 16, 25]), np.array([0.5, 1, 2])
    values = 3 * np.random.default_rng(0).normal(size=(TIME, FEATURES))
    expected = 0.0
    for feature in range(FEATURES):
        when = np.flatnonzero(mask[:, feature])
        if not len(when):
            continue
        walked = np.minimum(when[:, None], when) - when[0]
        covariance = variance[feature] + step[feature] * walked
        if kind == "mean":
            covariance = variance[feature] * np.eye(len(when))
        joint = multivariate_normal(np.full(len(when), mean[feature]), covariance)
        expected += joint.logpdf(values[when, feature])
    model = ImputationBaseline((Modality("x", features=2), Modality("y")), kind)
    shown = np.where(mask, values, np.nan)[None]
    series = series_from_arrays({"x": shown[..., :2], "y": shown[..., 2:]})
    fitted = {"mean": mean, "variance": variance, "step": step}
    np.testing.assert_allclose(model.log_likelihood(fitted, series), [expected], rtol=1e-6)


def test_simple_fit():
    series = series_from_arrays({"x": X})
    found = ImputationBaseline((Modality("x"),), "mean").fit(series)
    values = np.array([1, 4, 6])
    np.testing.assert_allclose(found["mean"], values.mean(), rtol=1e-6)
    np.testing.assert_allclose(found["variance"], values.var(), rtol=1e-6)
    np.testing.assert_allclose(found["step"], 4.0, rtol=1e-6)
    with pytest.raises(InputError, match="twice in a row"):
        gaps = series_from_arrays({"x": X[:, :5]})
        ImputationBaseline((Modality("x"),), "mean").fit(gaps)
    with pytest.raises(InputError, match="kind"):
        ImputationBaseline((Modality("x"),), "guess")


def test_more_states_than_values():
    series = series_from_arrays({"x": X})
    with pytest.raises(InputError, match="model.latent of at most 7"):
        LinearGaussianSSM((Modality("x"),), latent=8).fit(series)
