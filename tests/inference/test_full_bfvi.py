"""Full-covariance BFVI against the exact joint Gaussian of a chain with coupled dimensions."""

from functools import partial

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from oracles import (
    CHAINS,
    COUPLED,
    PRESENT,
    TIME,
    apply_gated,
    check_gradient,
    draw_evidence,
    gated_parameters,
)
from scipy import stats

from jdmm import InputError, Quadrature, series_from_arrays
from jdmm.inference import filtering, full_bfvi, gaussian, posterior, smoothing
from jdmm.inference.full_bfvi import FullFilteredPosterior
from jdmm.inference.gaussian import Gaussian, Moments
from jdmm.inference.posterior import StateSpaceModel
from jdmm.inference.quadrature import Points, gauss_hermite, rotated_sigma_points
from jdmm.inference.square_root import FullMoments, StepPoints

pytestmark = pytest.mark.usefixtures("x64")

CASES = pytest.mark.parametrize("case", PRESENT)
DIRECTIONS = pytest.mark.parametrize("direction", ["backward", "forward"])

LATENT, PRIOR, coupled = 3, COUPLED.prior, COUPLED.transition

PAIR_PRIOR = Moments(np.array([0.5, -0.3]), np.array([1.7, 0.6]))
"""Of the gated transition; not stationary."""

FILTERS = {
    "backward": jax.jit(full_bfvi.backward_filter, static_argnums=0),
    "forward": jax.jit(full_bfvi.forward_filter, static_argnums=0),
}

smooth = jax.jit(full_bfvi.conditional_smoother, static_argnums=0)


def sigma_points(latent: int = LATENT) -> Points:
    return Points(filtering.sigma_points(latent), np.full(2 * latent, 0.5 / latent))


def particles(series: int, latent: int = 2) -> Points:
    """Other points for every step and series."""
    draws = np.random.default_rng(3).normal(size=(TIME, latent, 5, series))
    return Points(draws, np.full(5, 0.2))


def batched(evidence: Gaussian) -> Gaussian:
    return Gaussian(*(leaf[None] for leaf in evidence))


def stacked(*evidence: Gaussian) -> Gaussian:
    return Gaussian(*(np.stack(leaves) for leaves in zip(*evidence, strict=True)))


def windows(direction: str, t: int) -> tuple[slice, slice]:
    """The steps that inform the prediction, and the filtered state."""
    if direction == "backward":
        return slice(t + 1, None), slice(t, None)
    return slice(0, t), slice(0, t + 1)


def exact_messages(direction: str, evidence: Gaussian) -> list[list[tuple]]:
    """Mean and covariance of the predicted, and of the filtered states, for each step."""
    messages = [[], []]
    for t in range(len(evidence.precision)):
        for own, window in zip(messages, windows(direction, t), strict=True):
            mean, covariance = COUPLED.joint(evidence, window)
            own.append((mean[t], covariance[t, :, t]))
    return messages


def close_messages(found: FullFilteredPosterior, expected: list[list[tuple]]) -> None:
    """Of the first series."""
    for states, messages in zip(found, expected, strict=True):
        for t, (mean, covariance) in enumerate(messages):
            root = np.array(states.root)[0, t]
            np.testing.assert_allclose(states.mean[0, t], mean, 1e-8, 1e-8)
            np.testing.assert_allclose(root @ root.T, covariance, 1e-8, 1e-8)


def close(found, expected, tolerance: float = 1e-8) -> None:
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, tolerance, tolerance)


def draw_noise(time: int, latent: int = LATENT, series: int = 1) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(time, latent, series))


def exact_filtered(evidence: Gaussian, series: int = 1) -> FullMoments:
    """f_t from the dense joint: no error of the library's filter enters."""
    mean, covariance = zip(*exact_messages("backward", evidence)[1], strict=True)
    root = np.linalg.cholesky(np.stack(covariance))
    return FullMoments(np.stack([np.stack(mean)] * series), np.stack([root] * series))


