"""Random deletions: key -> mask of what stays, ``(batch, time, 1)``.

Each draw depends on the key and the series' place in the batch alone. Combine with
`Series.hide`, which never makes anything observed that was not.
"""

import jax
from jax import numpy as jnp


def burst(key: jax.Array, lengths: jax.Array, time: int, fraction: jax.Array | float) -> jax.Array:
    """Hides one contiguous stretch of each series, uniformly placed.

    `fraction` of its length, one for all or one per series ``(batch,)``.
    """
    width = jnp.round(fraction * lengths).astype(jnp.int32)
    start = jnp.floor(uniform(key, lengths.shape[0], 1)[:, 0] * (lengths - width + 1))
    step = jnp.arange(time)[None, :]
    start = start.astype(jnp.int32)[:, None]
    return ((step < start) | (step >= start + width[:, None]))[..., None]


def scattered(key: jax.Array, lengths: jax.Array, time: int, fraction: float) -> jax.Array:
    """Hides exactly round(`fraction` * length) of each series' steps, chosen at random."""
    valid = jnp.arange(time)[None, :] < lengths[:, None]
    draws = jnp.where(valid, uniform(key, lengths.shape[0], time), jnp.inf)
    rank = jnp.argsort(jnp.argsort(draws, axis=1), axis=1)
    return (rank >= jnp.round(fraction * lengths)[:, None])[..., None]


def segment(lengths: jax.Array, time: int, start: float, stop: float) -> jax.Array:
    """Keeps the steps between the fractions `start` and `stop` of each series' length."""
    step = jnp.arange(time)[None, :]
    first, last = (jnp.round(edge * lengths)[:, None] for edge in (start, stop))
    return ((step >= first) & (step < last))[..., None]


def uniform(key: jax.Array, batch: int, count: int) -> jax.Array:
    """``(batch, count)`` uniform numbers; a row depends on the key and its index alone."""
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(batch))
    return jax.vmap(lambda row: jax.random.uniform(row, (count,)))(keys)
