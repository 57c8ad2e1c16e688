"""Bounds on the log-likelihood by importance sampling, with a model's posterior as the proposal.

    log p(x) >= E[log (1 / K) sum_k w_k],    w_k = p(x, z_k) / q(z_k | x),    z_k ~ q(z | x)

Burda, Grosse & Salakhutdinov, *Importance Weighted Autoencoders*, ICLR 2016. The bound rises with
K; at K = 1 it is the evidence lower bound.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jax.scipy import special

from jdmm.compiling import Static
from jdmm.errors import InputError
from jdmm.evaluation.batching import batches
from jdmm.evaluation.images import image_names
from jdmm.inference.smoothing import PosteriorPath
from jdmm.likelihoods import Raw
from jdmm.models.base import ExactLikelihood, Model, Variables
from jdmm.series import Series

CHUNK = 100
"""Number of samples that are in memory at once."""


class LogLikelihoodBounds(NamedTuple):
    """Estimates for each series, ``(batch,)``.

    bounds: K -> bound on log p(x), in nats.
    effective: effective sample size of the largest K, (sum w)^2 / sum w^2, from 1 to K.
    """

    bounds: dict[int, Any]
    effective: Any


def log_likelihood_bounds(
    model: Model,
    variables: Variables,
    series: Series,
    key: jax.Array,
    num_samples: Sequence[int] = (1, 10, 100),
    batch_size: int = 100,
) -> LogLikelihoodBounds:
    """Bounds on the log-likelihood of what is observed, for several numbers of samples K.

    All K share the same samples. The program is compiled once for a model and a shape of the
    batches.

    Args:
        model: a model without an exact likelihood.
        variables: its variables.
        series: what is observed.
        key: of all random numbers.
        num_samples: the numbers K.
        batch_size: number of series in memory at once.

    Raises:
        InputError: for a model that knows its likelihood, series that disagree with the model, no
            K, or one below 1.
    """
    check(model, series)
    if not num_samples or min(num_samples) < 1:
        raise InputError(
            f"expected num_samples of one or more numbers of at least 1, got {tuple(num_samples)}"
        )
    series = jax.device_get(series)
    pieces = []
    for index, rows in enumerate(batches(series.batch, batch_size)):
        batch_key = jax.random.fold_in(key, index)
        piece = bounds_of_batch(
            Static(model), tuple(num_samples), variables, series.take(rows), batch_key
        )
        pieces.append(jax.device_get(piece))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: series.batch], *pieces)


@partial(jax.jit, static_argnums=(0, 1))
def bounds_of_batch(
    static: Static[Model],
    num_samples: tuple[int, ...],
    variables: Variables,
    series: Series,
    key: jax.Array,
) -> LogLikelihoodBounds:
    """The compiled program of `log_likelihood_bounds`; samples `CHUNK` at a time."""
    model, largest = static.value, max(num_samples)
    chunk = min(largest, CHUNK)
    keys = jax.random.split(key, -(-largest // chunk))
    each = jax.lax.map(lambda own: log_weights(model, variables, series, own, chunk), keys)
    return bounds_of_weights(each.reshape(-1, series.batch)[:largest], num_samples)


def bounds_of_weights(log_weights: jax.Array, num_samples: Sequence[int]) -> LogLikelihoodBounds:
    """The bounds from log weights ``(sample, batch)``, as many samples as the largest K or more."""
    weights = log_weights[: max(num_samples)]
    bounds = {count: importance_bound(weights, count) for count in num_samples}
    return LogLikelihoodBounds(bounds, effective_sample_size(weights))


def log_weights(
    model: Model, variables: Variables, series: Series, key: jax.Array, num_samples: int
) -> jax.Array:
    """Log weights log p(x, z) - log q(z | x) of samples of z, in nats, ``(sample, batch)``.

    x is what is observed of `series`. Whatever a model samples beside z, such as missing values
    that it feeds back to itself, it samples from p, so that it cancels.

    Raises:
        InputError: for a model that knows its likelihood, or series that disagree with it.
    """
    check(model, series)
    path = model.posterior_samples(variables, series, key, num_samples)

    def weights(own: PosteriorPath) -> jax.Array:
        raw = model.emissions_of(variables, own.states, series)
        return weights_of(model, variables, series, own, raw)

    if not image_names(model.modalities):
        return weights(path)
    # the images of all samples would fill the memory
    return jax.lax.map(lambda own: weights(jax.tree.map(lambda leaf: leaf[None], own))[0], path)


def weights_of(
    model: Model, variables: Variables, series: Series, path: PosteriorPath, raw: dict[str, Raw]
) -> jax.Array:
    """`log_weights` of sample paths ``(sample, batch, ...)`` and their raw emission outputs."""
    log_prob = model.path_log_prob(variables, path.states, series, raw)
    return log_prob + jnp.sum(jnp.where(series.valid[None], path.log_ratio(), 0.0), -1)


def importance_bound(log_weights: jax.Array, count: int) -> jax.Array:
    """The bound of K = `count` samples, ``(batch,)``, from log weights ``(sample, batch)``.

    It is averaged over as many groups of K samples as there are.
    """
    groups = log_weights[: len(log_weights) // count * count].reshape(
        -1, count, *log_weights.shape[1:]
    )
    return jnp.mean(special.logsumexp(groups, axis=1) - jnp.log(count), 0)


def effective_sample_size(log_weights: jax.Array) -> jax.Array:
    """(sum w)^2 / sum w^2 of log weights ``(sample, batch)``: between 1 and their number."""
    return jnp.exp(
        2 * special.logsumexp(log_weights, axis=0) - special.logsumexp(2 * log_weights, axis=0)
    )


def check(model: Model, series: Series) -> None:
    """Checks that the likelihood of these series can be estimated.

    Raises:
        InputError: for a model that knows its likelihood, or series that disagree with it.
    """
    if isinstance(model, ExactLikelihood):
        raise InputError(
            f"expected a model without an exact likelihood, got {type(model).__name__}: call "
            "model.log_likelihood(variables, series)"
        )
    model.check(series)
