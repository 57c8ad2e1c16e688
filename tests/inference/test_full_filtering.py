"""Filters and smoothers of full covariance against one dense joint Gaussian."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from oracles import PRESENT, LinearModel, check_gradient, linear_model
from scipy.stats import multivariate_normal

from jdmm import Quadrature
from jdmm.inference import full_filtering, full_smoothing, square_root
from jdmm.inference.full_filtering import Evidence, FullModel
from jdmm.inference.full_smoothing import PathPosterior
from jdmm.inference.gaussian import Gaussian, Moments
from jdmm.inference.quadrature import Points
from jdmm.inference.square_root import FullMoments, StepPoints
from jdmm.series import Series

pytestmark = pytest.mark.usefixtures("x64")

LATENT, TIME = 3, 6
CASES = pytest.mark.parametrize("case", PRESENT)
FEATURES = pytest.mark.parametrize("features", [2, 5])
"""Fewer and more than latent dimensions, which take different updates."""

RULES = {"sigma_points": {}, "rotated_sigma_points": {}, "particles": {"particles": 8}}


def full_model(linear: LinearModel) -> FullModel:
    """The same model as functions of states ``(latent, n)``."""

    def affine(matrix, offset, variance):
        def function(z: jax.Array) -> Moments:
            mean = matrix @ z + offset[:, None]
            return Moments(mean, jnp.broadcast_to(variance[:, None], mean.shape))

        return function

    return FullModel(
        FullMoments(
            jnp.asarray(linear.mean)[:, None], jnp.diag(jnp.sqrt(linear.variance))[:, :, None]
        ),
        affine(linear.dynamics, linear.bias, linear.noise),
        affine(linear.emission, linear.emission_bias, linear.emission_noise),
    )


def data(case: str, features: int, batch: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Values and masks ``(batch, time, feature)``; single features are missing too."""
    rng = np.random.default_rng(len(case))
    present = np.array(PRESENT[case], bool)
    observed = present[None, :, None] & (rng.uniform(size=(batch, len(present), features)) > 0.2)
    if case in ("nothing missing", "T = 1"):
        observed[:] = True
    return np.where(observed, rng.normal(0, 2, observed.shape), 0.0), observed


def evidence(values: np.ndarray, observed: np.ndarray) -> Evidence:
    return Evidence(jnp.moveaxis(values, 0, -1), jnp.moveaxis(observed, 0, -1))


def points(rule: str, time: int, batch: int, latent: int = LATENT) -> Points:
    shape = (batch, time, 1)
    series = Series({"x": np.zeros(shape)}, {}, np.full(batch, time), np.arange(batch))
    return Quadrature(rule, **RULES[rule]).points(jax.random.key(3), series, latent)


@partial(jax.jit, static_argnums=(3, 4))
def smooth(linear_leaves, given: Evidence, lengths, iterations: int, rule: str) -> PathPosterior:
    model = full_model(LinearModel(*linear_leaves))
    time, _, batch = given.value.shape
    at = points(rule, time, batch, model.latent)
    path = full_smoothing.smooth_path(model, given, lengths, at)
    if not iterations:
        return path
    return full_smoothing.iterate_linearisation(model, given, lengths, at, path, iterations)


def leaves(linear: LinearModel) -> tuple:
    return tuple(vars(linear).values())


def covariances(root) -> np.ndarray:
    """``(time, latent, latent, n)`` roots -> ``(n, time, latent, latent)``."""
    return np.einsum("tikn,tjkn->ntij", np.array(root), np.array(root))


def check_smoothed(found: PathPosterior, linear: LinearModel, values, observed) -> None:
    time, latent = values.shape[1], len(linear.mean)
    covariance = covariances(found.smoothed.root)
    for n in range(len(values)):
        mean, full, likelihood = linear.posterior(values[n], observed[n])
        np.testing.assert_allclose(found.log_likelihood[n], likelihood, atol=1e-8)
        np.testing.assert_allclose(
            found.smoothed.mean[..., n], np.reshape(mean, (time, latent)), atol=1e-8
        )
        blocks = np.reshape(full, (time, latent, time, latent))
        for t in range(time):
            np.testing.assert_allclose(covariance[n, t], blocks[t, :, t], atol=1e-8)


@CASES
@FEATURES
def test_smoother_is_exact_for_linear_models(case: str, features: int) -> None:
    """Means, covariances and log-likelihood; an iteration of linearisation changes nothing."""
    linear = linear_model(LATENT, features)
    values, observed = data(case, features)
    lengths = np.full(len(values), values.shape[1])
    for iterations in (0, 1):
        found = smooth(leaves(linear), evidence(values, observed), lengths, iterations, "particles")
        check_smoothed(found, linear, values, observed)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_exact_for_linear_models(rule: str) -> None:
    """Its mean and covariance are right."""
    linear = linear_model(LATENT, 2)
    values, observed = data("stretch missing", 2)
    found = smooth(leaves(linear), evidence(values, observed), np.full(2, 6), 0, rule)
    check_smoothed(found, linear, values, observed)


