"""The files that -f names: which there are, and what they hold."""

from __future__ import annotations

import os
import stat
import sys

from istio_init.lean import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STDIN = "-"
_ENDINGS = (".yaml", ".yml", ".json")


class ManifestFile(Record):
    """A file as it was when it was read.

    ``name`` is what errors call it, ``path`` is the file itself, behind all
    links; ``""`` for standard input. ``status`` is what ``os.stat`` says of it.
    """

    name: str
    path: str
    data: bytes
    status: os.stat_result | None = None


def file_names(names: Iterable[str], *, recursive: bool = False) -> Iterator[str]:
    """Yield files as they are named, and those of a folder by their names.

    Of a folder only files count whose names end as manifests' do; of its own
    folders only those count that ``recursive`` asks for, and no links to any.

    Raises:
        InjectionError: a folder cannot be read, or has a link that leads out of it.
    """
    for name in names:
        if name != STDIN and os.path.isdir(name):
            yield from _in_folder(name, os.path.realpath(name), recursive=recursive)
        else:
            yield name


def _in_folder(folder: str, top: str, *, recursive: bool) -> Iterator[str]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as bad:
        raise _unreadable(folder, bad) from None
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if recursive:
                yield from _in_folder(entry.path, top, recursive=True)
        elif entry.name.endswith(_ENDINGS) and not entry.is_dir():
            if entry.is_symlink() and not _is_below(os.path.realpath(entry.path), top):
                from istio_init.inject.problems import InjectionError, Where, error

                what = "a link leads out of the folder"
                remedy = "name the file itself, or remove the link"
                raise InjectionError([error(what, Where(file=entry.path), remedy=remedy)])
            yield entry.path


def _is_below(path: str, top: str) -> bool:
    return os.path.commonpath((path, top)) == top


def read_file(name: str) -> ManifestFile:
    """Return a file, or standard input for ``-``.

    Raises:
        InjectionError: it cannot be read, or is longer than any that is read.
    """
    from istio_init.inject.yaml import MAX_BYTES

    # One byte more tells that it is too long; the reader of YAML says so.
    try:
        if name == STDIN:
            return ManifestFile("standard input", "", sys.stdin.buffer.read(MAX_BYTES + 1))
        path = os.path.realpath(name)
        with open(path, "rb") as opened:
            status = os.fstat(opened.fileno())
            return ManifestFile(name, path, opened.read(MAX_BYTES + 1), status)
    except OSError as bad:
        raise _unreadable(name, bad) from None


def is_regular(file: ManifestFile) -> bool:
    """Whether another file can take the place of this one."""
    return file.status is not None and stat.S_ISREG(file.status.st_mode)


def _unreadable(name: str, bad: OSError) -> Exception:
    from istio_init.inject.problems import InjectionError, Where, error

    return InjectionError([error("cannot be read", Where(file=name), why=bad.strerror or str(bad))])
