"""The model of full covariance against the exact linear model, and what it refuses."""

import dataclasses
from dataclasses import dataclass

import jax
import numpy as np
import pytest
from flax import linen as nn
from jax import numpy as jnp

from jdmm import (
    Categorical,
    DivergenceError,
    InputError,
    Likelihood,
    Modality,
    Quadrature,
    SigmaPointSSM,
    TrainSettings,
    fit,
    log_likelihood_bounds,
    predict,
    series_from_arrays,
)
from jdmm.inference import kalman
from jdmm.inference.gaussian import Moments
from jdmm.likelihoods import constrain_sd

KEY = jax.random.key(0)
PAIR = (Modality("pair", 2), Modality("single"))


class Linear(nn.Module):
    """A linear transition with a constant sd."""

    latent: int

    @nn.compact
    def __call__(self, z: jax.Array) -> Moments:
        slope = self.param("slope", nn.initializers.normal(0.5), (self.latent, self.latent))
        return Moments(slope @ z, jnp.full_like(z, 0.3**2))


def series():
    rng = np.random.default_rng(0)
    pair, single = rng.normal(size=(3, 6, 2)), rng.normal(size=(3, 6, 1))
    for values in (pair, single):
        values[rng.random(values.shape) < 0.3] = np.nan
    return series_from_arrays({"pair": pair, "single": single}, lengths=[6, 4, 6])


LINEAR = SigmaPointSSM(PAIR, 4, transition=Linear(4), iterations=1)


def random_variables(model, data):
    shapes = jax.eval_shape(model.init, KEY, data)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)


def exact(variables, data):
    """Smoothed means and log-likelihood by the Kalman filter."""
    params = variables["params"]
    decoders = [params[f"decoders_{m.name}"] for m in PAIR]
    parameters = kalman.Parameters(
        initial_mean=params["initial_mean"],
        initial_covariance=np.diag((np.exp(params["initial_log_sd"]) + 1e-3) ** 2),
        dynamics=params["own_transition"]["slope"],
        dynamics_bias=np.zeros(4),
        dynamics_covariance=0.3**2 * np.eye(4),
        emission=np.concatenate([d["output_0"]["kernel"].T for d in decoders]),
        emission_bias=np.concatenate([d["output_0"]["bias"] for d in decoders]),
        emission_variance=np.concatenate([constrain_sd(d["sd"]) ** 2 for d in decoders]),
    )
    values, observed = (
        np.concatenate([tree[m.name] for m in PAIR], -1) for tree in (data.values, data.observed)
    )
    return jax.vmap(lambda v, o: kalman.kalman_smoother(parameters, v, o))(values, observed)


def test_linear_models_are_exact():
    """Loss, bound, smoothed means, and importance weights that are all even."""
    data = series()
    variables = random_variables(LINEAR, data)
    expected = exact(variables, data)
    for objective in ("likelihood", "bound"):
        model = SigmaPointSSM(PAIR, 4, transition=Linear(4), objective=objective)
        loss = jax.jit(model.loss)(variables, data, data, KEY)
        np.testing.assert_allclose(
            -sum(loss.terms.values()), expected.log_likelihood.sum(), rtol=1e-3
        )
        assert loss.broken == -1
    path = jax.jit(LINEAR.posterior_mean)(variables, data, KEY)
    valid = np.array(data.valid)
    np.testing.assert_allclose(path.states[valid], expected.mean[valid], atol=2e-3)
    bounds = log_likelihood_bounds(LINEAR, variables, data, KEY, (1, 5))
    np.testing.assert_allclose(bounds.bounds[1], expected.log_likelihood, atol=5e-3)
    np.testing.assert_allclose(bounds.effective, 5, rtol=1e-3)


def exact_with_residuals(variables, data):
    """The same with the residuals as further dimensions of the state."""
    params = variables["params"]
    decay, sd = (
        np.concatenate([params[f"residual_{kind}_{m.name}"] for m in PAIR])
        for kind in ("decay", "sd")
    )
    decay, sd = jax.nn.sigmoid(decay), constrain_sd(sd)
    latent, features = 4, len(decay)
    decoders = [params[f"decoders_{m.name}"] for m in PAIR]
    own = np.concatenate([d["output_0"]["kernel"].T for d in decoders])
    first = (np.exp(params["initial_log_sd"]) + 1e-3) ** 2
    noise = (1 - decay**2) * sd**2
    dynamics = np.zeros((latent + features,) * 2)
    dynamics[:latent, :latent] = params["own_transition"]["slope"]
    dynamics[latent:, latent:] = np.diag(decay)
    parameters = kalman.Parameters(
        initial_mean=np.concatenate([params["initial_mean"], np.zeros(features)]),
        initial_covariance=np.diag(np.concatenate([first, sd**2])),
        dynamics=dynamics,
        dynamics_bias=np.zeros(latent + features),
        dynamics_covariance=np.diag(np.concatenate([np.full(latent, 0.3**2), noise])),
        emission=np.concatenate([own, np.eye(features)], 1),
        emission_bias=np.concatenate([d["output_0"]["bias"] for d in decoders]),
        emission_variance=np.concatenate([constrain_sd(d["sd"]) ** 2 for d in decoders]),
    )
    values, observed = (
        np.concatenate([tree[m.name] for m in PAIR], -1) for tree in (data.values, data.observed)
    )
    smoothed = jax.vmap(lambda v, o: kalman.kalman_smoother(parameters, v, o))(values, observed)
    return smoothed, np.asarray(smoothed.mean) @ parameters.emission.T + parameters.emission_bias


