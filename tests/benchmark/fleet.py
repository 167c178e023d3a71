"""What is timed of ``audit --all``: a node with a thousand namespaces."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.benchmark.processes import enter_fresh_namespace, fail, failed
from tests.benchmark.visits import DEFAULT, USE
from tests.namespace import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_ROOT = Path(__file__).parents[2]
NAMESPACES = 1000
ROW = f"audit --all, {NAMESPACES} namespaces"
# What the goal is for.
_CORES = 2
# How often memory is looked at, in seconds.
_LOOK = 0.02
# How a dry run prints what the tool of a backend takes.
_TOOLS = {
    "legacy": ("save", "iptables-legacy-restore"),
    "nft": ("save", "iptables-nft-restore"),
    "nftables": ("nft", "nft -f"),
}


class FleetFigures(NamedTuple):
    """Times of the rounds (ms), and the most memory of all processes together (MiB)."""

    times: list[float]
    memory: float


def audits(folder: Path, environment: Mapping[str, str], rounds: int) -> FleetFigures:
    """Return what an audit of the whole node costs, on two processors.

    Raises:
        SystemExit: the node cannot be made, or some namespace is found not to be as it is.
    """
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(allowed)[:_CORES]))
    try:
        enter_fresh_namespace()
        with _node(_restores(folder, environment), environment) as enter:
            command = (*enter, PROGRAM, "audit", "--all", "--format", "json")
            times = [_audit(command, environment) for _ in range(rounds)]
            return FleetFigures(times, _peak(command, environment))
    finally:
        os.sched_setaffinity(0, allowed)


def _restores(folder: Path, environment: Mapping[str, str]) -> list[str]:
    """Return a command for each backend that makes the rules of a default run."""
    found = []
    for backend, (form, tool) in _TOOLS.items():
        path = folder / f"pod-{backend}"
        call = (PROGRAM, "istio-iptables", *DEFAULT, *USE[backend], "--dry-run", "--format", form)
        done = subprocess.run(call, env=environment, capture_output=True, check=False)
        if done.returncode:
            failed(call, done.returncode, done.stderr)
        path.write_bytes(done.stdout)
        found.append(f"exec {tool} {shlex.quote(str(path))}")
    return found


@contextmanager
def _node(restores: list[str], environment: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    """Make the node; the value is the command that others are run on it by."""
    with subprocess.Popen(
        (
            *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *(sys.executable, "-m", "tests.benchmark.node", str(NAMESPACES), *restores),
        ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=_ROOT,
        env=environment,
    ) as node:
        assert node.stdout is not None
        if node.stdout.readline() != b"ready\n":
            fail(f"no node with {NAMESPACES} namespaces")
        (first,) = _children(node.pid)
        yield "nsenter", "--target", str(first), "--pid", "--mount", "--"


def _audit(command: tuple[str, ...], environment: Mapping[str, str]) -> float:
    """Return how long one takes, in ms."""
    with tempfile.TemporaryFile() as rows:
        started = time.perf_counter()
        done = subprocess.run(
            command, env=environment, stdout=rows, stderr=subprocess.PIPE, check=False
        )
        took = (time.perf_counter() - started) * 1000
        if done.returncode:
            failed(command, done.returncode, done.stderr)
        rows.seek(0)
        verdicts = [json.loads(line).get("verdict") for line in rows]
    if verdicts.count("ok") != NAMESPACES:
        fail(f"of {NAMESPACES} namespaces {verdicts.count('ok')} are ok")
    return took


def _peak(command: tuple[str, ...], environment: Mapping[str, str]) -> float:
    """Return the most memory of an audit and its workers together, in MiB."""
    most = 0
    # Its output is looked at where its time is.
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet) as entering:
        while entering.poll() is None:
            for audit in _children(entering.pid):
                workers = sum(_memory(one, "Private_") for one in _children(audit))
                most = max(most, _memory(audit, "Rss:") + workers)
            time.sleep(_LOOK)
    return most / 1024


def _memory(process: int, field: str) -> int:
    """Return the KiB of the fields of that name; 0 where the process has ended.

    What a worker has in common with the process that it was forked from is in that one's RSS.
    """
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(field))


def _children(process: int) -> list[int]:
    """Return the children of a process that has one thread; none where it has ended."""
    try:
        return [
            int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()
        ]
    except OSError:
        return []
