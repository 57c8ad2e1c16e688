"""From evidence to posteriors over whole sequences: the recursions, wired once for every use."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax import numpy as jnp

from jdmm.errors import InputError
from jdmm.inference import filtering, gaussian, smoothing
from jdmm.inference.filtering import FilteredPosterior, Transition
from jdmm.inference.gaussian import Gaussian, Moments
from jdmm.inference.smoothing import SmoothedPosterior
from jdmm.likelihoods import Raw
from jdmm.series import Series

PARTICLES, SIGMA_POINTS = "particles", "sigma_points"


@dataclass(frozen=True)
class Points:
    """How an expectation over a Gaussian state is taken.

    Attributes:
        kind: "particles" (random) or "sigma_points" (2 * latent fixed points, exact in mean and
            variance for linear transitions).
        count: number of particles; sigma points have their own.
    """

    kind: str = PARTICLES
    count: int = 25

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if self.kind not in (PARTICLES, SIGMA_POINTS):
            raise InputError(
                f"expected moments {PARTICLES!r} or {SIGMA_POINTS!r}, got {self.kind!r}"
            )
        if self.count < 1:
            raise InputError(f"expected particles of at least 1, got {self.count}")

    def offsets(self, key: jax.Array, series: Series, latent: int) -> jax.Array:
        """The offsets that the filters take, in units of sd."""
        if self.kind == SIGMA_POINTS:
            return filtering.sigma_points(latent)
        return filtering.particles(key, self.count, series.index, series.time, latent)


@dataclass(frozen=True)
class Parts:
    """A deep Markov model as pure functions of its variables, which the recursions need.

    Attributes:
        prior: p(z), ``(latent,)``.
        forward: p(z_t | z_{t-1}) / p(z_t) for one state.
        backward: p(z_t | z_{t+1}) / p(z_t) for one state.
        encode: each modality's evidence ``(batch, time, latent)``, (0, 0) where it is missing.
        decode: a modality's raw outputs ``(..., feature)`` from states ``(..., latent)``.
    """

    prior: Moments
    forward: Transition
    backward: Transition
    encode: Callable[[Series], dict[str, Gaussian]]
    decode: Callable[[str, jax.Array], Raw]

    @property
    def latent(self) -> int:
        """Dimensions of the state."""
        return self.prior.mean.shape[0]


def filter_backward(
    parts: Parts, series: Series, key: jax.Array, points: Points
) -> FilteredPosterior:
    """q(z_t | x_{t+1:T}) and q(z_t | x_{t:T}), ``(batch, time, latent)``."""
    offsets = points.offsets(key, series, parts.latent)
    evidence = gaussian.product(*parts.encode(series).values())
    return filtering.backward_filter(parts.backward, parts.prior, evidence, offsets)


def filter_forward(
    parts: Parts, series: Series, key: jax.Array, points: Points
) -> FilteredPosterior:
    """q(z_t | x_{1:t-1}) and q(z_t | x_{1:t}), ``(batch, time, latent)``."""
    offsets = points.offsets(key, series, parts.latent)
    evidence = gaussian.product(*parts.encode(series).values())
    return filtering.forward_filter(parts.forward, parts.prior, evidence, offsets)


def map_sequence(parts: Parts, series: Series, key: jax.Array, points: Points) -> SmoothedPosterior:
    """The recursion of the conditional smoother's means, used for every reconstruction."""
    filtered = filter_backward(parts, series, key, points).filtered
    silence = jnp.zeros((series.time, parts.latent, series.batch))
    return smoothing.conditional_smoother(parts.forward, parts.prior, filtered, silence)


def draw_sequences(
    parts: Parts, series: Series, key: jax.Array, points: Points, count: int, scale: Any = 1.0
) -> SmoothedPosterior:
    """Draws of whole latent sequences from the posterior, ``(count, batch, time, latent)``.

    Their noise is multiplied by `scale`; posterior and prior are told without it.
    """
    filter_key, draw_key = jax.random.split(key)
    filtered = filter_backward(parts, series, filter_key, points).filtered

    def draw(draw_key: jax.Array) -> SmoothedPosterior:
        noise = filtering.particles(draw_key, 1, series.index, series.time, parts.latent)[:, :, 0]
        return smoothing.conditional_smoother(parts.forward, parts.prior, filtered, scale * noise)

    return jax.vmap(draw)(jax.random.split(draw_key, count))


def smooth_marginals(parts: Parts, series: Series, key: jax.Array, points: Points) -> Moments:
    """q(z_t | x_{1:T}) by matched moments, ``(batch, time, latent)``."""
    backward_key, forward_key = jax.random.split(key)
    filtered = filter_backward(parts, series, backward_key, points).filtered
    offsets = points.offsets(forward_key, series, parts.latent)
    return smoothing.marginal_smoother(parts.forward, parts.prior, filtered, offsets)


def sample_prior(
    parts: Parts, key: jax.Array, count: int, time: int, reverse: bool = False
) -> jax.Array:
    """Latent sequences ``(count, time, latent)`` drawn ancestrally, from either end of time."""
    noise = filtering.particles(key, 1, jnp.arange(count), time, parts.latent)[:, :, 0]
    nothing = Moments(
        *(jnp.broadcast_to(leaf, (count, time, parts.latent)) for leaf in parts.prior)
    )
    transition = parts.backward if reverse else parts.forward
    states = smoothing.conditional_smoother(transition, parts.prior, nothing, noise).states
    return jnp.flip(states, 1) if reverse else states
