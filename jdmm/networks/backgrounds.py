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

OWN_EVERY = 4
"""While images are scored, one step of so many may recall its own one, to learn when to keep it."""

OWN_START = 2.0
"""First log odds of a step's own image, where it may be recalled, against one of the same key."""

LEAST_DISTANCE = 0.01
"""Added to the distances of keys, whose logarithm is the doubt about a recalled tile."""

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
        own: whether every step may recall its own image; else one of `OWN_EVERY` may.
    """
    here = jnp.any(observed, -1)
    steps = jnp.arange(values.shape[-2])
    exempt = own | (steps % OWN_EVERY == OWN_EVERY - 1)
    allowed = (steps[:, None] != steps[None]) | exempt[:, None]
    return Frames(jnp.where(observed, values, 0.0), here[:, None] & allowed[None])


class Recall(nn.Module):
    """For every tile of every step, a mean of observed tiles, weighted by how near their keys are.

    Attributes:
        shape: height, width and number of channels of an image.
    """

    shape: tuple[int, int, int]

    @nn.compact
    def __call__(self, features: jax.Array, frames: Frames) -> tuple[jax.Array, jax.Array]:
        """Images ``(..., series, time, pixel)`` from features of the states, and doubts about them.

        The doubt of a tile ``(..., series, time, row, column)`` is the log of the mean squared
        distance from its key to those of the tiles that it is made of.

        Args:
            features: of each tile of each step, ``(..., series, time, row, column, channel)``.
            frames: the images.
        """
        *batch, time, rows, columns, _ = features.shape
        height, width, colours = self.shape
        tile = (height // rows, width // columns)
        key = nn.Dense(KEYS, name="key")(features)
        square = jnp.sum(key**2, -1)
        product = jnp.einsum("...trck,...srck->...rcts", key, key)
        across = jnp.moveaxis(square, -3, -1)
        distance = jnp.maximum(across[..., None] + across[..., None, :] - 2 * product, 0.0)
        usable = frames.usable[:, None, None]
        usable = usable.reshape(*(1,) * (len(batch) - 1), *usable.shape)
        preference = self.param("own", nn.initializers.constant(OWN_START), ())
        is_own = jnp.eye(time).reshape(*(1,) * (distance.ndim - 2), time, time)
        scores = preference * is_own - distance
        weights = nn.softmax(jnp.where(usable, scores, UNUSABLE))
        doubt = jnp.log(jnp.sum(weights * distance, -1) + LEAST_DISTANCE)
        tiles = frames.values.reshape(-1, time, rows, tile[0], columns, tile[1] * colours)
        recalled = jnp.einsum("...rcts,...srycx->...trycx", weights, tiles)
        recalled = recalled.reshape(*batch, time, height * width * colours)
        some = jnp.any(frames.usable, -1)[..., None]
        recalled = jnp.where(some.reshape(*(1,) * (len(batch) - 1), *some.shape), recalled, 0.5)
        return recalled, jnp.moveaxis(doubt, -1, -3)


def logit(pixels: jax.Array) -> jax.Array:
    """The logits of pixels from 0 to 1."""
    pixels = jnp.clip(pixels, LEAST_PIXEL, 1 - LEAST_PIXEL)
    return jnp.log(pixels) - jnp.log1p(-pixels)
