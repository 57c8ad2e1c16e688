"""Filters against the exact joint Gaussian, and the independences that they promise."""

from functools import partial

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from oracles import (
    CHAINS,
    PRESENT,
    TIME,
    apply_gated,
    check_gradient,
    draw_evidence,
    gated_parameters,
    marginals,
)

from jdmm.inference import gaussian
from jdmm.inference.filtering import (
    MAX_DEVIATION,
    FilteredPosterior,
    backward_filter,
    filter_step,
    forward_filter,
    particles,
    predict,
    sigma_points,
)
from jdmm.inference.gaussian import Gaussian, Moments

pytestmark = pytest.mark.usefixtures("x64")

CASES = pytest.mark.parametrize("case", PRESENT)
LATENTS = pytest.mark.parametrize("latent", [1, 3])
DIRECTIONS = pytest.mark.parametrize("direction", ["backward", "forward"])
POINTS = pytest.mark.parametrize("points", ["sigma points", "particles"])

FILTERS = {
    "backward": jax.jit(backward_filter, static_argnums=0),
    "forward": jax.jit(forward_filter, static_argnums=0),
}
WINDOW = {"backward": "future", "forward": "past"}

PRIOR = Moments(np.array([0.5, -0.3]), np.array([1.7, 0.6]))
"""Not stationary under the gated transition."""

draw_particles = jax.jit(particles, static_argnums=(1, 3, 4))


@partial(jax.jit, static_argnums=0)
def gated_filter(direction: str, parameters, evidence: Gaussian, offsets, prior=PRIOR):
    """A filter with the library's own transition."""
    recursion = {"backward": backward_filter, "forward": forward_filter}[direction]
    return recursion(partial(apply_gated, parameters), prior, evidence, offsets)


def batched(evidence: Gaussian) -> Gaussian:
    return Gaussian(*(leaf[None] for leaf in evidence))


def stacked(*evidence: Gaussian) -> Gaussian:
    return Gaussian(*(np.stack(leaves) for leaves in zip(*evidence, strict=True)))


def offsets_of(points: str, batch: int, time: int, latent: int) -> np.ndarray:
    if points == "sigma points":
        return np.array(sigma_points(latent))
    assert latent == 2
    return np.array(draw_particles(jax.random.key(0), 4, np.arange(4), TIME, 2))[:time, ..., :batch]


def close(found: Moments, expected: Moments, tolerance: float = 1e-6) -> None:
    for name in Moments._fields:
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), tolerance, tolerance, err_msg=name
        )


def close_posteriors(found: FilteredPosterior, expected: FilteredPosterior) -> None:
    for one, other in zip(found, expected, strict=True):
        close(one, other, 1e-9)


@CASES
@LATENTS
@DIRECTIONS
def test_filters_equal_the_exact_joint_gaussian(direction, latent, case):
    """q(z_t | x_{t+1:T}) and q(z_t | x_{t:T}), or their mirror images, by dense inversion."""
    chain, evidence = CHAINS[latent], draw_evidence(0, PRESENT[case], latent)
    found = FILTERS[direction](
        chain.transition, chain.prior, batched(evidence), sigma_points(latent)
    )
    window = WINDOW[direction]
    close(found.predicted, Moments(*(m[None] for m in marginals(chain, evidence, window))))
    close(
        found.filtered,
        Moments(*(m[None] for m in marginals(chain, evidence, f"present and {window}"))),
    )


@LATENTS
def test_a_series_shorter_than_its_batch_starts_at_its_own_end(latent):
    """Four steps padded to six: exact on the four, the prior behind them."""
    chain, evidence = CHAINS[latent], draw_evidence(1, [1, 0, 1, 1], latent)
    padded = Gaussian(*(np.pad(leaf, ((0, 2), (0, 0))) for leaf in evidence))
    found = FILTERS["backward"](
        chain.transition, chain.prior, batched(padded), sigma_points(latent)
    )
    for posterior, window in zip(found, ["future", "present and future"], strict=True):
        expected = marginals(chain, evidence, window)
        close(Moments(*(leaf[0, :4] for leaf in posterior)), expected)
        np.testing.assert_allclose(posterior.mean[0, 4:], [chain.mean] * 2, rtol=1e-12)
        np.testing.assert_allclose(posterior.variance[0, 4:], np.square([chain.sd] * 2))


@DIRECTIONS
@POINTS
def test_the_message_is_the_prior_until_something_is_seen(direction, points):
    """Exactly, though the transition is not stationary."""
    evidence = batched(draw_evidence(2, [0, 0, 1, 1, 0, 0], 2))
    offsets = offsets_of(points, 1, TIME, 2)
    found = gated_filter(direction, gated_parameters(0), evidence, offsets)
    unseen = slice(3, None) if direction == "backward" else slice(0, 3)
    for name in Moments._fields:
        predicted = np.array(getattr(found.predicted, name))[0]
        same = (predicted == getattr(PRIOR, name)).all(-1)
        assert same[unseen].all() and same.sum() == 3