@FEATURES
def test_filter_sees_the_past_only(features: int) -> None:
    """The filtered states of step t are the smoothed ones of a series that ends at t."""
    linear = linear_model(LATENT, features)
    values, observed = data("one step missing", features)
    at = points("sigma_points", TIME, 2)
    given = evidence(values, observed)
    found = jax.jit(lambda: full_filtering.full_filter(full_model(linear), given, at))()
    covariance = covariances(found.filtered.root)
    for t in range(TIME):
        mean, full, likelihood = linear.posterior(values[0, : t + 1], observed[0, : t + 1])
        np.testing.assert_allclose(found.filtered.mean[t, :, 0], mean[-LATENT:], atol=1e-8)
        np.testing.assert_allclose(covariance[0, t], full[-LATENT:, -LATENT:], atol=1e-8)
        np.testing.assert_allclose(found.log_likelihood[: t + 1, 0].sum(), likelihood, atol=1e-8)


def test_lengths_end_series_before_the_padding() -> None:
    """A series of three steps in arrays of six, beside one of six."""
    linear = linear_model(LATENT, 2)
    values, observed = data("nothing missing", 2)
    observed[0, 3:] = False
    values = np.where(observed, values, 0)
    found = smooth(leaves(linear), evidence(values, observed), np.array([3, 6]), 0, "sigma_points")
    short = linear.posterior(values[0, :3], observed[0, :3])
    np.testing.assert_allclose(
        found.smoothed.mean[:3, :, 0], np.reshape(short[0], (3, LATENT)), atol=1e-8
    )
    np.testing.assert_allclose(found.log_likelihood[0], short[2], atol=1e-8)
    assert (np.array(found.backward.slope)[2:, ..., 0] == 0).all()


@CASES
def test_log_likelihood_has_the_right_gradient(case: str) -> None:
    """That of the dense Gaussian, in every parameter."""
    linear = linear_model(LATENT, 2)
    values, observed = data(case, 2, batch=1)
    at = points("sigma_points", values.shape[1], 1)
    given = evidence(values, observed)

    def ours(parameters) -> jax.Array:
        model = full_model(LinearModel(*parameters))
        return jnp.sum(full_filtering.full_filter(model, given, at).log_likelihood)

    def exact(parameters) -> jax.Array:
        return LinearModel(*parameters).posterior(values[0], observed[0])[2]

    parameters = tuple(map(jnp.asarray, leaves(linear)))
    found, expected = (jax.jit(jax.grad(f))(parameters) for f in (ours, exact))
    for name, own, other in zip(vars(linear), found, expected, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-7, atol=1e-8, err_msg=name)


def test_samples_are_joint() -> None:
    """The map from noise to paths is linear; its covariance is that of the whole posterior."""
    linear = linear_model(LATENT, 2)
    values, observed = data("stretch missing", 2, batch=1)
    found = smooth(leaves(linear), evidence(values, observed), np.full(1, TIME), 0, "sigma_points")
    size = TIME * LATENT
    unit = np.moveaxis(np.eye(size).reshape(size, TIME, LATENT), 0, -1)
    noise = jnp.array(np.concatenate([np.zeros((TIME, LATENT, 1)), unit], 2))
    paths = full_smoothing.sample_paths(found, noise)
    states = np.array(paths.states).reshape(size, -1)
    mean, covariance, _ = linear.posterior(values[0], observed[0])
    root = states[:, 1:] - states[:, :1]
    np.testing.assert_allclose(states[:, 0], mean, atol=1e-8)
    np.testing.assert_allclose(root @ root.T, covariance, atol=1e-8)
    density = multivariate_normal(np.array(mean), np.array(covariance)).logpdf(states.T)
    np.testing.assert_allclose(paths.log_density.sum(0), density, rtol=1e-6)


