"""Posteriors over whole sequences: the recursions applied to a deep Markov model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jax import numpy as jnp
from jaxtyping import Float

from jdmm.errors import InputError
from jdmm.inference import filtering, full_bfvi, gaussian, smoothing
from jdmm.inference.filtering import FilteredPosterior, Transition
from jdmm.inference.gaussian import Gaussian, Moments
from jdmm.inference.quadrature import Quadrature
from jdmm.inference.smoothing import PosteriorPath
from jdmm.likelihoods import Raw
from jdmm.series import Array, Series

States = Array | Mapping[str, Array]
"""States for all modalities, or for each its own."""

DIAGONAL, FULL = "diagonal", "full"

COVARIANCES = (DIAGONAL, FULL)
"""What the messages between time steps keep: variances, or all covariances."""

Smoother = Callable[[Float[Array, "time latent series"]], PosteriorPath]
"""Standard normal noise -> one path through the posterior; zeros give the means."""


@dataclass(frozen=True)
class StateSpaceModel:
    """A deep Markov model as pure functions, its variables bound.

    Attributes:
        prior: p(z), ``(latent,)``.
        forward: p(z_t | z_{t-1}) / p(z_t).
        backward: p(z_t | z_{t+1}) / p(z_t).
        encode: each modality's evidence ``(batch, time, latent)``, (0, 0) where it is missing.
        decode: raw emission outputs ``(..., feature)`` of every modality from states
            ``(..., latent)``; given ``modality -> states``, of those modalities from their own. A
            second argument, modality -> mask ``(...,)``, names the states that count where the
            decoder normalises over the batch.
        covariance: of the messages between time steps, one of `COVARIANCES`.
    """

    prior: Moments
    forward: Transition
    backward: Transition
    encode: Callable[[Series], dict[str, Gaussian]]
    decode: Callable[..., dict[str, Raw]]
    covariance: str = DIAGONAL

    @property
    def latent(self) -> int:
        """Dimensions of the state."""
        return self.prior.mean.shape[0]


def filter_backward(
    ssm: StateSpaceModel, series: Series, key: jax.Array, quadrature: Quadrature
) -> FilteredPosterior:
    """q(z_t | x_{t+1:T}) and q(z_t | x_{t:T}), ``(batch, time, latent)``.

    With full covariance, the mean and variance of each dimension.
    """
    evidence = gaussian.product(*ssm.encode(series).values())
    if ssm.covariance == FULL:
        points = quadrature.points(key, series, ssm.latent)
        return full_bfvi.backward_filter(ssm.backward, ssm.prior, evidence, points).marginals
    offsets = quadrature.offsets(key, series, ssm.latent)
    return filtering.backward_filter(ssm.backward, ssm.prior, evidence, offsets)


def filter_forward(
    ssm: StateSpaceModel, series: Series, key: jax.Array, quadrature: Quadrature
) -> FilteredPosterior:
    """q(z_t | x_{1:t-1}) and q(z_t | x_{1:t}), ``(batch, time, latent)``.

    With full covariance, the mean and variance of each dimension.
    """
    evidence = gaussian.product(*ssm.encode(series).values())
    if ssm.covariance == FULL:
        points = quadrature.points(key, series, ssm.latent)
        return full_bfvi.forward_filter(ssm.forward, ssm.prior, evidence, points).marginals
    offsets = quadrature.offsets(key, series, ssm.latent)
    return filtering.forward_filter(ssm.forward, ssm.prior, evidence, offsets)


def backward_forward(
    ssm: StateSpaceModel,
    evidence: Gaussian,
    series: Series,
    key: jax.Array,
    quadrature: Quadrature,
) -> Smoother:
    """The conditional smoother behind the backward filter, which runs once for all paths.

    Args:
        ssm: the model.
        evidence: ``(*batch, time, latent)``; further axes in front of the series share the points.
        series: the series of the batch.
        key: of the points.
        quadrature: of the backward filter.
    """
    if ssm.covariance == FULL:
        points = quadrature.points(key, series, ssm.latent)
        states = full_bfvi.backward_filter(ssm.backward, ssm.prior, evidence, points).filtered
        return partial(full_bfvi.conditional_smoother, ssm.forward, ssm.prior, states)
    offsets = quadrature.offsets(key, series, ssm.latent)
    filtered = filtering.backward_filter(ssm.backward, ssm.prior, evidence, offsets).filtered
    return partial(smoothing.conditional_smoother, ssm.forward, ssm.prior, filtered)


def posterior_mean_path(
    ssm: StateSpaceModel, series: Series, key: jax.Array, quadrature: Quadrature
) -> PosteriorPath:
    """The recursion of conditional smoothing means, ``(batch, time, latent)``.

    Each state is the mean of q(z_t | z_{t-1}, x_{t:T}) given the previous state of the recursion.
    All point predictions decode this path (Tan et al. 2020 call it the MAP sequence).
    """
    evidence = gaussian.product(*ssm.encode(series).values())
    smooth = backward_forward(ssm, evidence, series, key, quadrature)
    return smooth(jnp.zeros((series.num_steps, ssm.latent, series.batch)))


def posterior_sample_paths(
    ssm: StateSpaceModel,
    series: Series,
    key: jax.Array,
    quadrature: Quadrature,
    count: int,
    scale: Any = 1.0,
) -> PosteriorPath:
    """Samples of whole latent sequences from the posterior, ``(count, batch, time, latent)``.

    Their noise is multiplied by `scale`; the moments in the result are not.
    """
    filter_key, sample_key = jax.random.split(key)
    evidence = gaussian.product(*ssm.encode(series).values())
    smooth = backward_forward(ssm, evidence, series, filter_key, quadrature)

    def sample(own: jax.Array) -> PosteriorPath:
        noise = filtering.particles(own, 1, series.index, series.num_steps, ssm.latent)[:, :, 0]
        return smooth(scale * noise)

    return jax.vmap(sample)(jax.random.split(sample_key, count))


def smooth_marginals(
    ssm: StateSpaceModel, series: Series, key: jax.Array, quadrature: Quadrature
) -> Moments:
    """q(z_t | x_{1:T}) by moment matching, ``(batch, time, latent)``.

    Raises:
        InputError: for full covariance.
    """
    if ssm.covariance == FULL:
        raise InputError(
            "expected covariance 'diagonal' for the marginal smoother, got 'full': take mean and "
            "variance of posterior samples"
        )
    backward_key, forward_key = jax.random.split(key)
    filtered = filter_backward(ssm, series, backward_key, quadrature).filtered
    offsets = quadrature.offsets(forward_key, series, ssm.latent)
    return smoothing.marginal_smoother(ssm.forward, ssm.prior, filtered, offsets)


def prior_sample_paths(
    ssm: StateSpaceModel, key: jax.Array, count: int, num_steps: int, reverse: bool = False
) -> Float[Array, "count time latent"]:
    """Latent sequences ``(count, time, latent)`` sampled ancestrally from the prior.

    With `reverse` the sampling starts at the last step, through the backward transition. The
    conditional distributions are diagonal, whatever the covariance of the messages.
    """
    noise = filtering.particles(key, 1, jnp.arange(count), num_steps, ssm.latent)[:, :, 0]
    shape = (count, num_steps, ssm.latent)
    unobserved = Moments(*(jnp.broadcast_to(leaf, shape) for leaf in ssm.prior))
    transition = ssm.backward if reverse else ssm.forward
    states = smoothing.conditional_smoother(transition, ssm.prior, unobserved, noise).states
    return jnp.flip(states, 1) if reverse else states
