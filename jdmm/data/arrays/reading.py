"""Reads the series of a file: an .npz file, or one of `jdmm.write_series`."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jdmm.data.modality import Modality, check_series
from jdmm.data.npz import read_npz
from jdmm.data.streaming import SeriesFile, SeriesSource
from jdmm.errors import InputError
from jdmm.series import Series


def read_series(
    path: str | os.PathLike[str], modalities: Sequence[Modality], inputs: int = 0
) -> Series | SeriesSource:
    """The series of a file. Those of a file that does not end with .npz stay there.

    Args:
        path: the file.
        modalities: those of the model.
        inputs: the number of its inputs.

    Raises:
        InputError: if the file cannot be read, or its series disagree with the modalities; of a
            file of series, only the first is looked at. The message begins with the path.
    """
    where = Path(path).expanduser()
    if where.suffix == ".npz":
        return read_npz(where, modalities, inputs)
    source = SeriesFile(where)
    try:
        check_series(modalities, source.take(np.arange(1)), inputs)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return source
