"""Programs that a cluster starts, and waiting for what they do."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

# In seconds, between two looks at something that takes a while.
INTERVAL = 0.05
# In seconds, for a program to end after it was told to.
GRACE = 10


class ClusterError(Exception):
    """A cluster that could not be started; the text is meant for the person who wanted it."""


def call(*command: str | Path, given: str | bytes | None = None) -> str:
    """Return what a command prints.

    Raises:
        ClusterError: It failed; the text has what it printed on either output.
    """
    done = subprocess.run(
        command,
        input=given.encode() if isinstance(given, str) else given,
        # Not this process's own input: that of a shell in the cluster would be eaten.
        stdin=subprocess.DEVNULL if given is None else None,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        output = (done.stdout + done.stderr).decode(errors="replace").strip()
        raise ClusterError(f"{' '.join(map(str, command))}: exit code {done.returncode}: {output}")
    return done.stdout.decode(errors="replace")


def succeeds(*command: str | Path) -> bool:
    """Say whether a command ends with 0."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return done.returncode == 0


def wait_until(what: str, result: Callable[[], T | None], seconds: float = 60) -> T:
    """Call ``result`` until it returns something true, and return that.

    Raises:
        ClusterError: It did not within ``seconds``; ``what`` says what did not come true.
    """
    end = time.monotonic() + seconds
    while not (value := result()):
        if time.monotonic() > end:
            raise ClusterError(f"not within {seconds:.0f} s: {what}")
        time.sleep(INTERVAL)
    return value


def end(process: subprocess.Popen[bytes]) -> None:
    """End a program, by force if it takes too long; one that has ended is left alone."""
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
