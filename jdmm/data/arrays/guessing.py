"""Guesses the schema of a file of series from its arrays."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jdmm.data.arrays.schema import ArrayModality, ArraySchema
from jdmm.data.npz import INPUTS, LENGTHS, MASK, load_arrays, whole_mask
from jdmm.data.streaming import SeriesFile, first_series
from jdmm.errors import InputError

MAX_CLASSES = 50
"""Whole numbers of more different values are not taken for classes."""

LOOKED_AT = 1000
"""The first series, which the guess, the scaling and the sizes follow from."""


def guess(path: Path) -> ArraySchema:
    """The schema that a file seems to have.

    Raises:
        InputError: if the file cannot be read, or holds bytes whose shape it does not say.
    """
    if path.suffix == ".npz":
        try:
            return _guess_arrays(load_arrays(path))
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    part = first_series(SeriesFile(path), LOOKED_AT)
    for name, values in part.values.items():
        if values.dtype == np.uint8:
            raise InputError(
                f"{path}: expected a schema for modality {name!r}, whose bytes are images of a "
                "shape that the file does not say: set --config.data.schema"
            )
    modalities = {
        name: guess_modality(values, np.asarray(part.observed[name]))
        for name, values in part.values.items()
    }
    return ArraySchema(modalities, part.num_inputs)


def _guess_arrays(arrays: Mapping[str, np.ndarray]) -> ArraySchema:
    """The schema of the arrays of an .npz file."""
    names = [
        name
        for name in arrays
        if name not in (INPUTS, LENGTHS)
        and not (name.endswith(MASK) and name.removesuffix(MASK) in arrays)
    ]
    modalities = {}
    for name in names:
        values = arrays[name]
        if values.ndim not in (2, 3, 5) or values.dtype.kind not in "fiub":
            raise InputError(
                f"expected numbers of shape (batch, time), (batch, time, feature) or (batch, time, "
                f"height, width, channel) in {name!r}, got {values.dtype} of shape {values.shape}"
            )
        observed = np.ones(values.shape, bool)
        if name + MASK in arrays:
            observed &= whole_mask(name, arrays[name + MASK], values.shape)
        if LENGTHS in arrays and arrays[LENGTHS].shape == values.shape[:1]:
            inside = np.arange(values.shape[1]) < arrays[LENGTHS][:, None]
            observed &= whole_mask(LENGTHS, inside, values.shape)
        modalities[name] = guess_modality(values, observed)
    if INPUTS not in arrays:
        return ArraySchema(modalities)
    if arrays[INPUTS].ndim != 3:
        raise InputError(
            f"expected {INPUTS!r} of shape (batch, time, input), got {arrays[INPUTS].shape}"
        )
    return ArraySchema(modalities, arrays[INPUTS].shape[-1])


def guess_modality(values: np.ndarray, observed: np.ndarray) -> ArrayModality:
    """What an array of a file of series seems to hold.

    Whole numbers (of an integer type) from 0 to 49, with one feature, are classes. Other values of
    0 and 1 are binary, and the rest are numbers. Images are recognised by their shape.

    Args:
        values: ``(batch, time)``, ``(batch, time, feature)``, or ``(batch, time, height, width,
            channel)`` of images; NaN means missing.
        observed: mask of the same shape.
    """
    kind = values.dtype.kind
    known = values[observed & ~np.isnan(values)] if kind == "f" else values[observed]
    image, features = (), values.shape[2] if values.ndim == 3 else 1
    if values.ndim == 5:
        image, features = values.shape[2:], math.prod(values.shape[2:])
    if not known.size:
        return ArrayModality("normal", features, image)
    least, most = known.min(), known.max()
    if kind in "iu" and not image and features == 1 and 0 <= least <= most < MAX_CLASSES:
        return ArrayModality(f"categorical(classes={max(int(most) + 1, 2)})")
    if np.isin(known, (0, 255 if image and kind == "u" else 1)).all():
        return ArrayModality("bernoulli", features, image)
    return ArrayModality("normal", features, image)
