"""Steps of a Gaussian filter and smoother with full covariance, in square-root form.

A Gaussian is N(m, L L'). Expectations over it are sums over the points m + L u_k of a quadrature
rule. With the points, the moments of nonlinear functions follow by statistical linear regression;
for linear functions everything is exact.

All arrays have the series last: means ``(latent, n)``, roots ``(latent, latent, n)``. No covariance
is ever subtracted: each step triangularises a matrix of deviations, which stays positive definite
in single precision. See docs/full_covariance.md for the derivation.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Bool, Float

from jdmm.inference import linalg
from jdmm.inference.gaussian import Gaussian, Moments
from jdmm.series import Array

LOG_2PI = 1.8378770664093453

Function = Callable[[Any], Moments]
"""States ``(latent, n)`` -> conditional mean and variance ``(output, n)``."""


class FullMoments(NamedTuple):
    """N(mean, root root'); the root need not be triangular.

    mean: ``(latent, n)``.
    root: ``(latent, latent, n)``.
    """

    mean: Float[Array, "latent n"]
    root: Float[Array, "latent latent n"]

    @property
    def variance(self) -> Float[Array, "latent n"]:
        """The diagonal of the covariance."""
        return jnp.sum(self.root**2, 1)


class StepPoints(NamedTuple):
    """Points of one step: offsets ``(latent, point, n)``, n may be 1, and weights ``(point,)``."""

    offsets: Float[Array, "latent point n"]
    weights: Float[Array, " point"]

    @property
    def scaled(self) -> Float[Array, "latent point n"]:
        """The offsets times the roots of the weights, whose second moment is I."""
        return self.offsets * jnp.sqrt(self.weights)[None, :, None]


class Deviations(NamedTuple):
    """A function at the points of a Gaussian.

    mean: its mean ``(output, n)``.
    deviations: from the mean at each point, times the root of its weight, ``(output, point, n)``.
    variance: the mean of its conditional variance, ``(output, n)``.
    """

    mean: Float[Array, "output n"]
    deviations: Float[Array, "output point n"]
    variance: Float[Array, "output n"]


class Affine(NamedTuple):
    """z -> N(slope z + offset, root root'), one for each series.

    slope: ``(output, latent, n)``.
    offset: ``(output, n)``.
    root: ``(output, column, n)``.
    """

    slope: Float[Array, "output latent n"]
    offset: Float[Array, "output n"]
    root: Float[Array, "output column n"]


class Update(NamedTuple):
    """A predicted Gaussian N(m, L L') after an observation: N(m + L shift, L factor factor' L').

    shift: ``(latent, n)``.
    factor: ``(latent, latent, n)``.
    log_likelihood: of what is observed, in nats, ``(n,)``.
    log_determinant: of the factor, ``(n,)``.
    limit: the log-likelihood of features at their predicted means, certain but for their own noise,
        ``(n,)``. A larger log-likelihood is that of a covariance which is not positive definite.
    """

    shift: Float[Array, "latent n"]
    factor: Float[Array, "latent latent n"]
    log_likelihood: Float[Array, " n"]
    log_determinant: Float[Array, " n"]
    limit: Float[Array, " n"]

    @property
    def kl(self) -> Float[Array, " n"]:
        """KL(updated || predicted) in nats."""
        latent = self.shift.shape[0]
        trace = jnp.sum(self.factor**2, (0, 1)) + jnp.sum(self.shift**2, 0)
        return 0.5 * (trace - latent) - self.log_determinant


def place(gaussian: FullMoments, points: StepPoints) -> Float[Array, "latent points"]:
    """The points m + L u_k as one axis, ``(latent, point * n)``."""
    latent, count, shared = points.offsets.shape
    if shared > 1:
        states = gaussian.mean[:, None] + linalg.matmul(gaussian.root, points.offsets)
        return states.reshape(latent, -1)
    # one product of matrices; as sums XLA would compute the root again for every point
    both = jnp.concatenate([gaussian.root, gaussian.mean[:, None]], 1)
    weights = jnp.concatenate([points.offsets[:, :, 0], jnp.ones((1, count), both.dtype)])
    states = jnp.tensordot(weights, both, (0, 1), precision=jax.lax.Precision.HIGHEST)
    return jnp.swapaxes(states, 0, 1).reshape(latent, -1)


def evaluate(function: Function, gaussian: FullMoments, points: StepPoints) -> Deviations:
    """A function at the points of a Gaussian."""
    count, n = points.offsets.shape[1], gaussian.mean.shape[1]
    mean, variance = function(place(gaussian, points))
    mean, variance = (leaf.reshape(len(leaf), count, n) for leaf in (mean, variance))
    weights = points.weights[None, :, None]
    centre = jnp.sum(weights * mean, 1)
    deviations = (mean - centre[:, None]) * jnp.sqrt(weights)
    return Deviations(centre, deviations, jnp.sum(weights * variance, 1))


def predict(transition: Function, filtered: FullMoments, points: StepPoints) -> FullMoments:
    """The next state: mean of f(z), covariance of f(z) plus mean of its conditional variance.

    Args:
        transition: states -> moments of p(z' | z).
        filtered: p(z | x_{1:t}).
        points: of the quadrature.
    """
    reached = evaluate(transition, filtered, points)
    noise = linalg.diagonal_matrix(jnp.sqrt(reached.variance))
    root = linalg.triangularise(jnp.concatenate([reached.deviations, noise], 1))
    return FullMoments(reached.mean, root)


def reverse(transition: Function, filtered: FullMoments, points: StepPoints) -> Affine:
    """p(z | z', x_{1:t}), from the joint Gaussian of z and z' (Rauch, Tung & Striebel 1965)."""
    reached = evaluate(transition, filtered, points)
    latent, n = filtered.mean.shape
    noise = linalg.diagonal_matrix(jnp.sqrt(reached.variance))
    scaled = jnp.broadcast_to(points.scaled, (latent, points.scaled.shape[1], n))
    return condition(filtered, reached.mean, reached.deviations, noise, scaled)


def condition(
    filtered: FullMoments,
    mean: jax.Array,
    deviations: jax.Array,
    noise: jax.Array,
    scaled: jax.Array,
) -> Affine:
    """p(z | z') from z' = mean + deviations u + noise e and z = m + L scaled u."""
    own = linalg.matmul(filtered.root, scaled)
    later = jnp.concatenate([deviations, noise], 1)
    here = jnp.concatenate([own, jnp.zeros((*own.shape[:1], *noise.shape[1:]), own.dtype)], 1)
    # in two blocks of rows, which compile faster than their joint triangularisation
    predicted, directions = linalg.lq(later)
    cross = linalg.matmul(here, linalg.transpose(directions))
    rest = linalg.triangularise(here - linalg.matmul(cross, directions))
    gain = linalg.transpose(linalg.solve_lower_transposed(predicted, linalg.transpose(cross)))
    return Affine(gain, filtered.mean - linalg.matvec(gain, mean), rest)


def update(
    emission: Function,
    predicted: FullMoments,
    points: StepPoints,
    value: Float[Array, "feature n"],
    observed: Bool[Array, "feature n"],
) -> Update:
    """What the observed features of a step say about the state.

    Up to as many features as latent dimensions, with all their predicted covariances; more, with
    the part of the covariance that is not linear in the state kept diagonal.

    Args:
        emission: states -> conditional mean and variance of the features.
        predicted: p(z | x_{1:t-1}).
        points: of the quadrature.
        value: 0 where not observed.
        observed: mask.
    """
    if not value.shape[0]:
        return no_update(predicted)
    seen = evaluate(emission, predicted, points)
    innovation = jnp.where(observed, value - seen.mean, 0.0)
    deviations = jnp.where(observed[:, None], seen.deviations, 0.0)
    if not many_features(predicted, value):
        noise = jnp.where(observed, jnp.sqrt(seen.variance), 1.0)
        return update_array(
            deviations, linalg.diagonal_matrix(noise), innovation, points.scaled, observed
        )
    slope = linalg.matmul(deviations, linalg.transpose(points.scaled))
    remaining = jnp.sum(deviations**2, 1) - jnp.sum(slope**2, 1)
    variance = seen.variance + jnp.maximum(remaining, 0.0)
    precision = jnp.where(observed, 1.0 / variance, 0.0)
    return update_information(slope, precision, innovation)


def no_update(predicted: FullMoments) -> Update:
    """The update by nothing."""
    zeros = jnp.zeros_like(predicted.mean)
    factor = linalg.diagonal_matrix(zeros + 1)
    return Update(zeros, factor, zeros[0], zeros[0], zeros[0])


def many_features(predicted: FullMoments, value: Float[Array, "feature n"]) -> bool:
    """Whether an update works in the dimensions of the state rather than of the features."""
    return value.shape[0] > predicted.mean.shape[0]


def update_array(
    deviations: Float[Array, "feature point n"],
    noise: Float[Array, "feature column n"],
    innovation: Float[Array, "feature n"],
    scaled: Float[Array, "latent point m"],
    observed: Bool[Array, "feature n"],
) -> Update:
    """The update from the joint square root of features and state.

    A missing feature has deviations and innovation 0 and a noise of its own of sd 1.

    Args:
        deviations: of the features at the points.
        noise: a root of the covariance of their own noise.
        innovation: value minus predicted mean.
        scaled: deviations of the whitened state at the points.
        observed: mask.
    """
    features, count, n = deviations.shape
    latent = scaled.shape[0]
    above = jnp.concatenate([deviations, noise], 1)
    whitened = jnp.broadcast_to(scaled, (latent, count, n))
    below = jnp.concatenate([whitened, jnp.zeros((latent, *noise.shape[1:]), noise.dtype)], 1)
    lower = linalg.triangularise(jnp.concatenate([above, below]))
    root, gain = lower[:features, :features], lower[features:, :features]
    factor = lower[features:, features:]
    error = linalg.solve_lower(root, innovation[:, None])[:, 0]
    logs = jnp.where(observed, jnp.log(linalg.diagonal(root)) + 0.5 * LOG_2PI, 0.0)
    least = 0.5 * jnp.log(jnp.sum(noise**2, 1)) + 0.5 * LOG_2PI
    return Update(
        shift=linalg.matvec(gain, error),
        factor=factor,
        log_likelihood=-0.5 * jnp.sum(error**2, 0) - jnp.sum(logs, 0),
        log_determinant=jnp.sum(jnp.log(linalg.diagonal(factor)), 0),
        limit=-jnp.sum(jnp.where(observed, least, 0.0), 0),
    )


def update_information(
    slope: Float[Array, "feature latent n"],
    precision: Float[Array, "feature n"],
    innovation: Float[Array, "feature n"],
) -> Update:
    """The update from many features, linear in the whitened state, with diagonal noise.

    B = I + H' R^-1 H = C C' has the size of the state. A missing feature has precision 0.

    Args:
        slope: H, of the features in the whitened state.
        precision: R^-1.
        innovation: value minus predicted mean.
    """
    latent, n = slope.shape[1], slope.shape[2]
    eye = jnp.broadcast_to(jnp.eye(latent, dtype=slope.dtype)[:, :, None], (latent, latent, n))
    seen = precision > 0
    safe = jnp.where(seen, precision, 1.0)  # the root and the logarithm of 0 have no gradient
    weighted = linalg.transpose(slope * jnp.where(seen, jnp.sqrt(safe), 0.0)[:, None])
    lower = linalg.triangularise(jnp.concatenate([eye, weighted], 1))
    factor = linalg.solve_lower_transposed(lower, eye)
    information = linalg.matmul(linalg.transpose(slope), (precision * innovation)[:, None])
    half = linalg.solve_lower(lower, information)
    shift = linalg.solve_lower_transposed(lower, half)[:, 0]
    rest = innovation - linalg.matvec(slope, shift)
    # a sum of squares, where r' R^-1 r - (H' R^-1 r)' B^-1 (H' R^-1 r) would cancel
    quadratic = jnp.sum(precision * rest**2, 0) + jnp.sum(shift**2, 0)
    logs = jnp.where(seen, LOG_2PI - jnp.log(safe), 0.0)
    log_determinant = -jnp.sum(jnp.log(linalg.diagonal(lower)), 0)
    log_likelihood = -0.5 * (quadratic + jnp.sum(logs, 0)) + log_determinant
    return Update(shift, factor, log_likelihood, log_determinant, -0.5 * jnp.sum(logs, 0))


def update_factor(predicted: FullMoments, evidence: Gaussian) -> Update:
    """What a Gaussian factor of the state itself says, such as an encoder's; (0, 0) is missing.

    The log-likelihood in the result is that of a pseudo-observation.
    """
    variance = jnp.where(evidence.precision > 0, 1 / jnp.maximum(evidence.precision, 1e-12), 0.0)
    innovation = jnp.where(
        evidence.precision > 0, evidence.weighted_mean * variance - predicted.mean, 0.0
    )
    return update_information(predicted.root, evidence.precision, innovation)


def then(first: Update, second: Update) -> Update:
    """Two updates in turn as one; the second whitens by the state after the first."""
    return Update(
        first.shift + linalg.matvec(first.factor, second.shift),
        linalg.matmul(first.factor, second.factor),
        first.log_likelihood + second.log_likelihood,
        first.log_determinant + second.log_determinant,
        first.limit + second.limit,
    )


def updated(predicted: FullMoments, change: Update) -> FullMoments:
    """The Gaussian after an update."""
    return FullMoments(
        predicted.mean + linalg.matvec(predicted.root, change.shift),
        linalg.matmul(predicted.root, change.factor),
    )