def test_random_particles_converge():
    """The error against the exact predictions falls as 1 / sqrt(K): tenfold from 50 to 5000."""
    rows, chain = 50, CHAINS[3]
    evidence = draw_evidence(3, [1, 1, 1], 3)
    exact = marginals(chain, evidence, "future")
    errors = []
    for count in (50, 5000):
        with jax.enable_x64(False):
            offsets = draw_particles(jax.random.key(1), count, np.arange(rows), 3, 3)
            found = FILTERS["backward"](
                chain.transition, chain.prior, stacked(*[evidence] * rows), offsets
            ).predicted
        pairs = zip(found, exact, strict=True)
        errors.append([np.sqrt(np.mean((np.array(one) - other) ** 2)) for one, other in pairs])
    ratio = np.divide(*errors)
    assert (ratio > 8).all() and (ratio < 12.5).all(), ratio


def test_one_particle_gives_the_kernel_of_the_state_drawn():
    """K = 1: f_t is drawn with the offset, and the next predicted is p(z' | z) there."""
    chain, evidence = CHAINS[3], draw_evidence(4, [1, 1, 0, 1, 1, 1], 3)
    offsets = np.random.default_rng(2).normal(size=(TIME, 3, 1, 1))
    found = FILTERS["backward"](chain.transition, chain.prior, batched(evidence), offsets)
    noise = offsets[:, :, 0, 0]
    states = np.array(found.filtered.mean[0]) + np.sqrt(found.filtered.variance[0]) * noise
    mean, variance = chain.kernel(states[1:])
    close(Moments(*(leaf[0, :-1] for leaf in found.predicted)), Moments(mean, variance))


@pytest.mark.parametrize("latent", [2, 5])
def test_predict_is_exact_for_a_dense_linear_transition(latent):
    """z' | z ~ N(A z + b, V): the quotient's product with p(z') is linear in z too.

    Its weight is w = s0^2 / (s0^2 + v): exact mean and variance by the laws of total
    expectation and variance.
    """
    rng = np.random.default_rng(latent)
    matrix, bias = rng.normal(size=(latent, latent)), rng.normal(size=latent)
    noise, prior_variance, variance = rng.uniform(0.1, 2.0, (3, latent))
    prior_mean, mean = rng.normal(size=(2, latent))

    found = predict(
        lambda z: Moments(matrix @ z + bias[:, None], noise[:, None] + 0 * z),
        Moments(jnp.array(prior_mean), jnp.array(prior_variance)),
        Moments(jnp.array(mean)[:, None], jnp.array(variance)[:, None]),
        sigma_points(latent)[0],
    )
    weight = prior_variance / (prior_variance + noise)
    gain = weight[:, None] * matrix
    expected = Moments(
        weight * (matrix @ mean + bias) + (1 - weight) * prior_mean,
        weight * noise + np.diag(gain @ np.diag(variance) @ gain.T),
    )
    close(Moments(*(leaf[:, 0] for leaf in found)), expected, 1e-10)


@jax.jit
@jax.value_and_grad
def scalar(inputs, keep, offsets, weights):
    """To which every output contributes, and no evidence where `keep` is false."""
    parameters, prior, evidence = inputs
    evidence = gaussian.mask(evidence, keep)
    outputs = gated_filter("backward", parameters, evidence, offsets, prior)
    terms = zip(weights, jax.tree.leaves(outputs), strict=True)
    return sum(jnp.sum(weight * jnp.sin(leaf)) for weight, leaf in terms)


@CASES
@POINTS
def test_gradients(points, case):
    """Finite, and equal to finite differences, for parameters, prior and evidence."""
    time = len(PRESENT[case])
    keep = np.array(PRESENT[case], bool)[None, :, None]
    offsets = offsets_of(points, 1, time, 2)
    weights = np.random.default_rng(6).normal(size=(4, 1, time, 2))
    inputs = (gated_parameters(1), PRIOR, batched(draw_evidence(5, np.ones(time), 2)))
    _, _, evidence = check_gradient(lambda x: scalar(x, keep, offsets, weights), inputs)
    used = np.any(np.array(evidence.precision) != 0, -1)
    np.testing.assert_array_equal(used, keep[..., 0])


