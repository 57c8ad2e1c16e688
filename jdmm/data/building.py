"""Data sets that tensorflow-datasets builds on first use, without TensorFlow."""

import contextlib
import io
import os
import tempfile
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from absl import logging

from jdmm.errors import InputError, one_line


def prepared_dir(builder: type[Any], root: Path) -> Path:
    """Where tensorflow-datasets looks for the data set below `root`."""
    return root / builder.name / str(builder.VERSION)


def prepare(builder: type[Any], root: Path, source: Path | None = None) -> None:
    """Builds the data set below `root`, unless it is there.

    Several processes may build it at once, and one may be killed: each works in a directory of its
    own, and the first to finish moves it into place.

    Args:
        builder: a `GeneratorBasedBuilder`.
        root: folder of the prepared data set.
        source: folder of the files that it is made of; None for a data set that needs none.

    Raises:
        InputError: if `root` cannot be written.
    """
    target = prepared_dir(builder, root)
    try:
        if target.exists():
            return
        logging.info("Making the data set %s in %s", builder.name, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".incomplete-", dir=root) as own_dir:
            made = builder(data_dir=own_dir)
            # tensorflow-datasets prints a banner and draws progress bars, terminal or not.
            noise = io.StringIO()
            with contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
                made.download_and_prepare(
                    file_format="array_record",  # the one that works without TensorFlow
                    download_dir=str(Path(own_dir) / "downloads"),
                    download_config=tfds.download.DownloadConfig(
                        manual_dir=source, try_download_gcs=False
                    ),
                )
            try:
                os.rename(made.data_dir, target)
            except OSError:
                if not target.exists():  # otherwise another process was first
                    raise
    except OSError as error:
        raise InputError(
            f"expected a data_dir that can be written, got {root}: {one_line(error)}"
        ) from error
