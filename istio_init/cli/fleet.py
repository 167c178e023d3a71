"""``istio-init audit --all``: every pod's network namespace of a node, one after another.

Each is audited in a process of its own: one that vanishes, hangs or cannot be
read is one row, and nothing of it stays behind. Rows are written as they come
and none is kept, so that a node with thousands of pods costs no more memory.

With ``--format json`` each row is an object on a line of its own: the document of
``istio-init audit`` less ``diff``, with ``netns`` (the inode), ``pid`` (the lowest in
it), ``pod`` (its host name, where it has one of its own) and ``error``. Two more
verdicts stand beside ``ok`` and ``drift``: ``none`` where no rule of ours stands, and
``error``.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import select
import signal
import sys
import time
from collections import deque

from istio_init.cli import audit
from istio_init.cli.terminal import Page
from istio_init.errors import ApplyError, IstioInitError
from istio_init.kernel import netns
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.log import Log
from istio_init.rules.ranges import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, NoReturn, TextIO

    from istio_init.config.model import Run
    from istio_init.kernel.netns import Found
    from istio_init.operate.audit import Audit

    Row = dict[str, Any]

VERDICTS = ("ok", "drift", "none", "error")

_NARROW = "this PID namespace is not the machine's: of processes outside of it nothing is known"
# What a worker imports where it stands; here once for all.
_NEEDED = (
    *("apply.observe", "apply.legacy", "apply.iptables_nft", "apply.nftables", "parse.nft"),
    *("planner.layout_1_0", "planner.layout_1_30"),
)
# How long one namespace may take, in seconds.
_PATIENCE = 60
_CLONE_NEWUTS = 0x04000000
_COLUMNS = (
    *(("PID", 7), ("POD", 32), ("BACKEND", 8), ("LAYOUT", 6), ("MODE", 8)),
    *(("INBOUND", 12), ("OUTBOUND", 12)),
)


class Call(Record):
    """What every namespace is held against: the flags, and the command that they are of."""

    command: str
    flags: dict[str, str]
    run: Run


class Totals:
    """Counts of what was seen."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.verdicts = dict.fromkeys(VERDICTS, 0)
        self.findings: dict[str, int] = {}

    def add(self, row: Row) -> None:
        """Count a row."""
        self.verdicts[row["verdict"]] += 1
        for one in row["findings"]:
            if one["drift"]:
                self.findings[one["kind"]] = self.findings.get(one["kind"], 0) + 1

    @property
    def code(self) -> int:
        """The exit code: drift counts for more than a namespace that could not be read."""
        if self.verdicts["drift"]:
            return audit.DRIFT
        return 1 if self.verdicts["error"] else 0


def audit_all(command: str, flags: dict[str, str], *, form: str, output: str) -> int:
    """Audit every pod of the node, write a row for each, and return the exit code.

    Raises:
        ConfigError: bad values.
        ApplyError: the namespaces cannot be listed, or the output not be written.
    """
    call = Call(command, flags, audit.settings(flags))
    if call.run.network_namespace:
        raise ApplyError(
            "--all and --network-namespace exclude each other",
            where="the flags",
            why="the one is for every pod, the other for one",
        )
    found = netns.of_pods()
    if not netns.sees_whole_node():
        Log(call.run.log_level, as_json=call.run.log_json).warn(
            f"{_NARROW}; a container needs hostPID: true to see every pod of its node"
        )
    totals = Totals()
    with _written_to(output) as stream:
        rows = _counted(_rows(call, found), totals, len(found), shown=_shows_progress(stream))
        match form:
            case "json":
                for row in rows:
                    stream.write(json.dumps(row) + "\n")
                    stream.flush()
            case "prometheus":
                stream.writelines(exposition(rows, totals))
            case _:
                _show(rows, totals, Page(stream))
    return totals.code


