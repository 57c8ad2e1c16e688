"""The loss against exact evidence and closed forms of a linear Gaussian model."""

from dataclasses import replace
from functools import partial

import chex
import jax
import numpy as np
import pytest
from jax import numpy as jnp
from oracles import COUPLED

from jdmm import (
    MDMM,
    LossWeights,
    Modality,
    Normal,
    Quadrature,
    series_from_arrays,
)
from jdmm.inference.gaussian import Gaussian, Moments
from jdmm.inference.posterior import StateSpaceModel
from jdmm.likelihoods import SD_FLOOR
from jdmm.models.objectives import mdmm_loss, prior_matching, time_reversal_nll

STAY, NOISE = 0.8, 0.5  # z' ~ N(STAY z, 1 - STAY^2), stationary at N(0, 1); x ~ N(z, NOISE^2)
COPIES = 20_000


def linear_parts(weighted_mean: float = 0.0) -> StateSpaceModel:
    """The exact model as quotients; `weighted_mean` makes its transitions not stationary."""
    precision = 1 / (1 - STAY**2) - 1

    def transition(z):
        natural_shift = (STAY * z + weighted_mean) / (1 - STAY**2)
        return Moments(natural_shift / precision, jnp.full_like(z, 1 / precision))

    def encode(series):
        seen = series.observed["x"]
        return {
            "x": Gaussian(
                jnp.where(seen, NOISE**-2, 0.0),
                jnp.where(seen, series.values["x"] * NOISE**-2, 0.0),
            )
        }

    def decode(states, counted=None):
        raw_sd = jnp.log(jnp.expm1(NOISE - SD_FLOOR))  # the inverse of softplus
        return {"x": (states, jnp.full_like(states, raw_sd))}

    prior = Moments(jnp.zeros(1), jnp.ones(1))
    return StateSpaceModel(prior, transition, transition, encode, decode)


def observations(gap: bool = False):
    values = np.array([0.3, -1.2, 0.8, 2.0, 1.1])
    if gap:
        values[2] = np.nan
    return values


def terms_of(values, weights, key=0):
    series = series_from_arrays({"x": np.tile(values, (COPIES, 1))})

    @jax.jit
    def loss(series):
        return mdmm_loss(
            linear_parts(),
            {"x": Normal()},
            series,
            series,
            jax.random.key(key),
            Quadrature("sigma_points"),
            weights,
        )

    return loss(series)


@pytest.mark.parametrize("gap", [False, True])
def test_smoother_bound_is_the_exact_evidence_of_a_linear_model(gap):
    values = observations(gap)
    weights = LossWeights(filter=0.0, smoother=1.0, prior_matching=0.0, time_reversal=0.0)
    loss = terms_of(values, weights)
    time = np.arange(len(values))
    covariance = STAY ** np.abs(time[:, None] - time) + NOISE**2 * np.eye(len(values))
    seen = ~np.isnan(values)
    covariance, x = covariance[np.ix_(seen, seen)], values[seen]
    exact = 0.5 * (
        x @ np.linalg.solve(covariance, x)
        + np.linalg.slogdet(covariance)[1]
        + len(x) * np.log(2 * np.pi)
    )
    bound = float(loss.total(1.0)) * len(values)
    assert bound == pytest.approx(exact, abs=0.03)  # 20,000 chains
    assert set(loss.terms) == {"smoother_nll", "smoother_kl"}
    assert int(loss.count) == COPIES * len(values)


OBSERVES = {"x": [0], "y": [1, 2]}
"""Modality -> the dimensions of `COUPLED` that it observes, with noise of sd NOISE."""


def coupled_parts(covariance: str) -> StateSpaceModel:
    def encode(series):
        evidence = {}
        for name, dimensions in OBSERVES.items():
            precision = jnp.where(series.observed[name], NOISE**-2, 0.0)
            weighted = precision * jnp.where(series.observed[name], series.values[name], 0.0)
            none = jnp.zeros((*precision.shape[:2], 3))
            evidence[name] = Gaussian(
                *(none.at[..., jnp.array(dimensions)].set(leaf) for leaf in (precision, weighted))
            )
        return evidence

    def decode(states, counted=None):
        raw_sd = jnp.log(jnp.expm1(NOISE - SD_FLOOR))
        means = {name: states[name][..., jnp.array(own)] for name, own in OBSERVES.items()}
        return {name: (mean, jnp.full_like(mean, raw_sd)) for name, mean in means.items()}

    prior = Moments(*(jnp.array(leaf, jnp.float32) for leaf in COUPLED.prior))
    transition = COUPLED.transition
    return StateSpaceModel(prior, transition, transition, encode, decode, covariance)


