"""One round of audits over the network namespaces of a node's pods.

Each is audited in a process of its own, with a bound on its time and memory: one
that vanishes, hangs, or holds more rules than anybody reads is one row, delays nobody,
and nothing of it stays behind. Rows are yielded as they come and none is kept, so that
a node with thousands of pods costs no more memory.

A row is the document of ``operate.audit`` less ``diff``, with ``netns`` (the inode),
``pid`` (the lowest in it), ``pod`` (its host name, where it has one of its own) and
``error``. Two more verdicts stand beside ``ok`` and ``drift``: ``none`` where no rule
of ours stands, and ``error``. No text in a row holds a control character or a byte
that is no text: names, comments and rules are the pod's, who may be hostile.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import select
import signal
import sys
import time

from istio_init.errors import IstioInitError, printable
from istio_init.kernel import libiptc, netns, process
from istio_init.lean import TYPE_CHECKING
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
# What one namespace may take: seconds of the clock and of a processor, and bytes. Two
# workers at work and this process are to fit into a container of 128 MiB.
_PATIENCE = 30
_CPU_SECONDS = 20
_MEMORY = 48 << 20
# A row is a line for a person; what is longer than that is cut.
_MOST_FINDINGS = 100
_MOST_ANSWER = 1 << 20
# Workers that wait for something cost memory alone, but that too has an end.
_MOST_WORKERS = 256
# How often those at work are looked after, in seconds.
_LOOK = 0.02


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
    """Yield the row of each namespace, as soon as it is there.

    ``audit`` audits the namespace of the process in which it is called. As many are at
    work at a time as this machine has processors; one that only waits does not count.
    """
    _load_once()
    crew = _Crew(audit)
    try:
        for pod in pods:
            try:
                yield from crew.rows_until_free()
                crew.start(pod)
            finally:
                pod.close()
        yield from crew.rows_until_done()
    finally:
        crew.stop()


def row_of_this_namespace(result: AuditResult) -> Row:
    """Return the row of the namespace of this process."""
    inode = os.stat("/proc/self/ns/net").st_ino
    return _row(netns.PodNamespace(inode, os.getpid(), -1, -1), "", result)


def _load_once() -> None:
    """Import what every worker needs, so that none has to."""
    with contextlib.suppress(ImportError):
        for family in FAMILIES:
            libiptc.load(family)
    for name in _NEEDED:
        importlib.import_module(f"istio_init.{name}")
    # What a worker never frees is never copied for it.
    gc.freeze()


class _Worker:
    """A process that audits one namespace and writes its row to a pipe."""

    def __init__(self, pod: PodNamespace, pid: int, answer: int) -> None:
        self.pod = pod
        self.pid = pid
        self.answer = answer
        self.waits = False
        self._deadline = time.monotonic() + _PATIENCE
        self._data = b""
        self._ticks = -1
        self._why = ""

    @property
    def overdue(self) -> bool:
        """Whether its time is up."""
        return time.monotonic() >= self._deadline

    def read(self) -> bool:
        """Read more of the row; return whether that was all."""
        part = os.read(self.answer, 1 << 16)
        self._data += part
        if len(self._data) > _MOST_ANSWER:
            self.end(f"its row is larger than {_MOST_ANSWER >> 10} KiB")
            return True
        return not part

    def look(self) -> None:
        """See whether the process has been at work since the last look."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                state, *fields = file.read().rpartition(b")")[2].split()
        except OSError:
            return
        # utime and stime. Source: proc_pid_stat(5).
        ticks = int(fields[10]) + int(fields[11])
        self.waits = state in (b"S", b"D") and ticks == self._ticks
        self._ticks = ticks

    def end(self, why: str) -> None:
        """End the process, whatever it still does; ``why`` stands in its row."""
        self._why = why
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def row(self) -> Row:
        """Return the row, once the process has ended."""
        os.close(self.answer)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if self._why:
            return _failed(self.pod, self._why)
        if code == -signal.SIGXCPU:
            return _failed(self.pod, f"took more than {_CPU_SECONDS} s of a processor")
        try:
            row: Row = json.loads(self._data)
        except ValueError:
            return _failed(self.pod, f"the process that audited it ended with code {code}")
        return row


