"""The original archives of the Weizmann human actions, as a tensorflow-datasets builder.

One zip file per action holds uncompressed videos "<person>_<action>.avi" of 180x144 pixels; one
`.mat` file holds the silhouettes of all. Videos and silhouettes are cropped and resized alike.
"""

import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jdmm.compiling import cache_dir
from jdmm.data.building import prepare, prepared_dir
from jdmm.data.weizmann.clips import (
    ACTIONS,
    FRAME,
    MASKS,
    SIZE,
    Clip,
    fingerprint,
    make_clip,
    read_silhouettes,
    resize,
)
from jdmm.errors import InputError, one_line

URL = "http://www.wisdom.weizmann.ac.il/~vision/VideoAnalysis/Demos/SpaceTimeActions/DB/"

SLACK = 3
"""A clip may have so many frames more or fewer than silhouettes; both are cut to the shorter."""


class WeizmannActions(tfds.core.GeneratorBasedBuilder):
    """The clips of all archives in the manual folder.

    Features: "name", and "video" ``(time, 64, 64, 3)`` and "silhouette" ``(time, 64, 64, 1)``, both
    uint8 from 0 to 255.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Place the archives and {MASKS} of {URL} in one folder."
    url_infos = None  # see `NoisySpirals`

    def _info(self) -> tfds.core.DatasetInfo:
        def pixels(channels: int) -> Any:
            return tfds.features.Tensor(
                shape=(None, SIZE, SIZE, channels), dtype=np.uint8, encoding="bytes"
            )

        return tfds.core.DatasetInfo(
            builder=self,
            description="Weizmann human actions (Gorelick et al. 2007)",
            features=tfds.features.FeaturesDict(
                {"name": tfds.features.Text(), "video": pixels(3), "silhouette": pixels(1)}
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(Path(dl_manager.manual_dir))}

    def _generate_examples(self, folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        silhouettes = read_silhouettes(folder / MASKS)
        names: list[str] = []
        for path in archives(folder).values():
            for name, video in _videos(path):
                make_clip(path, name, video, None)  # checks the name
                if name in names:
                    raise InputError(f"{path}: expected each clip once, got another {name}.avi")
                if name not in silhouettes:
                    raise InputError(
                        f"{folder / MASKS}: expected silhouettes of every clip, got none of {name}"
                    )
                clip = _aligned(path, name, video, silhouettes[name])
                yield (
                    len(names),
                    {"name": name, "video": clip.video, "silhouette": clip.silhouette},
                )
                names.append(name)


def archives(folder: Path) -> dict[str, Path]:
    """Action -> archive, of those in the folder.

    Raises:
        InputError: if there is none, or the silhouettes are missing.
    """
    found = {action: folder / f"{action}.zip" for action in ACTIONS}
    found = {action: path for action, path in found.items() if path.exists()}
    if not found or not (folder / MASKS).exists():
        lacks = MASKS if found else "any of " + ", ".join(f"{action}.zip" for action in ACTIONS)
        raise InputError(
            f"{folder}: expected the archives of the Weizmann actions and {MASKS}, got no {lacks}: "
            f"download them from {URL}"
        )
    return found


def read_archives(folder: Path) -> list[Clip]:
    """The clips of the archives in a folder, prepared in the user's cache on first use.

    Raises:
        InputError: for archives that are missing, cannot be read or have another form, naming the
            file.
    """
    files = {**archives(folder), MASKS: folder / MASKS}
    root = cache_dir() / f"weizmann-{fingerprint(files)}"
    prepare(WeizmannActions, root, folder)
    try:
        builder: Any = WeizmannActions(data_dir=root)  # Any: its decorators confuse type checkers
        rows = list(builder.as_data_source("train"))
    except Exception as error:  # damaged files make the readers raise errors of any kind
        raise InputError(
            f"expected the Weizmann actions in {prepared_dir(WeizmannActions, root)}, got files "
            f"that cannot be read ({one_line(error)}): delete it, and the next run makes them again"
        ) from error
    return [
        make_clip(folder, row["name"].decode(), row["video"], row["silhouette"]) for row in rows
    ]


def _aligned(path: Path, name: str, video: np.ndarray, silhouette: np.ndarray) -> Clip:
    """A clip whose video and silhouettes have the same frames."""
    counts = len(video), len(silhouette)
    if max(counts) - min(counts) > SLACK:
        raise InputError(
            f"{path}: expected as many frames as silhouettes in {name}, got {counts[0]} and "
            f"{counts[1]}"
        )
    return make_clip(path, name, video[: min(counts)], silhouette[: min(counts)])


def _videos(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Name -> frames ``(time, 64, 64, 3)`` of every video in an archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(
                name
                for name in archive.namelist()
                if name.lower().endswith(".avi") and not Path(name).name.startswith(".")
            )
            if not names:
                raise InputError(f"{path}: expected .avi files in the archive, got none")
            for name in names:
                yield Path(name).stem, _decode(f"{path}, {name}", archive.read(name))
    except (OSError, zipfile.BadZipFile, EOFError, zlib.error, RuntimeError) as error:
        raise InputError(f"{path}: expected a zip archive, got {one_line(error)}") from error


def _decode(where: str, content: bytes) -> np.ndarray:
    """The frames of one video, resized."""
    import av  # slow to import

    try:
        with av.open(io.BytesIO(content), "r") as container:
            announced = container.streams.video[0].frames
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except Exception as error:  # damaged files make ffmpeg raise errors of any kind
        raise InputError(f"{where}: expected a video, got {one_line(error)}") from error
    if not frames:
        raise InputError(f"{where}: expected a video with frames, got none")
    if len(frames) < announced:
        raise InputError(
            f"{where}: expected the {announced} frames that its header announces, got "
            f"{len(frames)}: the file is cut short, get it again"
        )
    if other := {frame.shape[:2] for frame in frames} - {FRAME}:
        height, width = other.pop()
        raise InputError(f"{where}: expected frames of 180 x 144 pixels, got {width} x {height}")
    return resize(np.stack(frames))
