"""Batch normalisation with masks, over all devices."""

import jax
from flax import linen as nn
from jax import numpy as jnp

from jdmm.compiling import DEVICE_AXIS

BATCH_STATS = "batch_stats"
"""The Flax collection of running statistics, beside "params"."""

MOMENTUM = 0.9
EPSILON = 1e-5


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015) in which only some rows count.

    In training, mean and variance are those of the rows that count, on all devices together, and
    the running ones move towards them. Otherwise the running ones are used. A module is in training
    where the collection "batch_stats" is mutable: in the train step.
    """

    @nn.compact
    def __call__(self, values: jax.Array, counted: jax.Array) -> jax.Array:
        """Normalised values ``(n, ..., channel)``.

        Args:
            values: ``(n, ..., channel)``.
            counted: ``(n,)``, True for the rows that enter the statistics.
        """
        channels = values.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        mean = self.variable(BATCH_STATS, "mean", jnp.zeros, (channels,))
        variance = self.variable(BATCH_STATS, "variance", jnp.ones, (channels,))
        used = mean.value, variance.value
        if self.is_mutable_collection(BATCH_STATS) and not self.is_initializing():
            used, count = _moments(values, counted)
            for running, own in zip((mean, variance), used, strict=True):
                moved = MOMENTUM * running.value + (1 - MOMENTUM) * jax.lax.stop_gradient(own)
                running.value = jnp.where(count > 0, moved, running.value)
        factor = scale * jax.lax.rsqrt(used[1] + EPSILON)
        ones = (1,) * (values.ndim - 1)
        shift = bias - used[0] * factor
        return values * factor.reshape(*ones, -1) + shift.reshape(*ones, -1)


def _moments(
    values: jax.Array, counted: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    """Mean and variance per channel of the rows that count, and the number of their values."""
    axes = tuple(range(values.ndim - 1))
    mask = counted.reshape(-1, *(1,) * (values.ndim - 1))

    def total(each: jax.Array) -> jax.Array:
        return _over_devices(jnp.sum(jnp.where(mask, each, 0.0), axes))

    count = total(jnp.ones_like(values[..., :1]))[0]
    mean = total(values) / jnp.maximum(count, 1.0)
    centred = values - mean.reshape(*(1,) * len(axes), -1)
    variance = total(centred**2) / jnp.maximum(count, 1.0)
    return (mean, variance), count


def _over_devices(value: jax.Array) -> jax.Array:
    """The sum over the devices that share a batch; the value itself where there is one device."""
    try:
        jax.lax.axis_size(DEVICE_AXIS)
    except NameError:  # the axis is not mapped
        return value
    return jax.lax.psum(value, DEVICE_AXIS)