class _Crew:
    """The workers of one round."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._slots = os.cpu_count() or 1
        self._workers: dict[int, _Worker] = {}
        self._poll = select.poll()

    def start(self, pod: PodNamespace) -> None:
        """Start the audit of a namespace."""
        answer, write = os.pipe()
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            _work(self._audit, pod, write)
        os.close(write)
        self._workers[answer] = _Worker(pod, pid, answer)
        self._poll.register(answer, select.POLLIN)

    def rows_until_free(self) -> Iterator[Row]:
        """Yield rows until another worker may start."""
        while len(self._workers) >= _MOST_WORKERS or self._at_work() >= self._slots:
            yield from self._wait()

    def rows_until_done(self) -> Iterator[Row]:
        """Yield the rest of the rows."""
        while self._workers:
            yield from self._wait()

    def stop(self) -> None:
        """End the workers that are left; their rows are not wanted any more."""
        for worker in self._workers.values():
            worker.end("not wanted any more")
            worker.row()
        self._workers.clear()

    def _at_work(self) -> int:
        return sum(not worker.waits for worker in self._workers.values())

    def _wait(self) -> Iterator[Row]:
        """Wait for a moment; yield the rows that are there then."""
        events = self._poll.poll(_LOOK * 1000)
        done = [self._workers[answer] for answer, _ in events if self._workers[answer].read()]
        if not events:
            for worker in self._workers.values():
                worker.look()
        for worker in self._workers.values():
            if worker.overdue and worker not in done:
                worker.end(f"did not answer within {_PATIENCE} s")
                done.append(worker)
        for worker in done:
            del self._workers[worker.answer]
            self._poll.unregister(worker.answer)
            yield worker.row()


def _work(audit: Audit, pod: PodNamespace, write: int) -> NoReturn:
    """Write the row of a namespace, and end this process."""
    code = 1
    try:
        process.die_with_parent()
        _limit(resource.RLIMIT_CPU, _CPU_SECONDS)
        _limit(resource.RLIMIT_DATA, _MEMORY)
        _limit(resource.RLIMIT_CORE, 0)
        try:
            name = netns.enter_pod(pod)
            row = _row(pod, name, audit())
        except IstioInitError as error:
            row = _failed(pod, str(error))
        except (MemoryError, SystemError):
            # The interpreter loses a MemoryError now and then, and calls that a SystemError
            # of its own. To say so takes a little memory too.
            _limit(resource.RLIMIT_DATA, 2 * _MEMORY)
            row = _failed(pod, f"its rules take more than {_MEMORY >> 20} MiB to read")
        except RecursionError:
            row = _failed(pod, "its chains lead into each other too deep to be followed")
        data = json.dumps(row).encode()
        while data:
            data = data[os.write(write, data) :]
        code = 0
    finally:
        os._exit(code)


def _limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(kind, (most, hard))


def _row(pod: PodNamespace, name: str, result: AuditResult) -> Row:
    fields = document(result)
    del fields["diff"]
    findings = fields["findings"]
    if len(findings) > _MOST_FINDINGS:
        # Drift first: what is cut changes no verdict.
        findings.sort(key=lambda finding: not finding["drift"])
        del findings[_MOST_FINDINGS:]
    row = {"netns": pod.inode, "pid": pod.pid, "pod": name, **fields, "error": ""}
    if result.config is None and len(result.findings) == 1:
        # Not every pod is in the mesh: nothing at all is no drift here.
        row |= {"verdict": "none", "code": 0, "findings": []}
    return _spelled(row)


def _spelled(fields: Row) -> Row:
    """Return a row with every text in it free of control characters."""

    def spelled(value: object) -> object:
        match value:
            case str():
                return printable(value)
            case list() | tuple():
                return [spelled(one) for one in value]
            case dict():
                return {key: spelled(one) for key, one in value.items()}
            case _:
                return value

    return {key: spelled(value) for key, value in fields.items()}


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
        "error": printable(why),
    }
