"""Every inference method: numpy oracles, densities that integrate to 1, and what may be missing."""

import functools
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from scipy import stats

import jdmm
from configs import spirals
from jdmm import (
    MDMM,
    MVAE,
    VRNN,
    Categorical,
    Modality,
    StructuredInference,
    series_from_arrays,
)
from jdmm.evaluation import importance
from jdmm.experiments import settings

MODALITIES = (Modality("x"), Modality("y", features=2))
KINDS = [
    (direction, missing) for direction in ("forward", "backward") for missing in ("mask", "skip")
]


def structured(direction="backward", missing="mask", **options):
    return StructuredInference(
        MODALITIES, latent=2, hidden=3, direction=direction, missing=missing, **options
    )


MODELS = {
    **{f"{direction} {missing}": structured(direction, missing) for direction, missing in KINDS},
    "with features": structured(features_to_combiner=True),
    "mvae": MVAE(MODALITIES, latent=2, hidden=3),
    "vrnn": VRNN(MODALITIES, latent=2, hidden=3, unimodal=0.5),
    "vrnn gmm": VRNN(MODALITIES, latent=2, hidden=3, components=2),
    "rnn gmm": VRNN(MODALITIES, latent=0, hidden=3, components=2),
}
EACH = pytest.mark.parametrize("name", MODELS)


def series(time=6, missing=0.4, batch=3, seed=0):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(batch, time, 1)), rng.normal(size=(batch, time, 2))
    for values in (x, y):
        values[rng.random(values.shape) < missing] = np.nan
    return series_from_arrays({"x": x, "y": y}, lengths=[time, max(time - 2, 1), time][:batch])


@functools.cache
def variables(name):
    """Random, biases too: an initial 0 would hide a missing term."""
    model = MODELS[name]
    shapes = jax.eval_shape(model.init, jax.random.key(0), series())
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.7, leaf.shape), shapes)


@pytest.mark.parametrize("method", ["f_mask", "f_skip", "b_mask", "b_skip"])
def test_structured_networks_have_the_published_number_of_parameters(method):
    """7,124 with 20 units, and the 794 of the paper's text with 5."""
    for hidden, expected in ((20, 7124), (5, 794)):
        config = spirals.get_config(method)
        config.model.hidden = hidden
        config.model.features_to_combiner = False
        model = settings.build_model(config)
        data = series_from_arrays({"x": np.zeros((1, 2)), "y": np.zeros((1, 2))})
        shapes = jax.eval_shape(model.init, jax.random.key(0), data)
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


def affine(params, x):
    return np.array(params["kernel"]).T @ x + np.array(params["bias"])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru(params, state, features):
    """Cho et al. 2014, with the reset behind the product."""
    ours = np.split(affine(params["of_state"], state), 3)
    theirs = np.split(affine(params["of_inputs"], features), 3)
    reset, update = (sigmoid(ours[i] + theirs[i]) for i in (0, 1))
    candidate = np.tanh(theirs[2] + reset * ours[2])
    return (1 - update) * candidate + update * state


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("with_features", [False, True])
@pytest.mark.parametrize(("direction", "missing"), KINDS)
def test_structured_posterior_is_that_of_its_networks(direction, missing, with_features):
    """Step by step in numpy, one series at a time."""
    model = structured(direction, missing, features_to_combiner=with_features)
    name = "with features" if with_features else f"{direction} {missing}"
    drawn, data = variables(name), series()
    params = drawn["params"]
    found = jax.jit(model.posterior_path)(drawn, data, None)
    for row in range(3):
        length = int(data.lengths[row])
        summary = [[] for _ in range(length)]
        known = [[] for _ in range(length)]
        for modality in MODALITIES:
            state = np.array(params[f"start_{modality.name}"])[:, 0]
            order = range(length) if direction == "forward" else reversed(range(length))
            for t in order:
                value = np.array(data.values[modality.name][row, t], float)
                seen = np.array(data.observed[modality.name][row, t])
                inputs = np.concatenate([value, seen]) if len(value) > 1 else value
                embedded = affine(params[f"embeddings_{modality.name}"], inputs)
                features = np.maximum(embedded, 0) * seen.any()
                if missing == "mask" or seen.any():
                    state = gru(params[f"recurrent_{modality.name}"], state, features)
                summary[t].append(state)
                known[t].append(features if with_features else np.zeros(0))
        last = max(
            [
                t
                for t in range(length)
                if any(data.observed[m.name][row, t].any() for m in MODALITIES)
            ],
            default=-1,
        )
        state = np.zeros(2)
        for t in range(length):
            if t <= last:
                inputs = np.concatenate([state, *summary[t], *known[t]])
                inner = np.maximum(affine(params["combiner"], inputs), 0)
                state = affine(params["mean"], inner)
                sd = np.log1p(np.exp(affine(params["sd"], inner))) + 1e-3
                np.testing.assert_allclose(found.posterior.variance[row, t], sd**2, rtol=1e-9)
            else:
                for mine, prior in zip(found.posterior, found.prior, strict=True):
                    np.testing.assert_array_equal(mine[row, t], prior[row, t])
                state = np.array(found.prior.mean[row, t])
            np.testing.assert_allclose(found.states[row, t], state, rtol=1e-9)
    np.testing.assert_array_equal(found.prior.mean[:, 0], 0)
    np.testing.assert_array_equal(found.prior.variance[:, 0], 1)


@EACH
def test_where_nothing_is_observed_the_posterior_is_the_prior(name):
    chain = jax.jit(MODELS[name].posterior_path)(
        variables(name), series(missing=1.0), jax.random.key(0)
    )
    chex.assert_trees_all_close(chain.posterior, chain.prior, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["mvae", "vrnn"])
