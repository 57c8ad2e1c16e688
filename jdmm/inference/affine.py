"""Steps of the filter and smoother of `jdmm.inference.square_root` for models linear in the state.

Nonlinear functions become linear by statistical linear regression. Where they are linear already,
everything is exact: the Kalman filter and the Rauch-Tung-Striebel smoother.
"""

from typing import NamedTuple

from jax import numpy as jnp
from jaxtyping import Bool, Float

from jdmm.inference import linalg, square_root
from jdmm.inference.gaussian import Moments
from jdmm.inference.square_root import Affine, FullMoments, Function, StepPoints, Update
from jdmm.series import Array


class AffineFeatures(NamedTuple):
    """z -> N(slope z + offset, diag variance), for many features.

    slope: ``(feature, latent, n)``.
    offset, variance: ``(feature, n)``.
    """

    slope: Float[Array, "feature latent n"]
    offset: Float[Array, "feature n"]
    variance: Float[Array, "feature n"]


def linearise(function: Function, gaussian: FullMoments, points: StepPoints) -> Affine:
    """Statistical linear regression of a function on the state.

    The slope is cov(f, z) P^-1; what the linear part does not explain adds to the noise.

    Args:
        function: states -> conditional moments.
        gaussian: N(m, L L') with triangular L.
        points: of the quadrature.
    """
    found = square_root.evaluate(function, gaussian, points)
    whitened = linalg.matmul(found.deviations, linalg.transpose(points.scaled))
    slope = linalg.transpose(
        linalg.solve_lower_transposed(gaussian.root, linalg.transpose(whitened))
    )
    remaining = found.deviations - linalg.matmul(whitened, points.scaled)
    noise = linalg.diagonal_matrix(jnp.sqrt(found.variance))
    root = linalg.triangularise(jnp.concatenate([remaining, noise], 1))
    return Affine(slope, found.mean - linalg.matvec(slope, gaussian.mean), root)


def predict(transition: Affine, filtered: FullMoments) -> FullMoments:
    """The next state under a linear transition."""
    own = linalg.matmul(transition.slope, filtered.root)
    root = linalg.triangularise(jnp.concatenate([own, transition.root], 1))
    return FullMoments(linalg.matvec(transition.slope, filtered.mean) + transition.offset, root)


def reverse(transition: Affine, filtered: FullMoments) -> Affine:
    """p(z | z', x_{1:t}) under a linear transition."""
    latent, n = filtered.mean.shape
    eye = jnp.broadcast_to(
        jnp.eye(latent, dtype=filtered.mean.dtype)[:, :, None], (latent, latent, n)
    )
    mean = linalg.matvec(transition.slope, filtered.mean) + transition.offset
    deviations = linalg.matmul(transition.slope, filtered.root)
    return square_root.condition(filtered, mean, deviations, transition.root, eye)


def smooth(following: FullMoments, backward: Affine) -> FullMoments:
    """p(z | x_{1:T}) from p(z' | x_{1:T}) and p(z | z', x_{1:t})."""
    own = linalg.matmul(backward.slope, following.root)
    root = linalg.triangularise(jnp.concatenate([own, backward.root], 1))
    return FullMoments(linalg.matvec(backward.slope, following.mean) + backward.offset, root)


def linearise_emission(
    emission: Function, gaussian: FullMoments, points: StepPoints, diagonal: bool
) -> Affine | AffineFeatures:
    """`linearise` of the features; with `diagonal`, their remaining covariance is kept diagonal."""
    if not diagonal:
        return linearise(emission, gaussian, points)
    found = square_root.evaluate(emission, gaussian, points)
    whitened = linalg.matmul(found.deviations, linalg.transpose(points.scaled))
    slope = linalg.transpose(
        linalg.solve_lower_transposed(gaussian.root, linalg.transpose(whitened))
    )
    remaining = jnp.sum(found.deviations**2, 1) - jnp.sum(whitened**2, 1)
    variance = found.variance + jnp.maximum(remaining, 0.0)
    return AffineFeatures(slope, found.mean - linalg.matvec(slope, gaussian.mean), variance)


def update(
    emission: Affine | AffineFeatures,
    predicted: FullMoments,
    value: Float[Array, "feature n"],
    observed: Bool[Array, "feature n"],
) -> Update:
    """`square_root.update` under a linear emission."""
    if not value.shape[0]:
        return square_root.no_update(predicted)
    mean = linalg.matvec(emission.slope, predicted.mean) + emission.offset
    innovation = jnp.where(observed, value - mean, 0.0)
    slope = linalg.matmul(emission.slope, predicted.root)
    if isinstance(emission, AffineFeatures):
        precision = jnp.where(observed, 1.0 / emission.variance, 0.0)
        return square_root.update_information(slope, precision, innovation)
    eye = jnp.eye(slope.shape[1], dtype=value.dtype)[:, :, None]
    slope = jnp.where(observed[:, None], slope, 0.0)
    return square_root.update_array(
        slope, observed_root(emission, observed), innovation, eye, observed
    )


def observed_root(
    emission: Affine, observed: Bool[Array, "feature n"]
) -> Float[Array, "feature column n"]:
    """A root of the noise covariance, in which missing features have a noise of their own of 1."""
    own = linalg.diagonal_matrix(jnp.where(observed, 0.0, 1.0).astype(emission.root.dtype))
    return jnp.concatenate([jnp.where(observed[:, None], emission.root, 0.0), own], 1)


def with_residual(emission: Affine | AffineFeatures, own: Moments) -> Affine | AffineFeatures:
    """The emission with the residuals of the features, ``(feature, n)``, in it."""
    offset = emission.offset + own.mean
    if isinstance(emission, AffineFeatures):
        return AffineFeatures(emission.slope, offset, emission.variance + own.variance)
    further = linalg.diagonal_matrix(jnp.sqrt(own.variance))
    return Affine(emission.slope, offset, jnp.concatenate([emission.root, further], 1))


def told(emission: Affine | AffineFeatures, states: FullMoments) -> tuple[Moments, jnp.ndarray]:
    """Mean and variance of the features as a function of the state, and that of their noise."""
    deviations = linalg.matmul(emission.slope, states.root)
    mean = linalg.matvec(emission.slope, states.mean) + emission.offset
    if isinstance(emission, AffineFeatures):
        noise = emission.variance
    else:
        noise = jnp.sum(emission.root**2, 1)
    return Moments(mean, jnp.sum(deviations**2, 1)), noise