@pytest.mark.parametrize("features", [0, 2])
def test_factors_of_encoders_are_further_observations(features: int) -> None:
    """A Gaussian factor of the state is an observation of the state itself."""
    linear = linear_model(LATENT, 2)
    values, observed = data("stretch missing", 2)
    if not features:
        observed[:] = False
        values[:] = 0
    rng = np.random.default_rng(1)
    precision = rng.uniform(0.5, 3, (TIME, LATENT, 2)) * (rng.uniform(size=(TIME, 1, 2)) > 0.4)
    factor = Gaussian(jnp.array(precision), jnp.array(precision * rng.normal(size=precision.shape)))
    given = evidence(values, observed)._replace(factor=factor)
    at = points("sigma_points", TIME, 2)
    found = full_smoothing.smooth_path(full_model(linear), given, np.full(2, TIME), at)
    seen = np.moveaxis(precision > 0, -1, 0)
    for n in range(2):
        # each step has its own precisions: the joint Gaussian of all steps, by hand
        mean, covariance = map(np.array, linear.posterior(values[n], observed[n])[:2])
        weights = np.where(seen[n], np.moveaxis(precision, -1, 0)[n], 0).ravel()
        shift = np.moveaxis(np.array(factor.weighted_mean), -1, 0)[n].ravel()
        updated = np.linalg.inv(np.linalg.inv(covariance) + np.diag(weights))
        expected = updated @ (np.linalg.solve(covariance, mean) + shift)
        np.testing.assert_allclose(
            np.ravel(found.smoothed.mean[..., n]), expected, rtol=1e-7, atol=1e-8
        )


def test_filter_bound_is_tight_for_linear_models() -> None:
    """E log p(x_t | z_t) - KL of each step is log p(x_t | past), encoders aside."""
    linear = linear_model(LATENT, 2)
    values, observed = data("one step missing", 2, batch=1)
    at = points("sigma_points", TIME, 1)
    found = full_filtering.full_filter(full_model(linear), evidence(values, observed), at)
    mean = np.array(found.filtered.mean[..., 0]) @ linear.emission.T + linear.emission_bias
    own = covariances(found.filtered.root)[0]
    spread = np.einsum("fi,tij,fj->tf", linear.emission, own, linear.emission)
    noise = linear.emission_noise
    each = -0.5 * (((values[0] - mean) ** 2 + spread) / noise + np.log(2 * np.pi * noise))
    bound = np.where(observed[0], each, 0).sum(1) - found.kl[:, 0]
    np.testing.assert_allclose(bound, found.log_likelihood[:, 0], atol=1e-8)


def test_streaming_is_the_filter() -> None:
    """Step by step, from the initial distribution."""
    linear = linear_model(LATENT, 2)
    model, given = full_model(linear), evidence(*data("stretch missing", 2))
    at = points("sigma_points", TIME, 2)
    found = full_filtering.full_filter(model, given, at)
    step = StepPoints(at.offsets[0], at.weights)
    predicted = full_filtering.initial_states(model, given)
    for t in range(TIME):
        own = jax.tree.map(lambda leaf, t=t: leaf[t], given)
        filtered, change = full_filtering.update_step(model, predicted, own, step)
        np.testing.assert_allclose(filtered.states.mean, found.filtered.mean[t], atol=1e-12)
        np.testing.assert_allclose(change.log_likelihood, found.log_likelihood[t], atol=1e-12)
        predicted = full_filtering.predict_step(model, filtered, step)


def test_single_precision_survives_small_noise_beside_large_states() -> None:
    """Process noise of sd 1e-3 and states of size 3: the result of double precision to 1e-3."""
    latent, time = 4, 200
    angle = np.array([[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]])
    linear = replace(
        linear_model(latent, 2),
        mean=np.zeros(latent),
        variance=np.full(latent, 9.0),
        dynamics=np.kron(np.eye(2), angle),
        bias=np.zeros(latent),
        noise=np.full(latent, 1e-6),
        emission=np.eye(2, latent) + 0.3 * np.eye(2, latent, 2),
        emission_noise=np.full(2, 0.01),
    )
    rng = np.random.default_rng(0)
    states = [np.full(latent, 3.0)]
    for _ in range(time - 1):
        states.append(linear.dynamics @ states[-1] + rng.normal(0, 1e-3, latent))
    values = (states @ linear.emission.T + rng.normal(0, 0.1, (time, 2)))[None]
    observed = rng.uniform(size=values.shape) > 0.3
    values = np.where(observed, values + linear.emission_bias, 0)
    results = {}
    for dtype in (np.float64, np.float32):
        own = jax.tree.map(lambda leaf, t=dtype: jnp.asarray(leaf, t), leaves(linear))
        given = Evidence(
            jnp.moveaxis(values, 0, -1).astype(dtype), jnp.array(np.moveaxis(observed, 0, -1))
        )
        at = points("sigma_points", time, 1, latent)
        at = Points(at.offsets.astype(dtype), at.weights.astype(dtype))
        path = full_smoothing.smooth_path(
            full_model(LinearModel(*own)), given, np.full(1, time), at
        )
        assert path.smoothed.root.dtype == dtype
        results[dtype] = path
    exact, single = results[np.float64], results[np.float32]
    assert np.abs(exact.smoothed.mean).max() > 3
    np.testing.assert_allclose(single.smoothed.mean, exact.smoothed.mean, atol=1e-3)
    sd = [np.sqrt(np.sum(np.array(p.smoothed.root) ** 2, 2)) for p in (single, exact)]
    np.testing.assert_allclose(*sd, rtol=1e-3)
    np.testing.assert_allclose(single.log_likelihood, exact.log_likelihood, rtol=1e-3)


