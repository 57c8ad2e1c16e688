"""Forward smoothers over the predictions of the backward filter (Tan et al. 2020, algorithm 2)."""

import math
from typing import NamedTuple

import jax
from jax import numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Float

from jdmm.inference import gaussian
from jdmm.inference.filtering import (
    Offsets,
    Transition,
    clip_to_prior,
    column,
    flatten_batch,
    flatten_offsets,
    match_points,
    place_points,
    repeat_points,
    unflatten_batch,
)
from jdmm.inference.gaussian import Gaussian, Moments
from jdmm.series import Array


class PosteriorPath(NamedTuple):
    """One path of states through the posterior, fields ``(*batch, time, latent)``.

    prior: p(z_t | z_{t-1}), p(z_1) at the first step.
    posterior: q(z_t | z_{t-1}, x), the distribution that z_t was sampled from.
    states: z_t, a sample of the posterior, or its mean where the noise is 0. Some models append
        what their emissions need besides z.
    log_determinant: of a root of the posterior's covariance, ``(*batch, time)``, where that is not
        diagonal; else None.
    log_posterior: log density of a sampled state under the posterior, ``(*batch, time)``, where its
        covariance is not diagonal; else None.
    """

    prior: Moments
    posterior: Moments
    states: Float[Array, "*batch time state"]
    log_determinant: Float[Array, "*batch time"] | None = None
    log_posterior: Float[Array, "*batch time"] | None = None

    def kl(self) -> Float[Array, "*batch time"]:
        """KL(posterior || prior) of each step in nats."""
        if self.log_determinant is None:
            return jnp.sum(gaussian.kl(self.posterior, self.prior), -1)
        q, p = self.posterior, self.prior
        squares = (q.variance + (q.mean - p.mean) ** 2) / p.variance - 1.0
        return 0.5 * jnp.sum(squares + jnp.log(p.variance), -1) - self.log_determinant

    def log_ratio(self) -> Float[Array, "*batch time"]:
        """Log p(z_t | z_{t-1}) - log q(z_t | ...) of each state in nats."""
        z = self.states[..., : self.prior.mean.shape[-1]]
        log_prior = jnp.sum(norm.logpdf(z, self.prior.mean, self.prior.sd), -1)
        if self.log_posterior is not None:
            return log_prior - self.log_posterior
        own = norm.logpdf(z, self.posterior.mean, self.posterior.sd)
        return log_prior - jnp.sum(own, -1)


def conditional_smoother(
    transition: Transition,
    prior: Moments,
    filtered: Moments,
    noise: Float[Array, "time latent series"],
) -> PosteriorPath:
    """One path through the conditional smoothing posteriors, t = 1..T (K_f = 1).

    The posterior at each step is q(z_t | z_{t-1}, x_{t:T}), proportional to
    b_t e_t q~(z_t | z_{t-1}). The transition network is the quotient p(z_t | z_{t-1}) / p(z_t)
    itself, so no precision is ever subtracted. The prior is p(z) q~(z_t | z_{t-1}).

    Args:
        transition: the forward transition as a quotient.
        prior: p(z), ``(latent,)``.
        filtered: f_t = b_t e_t of the backward filter, ``(*batch, time, latent)``.
        noise: standard normal ``(time, latent, series)``, shared by further batch axes; zeros
            give the recursion of posterior means.
    """
    *batch, _, latent = filtered.mean.shape
    stationary = gaussian.natural(column(prior))

    def _step(carry, inputs):
        """z_{t-1} -> z_t."""
        state, first = carry
        step, step_noise = inputs
        reached = transition(clip_to_prior(state, prior))
        expert = gaussian.mask(gaussian.natural(reached), ~first)
        conditional = gaussian.moments(gaussian.product(stationary, expert))
        posterior = gaussian.moments(gaussian.product(step, expert))
        state = gaussian.sample(posterior, step_noise)
        return (state, jnp.zeros_like(first)), (conditional, posterior, state)

    start = (jnp.zeros((latent, math.prod(batch))), jnp.array(True))
    factors = Gaussian(*(flatten_batch(leaf) for leaf in gaussian.natural(filtered)))
    _, (conditional, posterior, states) = jax.lax.scan(
        jax.checkpoint(_step), start, (factors, flatten_offsets(noise, batch))
    )
    return PosteriorPath(
        Moments(*(unflatten_batch(leaf, batch) for leaf in conditional)),
        Moments(*(unflatten_batch(leaf, batch) for leaf in posterior)),
        unflatten_batch(states, batch),
    )


def marginal_smoother(
    transition: Transition, prior: Moments, filtered: Moments, offsets: Offsets
) -> Moments:
    """Moment-matched marginals q(z_t | x_{1:T}), ``(*batch, time, latent)`` (K_f > 1).

    Each step matches the conditional posteriors f_t q~(z_t | z^k) over points z^k of the previous
    marginal; with one point this is `conditional_smoother`. Matching a_t = E p(z_t | z^k) first
    and forming f_t a_t / p(z) afterwards would need a quotient that can be improper, and would
    count the future twice, because the points already depend on it.

    Arguments as in `conditional_smoother`, with `offsets` as in the filters.
    """
    *batch, _, latent = filtered.mean.shape
    fixed, count = offsets.shape[0] == 1, offsets.shape[2]
    flat_offsets = flatten_offsets(offsets, batch)

    def _step(carry, inputs):
        """q(z_{t-1} | x_{1:T}) -> q(z_t | x_{1:T})."""
        previous, first = carry
        step, step_offsets = inputs
        points = place_points(previous, flat_offsets[0] if fixed else step_offsets)
        reached = transition(clip_to_prior(points, prior))
        expert = gaussian.mask(gaussian.natural(reached), ~first)
        step = Gaussian(*(repeat_points(leaf, count) for leaf in step))
        posterior = match_points(gaussian.moments(gaussian.product(step, expert)), count)
        return (posterior, jnp.zeros_like(first)), posterior

    factors = Gaussian(*(flatten_batch(leaf) for leaf in gaussian.natural(filtered)))
    shape = (latent, math.prod(batch))
    start = (Moments(jnp.zeros(shape), jnp.ones(shape)), jnp.array(True))
    inputs = (factors, None if fixed else flat_offsets)
    _, posterior = jax.lax.scan(jax.checkpoint(_step), start, inputs)
    return Moments(*(unflatten_batch(leaf, batch) for leaf in posterior))
