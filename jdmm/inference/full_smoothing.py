"""Smoothers with full covariance: Rauch-Tung-Striebel, posterior linearisation, sample paths.

A posterior over paths is Markov backwards in time. It is kept as the filtered distribution of the
last step and p(z_t | z_{t+1}, x_{1:t}) of every step before, each linear in z_{t+1} and Gaussian.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Float, Int

from jdmm.inference import affine, linalg, square_root
from jdmm.inference.full_filtering import (
    Evidence,
    FilteredStates,
    FullModel,
    Linearised,
    full_filter,
    initial_states,
    linear_filter,
)
from jdmm.inference.gaussian import Moments
from jdmm.inference.quadrature import Points
from jdmm.inference.square_root import Affine, FullMoments, StepPoints
from jdmm.series import Array

DIVERGED = 10.0
"""Nats per step by which the means may become less probable than those of the first smoother."""


WIDENED = 100.0
"""Factor of the variance of the process noise behind the second start of posterior linearisation.

With little noise, the dynamics tie all steps together, and the iteration stays near a poor start.
"""


class PathPosterior(NamedTuple):
    """A Gaussian over the paths of each series, with the time in front.

    smoothed: p(z_t | x_{1:T}), ``(time, latent, n)`` and ``(time, latent, latent, n)``, the roots
        lower triangular.
    backward: p(z_t | z_{t+1}, x_{1:t}). At and after the last step of a series it does not depend
        on z_{t+1}.
    log_likelihood: log p(x) under the model as it was linearised, in nats, ``(n,)``.
    """

    smoothed: FullMoments
    backward: Affine
    log_likelihood: Float[Array, " n"]


def smooth_path(
    model: FullModel, evidence: Evidence, lengths: Int[Array, " n"], points: Points
) -> PathPosterior:
    """The filter, and the Rauch-Tung-Striebel smoother behind it.

    Args:
        model: the model.
        evidence: of all steps, time in front.
        lengths: number of steps of each series.
        points: of the quadrature.
    """
    found = full_filter(model, evidence, points)

    def reverse(own: tuple[FullMoments, Any], at: StepPoints) -> Affine:
        filtered, inputs = own
        return square_root.reverse(model.transition_to(inputs), filtered, at)

    backward = over_time(reverse, points, (found.filtered, model.next_inputs))
    return _smooth(found, backward, lengths)


def linearise(model: FullModel, around: FullMoments, points: Points, features: int) -> Linearised:
    """The model, linear in the state at each step: the regression on the Gaussians `around`.

    Args:
        model: the model.
        around: ``(time, latent, n)``, with triangular roots.
        points: of the quadrature.
        features: number of features.
    """
    diagonal = features > model.latent

    def transition(own: tuple[FullMoments, Any], at: StepPoints) -> Affine:
        states, inputs = own
        return affine.linearise(model.transition_to(inputs), states, at)

    return Linearised(
        over_time(transition, points, (around, model.next_inputs)),
        over_time(
            lambda own, at: affine.linearise_emission(model.emission, own, at, diagonal),
            points,
            around,
        ),
    )


def linearised_posterior(
    model: FullModel,
    evidence: Evidence,
    lengths: Int[Array, " n"],
    points: Points,
    iterations: int,
    tolerance: float = 1e-2,
) -> PathPosterior:
    """Posterior linearisation from two starts; of each series the more probable path.

    One start is `smooth_path`. The other comes from iterations with `WIDENED` process noise, which
    take the first half of their number.

    Args:
        model: the model.
        evidence: of all steps, time in front.
        lengths: number of steps of each series.
        points: of the quadrature.
        iterations: at most.
        tolerance: root mean square move of the last one, in units of the smoothed sd.
    """
    plain = smooth_path(model, evidence, lengths, points)
    plain = iterate_linearisation(model, evidence, lengths, points, plain, iterations, tolerance)
    wide = widened(model, WIDENED)
    path = smooth_path(wide, evidence, lengths, points)
    first = iterations // 2
    path = iterate_linearisation(wide, evidence, lengths, points, path, first, tolerance)
    start = smooth_linearised(model, path.smoothed, evidence, lengths, points)
    rest = iterations - first
    other = iterate_linearisation(model, evidence, lengths, points, start, rest, tolerance)
    costs = [path_cost(model, each.smoothed.mean, evidence, lengths) for each in (plain, other)]
    return _choose(costs[1] < costs[0], other, plain)


def widened(model: FullModel, factor: float) -> FullModel:
    """The model with the variance of its process noise multiplied by a factor."""

    def transition(*given: Any) -> Moments:
        mean, variance = model.transition(*given)
        return Moments(mean, factor * variance)

    return replace(model, transition=transition)


def smooth_linearised(
    model: FullModel,
    around: FullMoments,
    evidence: Evidence,
    lengths: Int[Array, " n"],
    points: Points,
) -> PathPosterior:
    """The Kalman filter and smoother of the model, linearised around states.

    Args:
        model: the model.
        around: ``(time, latent, n)``, with triangular roots.
        evidence: of all steps, time in front.
        lengths: number of steps of each series.
        points: of the quadrature.
    """
    linear = linearise(model, around, points, evidence.value.shape[1])
    found = linear_filter(initial_states(model, evidence), linear, evidence, model.residual)
    backward = jax.vmap(affine.reverse)(linear.transition, found.filtered)
    return _smooth(found, backward, lengths)


def iterate_linearisation(
    model: FullModel,
    evidence: Evidence,
    lengths: Int[Array, " n"],
    points: Points,
    start: PathPosterior,
    iterations: int,
    tolerance: float = 1e-2,
) -> PathPosterior:
    """Posterior linearisation (Garcia-Fernandez, Svensson & Sarkka 2017).

    Transition and emission are linearised around the smoothed states; the linear Gaussian filter
    and smoother give new ones. A series stops when its states move by less than `tolerance` sd.

    Means may become less probable for an iteration or two. Where they become so by more than
    `DIVERGED`, the iteration is taken back and damped: the next one starts half way to its result.

    Args:
        model: the model.
        evidence: of all steps, time in front.
        lengths: number of steps of each series.
        points: of the quadrature.
        start: from `smooth_path` or `smooth_linearised`.
        iterations: at most.
        tolerance: root mean square move, in units of the smoothed sd.
    """
    n = evidence.value.shape[-1]
    valid = jnp.arange(len(evidence.value))[:, None] < lengths[None]

    def cost(means: jax.Array) -> jax.Array:
        return path_cost(model, means, evidence, lengths)

    def going(carry) -> jax.Array:
        """Whether any series still moves."""
        return (carry[0] < iterations) & jnp.any(carry[3] > tolerance)

    def _step(carry):
        """One more iteration of the series that still move."""
        count, around, path, moved = carry
        following = smooth_linearised(model, around, evidence, lengths, points)
        change = following.smoothed.mean - around.mean
        in_sd = jax.vmap(linalg.solve_lower)(following.smoothed.root, change[:, :, None])[:, :, 0]
        squares = jnp.where(valid, jnp.mean(in_sd**2, 1), 0.0)
        move = jnp.sqrt(jnp.sum(squares, 0) / jnp.maximum(lengths, 1))
        running, kept = moved > tolerance, cost(following.smoothed.mean) <= most
        half = path.smoothed.mean + 0.5 * (following.smoothed.mean - path.smoothed.mean)
        half = jnp.where(jnp.isfinite(half), half, path.smoothed.mean)
        target = _choose(kept, following.smoothed, FullMoments(half, path.smoothed.root))
        return (
            count + 1,
            _choose(running, target, around),
            _choose(running & kept, following, path),
            jnp.where(running, jnp.where(kept, move, jnp.inf), moved),
        )

    most = cost(start.smoothed.mean) + DIVERGED * lengths
    carry = (0, start.smoothed, start, jnp.full(n, jnp.inf))
    return jax.lax.while_loop(going, _step, carry)[2]


def _choose(chosen: jax.Array, new: Any, old: Any) -> Any:
    """The new leaves ``(..., n)`` for the chosen series ``(n,)``."""

    def one(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(chosen.reshape(*(1,) * (new.ndim - 1), -1), new, old)

    return jax.tree.map(one, new, old)


def path_cost(
    model: FullModel,
    means: Float[Array, "time latent n"],
    evidence: Evidence,
    lengths: Int[Array, " n"],
) -> Float[Array, " n"]:
    """-log p(x, z) of paths of states in nats, infinite where it is not a number.

    Args:
        model: the model.
        means: the states.
        evidence: of all steps, time in front.
        lengths: number of steps of each series.
    """
    time, latent, n = means.shape
    flat = merge_time(jnp.asarray(means))
    following_inputs = model.next_inputs
    inputs = None if following_inputs is None else merge_time(following_inputs)

    def nll(value: jax.Array, expected: Moments) -> jax.Array:
        """Per step, ``(time, n)``, from ``(output, time, n)``."""
        mean, variance = (leaf.reshape(-1, time, n) for leaf in expected)
        return 0.5 * ((value - mean) ** 2 / variance + jnp.log(variance) + square_root.LOG_2PI)

    following = jnp.moveaxis(jnp.roll(means, -1, 0), 0, 1)
    steps = jnp.sum(nll(following, model.transition_to(inputs)(flat)), 0)
    inside = jnp.arange(time)[:, None] < lengths[None] - 1
    total = jnp.sum(jnp.where(inside, steps, 0.0), 0)
    expected = model.emission(flat)
    if model.residual is not None:
        expected = Moments(expected.mean, expected.variance + model.residual.variance)
    seen = nll(jnp.moveaxis(evidence.value, 0, 1), expected)
    total += jnp.sum(jnp.where(jnp.moveaxis(evidence.observed, 0, 1), seen, 0.0), (0, 1))
    if evidence.factor is not None:
        precision, weighted = evidence.factor
        total += jnp.sum(0.5 * precision * means**2 - weighted * means, (0, 1))
    root = jnp.broadcast_to(model.initial.root, (latent, latent, n))
    first = linalg.solve_lower(root, (means[0] - model.initial.mean)[:, None])
    total += 0.5 * jnp.sum(first**2, (0, 1))
    return jnp.where(jnp.isfinite(total), total, jnp.inf)


class SampledPaths(NamedTuple):
    """Joint samples of paths, the series varying fastest among `m`.

    states: ``(time, latent, m)``.
    mean, variance: of the distribution that each was sampled from, ``(time, latent, m)``.
    log_density: of the state under it, in nats, ``(time, m)``.
    """

    states: Float[Array, "time latent m"]
    mean: Float[Array, "time latent m"]
    variance: Float[Array, "time latent m"]
    log_density: Float[Array, "time m"]


def sample_paths(posterior: PathPosterior, noise: Float[Array, "time latent m"]) -> SampledPaths:
    """Joint samples of whole paths, from the last step to the first.

    Args:
        posterior: of n series.
        noise: standard normal, ``m = sample * n``, the series varying fastest.
    """
    n, size = posterior.smoothed.mean.shape[-1], noise.shape[-1]

    def _step(state, inputs):
        """z_{t+1} -> z_t."""
        backward, own = inputs
        slope, offset, root = (jnp.tile(leaf, size // n) for leaf in backward)
        mean = linalg.matvec(slope, state) + offset
        state = mean + linalg.matvec(root, own)
        return state, (state, mean)

    start = jnp.zeros(noise.shape[1:], noise.dtype)
    _, (states, means) = jax.lax.scan(_step, start, (posterior.backward, noise), reverse=True)
    root = posterior.backward.root
    variance = jnp.tile(jnp.sum(root**2, 2), size // n)
    logs = jnp.log(jax.vmap(linalg.diagonal)(root)) + 0.5 * square_root.LOG_2PI
    density = -0.5 * jnp.sum(noise**2, 1) - jnp.tile(jnp.sum(logs, 1), size // n)
    return SampledPaths(states, means, variance, density)


def sample_prior(
    model: FullModel, noise: Float[Array, "time latent m"]
) -> Float[Array, "time latent m"]:
    """Paths sampled from the prior, from the first step to the last, by standard normal `noise`.

    A model with inputs has those of `m` series.
    """

    def _step(state, given):
        """z_t -> z_{t+1}."""
        own, next_inputs = given
        mean, variance = model.transition_to(next_inputs)(state)
        following = mean + jnp.sqrt(variance) * own
        return following, following

    first = model.initial.mean + linalg.matvec(model.initial.root, noise[0])
    next_inputs = None if model.inputs is None else model.inputs[1:]
    _, states = jax.lax.scan(_step, first, (noise[1:], next_inputs))
    return jnp.concatenate([first[None], states])


def place_all(states: FullMoments, points: Points) -> Float[Array, "time latent point n"]:
    """The points of the Gaussians ``(time, latent, n)`` of all steps."""

    def place(own: FullMoments, at: StepPoints) -> jax.Array:
        return own.mean[:, None] + linalg.matmul(own.root, at.offsets)

    return over_time(place, points, states)


def over_time(function, points: Points, states):
    """A function of one step at all times at once, the time being more series.

    Args:
        function: of a tree of arrays ``(*, time * n)`` and `StepPoints`.
        points: of the quadrature.
        states: the tree, ``(time, *, n)``.

    Returns:
        The tree of arrays that the function returns, with the time in front.
    """
    leaf = jax.tree.leaves(states)[0]
    time, n = leaf.shape[0], leaf.shape[-1]
    _, latent, count, series = points.offsets.shape
    offsets = points.offsets
    if offsets.shape[0] > 1 or series > 1:
        offsets = jnp.broadcast_to(offsets, (time, latent, count, n))
    found = function(
        jax.tree.map(merge_time, states), StepPoints(merge_time(offsets), points.weights)
    )
    return jax.tree.map(lambda leaf: _split(leaf, time), found)


def _smooth(found: FilteredStates, backward: Affine, lengths: Int[Array, " n"]) -> PathPosterior:
    time = len(found.log_likelihood)
    inside = jnp.arange(time)[:, None] < lengths[None] - 1
    filtered = found.filtered
    root = jax.vmap(linalg.triangularise)(filtered.root)
    backward = Affine(
        jnp.where(inside[:, None, None], backward.slope, 0.0),
        jnp.where(inside[:, None], backward.offset, filtered.mean),
        jnp.where(inside[:, None, None], backward.root, root),
    )

    def _step(following, own):
        """p(z_{t+1} | x_{1:T}) -> p(z_t | x_{1:T})."""
        smoothed = affine.smooth(following, own)
        return smoothed, smoothed

    last = FullMoments(filtered.mean[-1], root[-1])
    _, smoothed = jax.lax.scan(_step, last, backward, reverse=True)
    return PathPosterior(smoothed, backward, jnp.sum(found.log_likelihood, 0))


def merge_time(leaf: jax.Array) -> jax.Array:
    """``(time, *, n)`` -> ``(*, time * n)``."""
    moved = jnp.moveaxis(leaf, 0, -2)
    return moved.reshape(*moved.shape[:-2], -1)


def _split(leaf: jax.Array, time: int) -> jax.Array:
    """The inverse of `merge_time`."""
    return jnp.moveaxis(leaf.reshape(*leaf.shape[:-1], time, leaf.shape[-1] // time), -2, 0)
