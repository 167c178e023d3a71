"""Programs that are run: without a shell, without a locale, and never for ever."""

from __future__ import annotations

import os

from istio_init.errors import ApplyError, UnsupportedError
from istio_init.typed import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Sequence

# Where Debian puts them; an init container's PATH may be empty.
_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
_SECONDS = 60


class Finished(Record):
    """How a program ended: its exit code and what it wrote."""

    code: int
    output: str
    complaints: str

    @property
    def denied(self) -> bool:
        """Whether it complains about rights that it lacks."""
        return "ermission denied" in self.complaints or "not permitted" in self.complaints


def execute(arguments: Sequence[str], text: str = "", *, where: str, instead: str) -> Finished:
    """Run a program with ``text`` on its standard input.

    ``where`` and ``instead`` say for errors what it is run for, and what else
    would serve.

    Raises:
        UnsupportedError: it is not installed.
        ApplyError: it did not come to an end.
    """
    import subprocess

    program = arguments[0]
    path = os.environ.get("PATH", "")
    try:
        done = subprocess.run(  # noqa: S603 - callers name the programs, nobody else does
            arguments,
            input=text,
            capture_output=True,
            # A comment in somebody's rule may hold any bytes.
            encoding="utf-8",
            errors="surrogateescape",
            timeout=_SECONDS,
            env={"PATH": f"{path}:{_PATH}" if path else _PATH, "LC_ALL": "C"},
            check=False,
        )
    except (FileNotFoundError, PermissionError) as error:
        raise UnsupportedError(
            f"{program} is not installed, or may not be run ({where}): {instead}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ApplyError(
            f"{program} did not come to an end",
            where=where,
            why=f"still running after {_SECONDS} s",
        ) from error
    return Finished(done.returncode, done.stdout, done.stderr)
