"""Convolutions of images as products of matrices, and their transposes.

Images are ``(n, height, width, channel)``.
"""

import jax
import numpy as np
from flax import linen as nn
from flax.linen.initializers import variance_scaling
from jax import numpy as jnp

FRAMES = 125
"""Images that a convolution takes at a time."""


def patches(images: jax.Array, size: int, stride: int) -> jax.Array:
    """The windows of images as rows, zeros around them: a convolution is their matrix product.

    XLA's gradient of a convolution is many times slower on a CPU than that of a matrix product.

    Args:
        images: ``(n, height, width, channel)``, padded by one pixel on each side.
        size: of the square windows.
        stride: from one window to the next.

    Returns:
        ``(n, rows, columns, size * size * channel)``.
    """
    _, height, width, _ = images.shape
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = (range(extent + 3 - size) for extent in (height, width))
    return jnp.concatenate(
        [
            padded[:, y : y + len(rows) : stride, x : x + len(columns) : stride]
            for y in range(size)
            for x in range(size)
        ],
        -1,
    )


def convolve(images: jax.Array, kernel: jax.Array, size: int, stride: int) -> jax.Array:
    """The `patches` times a kernel ``(size * size * channel, channels)``.

    Patches take several times the memory of the images. They exist of `FRAMES` images at a time,
    and the gradient makes them again.
    """

    @jax.checkpoint
    def some(images: jax.Array, kernel: jax.Array) -> jax.Array:
        return patches(images, size, stride) @ kernel

    whole = len(images) // FRAMES * FRAMES
    parts = [some(images[whole:], kernel)] if whole < len(images) else []
    if whole:
        stacked = images[:whole].reshape(-1, FRAMES, *images.shape[1:])
        _, found = jax.lax.scan(lambda _, own: (None, some(own, kernel)), None, stacked)
        parts.insert(0, found.reshape(whole, *found.shape[2:]))
    return jnp.concatenate(parts) if len(parts) > 1 else parts[0]


class HalvingConv(nn.Module):
    """A 3x3 convolution with stride 2 and padding 1: half the height and the width."""

    channels: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """``(n, height, width, channel)`` -> ``(n, height / 2, width / 2, channels)``."""
        shape = (3, 3, images.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        return convolve(images, kernel.reshape(-1, self.channels), 3, 2) + bias[None, None, None]


class DoublingConv(nn.Module):
    """A transposed 4x4 convolution with stride 2: twice the height and the width.

    Each output pixel sees 2x2 input pixels, so that all four kinds of output pixel come from one
    plain 2x2 convolution.
    """

    channels: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """``(n, height, width, channel)`` -> ``(n, 2 height, 2 width, channels)``."""
        n, height, width, before = images.shape
        start = variance_scaling(4.0, "fan_in", "truncated_normal")  # 4 of 16 taps reach a pixel
        kernel = self.param("kernel", start, (4, 4, before, self.channels))
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        # an even output pixel 2p sees the inputs p - 1 and p, an odd one, 2p + 1, p and p + 1
        taps = np.array([[3, 1], [2, 0]])
        each = kernel[taps[:, None, :, None], taps[None, :, None, :]]  # (row, column, y, x, i, o)
        flat = jnp.transpose(each, (2, 3, 4, 0, 1, 5)).reshape(2, 2, before, -1)
        every = convolve(images, flat.reshape(4 * before, -1), 2, 1)
        every = every.reshape(n, height + 1, width + 1, 2, 2, self.channels)
        rows = [
            jnp.stack([every[:, a : a + height, b : b + width, a, b] for b in (0, 1)], 3)
            for a in (0, 1)
        ]
        return (
            jnp.stack(rows, 2).reshape(n, 2 * height, 2 * width, self.channels)
            + bias[None, None, None]
        )