def test_experts_multiply(name):
    """Precisions and shifts of what each modality adds to the prior add up (first step)."""
    model, data = MODELS[name], series(time=1, missing=0.0)
    chain = jax.jit(model.posterior_path)

    def natural(names):
        keep = {k: np.array(k in names) for k in data.values}
        posterior = chain(variables(name), data.hide(keep), None).posterior
        return np.array([1 / posterior.variance, posterior.mean / posterior.variance])

    both, prior = natural(("x", "y")), natural(())
    np.testing.assert_allclose(
        both - prior, natural("x") - prior + natural("y") - prior, rtol=1e-4, atol=1e-4
    )


def test_rnn_gmm_is_a_density():
    """Without latent states one weight is the likelihood: over two steps it integrates to 1."""
    model = VRNN((Modality("x"),), latent=0, hidden=3, components=2)
    grid = np.linspace(-12, 12, 241)
    pairs = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    data = series_from_arrays({"x": pairs})
    shapes = jax.eval_shape(model.init, jax.random.key(0), data)
    rng = np.random.default_rng(2)
    drawn = jax.tree.map(lambda leaf: rng.normal(0, 0.7, leaf.shape), shapes)
    found = importance.log_likelihood_bounds(
        model, drawn, data, jax.random.key(0), (1,), len(pairs)
    )
    density = np.exp(found.bounds[1].astype(float))
    np.testing.assert_allclose(density.sum() * (grid[1] - grid[0]) ** 2, 1.0, rtol=1e-3)


def test_vrnn_likelihood():
    """Importance weighted likelihoods of one step, against quadrature over its latent state."""
    model = VRNN((Modality("x"),), latent=1, hidden=3)
    value = np.linspace(-2, 2, 9)
    data = series_from_arrays({"x": value[:, None]})
    shapes = jax.eval_shape(model.init, jax.random.key(0), data)
    rng = np.random.default_rng(3)
    drawn = jax.tree.map(lambda leaf: rng.normal(0, 0.4, leaf.shape), shapes)
    found = importance.log_likelihood_bounds(model, drawn, data, jax.random.key(0), (20_000,))
    prior = model.posterior_path(drawn, data, None).prior
    z = np.linspace(-8, 8, 2001)
    weight = stats.norm.pdf(z, prior.mean[0, 0], prior.sd[0, 0]) * (z[1] - z[0])
    mean, raw_sd = model.emissions(drawn, np.pad(z[:, None], ((0, 0), (0, 3))))["x"]
    each = stats.norm.pdf(value, mean, np.log1p(np.exp(raw_sd)) + 1e-3)
    np.testing.assert_allclose(found.bounds[20_000], np.log(weight @ each), atol=0.03)


def test_the_likelihood_of_an_mdmm_does_not_depend_on_the_covariance():
    """Two proposals, one log p(x), also with T = 1; that of nothing is 0."""
    x, y = np.random.default_rng(5).normal(size=(2, 4, 2, 1))
    x[1, 1:], y[1, 0], x[2], y[2] = np.nan, np.nan, np.nan, np.nan
    data = series_from_arrays({"x": x, "y": y}, lengths=[2, 2, 2, 1])
    models = [
        MDMM((Modality("x"), Modality("y")), latent=2, hidden=3, covariance=covariance)
        for covariance in ("diagonal", "full")
    ]
    shapes = jax.eval_shape(models[0].init, jax.random.key(0), data)
    rng = np.random.default_rng(4)
    drawn = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape), shapes)
    for name in ("encoders_x", "encoders_y"):  # wide proposals
        drawn["params"][name]["sd"]["bias"] += 2.0
    found = [
        importance.log_likelihood_bounds(model, drawn, data, jax.random.key(0), (20_000,))
        for model in models
    ]
    assert min(each.effective.min() for each in found) > 500
    diagonal, full = (each.bounds[20_000] for each in found)
    np.testing.assert_allclose(full, diagonal, atol=0.02)
    assert (full != diagonal)[:2].any()
    np.testing.assert_allclose(full[2], 0.0, atol=1e-4)


@pytest.mark.parametrize("kind", [StructuredInference, MVAE, VRNN])
def test_categories(kind):
    """Labels are told apart, and a label's number has no meaning as a number."""
    model = kind((Modality("label", likelihood=Categorical(3)),), latent=2, hidden=4)
    data = series_from_arrays({"label": np.array([[0.0], [1.0], [2.0], [np.nan]])})
    fresh = jax.jit(model.init)(jax.random.key(0), data)
    fresh = jax.tree.map(
        lambda leaf: leaf + jax.random.normal(jax.random.key(leaf.size), leaf.shape), fresh
    )
    mean = np.array(jax.jit(model.posterior_path)(fresh, data, None).posterior.mean)[:, 0]
    assert len({tuple(row) for row in mean.round(4).tolist()}) == 4
    assert np.isfinite(model.loss(fresh, data, data, jax.random.key(0)).total(1.0))


def test_the_method_of_the_documentation():
    """docs/methods.md: its sixty lines train, predict, and are bounded by importance sampling."""
    text = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 60
    namespace = {"__name__": "documented"}
    exec(compile(code, "docs/methods.md", "exec"), namespace)
    model = namespace["Autoregression"](MODALITIES, latent=2, hidden=3)
    data = series(batch=3)
    settings = jdmm.TrainSettings(epochs=2, batch_size=3)
    variables = jdmm.fit(model, data, settings=settings).variables
    told = jdmm.predict_all(model, variables, data, jax.random.key(0), 5)
    assert np.isfinite(told.mean["y"]).all()
    bounds = importance.log_likelihood_bounds(
        model, variables, data, jax.random.key(0), (1, 5)
    ).bounds
    assert bounds[1].mean() < bounds[5].mean()
