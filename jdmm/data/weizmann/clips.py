"""The Weizmann human actions in files: clips of one person and one action each.

Gorelick, Blank, Shechtman, Irani & Basri, *Actions as Space-Time Shapes*, PAMI 2007. Three forms
are read: the original archives, the original file of silhouettes alone, and an `.npz` file of
clips that are 64x64 already.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jdmm.data.npz import load_arrays
from jdmm.errors import InputError, one_line

PERSONS = ("daria", "denis", "eli", "ido", "ira", "lena", "lyova", "moshe", "shahar")
ACTIONS = ("bend", "jack", "jump", "pjump", "run", "side", "skip", "walk", "wave1", "wave2")

REPEATED = ("run", "skip", "walk")
"""Actions that one person does twice: their clips end in 1 or 2."""

MASKS = "classification_masks.mat"

FRAME = (144, 180)
"""Height and width of the original frames."""

CROP, SIZE = 128, 64
"""Side of the square in the middle that is kept, and of the image that it becomes."""


class Clip(NamedTuple):
    """One recording, pixels from 0 to 255.

    Attributes:
        name: "<person>_<action>", as in the files.
        person: one of `PERSONS`.
        action: one of `ACTIONS`.
        video: ``(time, 64, 64, 3)`` uint8, or None.
        silhouette: ``(time, 64, 64, 1)`` uint8, 0 or 255, or None.
    """

    name: str
    person: str
    action: str
    video: np.ndarray | None
    silhouette: np.ndarray | None


def read_clips(path: Path, aligned: bool = False) -> list[Clip]:
    """All clips of a source, ordered by name.

    Args:
        path: a folder with the original archives, their `.mat` file of silhouettes, or an `.npz`
            file of clips.
        aligned: whether the silhouettes are those that the `.mat` file holds with the person in the
            middle.

    Raises:
        InputError: if it is none of these, or cannot be read, or has no aligned silhouettes. The
            message names the file.
    """
    if aligned and path.suffix != ".mat":
        raise InputError(f"expected {MASKS} alone for aligned silhouettes, got {path}")
    if path.is_dir():
        from jdmm.data.weizmann.archives import read_archives  # imports tensorflow-datasets

        clips = read_archives(path)
    elif path.suffix == ".mat":
        silhouettes = read_silhouettes(path, aligned)
        clips = [make_clip(path, name, None, own) for name, own in silhouettes.items()]
    elif path.suffix == ".npz":
        clips = _read_npz(path)
    else:
        got = path.name if path.exists() else f"{path}, which does not exist"
        raise InputError(
            f"expected data.path as a folder of archives, {MASKS} or an .npz file of clips, got "
            f"{got}"
        )
    return sorted(clips, key=lambda clip: clip.name)


def make_clip(
    path: Path, name: str, video: np.ndarray | None, silhouette: np.ndarray | None
) -> Clip:
    """A clip, its person and action found in its name.

    Raises:
        InputError: for a name that has no known person and action, or a clip without frames,
            naming the file `path`.
    """
    person, _, action = name.partition("_")
    if action[:-1] in REPEATED and action[-1] in "12":
        action = action[:-1]
    if person not in PERSONS or action not in ACTIONS:
        raise InputError(
            f"{path}: expected clips named <person>_<action>, persons {', '.join(PERSONS)} and "
            f"actions {', '.join(ACTIONS)}, got {name!r}"
        )
    for pixels in (video, silhouette):
        if pixels is not None and not len(pixels):
            raise InputError(f"{path}: expected frames in the clip {name}, got none")
    return Clip(name, person, action, video, silhouette)


def resize(frames: np.ndarray) -> np.ndarray:
    """The square in the middle of uint8 frames ``(time, 144, 180, channel)``, averaged to 64x64."""
    top, left = ((extent - CROP) // 2 for extent in FRAME)
    square = frames[:, top : top + CROP, left : left + CROP]
    block = CROP // SIZE
    blocks = square.reshape(len(frames), SIZE, block, SIZE, block, -1)
    return np.rint(blocks.mean((2, 4), np.float32)).astype(np.uint8)


def in_frame(masks: np.ndarray) -> np.ndarray:
    """Silhouettes ``(height, width, time)`` of any size in the middle of the original frame."""
    height, width = (min(own, whole) for own, whole in zip(masks.shape, FRAME, strict=False))
    cut, place = (
        tuple(slice((whole - part) // 2, (whole - part) // 2 + part) for whole, part in pairs)
        for pairs in (
            zip(masks.shape, (height, width), strict=False),
            zip(FRAME, (height, width), strict=True),
        )
    )
    frames = np.zeros((*FRAME, masks.shape[-1]), masks.dtype)
    frames[place] = masks[cut]
    return frames


def read_silhouettes(path: Path, aligned: bool = False) -> dict[str, np.ndarray]:
    """Name -> silhouettes ``(time, 64, 64, 1)``, 0 or 255, of the original file.

    Those of the person in the middle, `aligned`, have a size of their own in each clip.

    Raises:
        InputError: if the file cannot be read, or is not in the original form, naming it.
    """
    from scipy.io import loadmat  # slow to import

    field = "aligned_masks" if aligned else "original_masks"
    try:
        every = loadmat(path, variable_names=[field])[field]
        masks = {name: np.asarray(every[name][0, 0]) for name in every.dtype.names}
    except Exception as error:  # damaged files make scipy raise errors of any kind
        raise InputError(
            f"{path}: expected the original file of silhouettes, with fields of {field}, got "
            f"{one_line(error)}"
        ) from error
    found = {}
    for name, mask in masks.items():
        if aligned and mask.ndim == 3:
            mask = in_frame(mask)
        if mask.dtype.kind not in "bui" or mask.shape != (*FRAME, mask.shape[-1]) or not mask.size:
            raise InputError(
                f"{path}: expected silhouettes of 144 x 180 pixels in {name}, whole numbers "
                f"(144, 180, time), got {mask.dtype} {mask.shape}"
            )
        frames = 255 * (np.moveaxis(mask, -1, 0)[..., None] > 0).astype(np.uint8)
        found[name] = np.where(resize(frames) >= 128, 255, 0).astype(np.uint8)
    return found


def fingerprint(files: Mapping[str, Path]) -> str:
    """A short text that changes with the files: their names, sizes and times."""
    seen = [(name, file.stat().st_size, file.stat().st_mtime_ns) for name, file in files.items()]
    return hashlib.sha256(repr(sorted(seen)).encode()).hexdigest()[:16]


def _read_npz(path: Path) -> list[Clip]:
    """Clips of arrays ``<person>_<action>_video`` and ``<person>_<action>_mask``."""
    try:
        arrays = load_arrays(path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    for key, array in arrays.items():
        name, _, kind = key.rpartition("_")
        shape = {"video": (SIZE, SIZE, 3), "mask": (SIZE, SIZE)}.get(kind)
        if shape is None or f"{name}_video" not in arrays:
            raise InputError(
                f"{path}: expected arrays <person>_<action>_video, and <person>_<action>_mask of "
                f"the same clips, got {key}"
            )
        if array.dtype != np.uint8 or array.shape[1:] != shape:
            raise InputError(
                f"{path}: expected {key} of uint8 (time, {', '.join(map(str, shape))}), got "
                f"{array.dtype} {array.shape}"
            )
    names = [key.removesuffix("_video") for key in arrays if key.endswith("_video")]
    if not names:
        raise InputError(f"{path}: expected arrays <person>_<action>_video, got none")
    return [
        _npz_clip(path, name, arrays[f"{name}_video"], arrays.get(f"{name}_mask")) for name in names
    ]


def _npz_clip(path: Path, name: str, video: np.ndarray, mask: np.ndarray | None) -> Clip:
    if mask is None:
        return make_clip(path, name, video, None)
    if len(mask) != len(video):
        raise InputError(
            f"{path}: expected as many silhouettes as frames in {name}, got {len(mask)} and "
            f"{len(video)}"
        )
    return make_clip(path, name, video, np.where(mask[..., None] > 0, 255, 0).astype(np.uint8))
