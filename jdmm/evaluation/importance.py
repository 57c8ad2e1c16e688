"""Bounds on the log-likelihood by importance sampling, with a model's smoother as the proposal.

Burda, Grosse & Salakhutdinov, *Importance Weighted Autoencoders*, ICLR 2016: the log of the average
of K weights p(x, z) / q(z | x) bounds log p(x) from below in expectation, the closer the more there
are; K = 1 is the evidence lower bound.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jax.scipy import special
from jax.scipy.stats import norm

from jdmm.errors import InputError
from jdmm.evaluation.prediction import batches
from jdmm.models.base import Model
from jdmm.series import Series

CHUNK = 100
"""Draws that are held in memory at once."""


class LogLikelihoodBounds(NamedTuple):
    """Of every series, ``(batch,)``.

    bounds: K -> bound on log p(x), in nats.
    effective: effective number of draws, of those of the largest K: (sum w)^2 / sum w^2.
    """

    bounds: dict[int, np.ndarray]
    effective: np.ndarray


def log_weights(
    model: Model, variables: Any, series: Series, key: jax.Array, count: int
) -> jax.Array:
    """Log weights log p(x, z) - log q(z | x) of `count` draws of z, in nats, ``(count, batch)``.

    x is what is observed of `series`. What a model draws beside z, such as missing values that it
    feeds back to itself, it draws from p, so that it cancels.
    """
    chain = model.posterior_samples(variables, series, key, count)
    raw = model.emissions(variables, chain.states)
    total = jnp.zeros((count, series.batch))
    for name, likelihood in model.likelihoods.items():
        value = jnp.broadcast_to(series.values[name], (count, *series.values[name].shape))
        log_prob = likelihood.log_prob(raw[name], value)
        total += jnp.sum(jnp.where(series.observed[name][None], log_prob, 0.0), (-2, -1))
    states = chain.states[..., : chain.prior.mean.shape[-1]]
    ratio = norm.logpdf(states, chain.prior.mean, chain.prior.sd) - norm.logpdf(
        states, chain.posterior.mean, chain.posterior.sd
    )
    return total + jnp.sum(jnp.where(series.valid[None], jnp.sum(ratio, -1), 0.0), -1)


def importance_bound(weights: Any, count: int) -> Any:
    """The bound of `count` draws, averaged over as many groups as there are: ``(batch,)``."""
    groups = weights[: len(weights) // count * count].reshape(-1, count, *weights.shape[1:])
    return jnp.mean(special.logsumexp(groups, axis=1) - jnp.log(count), 0)


def effective_draws(weights: Any) -> Any:
    """(sum w)^2 / sum w^2 of log weights ``(count, batch)``, between 1 and count."""
    return jnp.exp(2 * special.logsumexp(weights, axis=0) - special.logsumexp(2 * weights, axis=0))


def log_likelihood_bounds(
    model: Model,
    variables: Any,
    series: Series,
    key: jax.Array,
    counts: Sequence[int] = (1, 10, 100),
    batch_size: int = 100,
) -> LogLikelihoodBounds:
    """Bounds for every K of `counts`, from the same draws; compiled once.

    Raises:
        InputError: for a K below 1, or none.
    """
    if not counts or min(counts) < 1:
        raise InputError(f"expected numbers of draws of at least 1, got {tuple(counts)}")
    largest = max(counts)
    chunk = min(largest, CHUNK)

    @jax.jit
    def one(variables: Any, shown: Series, key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, -(-largest // chunk))
        each = jax.lax.map(lambda own: log_weights(model, variables, shown, own, chunk), keys)
        return each.reshape(-1, shown.batch)[:largest]

    pieces = []
    for index, rows in enumerate(batches(series.batch, batch_size)):
        weights = one(variables, series.take(rows), jax.random.fold_in(key, index))
        bounds = {count: importance_bound(weights, count) for count in counts}
        pieces.append(jax.device_get(LogLikelihoodBounds(bounds, effective_draws(weights))))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: series.batch], *pieces)