def test_smoother_bound_with_full_covariance_is_the_exact_evidence_of_coupled_dimensions():
    """Of all views; with diagonal covariance it is looser."""
    values = np.random.default_rng(0).normal(size=(5, 3))
    values[1, 0] = values[3] = np.nan
    copies = np.tile(values, (COPIES, 1, 1))
    series = series_from_arrays({name: copies[..., own] for name, own in OBSERVES.items()})
    weights = LossWeights(
        filter=0.0, smoother=1.0, smoother_unimodal=1.0, prior_matching=0.0, time_reversal=0.0
    )

    exact = 0.0
    for view in ([0], [1, 2], [0, 1, 2]):
        x = np.full_like(values, np.nan)
        x[:, view] = values[:, view]
        seen = ~np.isnan(x)
        given = Gaussian(seen * NOISE**-2, np.where(seen, x, 0) * NOISE**-2)
        constants = np.nansum(x**2) * NOISE**-2 + seen.sum() * np.log(2 * np.pi * NOISE**2)
        exact += 0.5 * constants - COUPLED.log_evidence(given)

    @partial(jax.jit, static_argnums=0)
    def bound(covariance, series):
        loss = mdmm_loss(
            coupled_parts(covariance),
            dict.fromkeys(OBSERVES, Normal()),
            series,
            series,
            jax.random.key(1),
            Quadrature(),
            weights,
        )
        return loss.total(1.0) * len(values)

    full, diagonal = float(bound("full", series)), float(bound("diagonal", series))
    assert full == pytest.approx(exact, abs=0.25)  # 20,000 paths, whose mean has a sd of 0.06
    assert diagonal > exact + 0.5


def test_filter_bound_of_a_linear_model_in_closed_form():
    values = observations()
    loss = terms_of(values, LossWeights(filter=1.0, smoother=0.0, prior_matching=0.0))
    mean, variance, nll, divergence = 0.0, 0.0, 0.0, 0.0  # of z_{t+1}; none behind the end
    for step, x in enumerate(reversed(values)):
        stay, prior = (0.0, 1.0) if step == 0 else (STAY, 1 - STAY**2)
        posterior = 1 / (1 / prior + NOISE**-2)
        gain = posterior * NOISE**-2
        surprise = (x - stay * mean) ** 2 + stay**2 * variance
        ratio = posterior / prior
        divergence += 0.5 * (ratio - 1 - np.log(ratio) + gain**2 * surprise / prior)
        mean = stay * mean + gain * (x - stay * mean)
        variance = ((1 - gain) * stay) ** 2 * variance + posterior
        spread = ((x - mean) ** 2 + variance) / NOISE**2
        nll += 0.5 * (spread + np.log(2 * np.pi * NOISE**2))
    assert float(loss.terms["filter_nll"]) / COPIES == pytest.approx(nll, abs=0.03)
    assert float(loss.terms["filter_kl"]) / COPIES == pytest.approx(divergence, abs=0.03)


def test_prior_matching_sees_whether_transitions_are_stationary():
    key = jax.random.key(0)
    assert float(prior_matching(linear_parts(), key, COPIES)) < 1e-3
    # both transitions move the mean by 0.5 and keep the variance: KL = 0.5^2 / 2 each
    moved = float(prior_matching(linear_parts(0.5), key, COPIES))
    assert moved == pytest.approx(2 * 0.5**2 / 2, abs=0.02)


def test_reverse_likelihood_of_a_stationary_chain_is_its_entropy():
    random = np.random.default_rng(0)
    states = [random.normal(size=COPIES)]
    for _ in range(3):
        noise = random.normal(size=COPIES) * np.sqrt(1 - STAY**2)
        states.append(STAY * states[-1] + noise)
    states = jnp.array(np.stack(states, 1)[..., None], jnp.float32)
    valid = jnp.arange(4)[None] < jnp.full((COPIES, 1), 3)  # the last step is padding
    entropy = 0.5 * np.log(2 * np.pi * np.e * (1 - STAY**2))  # the chain is reversible
    marginal = 0.5 * np.log(2 * np.pi * np.e)
    found = float(time_reversal_nll(linear_parts(), states, valid)) / COPIES
    assert found == pytest.approx(2 * entropy + 3 * marginal, abs=0.05)


VIEWS = {"filter_unimodal": 1.0, "smoother_unimodal": 1.0}


@pytest.fixture(scope="module")
def bimodal():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 3, 5, 2))
    x[0, 1:3] = np.nan
    y[1, :, 0] = np.nan
    y[2] = np.nan
    series = series_from_arrays({"x": x, "y": y}, lengths=[5, 4, 2])
    weights = LossWeights(**VIEWS)
    model = MDMM(
        (Modality("x", 2), Modality("y", 2)), 2, 3, Quadrature("particles", 3), weights=weights
    )
    return model, jax.jit(model.init)(jax.random.key(1), series), series


