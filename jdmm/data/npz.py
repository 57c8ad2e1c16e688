"""Series and predictions in ``.npz`` files.

A file of series holds one array per modality, ``(batch, time, feature)``, or ``(batch, time)`` for
one feature; NaN means missing. It may also hold boolean masks ``<modality>_observed`` of the same
shapes, or ``(batch, time)`` for all features of a step, and ``lengths``, ``(batch,)`` whole
numbers: the time steps of each padded series. For a model with inputs it holds ``inputs``,
``(batch, time, input)``, which are known at all steps. A modality of the model that the file lacks
is missing throughout. Images may have their own shape, ``(batch, time, height, width, channel)``,
and be bytes.
"""

import difflib
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jdmm.data.modality import Modality, check_series
from jdmm.errors import InputError, one_line
from jdmm.files import replace_file
from jdmm.networks import Image
from jdmm.series import Series, series_from_arrays

LENGTHS = "lengths"
INPUTS = "inputs"
MASK = "_observed"


def read_npz(
    path: str | os.PathLike[str], modalities: Sequence[Modality], inputs: int = 0
) -> Series:
    """Reads the series of one file.

    Args:
        path: the file, in the form that this module's docstring describes.
        modalities: those of the model.
        inputs: the number of its inputs.

    Returns:
        Series of all `modalities`, in their order.

    Raises:
        InputError: if the file cannot be read, holds arrays that are no such series, values
            outside the support of a likelihood, or a series without an observed value. The message
            begins with the path.
    """
    try:
        arrays = load_arrays(Path(path))
        for modality in modalities:
            name = modality.name
            if name not in arrays:
                continue
            if name + MASK in arrays:
                arrays[name + MASK] = whole_mask(name, arrays[name + MASK], arrays[name].shape)
            if modality.image is not None:
                arrays[name] = _pixels(arrays[name], modality.image)
                if name + MASK in arrays:
                    arrays[name + MASK] = arrays[name + MASK].reshape(arrays[name].shape)
        known = arrays.pop(INPUTS, None) if inputs else None
        if inputs and (known is None or known.ndim != 3 or known.shape[-1] != inputs):
            got = "none" if known is None else known.shape
            raise InputError(f"expected {INPUTS!r} of shape (batch, time, {inputs}), got {got}")
        series = _series(arrays, {m.name: m.features for m in modalities}, known)
        check_series(modalities, series, inputs)
        return series
    except InputError as error:
        raise InputError(f"{os.fspath(path)}: {error}") from error


def whole_mask(name: str, mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The mask of an array of a shape, from one of its shape or of its first axes.

    Raises:
        InputError: for a mask of another type or shape.
    """
    if mask.dtype != bool:
        raise InputError(f"expected booleans in {name + MASK!r}, got {mask.dtype}: convert it")
    if mask.ndim < 2 or mask.shape != shape[: mask.ndim]:
        raise InputError(
            f"expected {name + MASK!r} of shape {shape} or {shape[:2]}, got {mask.shape}"
        )
    return np.broadcast_to(mask.reshape(*mask.shape, *[1] * (len(shape) - mask.ndim)), shape)


def _pixels(images: np.ndarray, image: Image) -> np.ndarray:
    """Images ``(batch, time, pixel)``, also from ``(batch, time, height, width, channel)``.

    Bytes (uint8) become numbers from 0 to 1.
    """
    if images.ndim == 5 and images.shape[2:] == image.shape:
        images = images.reshape(*images.shape[:2], -1)
    return images.astype(np.float32) / 255 if images.dtype == np.uint8 else images


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
    """Writes `arrays` by name, through `replace_file`.

    Raises:
        InputError: if the file cannot be written.
    """
    try:
        with replace_file(path) as part, part.open("xb") as file:
            np.savez(file, **arrays)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{os.fspath(path)}: expected a file that can be written, got: {reason}"
        ) from error


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of an ``.npz`` file by name; nothing is unpickled.

    Raises:
        InputError: if the file cannot be read. The message does not name it.
    """
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise zipfile.BadZipFile("not written by numpy.savez, or cut short")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"expected an .npz file that can be read, got: {reason}") from error
    except Exception as error:  # damaged files make numpy raise errors of any kind
        raise InputError(
            f"expected an .npz file of plain arrays, got: {one_line(error)}"
        ) from error


def _series(
    arrays: dict[str, np.ndarray], modalities: Mapping[str, int], inputs: np.ndarray | None
) -> Series:
    known = [*modalities, *(name + MASK for name in modalities), LENGTHS]
    for name in arrays:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise InputError(f"expected arrays among {known}, got {name!r}{hint}")
    present = [name for name in modalities if name in arrays]
    if not present:
        raise InputError(f"expected at least one of {list(modalities)}, got {list(arrays)}")

    for name in present:
        _check_array(name, arrays[name], modalities[name])
    masks = {name: arrays[name + MASK] for name in modalities if name + MASK in arrays}
    for name in masks:
        if name not in present:
            raise InputError(f"expected {name!r} beside {name + MASK!r}: add it, or leave both out")

    shape = arrays[present[0]].shape[:2]
    values = {
        name: arrays[name] if name in present else np.full((*shape, features), np.nan)
        for name, features in modalities.items()
    }
    series = series_from_arrays(values, masks, arrays.get(LENGTHS), inputs)

    any_observed = np.any([mask.any(axis=(1, 2)) for mask in series.observed.values()], axis=0)
    if not any_observed.all():
        raise InputError(
            "expected every series to have an observed value, got none in "
            f"{(~any_observed).sum()} of {len(any_observed)}, first in series "
            f"{np.argmin(any_observed)} (counted from 0): leave it out"
        )
    return series


def _check_array(name: str, array: np.ndarray, features: int) -> None:
    """Checks types and shapes, which `series_from_arrays` takes more leniently from lists."""
    if array.dtype.kind not in "biuf":
        raise InputError(f"expected numbers in {name!r}, got {array.dtype}")
    short = array.ndim == 2 and features == 1
    if not short and (array.ndim != 3 or array.shape[-1] != features):
        wanted = f"(batch, time, {features})" + " or (batch, time)" * (features == 1)
        raise InputError(f"expected {name!r} of shape {wanted}, got {array.shape}")
    if array.size == 0:
        raise InputError(f"expected series of one step or more in {name!r}, got {array.shape}")
