"""Samples of whole paths from the posterior, from the first step to the last.

    q(z_t | z_{t-1}, x) is proportional to p(z_t | z_{t-1}) beta_t(z_t),
    beta_t(z_t) approximates p(x_{t:T} | z_t)

The transition is evaluated at the sampled state itself; only the message of the future, beta_t, is
that of a model which is linear in the state at each step. So a path follows the curved transitions
exactly, however small their noise: as proposals, such paths have far more even weights than those
of a Gaussian over the whole path.

Where a transition spreads its states and has little noise, the noise cannot bring a path back, and
it would leave the posterior exponentially. The mean of a state therefore stays within `REACH` sd of
the smoothed one. The densities are those of the states that are sampled, held back or not.
"""

from typing import NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Float

from jdmm.inference import affine, full_smoothing, linalg, square_root
from jdmm.inference.affine import AffineFeatures
from jdmm.inference.full_filtering import Evidence, FullModel, Linearised
from jdmm.inference.gaussian import Moments
from jdmm.inference.quadrature import Points
from jdmm.inference.square_root import FullMoments
from jdmm.series import Array

REACH = 10.0
"""Largest deviation of the mean of a sampled state from the smoothed one, in sd."""


class Messages(NamedTuple):
    """beta_t(z) = exp(-|slope z - target|^2 / 2) up to a constant, with the time in front.

    slope: ``(time, latent, latent, n)``; 0 where nothing is observed at or after a step.
    target: ``(time, latent, n)``.
    """

    slope: Float[Array, "time latent latent n"]
    target: Float[Array, "time latent n"]


class PathSampler(NamedTuple):
    """q(z_t | z_{t-1}, x) = N(p + gain (target - slope p), root root'), p = E[z_t | z_{t-1}].

    smoothed: p(z_t | x_{1:T}), ``(time, latent, n)``, with triangular roots.
    messages: of the future.
    gain: ``(time, latent, latent, n)``.
    root: ``(time, latent, latent, n)``.
    log_determinant: of the root, ``(time, n)``.
    """

    smoothed: FullMoments
    messages: Messages
    gain: Float[Array, "time latent latent n"]
    root: Float[Array, "time latent latent n"]
    log_determinant: Float[Array, "time n"]


class SampledPaths(NamedTuple):
    """Samples of paths, the series varying fastest among `m`.

    states: ``(time, latent, m)``.
    prior: moments of p(z_t | z_{t-1}), ``(time, latent, m)``.
    posterior: moments of q(z_t | z_{t-1}, x), the variance being the diagonal of its covariance.
    log_posterior: log density of the states under it, in nats, ``(time, m)``.
    """

    states: Float[Array, "time latent m"]
    prior: Moments
    posterior: Moments
    log_posterior: Float[Array, "time m"]


def backward_messages(linear: Linearised, evidence: Evidence) -> Messages:
    """beta_t for t = T..1, by the backward information filter in square-root form.

    Args:
        linear: the model, linear at each step.
        evidence: of all steps, time in front.
    """
    _, latent, n = linear.transition.offset.shape
    dtype = linear.transition.offset.dtype
    eye = jnp.broadcast_to(jnp.eye(latent, dtype=dtype)[:, :, None], (latent, latent, n))

    def _step(following, inputs):
        """beta_{t+1} -> beta_t."""
        own, here = inputs
        through, step = following, here.transition
        # the noise of the transition widens what z_{t+1} = A z + b + Q^(1/2) e says about z
        noise = linalg.matmul(through.slope, step.root)
        root = linalg.triangularise(jnp.concatenate([noise, eye], 1))
        rows = [linalg.solve_lower(root, linalg.matmul(through.slope, step.slope))]
        rest = through.target - linalg.matvec(through.slope, step.offset)
        targets = [linalg.solve_lower(root, rest[:, None])[:, 0]]
        slope, target = _observation(here.emission, own)
        rows.append(slope)
        targets.append(target)
        if own.factor is not None:
            sd = jnp.sqrt(jnp.maximum(own.factor.precision, 1e-12))
            seen = own.factor.precision > 0
            rows.append(linalg.diagonal_matrix(jnp.where(seen, sd, 0.0)))
            targets.append(jnp.where(seen, own.factor.weighted_mean / sd, 0.0))
        lower, directions = linalg.lq(linalg.transpose(jnp.concatenate(rows)))
        message = Messages(
            linalg.transpose(lower), linalg.matvec(directions, jnp.concatenate(targets))
        )
        return message, message

    nothing = Messages(jnp.zeros((latent, latent, n), dtype), jnp.zeros((latent, n), dtype))
    return jax.lax.scan(_step, nothing, (evidence, linear), reverse=True)[1]


