"""What inject and uninject have in common: files in, one change of each, files or text out.

Every file is read and changed before anything is written.
"""

from __future__ import annotations

import os
import sys

import click

from istio_init.cli.click_flags import GroupedOption
from istio_init.cli.manifest_files import ManifestFile, file_names, is_regular, read_file
from istio_init.lean import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from istio_init.diagnose.text import Style
    from istio_init.inject.problems import Problem

FILES = "Files"
OUTPUT = "Where the result goes"

# More files than this take long enough to be counted on a terminal.
_MANY = 20


class OutputFlags(Record):
    """Where the result goes; see ``parameters``."""

    files: tuple[str, ...]
    recursive: bool = False
    output: str = ""
    in_place: bool = False
    diff: bool = False


class ChangedManifest(Record):
    """A file after its change, with what is worth knowing.

    ``pods`` counts those that were changed, ``skipped`` those that were not.
    """

    text: str
    problems: tuple[Problem, ...] = ()
    pods: int = 0
    skipped: int = 0


def parameters() -> list[click.Parameter]:
    """Return the flags for files, named as istioctl and kubectl name theirs."""
    return [
        option(FILES, "-f", "--filename", "files", multiple=True, required=True, metavar="FILE",
               help="Manifest, folder of manifests, or - for standard input; may be repeated."),
        option(FILES, "-R", "--recursive", is_flag=True, help="Take the folders in a folder, too."),
        option(OUTPUT, "-o", "--output", default="", metavar="FILE",
               help="Write to this file and not to standard output."),
        option(OUTPUT, "--in-place", is_flag=True,
               help="Write the files themselves: all of them, or none if there is an error."),
        option(OUTPUT, "--diff", is_flag=True,
               help="Print what changes; without --in-place nothing is written."),
    ]  # fmt: skip


def option(group: str, *names: str, **settings: Any) -> GroupedOption:  # noqa: ANN401 - click's
    """Return an option that stands in a section of the help, and leaves defaults to its text."""
    return GroupedOption(list(names), group, show_default=False, **settings)


def output_flags(flags: dict[str, Any]) -> OutputFlags:
    """Take the flags of ``parameters`` out of those of a call.

    Raises:
        UsageError: two of them exclude each other.
    """
    taken = OutputFlags(
        files=tuple(without_equals(name) for name in flags.pop("files")),
        recursive=flags.pop("recursive"),
        output=without_equals(flags.pop("output")),
        in_place=flags.pop("in_place"),
        diff=flags.pop("diff"),
    )
    if taken.output and (taken.in_place or taken.diff):
        other = "--in-place" if taken.in_place else "--diff"
        raise click.UsageError(f"--output and {other} exclude each other")
    return taken


def without_equals(text: str) -> str:
    """Return the value of a short flag; ``-f=x`` means the same as ``-f x`` to istioctl."""
    return text.removeprefix("=")


def run(
    flags: OutputFlags, change: Callable[[bytes, str], ChangedManifest], done: str
) -> list[ChangedManifest]:
    """Change all files and write them; return what became of each.

    ``change`` takes a file's content and name. ``done`` is the word of the
    summary for what was changed.

    Raises:
        InjectionError: one or more files cannot be read or changed; the problems
            of all. Nothing was written.
        ReplaceError: a file cannot be written. No file was changed.
    """
    import gc

    from istio_init.inject.problems import InjectionError

    # Nothing that is made here refers to itself; looking for it takes a tenth of the time.
    gc.set_threshold(100_000)
    files: list[ManifestFile] = []
    results: list[ChangedManifest] = []
    problems: list[Problem] = []
    for name in _counted(_names(flags)):
        try:
            file = read_file(name)
            _check_writable(flags, file)
            result = change(file.data, file.name)
        except InjectionError as bad:
            problems += bad.problems
            continue
        except RecursionError:
            problems.append(_too_deep(name))
            continue
        files.append(file)
        results.append(result)
    if problems:
        noted = [problem for result in results for problem in result.problems]
        raise InjectionError([*problems, *noted])
    show_problems(problem for result in results for problem in result.problems)
    _write(flags, files, results)
    _summarise(flags, files, results, done)
    return results