def test_residuals_are_those_of_the_joint_model():
    """Importance sampling reaches the exact likelihood; the approximate filter is near to it."""
    data = series()
    model = SigmaPointSSM(PAIR, 4, transition=Linear(4), residual=True)
    variables = random_variables(model, data)
    smoothed, features = exact_with_residuals(variables, data)
    bounds = log_likelihood_bounds(model, variables, data, KEY, (2000,))
    np.testing.assert_allclose(bounds.bounds[2000], smoothed.log_likelihood, atol=0.05)
    loss = jax.jit(model.loss)(variables, data, data, KEY)
    np.testing.assert_allclose(-loss.terms["filter_nll"], smoothed.log_likelihood.sum(), rtol=0.05)
    found = predict(model, variables, data, KEY, 0).mean
    valid = np.array(data.valid)
    joined = np.concatenate([found[m.name] for m in PAIR], -1)
    np.testing.assert_allclose(joined[valid], features[valid], atol=0.2)
    without = SigmaPointSSM(PAIR, 4, transition=Linear(4))
    other = predict(without, variables, data, KEY, 0).mean
    apart = np.concatenate([other[m.name] for m in PAIR], -1)
    error, before = (np.square(x - features)[valid].mean() for x in (joined, apart))
    assert error < 0.1 * before


def test_the_bound_with_residuals_is_below_the_likelihood_of_the_filter():
    """It is the likelihood where nothing but the residuals is uncertain."""
    data = series()
    model = SigmaPointSSM(PAIR, 4, transition=Linear(4), residual=True, objective="bound")
    variables = random_variables(model, data)
    likelihood = dataclasses.replace(model, objective="likelihood")
    loss, most = (jax.jit(own.loss)(variables, data, data, KEY) for own in (model, likelihood))
    assert sum(loss.terms.values()) > most.terms["filter_nll"] + 0.01
    flat = {
        name: jax.tree.map(lambda leaf: 0 * leaf, own) if name.startswith("decoders") else own
        for name, own in variables["params"].items()
    }
    loss, most = (
        jax.jit(own.loss)({"params": flat}, data, data, KEY) for own in (model, likelihood)
    )
    np.testing.assert_allclose(sum(loss.terms.values()), most.terms["filter_nll"], rtol=1e-5)


def test_residuals_beside_categories_have_finite_gradients():
    modalities = (Modality("label", likelihood=Categorical(3)), Modality("x", 2))
    model = SigmaPointSSM(modalities, 2, 3, residual=True)
    x = np.random.default_rng(0).normal(size=(3, 4, 2))
    x[0], x[1, 1:] = np.nan, np.nan
    label = np.array([[0, np.nan, 1, 2], [np.nan] * 4, [1, 1, 1, np.nan]])
    data = series_from_arrays({"label": label, "x": x}, lengths=[4, 1, 4])
    variables = random_variables(model, data)
    gradient = jax.jit(jax.grad(lambda v: model.loss(v, data, data, KEY).total(1.0)))(variables)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert np.abs(gradient["params"]["residual_decay_x"]).min() > 0
    found = predict(model, variables, data, KEY, 0).mean["x"]
    without = dataclasses.replace(model, residual=False)
    plain = predict(without, variables, data, KEY, 0).mean["x"]
    error, before = (np.abs(own[2] - x[2]).mean() for own in (found, plain))
    assert error < 0.8 * before


def test_covariates_have_no_residuals():
    known = dataclasses.replace(PAIR[0], residual=False)
    model = SigmaPointSSM((known, PAIR[1]), 4, residual=True)
    variables = random_variables(model, series())
    assert {n for n in variables["params"] if n.startswith("residual")} == {
        "residual_decay_single",
        "residual_sd_single",
    }
    with pytest.raises(InputError, match="expected model.residual False"):
        SigmaPointSSM((known,), residual=True)


def test_residuals_are_refused_where_there_is_nothing_to_remember():
    label = Modality("label", likelihood=Categorical(3))
    with pytest.raises(InputError, match="expected model.residual False"):
        SigmaPointSSM((label,), residual=True)
    with pytest.raises(InputError, match="expected model.residual False"):
        SigmaPointSSM(PAIR, updates={"pair": "encoder", "single": "encoder"}, residual=True)


