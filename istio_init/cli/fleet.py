"""``istio-init audit --all``: every pod's network namespace of a node, one after another.

With ``--format json`` each row is an object on a line of its own, as
``istio_init/operate/fleet.py`` describes it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time

from istio_init.cli import audit
from istio_init.cli.terminal import Page
from istio_init.config.options import BY_NAME
from istio_init.errors import ApplyError, BadValue
from istio_init.kernel import netns
from istio_init.lean import TYPE_CHECKING
from istio_init.log import Log
from istio_init.operate import fleet
from istio_init.operate.prometheus import exposition

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TextIO

    from istio_init.operate.fleet import Row, Totals

_NARROW = "this PID namespace is not the machine's: of processes outside of it nothing is known"
_COLUMNS = (
    *(("PID", 7), ("POD", 32), ("BACKEND", 8), ("LAYOUT", 6), ("MODE", 8)),
    *(("INBOUND", 12), ("OUTBOUND", 12)),
)


def audit_all(command: str, flags: dict[str, str], *, form: str, output: str) -> int:
    """Audit every pod of the node, write a row for each, and return the exit code.

    Raises:
        ConfigError: bad values.
        ApplyError: the namespaces cannot be listed, or the output not be written.
    """
    run = audit.settings(command, flags, _namespace_problems(flags))
    pods = netns.of_pods()
    count = netns.count_of_pods()
    if not netns.sees_whole_node():
        Log(run.log_level, as_json=run.log_json).warn(
            f"{_NARROW}; a container needs hostPID: true to see every pod of its node"
        )
    totals = fleet.Totals()
    with _written_to(output) as stream:
        rows = _counted(
            fleet.rows(lambda: audit.audit_here(command, flags, run), pods),
            totals,
            count,
            shown=_shows_progress(stream),
        )
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


def _namespace_problems(flags: dict[str, str]) -> tuple[BadValue, ...]:
    """Return that a call which means every pod names one namespace, if it does."""
    option = BY_NAME["network-namespace"]
    origins = {option.spelled: flags.get(option.name, "")}
    if option.name not in flags:
        origins = {f"env {variable}": os.environ.get(variable, "") for variable in option.env}
    reason = "names one namespace; --all means every pod"
    return tuple(
        BadValue(origin, text, "", reason=reason)
        for origin, text in origins.items()
        if text.strip()
    )


@contextlib.contextmanager
def _written_to(output: str) -> Iterator[TextIO]:
    """Give the stream to write to; a file takes its name only once it is complete."""
    if not output:
        yield sys.stdout
        sys.stdout.flush()
        return
    folder, name = os.path.split(output)
    # No name that node_exporter's collector would read (it ends otherwise), and none that
    # somebody else can have put there before.
    unfinished = os.path.join(folder, f".{name}.{os.urandom(8).hex()}.unfinished")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        handle = os.open(unfinished, flags, 0o644)
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


def _show(rows: Iterable[Row], totals: Totals, page: Page) -> None:
    page.line("  ".join((*(name.ljust(width) for name, width in _COLUMNS), "VERDICT")), "head")
    for row in rows:
        cells = [_cut(str(row[name.lower()] or "-"), width) for name, width in _COLUMNS]
        style = {"ok": "good", "drift": "bad", "error": "warn"}.get(row["verdict"], "")
        page.line("  ".join((*cells, _verdict(row))), style)
        page.flush()
    counts = ", ".join(f"{totals.verdicts[verdict]} {verdict}" for verdict in fleet.VERDICTS)
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