def show_problems(problems: Iterable[Problem]) -> None:
    """Write problems to standard error, the worst first."""
    from istio_init.inject.problems import as_text, by_severity

    sys.stderr.write(as_text(by_severity(problems)))


def _names(flags: OutputFlags) -> list[str]:
    """Return the names of all files, each file once."""
    names: dict[str, str] = {}
    for name in file_names(flags.files, recursive=flags.recursive):
        names.setdefault(name if name == "-" else os.path.realpath(name), name)
    return list(names.values())


def _counted(names: Sequence[str]) -> Iterator[str]:
    """Yield names, and show on a terminal how many are done."""
    if len(names) > _MANY and sys.stderr.isatty():
        from istio_init.cli.terminal import progress

        yield from progress(names, "files")
    else:
        yield from names


def _check_writable(flags: OutputFlags, file: ManifestFile) -> None:
    from istio_init.inject.problems import InjectionError, Where, error

    if flags.in_place and file.path and not is_regular(file):
        what = "it is no regular file"
        raise InjectionError([error(what, Where(file=file.name), remedy="leave --in-place out")])


def _too_deep(name: str) -> Problem:
    from istio_init.inject.problems import Where, error

    return error("too deep", Where(file=name), why="its values stand in each other too often")


def _write(
    flags: OutputFlags, files: Sequence[ManifestFile], results: Sequence[ChangedManifest]
) -> None:
    from istio_init.cli.replace_files import Replacement, replace_files

    pairs = list(zip(files, results, strict=True))
    if flags.diff:
        for file, result in pairs:
            _show_diff(file, result.text)
    if flags.in_place:
        replace_files(
            [
                Replacement(file.path, data, file.status)
                for file, result in pairs
                if file.path and (data := result.text.encode()) != file.data
            ]
        )
        pairs = [(file, result) for file, result in pairs if not file.path]
    if not pairs or flags.diff:
        return
    data = _joined([result.text for _, result in pairs]).encode()
    if flags.output and flags.output != "-":
        _write_output(flags.output, data)
    else:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()


def _write_output(path: str, data: bytes) -> None:
    from istio_init.cli.replace_files import ReplaceError, Replacement, replace_files

    real = os.path.realpath(path)
    if os.path.isfile(real) or not os.path.exists(real):
        replace_files([Replacement(real, data)])
        return
    # A pipe or a device has no content that could be kept.
    try:
        with open(real, "wb") as file:
            file.write(data)
    except OSError as bad:
        raise ReplaceError(f"cannot write {path}: {bad.strerror or bad}") from None


def _joined(texts: Sequence[str]) -> str:
    """Return the texts of several files as one stream of documents."""
    parts: list[str] = []
    for text in texts:
        if parts:
            if not parts[-1].endswith("\n"):
                parts.append("\n")
            if not text.startswith("---"):
                parts.append("---\n")
        parts.append(text)
    return "".join(parts)


def _show_diff(file: ManifestFile, text: str) -> None:
    import difflib

    from istio_init.cli import terminal

    before = file.data.decode().splitlines()
    lines = difflib.unified_diff(
        before, text.splitlines(), file.name, f"{file.name} (changed)", lineterm=""
    )
    styles: dict[str, Style] = {"+": "good", "-": "warn", "@": "head"}
    terminal.write(((line, styles.get(line[:1], "")),) for line in lines)


def _summarise(
    flags: OutputFlags,
    files: Sequence[ManifestFile],
    results: Sequence[ChangedManifest],
    done: str,
) -> None:
    """Write a line that counts, where there is more than one file to count."""
    if len(files) < 2 and not flags.in_place:
        return
    changed = sum(
        result.text.encode() != file.data for file, result in zip(files, results, strict=True)
    )
    pods = sum(result.pods for result in results)
    skipped = sum(result.skipped for result in results)
    written = "written" if flags.in_place else "changed"
    line = f"{_count(len(files), 'file')}, {changed} {written}: {_count(pods, 'workload')} {done}"
    sys.stderr.write(line + (f", {skipped} skipped\n" if skipped else "\n"))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
