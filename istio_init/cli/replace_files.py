"""Writes files all or none: each is complete under another name before any takes its place.

A file keeps its mode, its owner and its extended attributes. A file that
somebody changed since it was read is not replaced.
"""

from __future__ import annotations

import os

from istio_init.errors import IstioInitError
from istio_init.lean import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Replacement(Record):
    """New content for the file at ``path``.

    ``before`` is what ``os.stat`` said of the file when it was read; None for
    one that need not be there, or may be overwritten.
    """

    path: str
    data: bytes
    before: os.stat_result | None = None


class ReplaceError(IstioInitError):
    """A file could not be written; none was changed."""


def replace_files(replacements: Sequence[Replacement]) -> None:
    """Give all files their new content, or leave all as they are.

    Raises:
        ReplaceError: a file cannot be written, or was changed since it was read.
            So it is after an interrupt: no file has changed.
    """
    new: list[str] = []
    old: list[tuple[str, str]] = []
    try:
        # One at a time: those that were written go again if a later one fails.
        new.extend(_written(one) for one in replacements)
        for one, temporary in zip(replacements, new, strict=True):
            _check_unchanged(one)
            if (kept := _kept(one.path, f"{temporary}.old")) is not None:
                old.append((kept, one.path))
            os.rename(temporary, one.path)
    except BaseException as failure:
        # An interrupt, too, leaves nothing half done.
        for kept, path in old:
            os.rename(kept, path)
        # Where both names still are the same file, a rename does nothing.
        _remove([*new, *(kept for kept, _ in old)])
        if isinstance(failure, OSError):
            path = replacements[min(len(new), len(replacements) - 1)].path
            raise _failed(failure.filename or path, failure.strerror or str(failure)) from None
        raise
    _remove(kept for kept, _ in old)
    for folder in {os.path.dirname(one.path) for one in replacements}:
        _sync_folder(folder)


def _kept(path: str, name: str) -> str | None:
    """Give a file a second name, so that it can come back; return it, None if there is no file."""
    try:
        os.link(path, name)
    except FileNotFoundError:
        return None
    return name


def _written(one: Replacement) -> str:
    """Return the name of a new file beside the old one, with the new content."""
    temporary = f"{one.path}.istio-init-{os.getpid()}"
    mode = (one.before or _status(one.path) or _NEW).st_mode & 0o7777
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    # Nobody may read more in it than in the old one, not even for a moment.
    descriptor = os.open(temporary, flags, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(one.data)
            file.flush()
            _keep_attributes(one, file.fileno())
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
    except BaseException:
        _remove([temporary])
        raise
    return temporary


def _keep_attributes(one: Replacement, descriptor: int) -> None:
    status = one.before or _status(one.path)
    if status is None:
        return
    made = os.fstat(descriptor)
    if (made.st_uid, made.st_gid) != (status.st_uid, status.st_gid):
        os.fchown(descriptor, status.st_uid, status.st_gid)
    try:
        for name in os.listxattr(one.path):
            os.setxattr(descriptor, name, os.getxattr(one.path, name))
    except OSError:
        # Some file systems have none, and some attributes are root's.
        return


def _check_unchanged(one: Replacement) -> None:
    if one.before is None:
        return
    now = _status(one.path)
    if now is None or _version(now) != _version(one.before):
        raise _failed(one.path, "another program changed it meanwhile; run istio-init again")


def _version(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _remove(paths: Iterable[str]) -> None:
    for path in paths:
        try:
            os.unlink(path)
        except FileNotFoundError:
            continue


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failed(path: str, why: str) -> ReplaceError:
    return ReplaceError(f"cannot write {path}: {why}; no file was changed")


class _NewFile:
    """What a file that is not there yet gets: the mode that the umask leaves."""

    @property
    def st_mode(self) -> int:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


_NEW = _NewFile()
