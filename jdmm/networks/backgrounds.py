"""Backgrounds of images: what a decoder starts from, made of the images that a series shows."""

from typing import NamedTuple

import jax
from flax import linen as nn
from jax import numpy as jnp

NONE, MEAN, RECALLED = "", "mean", "recalled"

BACKGROUNDS = (NONE, MEAN, RECALLED)

UNUSABLE = -1e30
"""Score of an image that may not be recalled."""

KEYS = 16
"""Size of the keys by which states are compared, to recall images."""

LEAST_PIXEL = 0.01
"""A background is at least so far from 0 and 1, where logits are infinite."""


def background_of(values: jax.Array, observed: jax.Array) -> jax.Array:
    """The mean of the observed images of each series, 0.5 where there is none.

    Args:
        values: pixels ``(..., time, pixel)``.
        observed: mask of the same shape.

    Returns:
        ``(..., 1, pixel)``.
    """
    count = jnp.sum(observed, -2, keepdims=True)
    total = jnp.sum(jnp.where(observed, values, 0.0), -2, keepdims=True)
    return jnp.where(count > 0, total / jnp.maximum(count, 1), 0.5)


class Frames(NamedTuple):
    """The images of series, to be recalled.

    values: pixels ``(series, time, pixel)``.
    usable: mask ``(series, time, time)``, whether a step (first) may recall another (last).
    """

    values: jax.Array
    usable: jax.Array


def frames_of(values: jax.Array, observed: jax.Array, own: bool) -> Frames:
    """The observed images of each series.

    Args:
        values: pixels ``(series, time, pixel)``.
        observed: mask of the same shape.
        own: whether a step may recall its own image. It may not where that image is scored.
    """
    here = jnp.any(observed, -1)
    steps = jnp.arange(values.shape[-2])
    allowed = (steps[:, None] != steps[None]) | own
    return Frames(jnp.where(observed, values, 0.0), here[:, None] & allowed[None])


class Recall(nn.Module):
    """For every step, a mean of observed images, weighted by how near their states are."""

    @nn.compact
    def __call__(self, z: jax.Array, frames: Frames) -> jax.Array:
        """``(..., series, time, pixel)`` from states ``(..., series, time, latent)``."""
        key = nn.Dense(KEYS, name="key")(z)
        square = jnp.sum(key**2, -1)
        product = jnp.einsum("...tk,...sk->...ts", key, key)
        scores = 2 * product - square[..., None, :]  # minus the distance, up to a constant
        usable = frames.usable.reshape(*(1,) * (z.ndim - 3), *frames.usable.shape)
        weights = nn.softmax(jnp.where(usable, scores, UNUSABLE))
        recalled = jnp.einsum("...ts,...sp->...tp", weights, frames.values)
        return jnp.where(jnp.any(usable, -1, keepdims=True), recalled, 0.5)


def logit(pixels: jax.Array) -> jax.Array:
    """The logits of pixels from 0 to 1."""
    pixels = jnp.clip(pixels, LEAST_PIXEL, 1 - LEAST_PIXEL)
    return jnp.log(pixels) - jnp.log1p(-pixels)
