"""Files that are written whole or not at all, whatever happens to the process."""

import contextlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from jdmm.errors import InputError, one_line

T = TypeVar("T")


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


def save_json(path: str | os.PathLike[str], content: Any) -> None:
    """Writes plain values as JSON for users to read and edit.

    Raises:
        InputError: if the file cannot be written.
    """
    try:
        write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise InputError(
            f"{os.fspath(path)}: expected a file that can be written, got: {error.strerror}"
        ) from error


def load_json(path: str | os.PathLike[str], what: str, build: Callable[[Any], T]) -> T:
    """What `build` makes of the content of a JSON file.

    Args:
        path: the file.
        what: its content in words, for messages.
        build: takes plain values, and raises an `InputError` for wrong ones.

    Raises:
        InputError: if the file cannot be read, or of `build`. The message begins with the path.
    """
    try:
        return build(json.loads(Path(path).expanduser().read_text()))
    except InputError as error:
        raise InputError(f"{os.fspath(path)}: {error}") from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{os.fspath(path)}: expected {what} in JSON, got: {one_line(error)}"
        ) from error