@CASES
@DIRECTIONS
def test_filters_equal_the_exact_joint_gaussian(direction, case):
    """All covariances of q(z_t | x_{t+1:T}) and q(z_t | x_{t:T}), or their mirror images."""
    evidence = draw_evidence(0, PRESENT[case], LATENT)
    found = FILTERS[direction](coupled, PRIOR, batched(evidence), sigma_points())
    close_messages(found, exact_messages(direction, evidence))


def test_the_diagonal_filter_is_not_exact_here():
    """So that the covariances matter in all of the tests of this file."""
    evidence = draw_evidence(0, PRESENT["nothing missing"], LATENT)
    found = filtering.backward_filter(
        coupled, PRIOR, batched(evidence), filtering.sigma_points(LATENT)
    )
    means = np.stack([mean for mean, _ in exact_messages("backward", evidence)[1]])
    assert np.abs(found.filtered.mean[0] - means).max() > 0.05


@CASES
def test_conditional_posteriors_are_exact_given_the_states_drawn(case):
    """q(z_t | z_{t-1}, x_{t:T}) by conditioning the dense joint on the state drawn before."""
    evidence = draw_evidence(0, PRESENT[case], LATENT)
    noise = draw_noise(len(PRESENT[case]))
    found = smooth(coupled, PRIOR, exact_filtered(evidence), noise)
    states = np.array(found.states)[0]
    for t, state in enumerate(states):
        mean, covariance = COUPLED.joint(evidence, slice(t, None))
        own, m = covariance[t, :, t], mean[t]
        if t:
            gain = covariance[t, :, t - 1] @ np.linalg.inv(covariance[t - 1, :, t - 1])
            m = m + gain @ (states[t - 1] - mean[t - 1])
            own = own - gain @ covariance[t - 1, :, t]
        density = stats.multivariate_normal(m, own)
        close(found.posterior.mean[0, t], m)
        close(found.posterior.variance[0, t], np.diag(own))
        close(found.log_determinant[0, t], 0.5 * np.linalg.slogdet(own)[1])
        close(found.log_posterior[0, t], density.logpdf(state))
        # the noise, whitened by some root of the covariance
        close((state - m) @ np.linalg.solve(own, state - m), np.sum(noise[t, :, 0] ** 2))
        prior_mean, prior_variance = COUPLED.kernel(states[t - 1]) if t else PRIOR
        close(found.prior.mean[0, t], prior_mean)
        close(found.prior.variance[0, t], prior_variance)
        close(found.kl()[0, t], divergence(m, own, prior_mean, np.diag(prior_variance)))


def divergence(mean, covariance, prior_mean, prior) -> float:
    """KL(N(mean, covariance) || N(prior_mean, prior))."""
    inverse, away = np.linalg.inv(prior), mean - prior_mean
    ratio = np.linalg.slogdet(prior)[1] - np.linalg.slogdet(covariance)[1]
    return 0.5 * (np.trace(inverse @ covariance) + away @ inverse @ away - len(mean) + ratio)


@CASES
def test_filter_and_smoother_give_the_log_evidence_on_every_path(case):
    """log p(z) + log p(x | z) - log q(z | x) is log p(x) whatever z: the posterior is exact.

    Without noise the states are the posterior means.
    """
    evidence, rows = draw_evidence(2, PRESENT[case], LATENT), 3
    filtered = FILTERS["backward"](coupled, PRIOR, stacked(*[evidence] * rows), sigma_points())
    noise = draw_noise(len(PRESENT[case]), LATENT, rows) * [1, 1, 0]
    found = smooth(coupled, PRIOR, filtered.filtered, noise)
    z = np.array(found.states)
    factors = np.sum(evidence.weighted_mean * z - evidence.precision * z**2 / 2, -1)
    total = np.sum(found.log_ratio() + factors, -1)
    np.testing.assert_allclose(total, COUPLED.log_evidence(evidence), atol=1e-8)
    np.testing.assert_allclose(z[2], COUPLED.joint(evidence)[0], 1e-8, 1e-8)


