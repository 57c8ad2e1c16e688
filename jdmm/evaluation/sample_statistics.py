"""Statistics of sorted samples, elementwise over their other axes."""

import math
import warnings

import jax
from jax import numpy as jnp


def quantiles(samples: jax.Array, levels: jax.Array) -> jax.Array:
    """Quantiles ``(level, ...)`` of sorted `samples` ``(sample, ...)``.

    The i-th of n sorted samples is the quantile of level i / (n + 1): with that probability a
    further sample lies below it. In between it is interpolated; beyond the first and the last
    sample it stays at them. The usual level (i - 1) / (n - 1) gives 95 % intervals that cover 93 %.
    """
    count = samples.shape[0]
    place = jnp.clip(levels * (count + 1) - 1, 0.0, count - 1.0)
    below = jnp.floor(place).astype(int)
    share = (place - below).reshape(-1, *(1,) * (samples.ndim - 1))
    first, second = samples[below], samples[jnp.minimum(below + 1, count - 1)]
    return first + share * (second - first)


def probability_integral_transform(samples: jax.Array, value: jax.Array) -> jax.Array:
    """The level at which the `quantiles` of `samples` ``(sample, ...)`` reach `value`.

    Where several samples equal the value, as for counts and binary values, it is the middle of
    their levels.
    """
    below = samples < value[None]
    ties = jnp.sum(samples == value[None], 0)
    first = jnp.max(jnp.where(below, samples, -jnp.inf), 0)
    last = jnp.min(jnp.where(below, jnp.inf, samples), 0)
    inside = jnp.isfinite(first) & jnp.isfinite(last)
    first, last = jnp.where(inside, first, 0.0), jnp.where(inside, last, 1.0)
    between = jnp.where(inside, (value - first) / (last - first), 0.5)
    share = jnp.where(ties > 0, 0.5 * (ties + 1), between)
    return (jnp.sum(below, 0) + share) / (samples.shape[0] + 1)


def ranked_probability_score(samples: jax.Array, value: jax.Array) -> jax.Array:
    """CRPS = E|x - value| - E|x - x'| / 2, unbiased, from sorted `samples` ``(sample, ...)``.

    Gneiting & Raftery, *Strictly Proper Scoring Rules, Prediction, and Estimation*, JASA 2007.
    """
    count = samples.shape[0]
    rank = jnp.arange(count).reshape(-1, *(1,) * value.ndim)
    # of the sorted samples x_i, sum_ij |x_i - x_j| / 2 = sum_i (2 i - n + 1) x_i, i = 0..n-1
    spread = jnp.sum((2 * rank - count + 1) * samples, 0) / max(count * (count - 1), 1)
    return jnp.mean(jnp.abs(samples - value[None]), 0) - spread


def warn_of_few_samples(num_samples: int, level: float) -> None:
    """Warns if a central interval of this level would need more samples.

    Its bounds are the quantiles of level (1 - c) / 2 and (1 + c) / 2. These lie among n samples if
    1 / (n + 1) <= (1 - c) / 2, so n >= 2 / (1 - c) - 1.
    """
    needed = math.ceil(round(2 / (1 - level), 6)) - 1
    if num_samples < needed:
        warnings.warn(
            f"an interval of level {level:g} needs at least {needed} samples, got {num_samples}: "
            "its bounds are the smallest and the largest sample, and it covers less than it says",
            stacklevel=4,
        )
