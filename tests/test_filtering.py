"""Filters against the exact joint Gaussian, and the independences that they promise."""

from functools import partial

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from jax.test_util import check_grads
from oracles import CHAINS, PRESENT, TIME, draw_evidence, gated_transition, marginals

from jdmm import gaussian
from jdmm.filtering import (
    FilteredPosterior,
    backward_filter,
    filter_step,
    forward_filter,
    particles,
    predict,
    sigma_points,
)
from jdmm.gaussian import Gaussian, Moments

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


def batched(evidence: Gaussian) -> Gaussian:
    return jax.tree.map(lambda leaf: jnp.array(leaf)[None], evidence)


def offsets_of(points: str, batch: int, time: int, latent: int) -> jax.Array:
    if points == "sigma points":
        return sigma_points(latent)
    return particles(jax.random.key(0), 4, batch, time, latent)


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
    close(found.message, Moments(*(m[None] for m in marginals(chain, evidence, window))))
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
    apply, parameters = gated_transition(2, 3, 0)
    prior = Moments(jnp.array([0.5, -0.3]), jnp.array([1.7, 0.6]))
    evidence = draw_evidence(2, [0, 0, 1, 1, 0, 0], 2)
    offsets = offsets_of(points, 1, TIME, 2)
    found = FILTERS[direction](partial(apply, parameters), prior, batched(evidence), offsets)
    unseen = slice(3, None) if direction == "backward" else slice(0, 3)
    for name in Moments._fields:
        message = np.array(getattr(found.message, name))[0]
        same = (message == np.array(getattr(prior, name))).all(-1)
        assert same[unseen].all() and same.sum() == 3


@DIRECTIONS
def test_random_particles_converge(direction):
    """The error against the exact messages falls as 1 / sqrt(K): tenfold from 100 to 10000."""
    rows, chain = 100, CHAINS[3]
    evidence = draw_evidence(3, [1, 1, 1, 1], 3)
    exact = marginals(chain, evidence, WINDOW[direction])
    many = jax.tree.map(lambda leaf: jnp.tile(jnp.array(leaf)[None], (rows, 1, 1)), evidence)
    errors = []
    for count in (100, 10_000):
        offsets = particles(jax.random.key(1), count, rows, 4, 3)
        found = FILTERS[direction](chain.transition, chain.prior, many, offsets).message
        errors.append([
            np.sqrt(np.mean((np.array(getattr(found, name)) - getattr(exact, name)) ** 2))
            for name in Moments._fields
        ])
    ratio = np.divide(*errors)
    assert (ratio > 8).all() and (ratio < 12.5).all(), ratio


def test_one_particle_gives_the_kernel_of_the_state_drawn():
    """K = 1: f_t is drawn with the offset, and the next message is p(z' | z) there."""
    chain, evidence = CHAINS[3], draw_evidence(4, [1, 1, 0, 1, 1, 1], 3)
    offsets = particles(jax.random.key(2), 1, 1, TIME, 3)
    found = FILTERS["backward"](chain.transition, chain.prior, batched(evidence), offsets)
    noise = np.array(offsets)[:, :, 0, 0]
    states = np.array(found.filtered.mean[0]) + np.sqrt(found.filtered.variance[0]) * noise
    mean, variance = chain.kernel(states[1:])
    close(Moments(*(leaf[0, :-1] for leaf in found.message)), Moments(mean, variance))  # type: ignore[arg-type]


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
        lambda z: Moments(matrix @ z + bias, jnp.array(noise)),
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


def loss(filter_, parameters, prior, evidence, offsets, weights):
    """A scalar to which every output contributes."""
    apply, _ = gated_transition(2, 3, 0)
    outputs = filter_(partial(apply, parameters), prior, evidence, offsets)
    leaves = jax.tree.leaves(outputs)
    return sum(jnp.sum(w * jnp.sin(leaf)) for w, leaf in zip(weights, leaves, strict=True))


LOSSES = {
    "backward": jax.jit(partial(loss, backward_filter)),
    "forward": jax.jit(partial(loss, forward_filter)),
}


@CASES
@DIRECTIONS
@POINTS
def test_gradients(points, direction, case):
    """Finite, and equal to finite differences, for parameters, prior and evidence."""
    _, parameters = gated_transition(2, 3, 1)
    prior = Moments(jnp.array([0.5, -0.3]), jnp.array([1.7, 0.6]))
    evidence = batched(draw_evidence(5, PRESENT[case], 2))
    time = len(PRESENT[case])
    offsets = offsets_of(points, 1, time, 2)
    weights = np.random.default_rng(6).normal(size=(4, 1, time, 2))
    keep = jnp.array(PRESENT[case], bool)[None, :, None]

    def value(parameters, prior, evidence):
        evidence = gaussian.mask(evidence, keep)
        return LOSSES[direction](parameters, prior, evidence, offsets, weights)

    # what is masked may hold anything
    evidence = jax.tree.map(lambda leaf: jnp.where(keep, leaf, 3.0), evidence)
    inputs = (parameters, prior, evidence)
    gradient = jax.tree.leaves(jax.grad(value, (0, 1, 2))(*inputs))
    assert all(np.isfinite(leaf).all() for leaf in gradient)
    assert any((leaf != 0).any() for leaf in gradient)
    check_grads(value, inputs, order=1, modes=("rev",), atol=1e-6, rtol=1e-6)