def test_paths_are_draws_from_the_exact_posterior():
    """Mean and covariances over dimensions and time of 20000 paths within 5 standard errors."""
    evidence, count = draw_evidence(3, [1, 0, 1], LATENT), 20_000
    noise = np.random.default_rng(1).normal(size=(3, LATENT, count))
    states = np.array(smooth(coupled, PRIOR, exact_filtered(evidence, count), noise).states)
    mean, covariance = (leaf.reshape(9, -1) for leaf in COUPLED.joint(evidence))
    centred = states.reshape(count, 9) - mean[:, 0]
    variance = np.diag(covariance)
    assert (np.abs(centred.mean(0)) < 5 * np.sqrt(variance / count)).all()
    error = np.sqrt((np.outer(variance, variance) + covariance**2) / count)
    assert (np.abs(centred.T @ centred / count - covariance) < 5 * error).all()


@CASES
def test_where_the_dimensions_decouple_the_messages_are_the_diagonal_ones(case):
    chain, evidence = CHAINS[3], batched(draw_evidence(1, PRESENT[case], LATENT))
    noise = draw_noise(len(PRESENT[case]))
    found = FILTERS["backward"](chain.transition, chain.prior, evidence, sigma_points())
    expected = filtering.backward_filter(
        chain.transition, chain.prior, evidence, filtering.sigma_points(LATENT)
    )
    close(found.marginals, expected)
    path = smooth(chain.transition, chain.prior, found.filtered, noise)
    diagonal = smoothing.conditional_smoother(
        chain.transition, chain.prior, expected.filtered, noise
    )
    close(path[:3], diagonal[:3])
    close((path.kl(), path.log_ratio()), (diagonal.kl(), diagonal.log_ratio()))


def test_predict_is_exact_for_a_dense_linear_transition():
    """z' | z ~ p(z') N(A z + b, V), any A: mean and covariance by the laws of total expectation."""
    rng, latent = np.random.default_rng(4), 4
    matrix, root = rng.normal(size=(2, latent, latent))
    bias, mean, prior_mean = rng.normal(size=(3, latent))
    noise, prior_variance = rng.uniform(0.1, 2.0, (2, latent))
    offsets, weights = gauss_hermite(latent, 3)
    found = full_bfvi.predict(
        lambda z: Moments(matrix @ z + bias[:, None], noise[:, None] + 0 * z),
        Moments(jnp.array(prior_mean), jnp.array(prior_variance)),
        FullMoments(jnp.array(mean)[:, None], jnp.array(root)[:, :, None]),
        StepPoints(offsets[:, :, None], weights),
    )
    weight = prior_variance / (prior_variance + noise)
    gain = weight[:, None] * matrix @ root
    close(found.mean[:, 0], weight * (matrix @ mean + bias) + (1 - weight) * prior_mean)
    covariance = found.root[..., 0] @ found.root[..., 0].T
    close(covariance, gain @ gain.T + np.diag(weight * noise))


@partial(jax.jit, static_argnums=0)
def gated_filter(direction: str, parameters, evidence: Gaussian, points: Points):
    recursion = {"backward": full_bfvi.backward_filter, "forward": full_bfvi.forward_filter}
    return recursion[direction](partial(apply_gated, parameters), PAIR_PRIOR, evidence, points)


@DIRECTIONS
def test_the_message_is_the_prior_until_something_is_seen(direction):
    """Though the transition is not stationary."""
    evidence = batched(draw_evidence(2, [0, 0, 1, 1, 0, 0], 2))
    predicted = gated_filter(direction, gated_parameters(0), evidence, sigma_points(2)).predicted
    root = np.diag(PAIR_PRIOR.sd)
    same = (np.array(predicted.mean)[0] == PAIR_PRIOR.mean).all(-1)
    same &= (np.array(predicted.root)[0] == root).all((-2, -1))
    unseen = slice(3, None) if direction == "backward" else slice(0, 3)
    assert same[unseen].all() and same.sum() == 3


def test_a_posterior_does_not_depend_on_neighbours_or_padding():
    """Each series of a batch, alone and without its padding; the points differ by series."""
    rows = [[1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 0], [0] * 6]
    evidence = stacked(*(draw_evidence(i, row, 2) for i, row in enumerate(rows)))
    points, parameters = particles(3), gated_parameters(2)
    together = gated_filter("backward", parameters, evidence, points)
    for i, length in enumerate([6, 4, 6]):

        def own(leaf, i=i, n=length):
            return np.array(leaf)[i : i + 1, :n]

        alone = gated_filter(
            "backward",
            parameters,
            jax.tree.map(own, evidence),
            Points(points.offsets[:length, ..., i : i + 1], points.weights),
        )
        close(alone, jax.tree.map(own, together))