def test_mean_and_samples_come_from_one_smoother():
    data = series()
    variables = random_variables(LINEAR, data)
    keys = jax.random.key(1), jax.random.key(2)
    mean, samples = jax.jit(LINEAR.posterior_paths, static_argnums=3)(variables, data, keys, 2)
    alone = jax.jit(LINEAR.posterior_mean)(variables, data, keys[0])
    np.testing.assert_allclose(mean.states, alone.states, rtol=1e-5, atol=1e-5)
    assert samples.states.shape == (2, 3, 6, 4)


def test_labels_move_the_state():
    """A category by its conditional moments: the posterior probability of the seen class rises."""
    modalities = (Modality("label", likelihood=Categorical(3)),)
    model = SigmaPointSSM(modalities, 2, 4)
    label = series_from_arrays({"label": np.array([[2.0, np.nan, np.nan]])})
    nothing = series_from_arrays({"label": np.full((1, 3), np.nan)})
    variables = random_variables(model, label)

    @jax.jit
    def probability(data):
        states = model.posterior_mean(variables, data, KEY).states
        raw = model.emissions(variables, states)["label"]
        return modalities[0].likelihood.probabilities(raw)[0, 0, 0, 2]

    assert probability(label) > probability(nothing) + 1e-4


def test_training_learns_and_traces_once():
    time = np.arange(20) / 3
    phase = np.random.default_rng(0).uniform(0, 6, (20, 1))
    data = series_from_arrays({"x": np.sin(time + phase)})
    settings = TrainSettings(
        epochs=6, batch_size=10, weight_decay=0.0, beta_peak=1.0, beta_final=1.0
    )
    fitted = fit(SigmaPointSSM((Modality("x"),), 3, 4), data, settings=settings)
    losses = [record["train/loss"] for record in fitted.history]
    assert losses[-1] < losses[0]


@dataclass(frozen=True)
class Broken(SigmaPointSSM):
    """Reports the second series as broken from the third step on."""

    def loss(self, variables, series, targets, key, progress=0.0):
        found = super().loss(variables, series, targets, key, progress)
        return found._replace(broken=jnp.where(progress > 0.4, 1, -1))


def test_a_broken_covariance_stops_the_training():
    data = series_from_arrays({"x": np.zeros((4, 3))})
    model = Broken((Modality("x"),), 2, 2)
    with pytest.raises(DivergenceError, match="covariance of training series 1 .* at step 3"):
        fit(model, data, settings=TrainSettings(epochs=3, batch_size=2))


@dataclass(frozen=True)
class Momentless(Likelihood):
    """A likelihood that defines no moments."""

    outputs = 1

    def log_prob(self, raw, value):
        return -jnp.abs(value - raw[0])

    def mean(self, raw):
        return raw[0]

    def sample(self, raw, key):
        return raw[0]

    def rescale(self, raw, scale):
        return raw


class NotGaussian(nn.Module):
    """Returns one array."""

    @nn.compact
    def __call__(self, z):
        return z


class OneDimension(nn.Module):
    """Returns moments of one dimension."""

    @nn.compact
    def __call__(self, z):
        return Moments(z[:1], z[:1] ** 2 + 1)


X = (Modality("x"),)


@pytest.mark.parametrize(
    ("modalities", "options", "words"),
    [
        (X, {"emission": "cubic"}, "model.emission among linear, mlp, got 'cubic'"),
        (X, {"objective": "wish"}, "loss.objective among auto, likelihood, bound"),
        (X, {"updates": {"y": "moments"}}, "model.updates of x, got 'y'"),
        (X, {"updates": {"x": "guess"}}, "model.updates.x among moments, encoder"),
        (X, {"transition": "gated"}, "Flax module as transition"),
        (X, {"iterations": -1}, "inference.iterations"),
        (X, {"tolerance": float("nan")}, "inference.tolerance"),
        (X, {"quadrature": Quadrature("particles", 5)}, "even number of particles, at least 10"),
        (
            (Modality("x", likelihood=Momentless()),),
            {"updates": {"x": "moments"}},
            "conditional moments in modality 'x'",
        ),
        (
            (Modality("x", encoder=NotGaussian()),),
            {"updates": {"x": "moments"}},
            "'x' without an encoder",
        ),
        (
            (Modality("x", likelihood=Categorical(2)),),
            {"objective": "likelihood"},
            "not all Normal",
        ),
    ],
)
def test_what_makes_no_model_is_refused(modalities, options, words):
    with pytest.raises(InputError, match=words):
        SigmaPointSSM(modalities, **options)


@pytest.mark.parametrize(
    ("transition", "words"),
    [(NotGaussian(), "a Gaussian transition"), (OneDimension(), r"mean of shape \(2, 1\)")],
)
def test_transitions_that_do_not_fit_are_refused(transition, words):
    model = SigmaPointSSM(X, 2, transition=transition)
    with pytest.raises(InputError, match=words):
        model.init(KEY, series_from_arrays({"x": np.zeros((1, 2))}))


def test_likelihoods_without_moments_update_by_their_encoder():
    model = SigmaPointSSM((Modality("x", likelihood=Momentless()),), 2, 3)
    assert model.encoded == ("x",) and model.chosen_objective == "bound"