@POINTS
def test_a_posterior_does_not_depend_on_neighbours_or_padding(points):
    """Each series of a batch, alone and without its padding."""
    rows = [[1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 0], [0, 1, 0, 0, 0, 0], [0] * 6]
    lengths = [6, 4, 6, 6]
    evidence = stacked(*(draw_evidence(i, row, 2) for i, row in enumerate(rows)))
    offsets = offsets_of(points, 4, TIME, 2)
    together = gated_filter("backward", gated_parameters(2), evidence, offsets)
    for i, length in enumerate(lengths):

        def own(leaf, i=i, n=length):
            return np.array(leaf)[i : i + 1, :n]

        noise = offsets if points == "sigma points" else offsets[:length, ..., i : i + 1]
        alone = gated_filter("backward", gated_parameters(2), jax.tree.map(own, evidence), noise)
        close_posteriors(alone, jax.tree.map(own, together))


def test_particles_do_not_depend_on_neighbours_or_padding():
    """The numbers of a smaller batch are those of the larger one, and none is used twice."""
    key = jax.random.key(3)
    large = np.array(draw_particles(key, 4, np.arange(5), TIME, 2))
    assert large.shape == (TIME, 2, 4, 5)
    few = np.array([3, 0, 1])
    np.testing.assert_array_equal(draw_particles(key, 4, few, 4, 2), large[:4][..., few])
    assert len(np.unique(large)) == large.size
    assert (draw_particles(jax.random.key(4), 4, np.arange(5), TIME, 2) != large).all()


def test_particles_are_standard_normal():
    """Mean, variance and fourth moment within 5 standard errors."""
    draws = np.array(draw_particles(jax.random.key(5), 25, np.arange(50), 20, 2)).ravel()
    root = np.sqrt(draws.size)
    assert abs(draws.mean()) < 5 / root
    assert abs((draws**2).mean() - 1) < 5 * np.sqrt(2) / root
    assert abs((draws**4).mean() - 3) < 5 * np.sqrt(96) / root


@CASES
def test_streaming(case):
    """Repeated `filter_step` from the prior, kept until the first evidence: `forward_filter`."""
    parameters, time = gated_parameters(3), len(PRESENT[case])
    evidence, offsets = draw_evidence(7, PRESENT[case], 2), offsets_of("particles", 1, time, 2)
    expected = gated_filter("forward", parameters, batched(evidence), offsets)
    start = predicted = Moments(*(leaf[:, None] for leaf in PRIOR))
    seen = False
    for t in range(time):
        close(
            Moments(*(m[:, 0] for m in predicted)), Moments(*(m[0, t] for m in expected.predicted))
        )
        step = Gaussian(*(leaf[t, :, None] for leaf in evidence))
        filtered, predicted = gated_step(parameters, predicted, step, offsets[t])
        close(Moments(*(m[:, 0] for m in filtered)), Moments(*(m[0, t] for m in expected.filtered)))
        seen = seen or bool(PRESENT[case][t])
        predicted = predicted if seen else start


@jax.jit
def gated_step(parameters, predicted: Moments, evidence: Gaussian, offsets):
    return filter_step(partial(apply_gated, parameters), PRIOR, predicted, evidence, offsets)


def test_views_share_the_points():
    """Further axes in front of the batch: as if each view were filtered alone."""
    views = [
        ["nothing missing", "head missing", "everything missing", "one step seen"],
        ["tail missing", "everything missing", "nothing missing", "stretch missing"],
    ]
    each = [
        stacked(*(draw_evidence(10 * v + i, PRESENT[case], 2) for i, case in enumerate(cases)))
        for v, cases in enumerate(views)
    ]
    parameters, offsets = gated_parameters(4), offsets_of("particles", 4, TIME, 2)
    together = gated_filter("backward", parameters, stacked(*each), offsets)
    assert together.predicted.mean.shape == (2, 4, TIME, 2)
    for v, evidence in enumerate(each):
        alone = gated_filter("backward", parameters, evidence, offsets)
        close_posteriors(alone, jax.tree.map(lambda leaf, v=v: leaf[v], together))


@DIRECTIONS
def test_messages_stay_within_reach_of_the_prior(direction):
    """A transition that pushes far away and is sure of itself: held at MAX_DEVIATION sd of p(z)."""

    def pushing(z: jax.Array) -> Moments:
        return Moments(z + np.array([[1e3], [-1e3]]), 1e-4 + 0 * z)

    evidence = batched(draw_evidence(8, PRESENT["stretch missing"], 2))
    predicted = FILTERS[direction](pushing, PRIOR, evidence, sigma_points(2)).predicted
    moved = np.array(predicted.mean)[0, slice(0, -1) if direction == "backward" else slice(1, None)]
    edge = PRIOR.mean + np.array([MAX_DEVIATION, -MAX_DEVIATION]) * PRIOR.sd
    np.testing.assert_allclose(moved, np.tile(edge, (TIME - 1, 1)))
