"""The programs of a cluster: where they are, where their logs go, and their end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.process import INTERVAL, ClusterError, end

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

NAMES = (
    *("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"),
    *("kubelet", "kubectl"),
)
# Where istio-init is, for a person to try.
VENV = Path(__file__).parents[2] / ".venv"
# In seconds, for a program to do its work for the first time.
PATIENCE = 120
LAST_LINES = 10


class Program:
    """A program that runs beside others, and writes a log."""

    def __init__(self, process: subprocess.Popen[bytes], name: str, log: Path) -> None:
        self._process, self._name, self._log = process, name, log

    def wait_until(self, what: str, happened: Callable[[], object]) -> None:
        """Wait until something has come true that this program has to do."""
        limit = time.monotonic() + PATIENCE
        while not happened():
            code = self._process.poll()
            if code is not None:
                raise self._error(f"it ended with exit code {code}")
            if time.monotonic() > limit:
                raise self._error(f"not within {PATIENCE} s: {what}")
            time.sleep(INTERVAL)

    def _error(self, why: str) -> ClusterError:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return ClusterError("\n".join([f"{self._name}: {why}. Its log:", *lines[-LAST_LINES:]]))


class Programs:
    """Starts programs; the stack ends them, the last one first."""

    def __init__(self, folder: Path, kube: Path, logs: Path | None, stack: ExitStack) -> None:
        self.folder = folder
        self._logs = logs or folder / "logs"
        self._stack = stack
        self._started = time.monotonic()
        self._logs.mkdir(parents=True, exist_ok=True)
        (folder / "bin").mkdir(parents=True)
        for name in NAMES:
            (folder / "bin" / name).symlink_to(kube)
        os.environ["PATH"] = f"{folder}/bin:{VENV}/bin:{os.environ['PATH']}"

    def start(self, name: str, *arguments: str) -> Program:
        """Start a program in the background."""
        path = self._logs / f"{name}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                [name, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A key that interrupts the command in the foreground is not for this one.
                start_new_session=True,
            )
        self._stack.callback(end, process)
        return Program(process, name, path)

    def say(self, what: str) -> None:
        """Tell the person who waits how far the cluster is."""
        seconds = time.monotonic() - self._started
        sys.stderr.write(f"cluster: {seconds:5.1f} s  {what}\n")
        sys.stderr.flush()