def path_sampler(
    model: FullModel, smoothed: FullMoments, evidence: Evidence, points: Points
) -> PathSampler:
    """The conditional posteriors of all steps.

    The variance of the transition is taken at the smoothed means.

    Args:
        model: the model.
        smoothed: p(z_t | x_{1:T}), ``(time, latent, n)``, with triangular roots.
        evidence: of all steps, time in front.
        points: of the quadrature, for the linearisation.
    """
    features = evidence.value.shape[1]
    linear = full_smoothing.linearise(model, smoothed, points, features)
    messages = backward_messages(linear, evidence)
    time, latent, n = smoothed.mean.shape
    inputs = None if model.inputs is None else full_smoothing.merge_time(model.inputs[1:])
    states = full_smoothing.merge_time(smoothed.mean[:-1])
    reached = model.transition_to(inputs)(states)
    sd = jnp.moveaxis(jnp.sqrt(reached.variance).reshape(latent, time - 1, n), 1, 0)
    first = jnp.broadcast_to(model.initial.root, (latent, latent, n))
    prior = jnp.concatenate([first[None], jax.vmap(linalg.diagonal_matrix)(sd)])

    def conditional(slope: jax.Array, root: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Gain, root and its log determinant, from the message and the root of the prior."""
        whitened = linalg.matmul(slope, root)
        eye = jnp.broadcast_to(jnp.eye(latent, dtype=root.dtype)[:, :, None], root.shape)
        both = jnp.concatenate([eye, linalg.transpose(whitened)], 1)
        lower = linalg.triangularise(both)
        factor = linalg.solve_lower_transposed(lower, eye)
        own = linalg.matmul(root, factor)
        gain = linalg.matmul(own, linalg.solve_lower(lower, linalg.transpose(whitened)))
        logs = jnp.sum(jnp.log(linalg.diagonal(root)) - jnp.log(linalg.diagonal(lower)), 0)
        return gain, own, logs

    gain, root, logs = jax.vmap(conditional)(messages.slope, prior)
    return PathSampler(smoothed, messages, gain, root, logs)


def sample_paths(
    model: FullModel, sampler: PathSampler, noise: Float[Array, "time latent m"]
) -> SampledPaths:
    """Samples of whole paths, from the first step to the last.

    Args:
        model: the model.
        sampler: of n series.
        noise: standard normal, ``m = sample * n``, the series varying fastest.
    """
    n, size = sampler.gain.shape[-1], noise.shape[-1]
    latent = noise.shape[1]
    tile = lambda leaf: jnp.tile(leaf, size // n)  # noqa: E731

    def _step(prior, given):
        """p(z_t | z_{t-1}) -> p(z_{t+1} | z_t)."""
        (smoothed, messages, gain, root, logs), own, next_inputs = given
        rest = tile(messages.target) - linalg.matvec(tile(messages.slope), prior.mean)
        mean = _within_reach(prior.mean + linalg.matvec(tile(gain), rest), smoothed)
        state = mean + linalg.matvec(tile(root), own)
        density = -0.5 * jnp.sum(own**2 + square_root.LOG_2PI, 0) - tile(logs)
        posterior = Moments(mean, tile(jnp.sum(root**2, 1)))
        return model.transition_to(next_inputs)(state), SampledPaths(
            state, prior, posterior, density
        )

    start = Moments(
        *(
            tile(jnp.broadcast_to(leaf, (latent, n)))
            for leaf in (model.initial.mean, model.initial.variance)
        )
    )
    return jax.lax.scan(_step, start, (sampler, noise, model.next_inputs))[1]


def _within_reach(mean: jax.Array, smoothed: FullMoments) -> jax.Array:
    """Means ``(latent, m)``, or the nearest ones within `REACH` of the smoothed states."""
    latent, n = smoothed.mean.shape
    whitened = linalg.solve_lower(
        smoothed.root, mean.reshape(latent, -1, n) - smoothed.mean[:, None]
    )
    nearest = linalg.matmul(smoothed.root, jnp.clip(whitened, -REACH, REACH))
    nearest = (nearest + smoothed.mean[:, None]).reshape(latent, -1)
    within = jnp.all(jnp.abs(whitened) <= REACH, 0).ravel()
    return jnp.where(within[None], mean, nearest)


def _observation(
    emission: square_root.Affine | AffineFeatures, own: Evidence
) -> tuple[jax.Array, jax.Array]:
    """Rows and targets of what is observed at a step, their noise whitened."""
    value = jnp.where(own.observed, own.value - emission.offset, 0.0)
    slope = jnp.where(own.observed[:, None], emission.slope, 0.0)
    if isinstance(emission, AffineFeatures):
        sd = jnp.sqrt(emission.variance)
        return slope / sd[:, None], value / sd
    root = affine.observed_root(emission, own.observed)
    lower = linalg.triangularise(root) if root.shape[0] else jnp.zeros((0, *root.shape[1:]))
    rows = linalg.solve_lower(lower, jnp.concatenate([slope, value[:, None]], 1))
    return rows[:, :-1], rows[:, -1]
