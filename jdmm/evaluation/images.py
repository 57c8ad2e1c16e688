"""Structural similarity of images.

Wang, Bovik, Sheikh & Simoncelli, *Image Quality Assessment: From Error Visibility to Structural
Similarity*, IEEE TIP 2004.
"""

import numpy as np
from scipy import ndimage

SIGMA, RADIUS = 1.5, 5
"""Of the Gaussian window, 11x11 pixels."""

C1, C2 = 0.01**2, 0.03**2
"""The constants of the paper, for pixels from 0 to 1."""

CHUNK = 64
"""Frames that are in memory at once."""


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