def evaluate(bimodal, shown, **weights):
    model, variables, _ = bimodal

    @jax.jit
    def loss(variables, shown):
        return mdmm_loss(
            model.state_space(variables),
            model.likelihoods,
            shown,
            shown,
            jax.random.key(2),
            model.quadrature,
            LossWeights(**{"prior_matching": 0.0, **VIEWS, **weights}),
        )

    return loss(variables, shown)


def only(series, name):
    """`series` with nothing seen but the modality `name`."""
    return series.hide({other: jnp.array(other == name) for other in series.values})


@pytest.mark.parametrize("part", [{"smoother": 0.0}, {"filter": 0.0, "time_reversal": 0.0}])
def test_views_add_up_to_separate_evaluations(bimodal, part):
    series = bimodal[2]
    together = {"filter_unimodal": 0.0, "smoother_unimodal": 0.0, **part}
    views = evaluate(bimodal, series, **part)
    joint = evaluate(bimodal, series, **together)
    alone = [evaluate(bimodal, only(series, name), **together) for name in ("x", "y")]
    summed = jax.tree.map(lambda *terms: sum(terms), joint.terms, *(a.terms for a in alone))
    chex.assert_trees_all_close(views.terms, summed, rtol=1e-4)


def test_weights_scale_their_terms(bimodal):
    series = bimodal[2]
    plain = evaluate(bimodal, series, filter=1.0, smoother=1.0).terms
    heavy = evaluate(bimodal, series, filter=2.0, smoother=3.0).terms
    for name, value in plain.items():
        factor = 2.0 if name.startswith("filter") else 3.0
        assert float(heavy[name]) == pytest.approx(factor * float(value), rel=1e-4)
    quiet = evaluate(bimodal, series, multipliers={"x": 0.0, "y": 0.0}).terms
    assert float(quiet["filter_nll"]) == float(quiet["smoother_nll"]) == 0.0
    assert float(quiet["smoother_kl"]) > 0


def test_the_filter_bound_fades_out(bimodal):
    model, variables, series = bimodal
    weights = LossWeights(filter=1.0, filter_fade=(0.2, 0.6))

    @jax.jit
    def terms(progress):
        return mdmm_loss(
            model.state_space(variables),
            model.likelihoods,
            series,
            series,
            jax.random.key(2),
            model.quadrature,
            weights,
            progress,
        ).terms

    whole, half, none = terms(0.1), terms(0.4), terms(0.7)
    assert float(half["filter_nll"]) == pytest.approx(0.5 * float(whole["filter_nll"]), rel=1e-5)
    assert float(none["filter_nll"]) == float(none["filter_kl"]) == 0.0
    assert float(none["smoother_kl"]) == float(whole["smoother_kl"]) > 0


def test_padding_changes_nothing(bimodal):
    series = bimodal[2]
    longer = jax.tree.map(
        lambda leaf: leaf if leaf.ndim == 1 else np.pad(leaf, ((0, 0), (0, 4), (0, 0))), series
    )
    a, b = evaluate(bimodal, series), evaluate(bimodal, longer)
    chex.assert_trees_all_close(a.terms, b.terms, rtol=1e-4)
    assert int(a.count) == int(b.count) == 5 + 4 + 2


def test_order_of_modalities_changes_nothing(bimodal):
    model, variables, series = bimodal
    swapped = replace(model, modalities=model.modalities[::-1])
    a, b = (
        jax.jit(m.loss)(variables, series, series, jax.random.key(2)).terms
        for m in (model, swapped)
    )
    chex.assert_trees_all_close(a, b, rtol=1e-4)


@pytest.fixture(scope="module")
def gradient(bimodal):
    """The gradient of the loss, compiled once for all masks."""
    model = bimodal[0]

    @jax.jit
    @jax.grad
    def gradient(variables, shown, targets):
        return model.loss(variables, shown, targets, jax.random.key(0)).total(1.0)

    return gradient


@pytest.mark.parametrize("hidden", ["nothing", "feature", "modality", "step", "everything"])
def test_gradients_are_finite_at_every_mask(bimodal, gradient, hidden):
    _, variables, series = bimodal
    keep = {name: np.ones((3, 5, 2), bool) for name in ("x", "y")}
    if hidden == "feature":
        keep["x"][..., 0] = False
    elif hidden == "modality":
        keep["y"][:] = False
    elif hidden == "step":
        keep["x"][:, 1], keep["y"][:, 1] = False, False
    elif hidden == "everything":
        keep["x"][:], keep["y"][:] = False, False
    shown = series.hide(keep)
    for targets in (series, shown):
        chex.assert_tree_all_finite(gradient(variables, shown, targets))
