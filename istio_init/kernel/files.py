"""Files that this program reads: regular ones, of bounded size, opened without waiting.

A FIFO or a device planted under a known name would hold a run up for ever, a
huge file would take the memory of the container.
"""

from __future__ import annotations

import os
from errno import EFBIG, EINVAL
from stat import S_ISREG

MOST = 1 << 20


def open_regular(path: str, flags: int = 0, mode: int = 0o600) -> int:
    """Return a handle on a regular file, open for reading.

    ``flags`` are added to those of ``os.open``; ``mode`` is for a file that is made.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | flags, mode)
    if not S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(EINVAL, "it is not a regular file", path)
    return handle


def read(path: str, most: int = MOST) -> bytes:
    """Return the bytes of a regular file, ``most`` of them at most.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger.
    """
    handle = open_regular(path)
    try:
        data = os.read(handle, most + 1)
        # A file of /proc comes in pieces.
        while data and len(data) <= most and (more := os.read(handle, most + 1 - len(data))):
            data += more
    finally:
        os.close(handle)
    if len(data) > most:
        raise OSError(EFBIG, f"it is larger than {most} bytes", path)
    return data