@DIRECTIONS
@POINTS
def test_a_posterior_does_not_depend_on_neighbours_or_padding(points, direction):
    """Each series of a batch, alone and without its padding."""
    apply, parameters = gated_transition(2, 3, 2)
    transition = partial(apply, parameters)
    prior = Moments(jnp.array([0.5, -0.3]), jnp.array([1.7, 0.6]))
    rows = [[1, 1, 1, 1, 1, 1], [1, 0, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0] * 6]
    lengths = [6, 4, 2, 6]
    evidence = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(draw_evidence(i, r, 2) for i, r in enumerate(rows))
    )
    offsets = offsets_of(points, 4, TIME, 2)
    together = FILTERS[direction](transition, prior, evidence, offsets)
    for i, length in enumerate(lengths):
        alone = FILTERS[direction](
            transition,
            prior,
            jax.tree.map(lambda leaf, i=i, n=length: leaf[i : i + 1, :n], evidence),
            offsets if points == "sigma points" else offsets[:length, ..., i : i + 1],
        )
        rest = jax.tree.map(lambda leaf, i=i, n=length: leaf[i : i + 1, :n], together)
        close_posteriors(alone, rest)


def test_particles_do_not_depend_on_neighbours_or_padding():
    """The numbers of a smaller batch are those of the larger one, and none is used twice."""
    key = jax.random.key(3)
    large = np.array(particles(key, 4, 5, TIME, 2))
    assert large.shape == (TIME, 2, 4, 5)
    np.testing.assert_array_equal(particles(key, 4, 3, 4, 2), large[:4, :, :, :3])
    assert len(np.unique(large)) == large.size
    assert (particles(jax.random.key(4), 4, 5, TIME, 2) != large).all()


def test_particles_are_standard_normal():
    """Mean, variance and fourth moment within 5 standard errors."""
    draws = np.array(particles(jax.random.key(5), 25, 50, 20, 2)).ravel()
    root = np.sqrt(draws.size)
    assert abs(draws.mean()) < 5 / root
    assert abs((draws**2).mean() - 1) < 5 * np.sqrt(2) / root
    assert abs((draws**4).mean() - 3) < 5 * np.sqrt(96) / root


@CASES
@POINTS
def test_streaming(points, case):
    """Repeated `filter_step` from the prior, kept until the first evidence: `forward_filter`."""
    apply, parameters = gated_transition(2, 3, 3)
    transition = partial(apply, parameters)
    prior = Moments(jnp.array([0.5, -0.3]), jnp.array([1.7, 0.6]))
    evidence, time = draw_evidence(7, PRESENT[case], 2), len(PRESENT[case])
    offsets = offsets_of(points, 1, time, 2)
    start = message = Moments(*(leaf[:, None] for leaf in prior))
    expected, seen = FILTERS["forward"](transition, prior, batched(evidence), offsets), False
    for t in range(time):
        step = Gaussian(*(jnp.array(leaf[t])[:, None] for leaf in evidence))
        points_t = offsets[0 if points == "sigma points" else t]
        close(Moments(*(m[:, 0] for m in message)), Moments(*(m[0, t] for m in expected.message)))
        filtered, message = filter_step(transition, prior, message, step, points_t)
        close(Moments(*(m[:, 0] for m in filtered)), Moments(*(m[0, t] for m in expected.filtered)))
        seen = seen or bool(PRESENT[case][t])
        message = message if seen else start


@DIRECTIONS
@POINTS
def test_views_share_the_points(points, direction):
    """Further axes in front of the batch: as if each view were filtered alone."""
    apply, parameters = gated_transition(2, 3, 4)
    transition = partial(apply, parameters)
    prior = Moments(jnp.array([0.5, -0.3]), jnp.array([1.7, 0.6]))
    views = [[PRESENT["nothing missing"], PRESENT["head missing"]],
             [PRESENT["tail missing"], PRESENT["everything missing"]],
             [PRESENT["one step seen"], PRESENT["stretch missing"]]]
    each = [
        jax.tree.map(
            lambda *leaves: jnp.stack(leaves),
            *(draw_evidence(10 * v + i, row, 2) for i, row in enumerate(rows)),
        )
        for v, rows in enumerate(views)
    ]
    offsets = offsets_of(points, 2, TIME, 2)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    together = FILTERS[direction](transition, prior, stacked, offsets)
    assert together.message.mean.shape == (3, 2, TIME, 2)
    for v, evidence in enumerate(each):
        alone = FILTERS[direction](transition, prior, evidence, offsets)
        close_posteriors(alone, jax.tree.map(lambda leaf, v=v: leaf[v], together))
    nested = jax.tree.map(lambda leaf: leaf[None], stacked)
    found = FILTERS[direction](transition, prior, nested, offsets)
    close_posteriors(jax.tree.map(lambda leaf: leaf[0], found), together)
