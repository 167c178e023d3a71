"""One round of audits over the network namespaces of a node's pods.

Each is audited in a process of its own: one that vanishes, hangs or cannot be
read is one row, and nothing of it stays behind. Rows are yielded as they come
and none is kept, so that a node with thousands of pods costs no more memory.

A row is the document of ``operate.audit`` less ``diff``, with ``netns`` (the inode),
``pid`` (the lowest in it), ``pod`` (its host name, where it has one of its own) and
``error``. Two more verdicts stand beside ``ok`` and ``drift``: ``none`` where no rule
of ours stands, and ``error``.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import sys
import time
from collections import deque

from istio_init.errors import IstioInitError
from istio_init.kernel import libiptc, netns
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.operate.audit import DRIFT, VERSION, document
from istio_init.rules.ranges import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, NoReturn

    from istio_init.kernel.netns import PodNamespace
    from istio_init.operate.audit import AuditResult

    Row = dict[str, Any]
    Audit = Callable[[], AuditResult]

VERDICTS = ("ok", "drift", "none", "error")

# What a worker imports where it stands; here once for all.
_NEEDED = (
    *("apply.legacy", "apply.iptables_nft", "apply.nftables"),
    *("planner.layout_1_0", "planner.layout_1_30"),
)
# How long one namespace may take, in seconds.
_PATIENCE = 60


class Totals:
    """Counts of the rows of one round."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.verdicts = dict.fromkeys(VERDICTS, 0)
        self.findings: dict[str, int] = {}

    def add(self, row: Row) -> None:
        """Count a row."""
        self.verdicts[row["verdict"]] += 1
        for finding in row["findings"]:
            if finding["drift"]:
                kind = finding["kind"]
                self.findings[kind] = self.findings.get(kind, 0) + 1

    @property
    def code(self) -> int:
        """The exit code: drift counts for more than a namespace that could not be read."""
        if self.verdicts["drift"]:
            return DRIFT
        return 1 if self.verdicts["error"] else 0


def rows(audit: Audit, pods: Iterable[PodNamespace]) -> Iterator[Row]:
    """Yield the row of each namespace that is still there, in order.

    ``audit`` audits the namespace of the process in which it is called; there are as
    many of these at a time as this machine has processors.
    """
    _load_once()
    waiting: deque[_Worker] = deque()
    try:
        for pod in pods:
            if len(waiting) >= (os.cpu_count() or 1):
                yield from waiting.popleft().row()
            worker = _started(audit, pod)
            if worker is not None:
                waiting.append(worker)
        while waiting:
            yield from waiting.popleft().row()
    finally:
        for worker in waiting:
            worker.stop()


def row_of_this_namespace(result: AuditResult) -> Row:
    """Return the row of the namespace of this process."""
    return _row(netns.PodNamespace(os.stat("/proc/self/ns/net").st_ino, os.getpid()), "", result)


def _load_once() -> None:
    """Import what every worker needs, so that none has to."""
    with contextlib.suppress(ImportError):
        for family in FAMILIES:
            libiptc.load(family)
    for name in _NEEDED:
        importlib.import_module(f"istio_init.{name}")
    # What a worker never frees is never copied for it.
    gc.freeze()


class _Worker(Record):
    """A process that audits one namespace and writes its row to a pipe."""

    pod: PodNamespace
    pid: int
    answer: int

    def row(self) -> Iterator[Row]:
        """Yield the row; none where the namespace had gone."""
        poll = select.poll()
        poll.register(self.answer, select.POLLIN)
        deadline = time.monotonic() + _PATIENCE
        data = b""
        while (left := deadline - time.monotonic()) > 0:
            if poll.poll(left * 1000):
                part = os.read(self.answer, 1 << 16)
                if not part:
                    break
                data += part
        late = left <= 0
        if late:
            os.kill(self.pid, signal.SIGKILL)
        os.close(self.answer)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if late:
            yield _failed(self.pod, f"did not answer within {_PATIENCE} s")
        elif code:
            yield _failed(self.pod, f"the process that audited it ended with code {code}")
        else:
            yield json.loads(data)

    def stop(self) -> None:
        """End the process; its row is not wanted any more."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.close(self.answer)
        os.waitpid(self.pid, 0)


def _started(audit: Audit, pod: PodNamespace) -> _Worker | None:
    """Return a process that audits a namespace, None where it is gone."""
    try:
        handle = os.open(f"/proc/{pod.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if os.fstat(handle).st_ino != pod.inode:
            # Another process has that PID by now.
            return None
        answer, write = os.pipe()
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            _work(audit, pod, handle, write)
        os.close(write)
        return _Worker(pod, pid, answer)
    finally:
        os.close(handle)


def _work(audit: Audit, pod: PodNamespace, handle: int, write: int) -> NoReturn:
    """Write the row of a namespace, and end this process."""
    code = 1
    try:
        try:
            name = netns.enter_host_name(pod.pid)
            netns.enter(f"/proc/self/fd/{handle}")
            row = _row(pod, name, audit())
        except IstioInitError as error:
            row = _failed(pod, str(error))
        data = json.dumps(row).encode()
        while data:
            data = data[os.write(write, data) :]
        code = 0
    finally:
        os._exit(code)


def _row(pod: PodNamespace, name: str, result: AuditResult) -> Row:
    fields = document(result)
    del fields["diff"]
    row = {"netns": pod.inode, "pid": pod.pid, "pod": name, **fields, "error": ""}
    if result.config is None and len(result.findings) == 1:
        # Not every pod is in the mesh: nothing at all is no drift here.
        row |= {"verdict": "none", "code": 0, "findings": []}
    return row


def _failed(pod: PodNamespace, why: str) -> Row:
    nothing = dict.fromkeys(("backend", "layout", "mode", "ipv6", "inbound", "outbound", "call"))
    return {
        "netns": pod.inode,
        "pid": pod.pid,
        "pod": "",
        "version": VERSION,
        "verdict": "error",
        "code": 1,
        **nothing,
        "recognised": False,
        "findings": [],
        "error": why,
    }