def test_views_share_points_and_noise():
    """Further axes in front of the batch: as if each view were filtered and smoothed alone."""
    views = [["nothing missing", "head missing"], ["everything missing", "stretch missing"]]
    evidence = [
        stacked(*(draw_evidence(10 * v + i, PRESENT[case], 2) for i, case in enumerate(cases)))
        for v, cases in enumerate(views)
    ]
    transition, noise = partial(apply_gated, gated_parameters(4)), draw_noise(TIME, 2, 2)

    @jax.jit
    def run(evidence: Gaussian, points: Points):
        found = full_bfvi.backward_filter(transition, PAIR_PRIOR, evidence, points)
        path = full_bfvi.conditional_smoother(transition, PAIR_PRIOR, found.filtered, noise)
        return found, path

    rotated = Points(rotated_sigma_points(jax.random.key(0), TIME, 2), np.full(4, 0.25))
    for points in (particles(2), rotated):
        together = run(stacked(*evidence), points)
        assert together[0].predicted.root.shape == (2, 2, TIME, 2, 2)
        assert together[1].log_posterior.shape == (2, 2, TIME)
        for v in range(2):
            close(run(evidence[v], points), jax.tree.map(lambda leaf, v=v: leaf[v], together))


def test_streaming():
    """Repeated `filter_step` from the prior, kept until the first evidence: `forward_filter`."""
    transition, points = partial(apply_gated, gated_parameters(3)), particles(1)
    present = PRESENT["head missing"]
    evidence = draw_evidence(7, present, 2)
    expected = gated_filter("forward", gated_parameters(3), batched(evidence), points)
    step = jax.jit(partial(full_bfvi.filter_step, transition, PAIR_PRIOR))
    start = predicted = full_bfvi.prior_states(PAIR_PRIOR, 1)
    for t in range(TIME):
        own = Gaussian(*(leaf[t, :, None] for leaf in evidence))
        found = step(predicted, own, StepPoints(points.offsets[t], points.weights))
        for states, each in zip((predicted, found[0]), expected, strict=True):
            close(states.mean[:, 0], each.mean[0, t])
            close(states.root[..., 0], each.root[0, t])
        predicted = found[1] if any(present[: t + 1]) else start


@jax.jit
@jax.value_and_grad
def scalar(inputs, keep, noise, weights):
    """To which every output of filter and smoother contributes; no evidence without `keep`."""
    parameters, prior, evidence = inputs
    transition, evidence = partial(apply_gated, parameters), gaussian.mask(evidence, keep)
    found = full_bfvi.backward_filter(transition, prior, evidence, sigma_points(2))
    path = full_bfvi.conditional_smoother(transition, prior, found.filtered, noise)
    outputs = (found, path, path.kl(), path.log_ratio())
    terms = zip(weights, jax.tree.leaves(outputs), strict=True)
    return sum(weight * jnp.sum(jnp.sin(leaf)) for weight, leaf in terms)


@CASES
def test_gradients(case):
    """Finite, and equal to finite differences, for parameters, prior and evidence."""
    time = len(PRESENT[case])
    keep = np.array(PRESENT[case], bool)[None, :, None]
    weights = np.random.default_rng(6).normal(size=13)
    inputs = (gated_parameters(1), PAIR_PRIOR, batched(draw_evidence(5, np.ones(time), 2)))
    noise = draw_noise(time, 2)
    _, _, evidence = check_gradient(lambda x: scalar(x, keep, noise, weights), inputs)
    used = np.any(np.array(evidence.precision) != 0, -1)
    np.testing.assert_array_equal(used, keep[..., 0])