@CASES
def test_gradients_of_nonlinear_models_are_right(case: str) -> None:
    """Against central differences, with every mask."""
    values, observed = data(case, 2, batch=2)
    given, at = evidence(values, observed), points("rotated_sigma_points", values.shape[1], 2)
    weights = np.random.default_rng(0).normal(0, 0.5, (2, LATENT, LATENT))

    def objective(weights: jax.Array) -> jax.Array:
        def transition(z: jax.Array) -> Moments:
            return Moments(z + jnp.tanh(weights[0] @ z), 0.1 + jax.nn.sigmoid(weights[1] @ z))

        model = replace(full_model(linear_model(LATENT, 2)), transition=transition)
        return jnp.sum(full_filtering.full_filter(model, given, at).log_likelihood)

    check_gradient(jax.jit(jax.value_and_grad(objective)), weights)


def test_smoother_of_a_nonlinear_model_against_a_grid() -> None:
    """One dimension, mildly nonlinear: linearisation comes closer than the first smoother."""
    values = np.array([0.3, 0.9, 0.0, 0.0, 0.4, -0.2])[None, :, None]
    observed = np.array([1, 1, 0, 0, 1, 1], bool)[None, :, None]

    def mean(z):
        return z - 0.4 * (np if isinstance(z, np.ndarray) else jnp).sin(z)

    def seen(z):
        return z + 0.3 * (np if isinstance(z, np.ndarray) else jnp).sin(z)

    noise, emission_noise = 0.2**2, 0.3**2
    grid = np.linspace(-4, 4, 801)
    step = -0.5 * (grid[None, :] - mean(grid)[:, None]) ** 2 / noise
    kernel = np.exp(step) / np.exp(step).sum(1, keepdims=True)
    likelihood = np.where(
        observed[0], np.exp(-0.5 * (values[0] - seen(grid)[None]) ** 2 / emission_noise), 1.0
    )
    forward = [np.exp(-0.5 * grid**2)]
    for t in range(1, TIME):
        forward.append((forward[-1] * likelihood[t - 1]) @ kernel)
    backward = [np.ones_like(grid)]
    for t in range(TIME - 1, 0, -1):
        backward.insert(0, kernel @ (backward[0] * likelihood[t]))
    density = np.array(forward) * likelihood * np.array(backward)
    density /= density.sum(1, keepdims=True)
    expected = density @ grid
    sd = np.sqrt(density @ grid**2 - expected**2)

    model = FullModel(
        FullMoments(jnp.zeros((1, 1)), jnp.ones((1, 1, 1))),
        lambda z: Moments(mean(z), jnp.full_like(z, noise)),
        lambda z: Moments(seen(z), jnp.full_like(z, emission_noise)),
    )
    given, lengths = evidence(values, observed), np.full(1, TIME)
    series = Series({"x": values}, {}, lengths, np.arange(1))
    at = Quadrature("gauss_hermite", order=7).points(jax.random.key(0), series, 1)
    first = full_smoothing.smooth_path(model, given, lengths, at)
    last = full_smoothing.iterate_linearisation(model, given, lengths, at, first, 20, 1e-6)
    errors = [np.abs(p.smoothed.mean[:, 0, 0] - expected).max() for p in (first, last)]
    assert errors[1] < 0.02 * sd.max() + 0.5 * errors[0]
    np.testing.assert_allclose(last.smoothed.mean[:, 0, 0], expected, atol=0.1 * sd.min())
    np.testing.assert_allclose(last.smoothed.root[:, 0, 0, 0], sd, rtol=0.05)


def test_updates_in_turn_are_one_update() -> None:
    """`then` composes what two updates say, their divergence included."""
    linear = linear_model(LATENT, 2)
    model = full_model(linear)
    predicted = FullMoments(*(jnp.tile(leaf, 2) for leaf in model.initial))
    at = points("sigma_points", 1, 2)
    step = StepPoints(at.offsets[0], at.weights)
    value = jnp.array([[1.0, -1.0], [0.5, 2.0]])

    def seen(observed) -> square_root.Update:
        observed = jnp.array(observed)
        return square_root.update(model.emission, predicted, step, value, observed)

    both = seen([[True, True], [True, True]])
    first = seen([[True, True], [False, False]])
    second = square_root.update(
        model.emission,
        square_root.updated(predicted, first),
        step,
        value,
        jnp.array([[False, False], [True, True]]),
    )
    in_turn = square_root.then(first, second)
    for name in ("shift", "log_likelihood", "log_determinant"):
        np.testing.assert_allclose(getattr(in_turn, name), getattr(both, name), atol=1e-9)
    np.testing.assert_allclose(in_turn.kl, both.kl, atol=1e-9)
