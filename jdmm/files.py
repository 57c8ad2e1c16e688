"""Files that are written whole or not at all, whatever happens to the process."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary path beside `path`, and moves it there at the end.

    A reader finds the old file or the new one, never a part of either. If the block raises, the
    old file stays. Several processes may write the same file at once: the last one wins.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        yield part
        os.replace(part, target)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file through `replace_file`."""
    with replace_file(path) as part:
        part.write_text(text)
