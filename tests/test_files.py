"""Files are replaced whole, by any number of writers."""

import os
import threading

import pytest

from jdmm.files import replace_file, write_text


def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(OSError, match="disk full"), replace_file(path) as part:
        part.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_writers_at_once_do_not_disturb_each_other(tmp_path):
    """All are inside of the block at the same time, so that a shared temporary file would fail."""
    path, count = tmp_path / "file.txt", 8
    barrier, errors = threading.Barrier(count), []

    def write(number):
        try:
            with replace_file(path) as part:
                part.write_text(str(number) * 1000)
                barrier.wait(10)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    text = path.read_text()
    assert len(text) == 1000 and len(set(text)) == 1
    assert os.listdir(tmp_path) == ["file.txt"]