@contextlib.contextmanager
def _written_to(output: str) -> Iterator[TextIO]:
    """Give the stream to write to; a file takes its name only once it is complete."""
    if not output:
        yield sys.stdout
        sys.stdout.flush()
        return
    folder, name = os.path.split(output)
    # No name that node_exporter's collector would read: it ends otherwise.
    unfinished = os.path.join(folder, f".{name}.{os.getpid()}.unfinished")
    try:
        handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        with open(handle, "w", encoding="utf-8") as stream:
            yield stream
        os.replace(unfinished, output)
    except OSError as error:
        raise ApplyError(
            "cannot write the output",
            where=error.filename or output,
            why=error.strerror or str(error),
        ) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)


def _shows_progress(stream: TextIO) -> bool:
    # On a terminal the rows themselves show it.
    return sys.stderr.isatty() and not stream.isatty()


def _counted(rows: Iterable[Row], totals: Totals, count: int, *, shown: bool) -> Iterator[Row]:
    for number, row in enumerate(rows, 1):
        totals.add(row)
        if shown:
            drift = totals.verdicts["drift"]
            sys.stderr.write(f"\r{number}/{count} namespaces, {drift} with drift")
            sys.stderr.flush()
        yield row
    if shown:
        sys.stderr.write("\n")


def _rows(call: Call, found: Iterable[Found]) -> Iterator[Row]:
    """Yield the row of each namespace that is still there, in order."""
    _load_once()
    waiting: deque[_Worker] = deque()
    try:
        for one in found:
            if len(waiting) >= (os.cpu_count() or 1):
                yield from waiting.popleft().row()
            worker = _started(call, one)
            if worker is not None:
                waiting.append(worker)
        while waiting:
            yield from waiting.popleft().row()
    finally:
        for worker in waiting:
            worker.stop()


def _load_once() -> None:
    """Import what every worker needs, so that none has to."""
    import gc

    from istio_init.kernel import libiptc

    netns.load()
    with contextlib.suppress(ImportError):
        for family in FAMILIES:
            libiptc.load(family)
    for name in _NEEDED:
        importlib.import_module(f"istio_init.{name}")
    # What a worker never frees is never copied for it.
    gc.freeze()


