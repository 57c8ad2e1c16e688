"""Images: predictions of many pixels in little memory, and structural similarity.

Wang, Bovik, Sheikh & Simoncelli, *Image Quality Assessment: From Error Visibility to Structural
Similarity*, IEEE TIP 2004.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from scipy import ndimage

from jdmm.data.modality import Modality, images_of
from jdmm.likelihoods import Likelihood, Raw
from jdmm.models.base import Model, Variables
from jdmm.series import Series

SIGMA, RADIUS = 1.5, 5
"""Of the Gaussian window, 11x11 pixels."""

WINDOW = 2 * RADIUS + 1
"""Height and width of the window, and of the smallest image."""

C1, C2 = 0.01**2, 0.03**2
"""The constants of the paper, for pixels from 0 to 1."""

CHUNK = 64
"""Frames that are in memory at once."""


def image_names(modalities: Sequence[Modality]) -> list[str]:
    """Names of the modalities whose values are images."""
    return [modality.name for modality in images_of(modalities)]


class Pixels(NamedTuple):
    """Modality -> what is predicted of its images; see `jdmm.evaluation.prediction.Prediction`."""

    expected: dict[str, Any]
    sd: dict[str, Any]
    samples: dict[str, Any]


def decode_in_turn(
    model: Model,
    variables: Variables,
    series: Series,
    states: jax.Array,
    near: Mapping[str, jax.Array],
    scale: Any,
    key: jax.Array,
    return_samples: bool,
) -> tuple[dict[str, Raw], Pixels]:
    """Decodes one sample of the states after the other, and keeps the moments of the images.

    The variance of a pixel is the mean of its emission variances plus the variance of its emission
    means (law of total variance).

    Args:
        model: a model with images.
        variables: its variables.
        series: what the states were inferred from.
        states: samples of the states, ``(sample, batch, time, ...)``.
        near: modality -> ``(batch, time, feature)`` values near the emission means; the sums are
            those of deviations from these, which loses no digits.
        scale: of the emissions, as in `Calibration`.
        key: of the samples of the images.
        return_samples: whether to return these.

    Returns:
        The raw outputs of the modalities that are no images, ``(sample, batch, time, ...)``, and
        the predictions of the images.
    """

    def decode(own: jax.Array, own_key: jax.Array) -> tuple[Any, Any]:
        raw, sums, samples = dict(model.emissions_of(variables, own, series)), {}, {}
        for index, name in enumerate(image_names(model.modalities)):
            likelihood, image_key = model.likelihoods[name], jax.random.fold_in(own_key, index)
            pixels = likelihood.rescale(raw.pop(name), scale)
            mean, variance = _moments(likelihood, pixels, image_key)
            deviation = mean - near[name]
            sums[name] = deviation, deviation**2, variance
            if return_samples:
                samples[name] = likelihood.sample(pixels, image_key)
        return sums, (raw, samples)

    def _step(total: Any, inputs: Any) -> tuple[Any, Any]:
        """Adds one sample."""
        sums, kept = decode(*inputs)
        return jax.tree.map(jnp.add, total, sums), kept

    keys = jax.random.split(key, len(states))
    shapes, _ = jax.eval_shape(decode, states[0], keys[0])
    start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, (raw, samples) = jax.lax.scan(_step, start, (states, keys))
    expected, sd = {}, {}
    for name, sums in total.items():
        deviation, square, variance = (leaf / len(states) for leaf in sums)
        expected[name] = near[name] + deviation
        sd[name] = jnp.sqrt(variance + jnp.maximum(square - deviation**2, 0.0))
    return raw, Pixels(expected, sd, samples)


def _moments(likelihood: Likelihood, raw: Raw, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of an emission; of a likelihood without moments, a sample and 0."""
    if likelihood.has_moments:
        return likelihood.moments(raw)
    sample = likelihood.sample(raw, key)
    return sample, jnp.zeros_like(sample)


def ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Structural similarity of each pair of frames, ``(...,)``, at most 1.

    It is the mean over the channels, and over the pixels whose window lies inside the image.

    Args:
        first: frames ``(..., height, width, channel)`` of pixels from 0 to 1, at least 11x11.
        second: frames of the same shape.
    """
    shape = first.shape[-3:]
    pairs = zip(*(_chunks(frames.reshape(-1, *shape)) for frames in (first, second)), strict=True)
    each = [_ssim(a, b) for a, b in pairs]
    return np.concatenate([np.zeros(0), *each]).reshape(first.shape[:-3])


def _chunks(frames: np.ndarray) -> list[np.ndarray]:
    return [frames[i : i + CHUNK] for i in range(0, len(frames), CHUNK)]


def _ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """SSIM of a chunk, ``(frame,)``."""
    first, second = (np.asarray(frames, np.float64) for frames in (first, second))
    mean1, mean2 = _windows(first), _windows(second)
    variance1 = _windows(first**2) - mean1**2
    variance2 = _windows(second**2) - mean2**2
    covariance = _windows(first * second) - mean1 * mean2
    luminance = (2 * mean1 * mean2 + C1) / (mean1**2 + mean2**2 + C1)
    structure = (2 * covariance + C2) / (variance1 + variance2 + C2)
    return np.mean(luminance * structure, (1, 2, 3))


def _windows(frames: np.ndarray) -> np.ndarray:
    """The mean of every window that lies inside the image."""
    smooth = ndimage.gaussian_filter(frames, (0, SIGMA, SIGMA, 0), radius=(0, RADIUS, RADIUS, 0))
    return smooth[:, RADIUS:-RADIUS, RADIUS:-RADIUS]
