"""Convolutional encoders and decoders of images, at the sizes of Tan et al. (2020).

Pixels are features, row by row: ``(..., height * width * channel)``.
"""

import math
from dataclasses import dataclass

import jax
from flax import linen as nn
from jax import numpy as jnp

from jdmm.errors import InputError
from jdmm.inference.gaussian import Moments
from jdmm.likelihoods import Likelihood, Normal, Raw, constrain_sd, unconstrain_sd
from jdmm.networks.backgrounds import (
    BACKGROUNDS,
    NONE,
    RECALLED,
    Frames,
    Recall,
    background_of,
    frames_of,
    logit,
)
from jdmm.networks.convolutions import DoublingConv, HalvingConv
from jdmm.networks.dense import StateDense
from jdmm.networks.statistics import BatchNorm

PIXEL_SD = 0.1
"""First sd of normal pixels, whose range is 0 to 1."""

NORMALISATION_GROUPS = 8

BATCH, GROUP = "batch", "group"

NORMALISATIONS = (BATCH, GROUP)

KEPT = 2.0
"""Logit of the share of a recalled image that a fresh decoder keeps."""


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
            is, tile by tile, a mean of them that is weighted by how near their states are, so that
            details of an image of the same pose return; the decoder draws over it where it chooses.
            With either, the encoder sees the mean and the difference. "" is none.

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
            background: pixels ``(series, 1, pixel)`` of `background_of`, or images of `frames_of`.
                Without one, the decoder draws all of the image.
        """
        batch = z.shape[:-1]
        counted = jnp.ones(batch, bool) if counted is None else counted
        height, width, colours = self.image.shape
        widths = self.image.channels[::-1]
        scale = 2 ** len(widths)
        smallest = (height // scale, width // scale, widths[0])
        inner = nn.relu(nn.Dense(math.prod(smallest), name="dense")(z.reshape(-1, z.shape[-1])))
        inner = inner.reshape(-1, *smallest)
        tiles = inner.reshape(*batch, *smallest)
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
            recalled, doubt = Recall(self.image.shape, name="recall")(tiles, background)
            trust = self.param("trust", nn.initializers.ones, ())
            smooth = jax.image.resize(doubt, (*batch, height, width), "linear")
            share = nn.sigmoid(
                inner[..., colours:] - KEPT + trust * smooth.reshape(*inner.shape[:-1], 1)
            )
            share = jnp.repeat(share, colours, -1).reshape(*batch, -1)
            return self._pixels(share * nn.sigmoid(logits) + (1 - share) * recalled)
        if background is not None:
            static = logit(background)
            logits += static.reshape(*(1,) * (logits.ndim - static.ndim), *static.shape)
        if not isinstance(self.likelihood, Normal):
            return (logits,)
        return self._pixels(nn.sigmoid(logits))

    def _pixels(self, mean: jax.Array) -> Raw:
        """Raw outputs of pixels of this mean."""
        if not isinstance(self.likelihood, Normal):
            return (logit(mean),)
        if self.likelihood.sd is not None:
            return (mean,)
        start = nn.initializers.constant(unconstrain_sd(jnp.array(PIXEL_SD)))
        sd = self.param("sd", start, ())
        return mean, jnp.broadcast_to(sd, mean.shape)