class _Worker(Record):
    """A process that audits one namespace and writes its row to a pipe."""

    one: Found
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
            yield _failed(self.one, f"did not answer within {_PATIENCE} s")
        elif code:
            yield _failed(self.one, f"the process that audited it ended with code {code}")
        else:
            yield json.loads(data)

    def stop(self) -> None:
        """End the process; its row is not wanted any more."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.close(self.answer)
        os.waitpid(self.pid, 0)


def _started(call: Call, one: Found) -> _Worker | None:
    """Return a process that audits a namespace, None where it is gone."""
    try:
        handle = os.open(f"/proc/{one.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if os.fstat(handle).st_ino != one.inode:
            # Another process has that PID by now.
            return None
        answer, write = os.pipe()
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            _work(call, one, handle, write)
        os.close(write)
        return _Worker(one, pid, answer)
    finally:
        os.close(handle)


def _work(call: Call, one: Found, handle: int, write: int) -> NoReturn:
    """Write the row of a namespace, and end this process."""
    code = 1
    try:
        try:
            pod = _host_name(one.pid)
            netns.enter(f"/proc/self/fd/{handle}")
            found = audit.audit_here(call.command, call.flags, call.run)
            row = _row(one, pod, found)
        except IstioInitError as error:
            row = _failed(one, str(error))
        data = json.dumps(row).encode()
        while data:
            data = data[os.write(write, data) :]
        code = 0
    finally:
        os._exit(code)


def _host_name(pid: int) -> str:
    """Return the host name of a process (a pod's is its name), ``""`` if it is the node's."""
    own = os.uname().nodename
    try:
        handle = os.open(f"/proc/{pid}/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        if ctypes.CDLL(None).setns(handle, _CLONE_NEWUTS):
            return ""
    finally:
        os.close(handle)
    name = os.uname().nodename
    return "" if name == own else name


def _row(one: Found, pod: str, found: Audit) -> Row:
    document = audit.document(found)
    del document["diff"]
    row = {"netns": one.inode, "pid": one.pid, "pod": pod, **document, "error": ""}
    if found.config is None and len(found.findings) == 1:
        # Not every pod is in the mesh: nothing at all is no drift here.
        row |= {"verdict": "none", "code": 0, "findings": []}
    return row


def _failed(one: Found, why: str) -> Row:
    nothing = dict.fromkeys(("backend", "layout", "mode", "ipv6", "inbound", "outbound", "call"))
    return {
        "netns": one.inode,
        "pid": one.pid,
        "pod": "",
        "version": audit.VERSION,
        "verdict": "error",
        "code": 1,
        **nothing,
        "recognised": False,
        "findings": [],
        "error": why,
    }


def _show(rows: Iterable[Row], totals: Totals, page: Page) -> None:
    page.line("  ".join((*(name.ljust(width) for name, width in _COLUMNS), "VERDICT")), "head")
    for row in rows:
        cells = [_cut(str(row[name.lower()] or "-"), width) for name, width in _COLUMNS]
        style = {"ok": "good", "drift": "bad", "error": "warn"}.get(row["verdict"], "")
        page.line("  ".join((*cells, _verdict(row))), style)
        page.flush()
    counts = ", ".join(f"{totals.verdicts[one]} {one}" for one in VERDICTS)
    seconds = time.monotonic() - totals.began
    page.line(f"{sum(totals.verdicts.values())} namespaces in {seconds:.1f} s: {counts}", "head")


def _cut(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else text[: width - 1] + "~"


def _verdict(row: Row) -> str:
    if row["error"]:
        return f"error: {row['error']}"
    drifts = [one for one in row["findings"] if one["drift"]]
    more = f" (and {len(drifts) - 1} more)" if len(drifts) > 1 else ""
    return f"{row['verdict']}: {drifts[0]['consequence']}{more}" if drifts else row["verdict"]


def exposition(rows: Iterable[Row], totals: Totals) -> Iterator[str]:
    """Yield the lines of Prometheus' text format; those of one metric stand together."""
    yield "# HELP istio_init_pod_drift Whether the rules in a pod differ from what is planned.\n"
    yield "# TYPE istio_init_pod_drift gauge\n"
    for row in rows:
        if row["verdict"] in ("ok", "drift"):
            names = ("netns", "pid", "pod", "backend", "layout", "mode")
            labels = {name: str(row[name] or "") for name in names}
            yield _sample("istio_init_pod_drift", labels, int(row["verdict"] == "drift"))
    yield "# HELP istio_init_pods Network namespaces of pods on this node, by verdict.\n"
    yield "# TYPE istio_init_pods gauge\n"
    for verdict in VERDICTS:
        yield _sample("istio_init_pods", {"verdict": verdict}, totals.verdicts[verdict])
    yield "# HELP istio_init_findings Findings of drift in all pods of this node, by kind.\n"
    yield "# TYPE istio_init_findings gauge\n"
    for kind in sorted(totals.findings):
        yield _sample("istio_init_findings", {"kind": kind}, totals.findings[kind])
    yield "# HELP istio_init_audit_duration_seconds How long the last audit took.\n"
    yield "# TYPE istio_init_audit_duration_seconds gauge\n"
    yield _sample("istio_init_audit_duration_seconds", {}, time.monotonic() - totals.began)
    yield "# HELP istio_init_audit_timestamp_seconds When the last audit ended, in Unix time.\n"
    yield "# TYPE istio_init_audit_timestamp_seconds gauge\n"
    yield _sample("istio_init_audit_timestamp_seconds", {}, time.time())


def exposition_of_one(found: Audit) -> Iterator[str]:
    """Yield the same for the namespace of this process alone."""
    totals = Totals()
    row = _row(netns.Found(os.stat("/proc/self/ns/net").st_ino, os.getpid()), "", found)
    totals.add(row)
    return exposition((row,), totals)


def _sample(name: str, labels: dict[str, str], value: float) -> str:
    inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    number = f"{value:.3f}" if isinstance(value, float) else str(value)
    return f"{name}{{{inside}}} {number}\n" if inside else f"{name} {number}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