@DIRECTIONS
def test_messages_stay_within_reach_of_the_prior(direction):
    """A transition that pushes far away, and one that spreads: held at MAX_DEVIATION sd of p(z)."""
    evidence = batched(draw_evidence(8, PRESENT["stretch missing"], 2))
    moved = slice(0, -1) if direction == "backward" else slice(1, None)

    def pushing(z: jax.Array) -> Moments:
        return Moments(z + np.array([[1e3], [-1e3]]), 1e-4 + 0 * z)

    def spreading(z: jax.Array) -> Moments:
        return Moments(1e3 * z, 1e-4 + 0 * z)

    predicted = FILTERS[direction](pushing, PAIR_PRIOR, evidence, sigma_points(2)).predicted
    width = filtering.MAX_DEVIATION * PAIR_PRIOR.sd
    edge = PAIR_PRIOR.mean + np.array([1, -1]) * width
    np.testing.assert_allclose(predicted.mean[0, moved], np.tile(edge, (TIME - 1, 1)))
    found = FILTERS[direction](spreading, PAIR_PRIOR, evidence, sigma_points(2)).marginals
    np.testing.assert_allclose(found.predicted.sd[0, moved], np.tile(width, (TIME - 1, 1)))


def test_an_explosive_transition_stays_finite_in_single_precision():
    """A quotient that is steep and sure of itself at once: values and gradients over 200 steps."""

    @jax.jit
    @jax.value_and_grad
    def run(evidence):
        def transition(z):
            return Moments(5 * z, 1e-4 + 0 * z)

        prior = Moments(jnp.zeros(2), jnp.ones(2))
        points = sigma_points(2)
        points = Points(points.offsets, points.weights.astype(np.float32))
        found = full_bfvi.backward_filter(transition, prior, evidence, points)
        path = full_bfvi.conditional_smoother(
            transition, prior, found.filtered, np.zeros((200, 2, 1), np.float32)
        )
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves((found, path)))

    with jax.enable_x64(False):
        leaves = jax.tree.leaves(run(Gaussian(*np.full((2, 1, 200, 2), 0.5, np.float32))))
    assert all(np.isfinite(leaf).all() for leaf in leaves)


def coupled_ssm(evidence: Gaussian) -> StateSpaceModel:
    """Whose encoder gives this evidence to every series."""

    def encode(series):
        shape = (series.batch, *evidence.precision.shape)
        return {"x": Gaussian(*(jnp.broadcast_to(leaf, shape) for leaf in evidence))}

    return StateSpaceModel(PRIOR, coupled, coupled, encode, dict, posterior.FULL)


def test_posteriors_of_a_model_with_full_covariance():
    """Means, samples of constant weight, and both filters; the marginal smoother is refused."""
    evidence = draw_evidence(9, PRESENT["one step missing"], LATENT)
    ssm, key, rule = coupled_ssm(evidence), jax.random.key(0), Quadrature("particles", 6)
    series = series_from_arrays({"x": np.zeros((2, TIME))})
    mean = jax.jit(partial(posterior.posterior_mean_path, ssm, quadrature=rule))(series, key)
    close(mean.states[0], COUPLED.joint(evidence)[0])
    sample = partial(posterior.posterior_sample_paths, ssm, quadrature=rule, count=3)
    path = jax.jit(sample)(series, key)
    z = np.array(path.states)
    assert len(np.unique(z)) == z.size
    factors = np.sum(evidence.weighted_mean * z - evidence.precision * z**2 / 2, (-2, -1))
    total = np.array(path.log_ratio()).sum(-1) + factors
    np.testing.assert_allclose(total, COUPLED.log_evidence(evidence), rtol=1e-8)
    close(jax.jit(partial(sample, scale=0.0))(series, key).states[1], mean.states)

    filters = {"backward": posterior.filter_backward, "forward": posterior.filter_forward}
    for direction, run in filters.items():
        found = run(ssm, series, key, rule)
        for own, messages in zip(found, exact_messages(direction, evidence), strict=True):
            close(own.mean[1], np.stack([m for m, _ in messages]))
            close(own.variance[1], np.stack([np.diag(c) for _, c in messages]))
    with pytest.raises(InputError, match="'diagonal' for the marginal smoother, got 'full'"):
        posterior.smooth_marginals(ssm, series, key, rule)
