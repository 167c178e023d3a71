"""Files are read only where they are regular and small; nothing waits for another program."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from istio_init.kernel import files

if TYPE_CHECKING:
    from pathlib import Path


def test_regular_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")

    assert files.read(str(path)) == b"abc"
    assert files.read(str(path), 3) == b"abc"


def test_files_of_proc_are_read_whole() -> None:
    assert files.read("/proc/self/status").count(b"\n") > 10


def test_a_larger_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abcd")

    with pytest.raises(OSError, match="larger than 3 bytes"):
        files.read(str(path), 3)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    link = tmp_path / "link"
    link.symlink_to("/dev/zero")

    for path in (fifo, link, tmp_path):
        with pytest.raises(OSError, match="not a regular file"):
            files.read(str(path))


def test_handles_are_closed(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    path = tmp_path / "file"
    path.touch()

    files.read(str(path))
    with pytest.raises(OSError, match="not a regular file"):
        files.read(str(tmp_path))

    assert len(os.listdir("/proc/self/fd")) == before
