"""Convolutional encoders and decoders of images, at the sizes of Tan et al. (2020).

Pixels are features, row by row: ``(..., height * width * channel)``.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from flax import linen as nn
from flax.linen.initializers import variance_scaling
from jax import numpy as jnp

from jdmm.errors import InputError
from jdmm.inference.gaussian import Moments
from jdmm.likelihoods import Likelihood, Normal, Raw, constrain_sd, unconstrain_sd
from jdmm.networks.dense import StateDense
from jdmm.networks.statistics import BatchNorm

PIXEL_SD = 0.1
"""First sd of normal pixels, whose range is 0 to 1."""

NORMALISATION_GROUPS = 8

FRAMES = 125
"""Images that a convolution takes at a time."""

LEAST_PIXEL = 0.01
"""A background is at least so far from 0 and 1, where logits are infinite."""


BATCH, GROUP = "batch", "group"

NORMALISATIONS = (BATCH, GROUP)

NONE, MEAN, RECALLED = "", "mean", "recalled"

BACKGROUNDS = (NONE, MEAN, RECALLED)

KEPT = 2.0
"""Logit of the share of a recalled image that a fresh decoder keeps."""

UNUSABLE = -1e30
"""Score of an image that may not be recalled."""

KEYS = 16
"""Size of the keys by which states are compared, to recall images."""


@dataclass(frozen=True)
class Image:
    """The form of the images of a modality, and the sizes of its default networks.

    Attributes:
        shape: height, width and number of channels of an image.
        channels: of each convolution of the encoder, which halves height and width; those of the
            decoder are the reverse.
        normalisation: after all convolutions but the last: "batch" (as published; with running
            statistics) or "group" (of the channels of one image; no statistics).
        background: what the decoder starts from. "mean" is the mean of the observed images of a
            series, which stands for its static content; the decoder adds to its logit. "recalled"
            is a mean of them that is weighted by how near their states are, so that details of an
            image of the same pose return; the decoder draws over it where it chooses. With either,
            the encoder sees the mean and the difference. "" is none.

    Raises:
        InputError: for an impossible value.
    """

    shape: tuple[int, int, int] = (64, 64, 3)
    channels: tuple[int, ...] = (16, 32, 64)
    normalisation: str = BATCH
    background: str = NONE

    def __post_init__(self) -> None:
        """Checks the values."""
        for name in ("shape", "channels"):
            numbers_ = tuple(getattr(self, name))
            object.__setattr__(self, name, numbers_)
            if not numbers_ or not all(isinstance(n, int) and n > 0 for n in numbers_):
                raise InputError(f"expected an image's {name} as whole numbers, got {numbers_}")
        if len(self.shape) != 3:
            raise InputError(
                f"expected an image's shape as (height, width, channel), got {self.shape}"
            )
        scale = 2 ** len(self.channels)
        if self.shape[0] % scale or self.shape[1] % scale:
            raise InputError(
                f"expected height and width of an image to be multiples of {scale} for "
                f"{len(self.channels)} convolutions, got {self.shape}"
            )
        for name, known in (("normalisation", NORMALISATIONS), ("background", BACKGROUNDS)):
            value = getattr(self, name)
            if value not in known:
                raise InputError(
                    f"expected an image's {name} among {', '.join(map(repr, known))}, got {value!r}"
                )

    @property
    def pixels(self) -> int:
        """The number of features."""
        return math.prod(self.shape)


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


class Normalisation(nn.Module):
    """Batch or group normalisation of images ``(n, height, width, channel)``."""

    kind: str

    @nn.compact
    def __call__(self, images: jax.Array, counted: jax.Array) -> jax.Array:
        """Normalised images; `counted`, ``(n,)``, are those that enter statistics of the batch."""
        if self.kind == BATCH:
            return BatchNorm(name="batch")(images, counted)
        groups = math.gcd(images.shape[-1], NORMALISATION_GROUPS)
        return nn.GroupNorm(num_groups=groups, name="group")(images)


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


class ImageFeatures(nn.Module):
    """3x3 convolutions with stride 2.

    Attributes:
        image: shape, channels of each convolution, and normalisation after all but the last.
    """

    image: Image

    @nn.compact
    def __call__(self, values: jax.Array, observed: jax.Array) -> jax.Array:
        """Features ``(..., feature)`` from pixels and masks ``(..., pixel)``."""
        batch = values.shape[:-1]
        inner = jnp.where(observed, values, 0.0).reshape(-1, *self.image.shape)
        if self.image.background:
            change = jnp.where(observed, values - background_of(values, observed), 0.0)
            inner = jnp.concatenate([inner, change.reshape(inner.shape)], -1)
        counted = jnp.any(observed, -1).reshape(-1)
        last = len(self.image.channels) - 1
        for i, channels in enumerate(self.image.channels):
            inner = HalvingConv(channels, name=f"convolution_{i}")(inner)
            if i < last:
                norm = Normalisation(self.image.normalisation, name=f"normalisation_{i}")
                inner = nn.relu(norm(inner, counted))
        return inner.reshape(*batch, -1)


class ImageEncoder(nn.Module):
    """The evidence p(z | x) / p(z) of images: convolutions, then dense layers.

    Attributes:
        latent: D.
        image: form of the images, and sizes of the convolutions.
    """

    latent: int
    image: Image

    @nn.compact
    def __call__(self, values: jax.Array, observed: jax.Array) -> Moments:
        """Moments ``(..., latent)`` from pixels and masks ``(..., pixel)``."""
        inner = ImageFeatures(self.image, name="features")(values, observed)
        mean = nn.Dense(self.latent, name="mean")(inner)
        return Moments(mean, constrain_sd(nn.Dense(self.latent, name="sd")(inner)) ** 2)


class ImageEmbedding(nn.Module):
    """Convolutions and a dense layer, for recurrent networks.

    Attributes:
        units: number of outputs.
        image: form of the images, and sizes of the convolutions.
    """

    units: int
    image: Image

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        """``(pixel, n)`` -> ``(units, n)``; missing pixels are 0."""
        seen = jnp.ones(pixels.T.shape, bool)
        inner = ImageFeatures(self.image, name="features")(pixels.T, seen)
        return StateDense(self.units, name="embedding")(inner.T)


class ImageDecoder(nn.Module):
    """z -> the raw outputs of the likelihood of pixels: the mirror image of `ImageEncoder`.

    The mean of a normal pixel lies within 0..1, and all pixels share one sd, unless it is fixed.

    Attributes:
        image: shape, channels of each convolution, and normalisation.
        likelihood: Bernoulli or Normal.
    """

    image: Image
    likelihood: Likelihood

    @nn.compact
    def __call__(
        self,
        z: jax.Array,
        counted: jax.Array | None = None,
        background: jax.Array | Frames | None = None,
    ) -> Raw:
        """Raw arrays ``(..., pixel)`` from states ``(..., latent)``.

        Args:
            z: the states.
            counted: mask ``(...,)`` of those that enter statistics of the batch; by default all.
            background: pixels ``(series, 1, pixel)`` of `background_of`, or images of `frames_of`;
                by default grey.
        """
        batch = z.shape[:-1]
        counted = jnp.ones(batch, bool) if counted is None else counted
        height, width, colours = self.image.shape
        widths = self.image.channels[::-1]
        scale = 2 ** len(widths)
        smallest = (height // scale, width // scale, widths[0])
        inner = nn.relu(nn.Dense(math.prod(smallest), name="dense")(z.reshape(-1, z.shape[-1])))
        inner = inner.reshape(-1, *smallest)
        recalls = self.image.background == RECALLED
        for i, channels in enumerate((*widths[1:], colours + recalls)):
            inner = DoublingConv(channels, name=f"convolution_{i}")(inner)
            if i < len(widths) - 1:
                norm = Normalisation(self.image.normalisation, name=f"normalisation_{i}")
                inner = nn.relu(norm(inner, counted.reshape(-1)))
        logits = inner[..., :colours].reshape(*batch, -1)
        if recalls and self.is_initializing():
            series, steps = z.shape[-3:-1]
            grey = jnp.full((series, steps, self.image.pixels), 0.5)
            background = frames_of(grey, jnp.ones(grey.shape, bool), own=True)
        if isinstance(background, Frames):
            share = nn.sigmoid(inner[..., colours:] - KEPT)
            share = jnp.repeat(share, colours, -1).reshape(*batch, -1)
            recalled = Recall(name="recall")(z, background)
            return self._pixels(share * nn.sigmoid(logits) + (1 - share) * recalled)
        if background is not None:
            static = _logit(background)
            logits += static.reshape(*(1,) * (logits.ndim - static.ndim), *static.shape)
        if not isinstance(self.likelihood, Normal):
            return (logits,)
        return self._pixels(nn.sigmoid(logits))

    def _pixels(self, mean: jax.Array) -> Raw:
        """Raw outputs of pixels of this mean."""
        if not isinstance(self.likelihood, Normal):
            return (_logit(mean),)
        if self.likelihood.sd is not None:
            return (mean,)
        start = nn.initializers.constant(unconstrain_sd(jnp.array(PIXEL_SD)))
        sd = self.param("sd", start, ())
        return mean, jnp.broadcast_to(sd, mean.shape)


def _logit(pixels: jax.Array) -> jax.Array:
    pixels = jnp.clip(pixels, LEAST_PIXEL, 1 - LEAST_PIXEL)
    return jnp.log(pixels) - jnp.log1p(-pixels)
