"""A node with pods, for ``audit --all``: in each namespace one process sleeps, and rules stand.

    python -m tests.benchmark.node PODS RESTORE...

Runs as the first process of a PID namespace. Each RESTORE is a command that makes the
rules of a pod; pods take them in turn. Prints ``ready`` when all stand, and waits until
its standard input ends.
"""

from __future__ import annotations

import os
import subprocess
import sys

from tests.benchmark.processes import enter_fresh_namespace

# One for each of two cores.
_BUILDERS = 2


def main(pods: int, restores: list[str]) -> int:
    """Make the pods, and wait; return the exit code."""
    builders = []
    for first in range(_BUILDERS):
        builder = os.fork()
        if not builder:
            _build(range(first, pods, _BUILDERS), restores)
        builders.append(builder)
    codes = [os.waitstatus_to_exitcode(os.waitpid(builder, 0)[1]) for builder in builders]
    if any(codes):
        return 1
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    return 0


def _build(pods: range, restores: list[str]) -> None:
    """Start these pods one after the other, and end this process."""
    code = 1
    try:
        for pod in pods:
            reading, writing = os.pipe()
            if not os.fork():
                os.close(reading)
                _be_pod(restores[pod % len(restores)], writing)
            os.close(writing)
            # Nothing, where it has failed.
            if not os.read(reading, 1):
                break
            os.close(reading)
        else:
            code = 0
    finally:
        os._exit(code)


def _be_pod(restore: str, ready: int) -> None:
    """Enter a namespace, make its rules, say so, and sleep."""
    try:
        enter_fresh_namespace()
        subprocess.run(["/bin/sh", "-c", restore], check=True)
        os.write(ready, b"+")
        os.execvp("sleep", ["sleep", "1000"])
    finally:
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
