"""What a run leaves behind for machines: its result as JSON, its reason for Kubernetes.

With ``--format json`` a run that writes prints one object, version 1:

    {
      "version": 1,
      "command": "apply",                     or "clean"
      "outcome": "changed",                   or "unchanged", "failed"; of a dry run "would-change"
      "code": 0,                              the exit code
      "layout": "1.30",                       null where bad input left it open
      "backend": "legacy",                    of clean all that were looked at; null if none was
      "tables": [{"family": "ipv4", "table": "nat", "changed": true}, ...],
      "routes": [{"verb": "add", "item": "the address ::6/128 on lo"}, ...],
      "emptied": ["nft"],                     other backends from which rules of ours went
      "validated": ["ipv4, 127.0.0.6:15002 to 127.0.0.1:15006", ...],
      "duration": 0.034,                      seconds
      "warnings": ["...", ...],
      "error": null
    }

``error`` of a run that failed is ``{"code": 1, "message": "...", "backend": ..., "family":
..., "table": ..., "rule": ..., "flag": ..., "remedy": ..., "rolled_back": null, "problems":
[]}``: strings are empty where they do not apply, ``rolled_back`` is null when nothing had
been changed. ``problems`` are the bad values of exit code 2, each ``{"flag", "value",
"expected", "annotation", "reason"}``; ``expected`` is the form of a good value, empty where
the value has a good form and is refused for another reason; ``reason`` says why in either
case. Keys are added within a version; none changes its meaning or
goes away.
"""

from __future__ import annotations

import os
import stat
import sys
import time

from istio_init.config.model import CLEAN
from istio_init.errors import ApplyError, ConfigError
from istio_init.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from istio_init.cli.prepare import Progress
    from istio_init.errors import IstioInitError

VERSION = 1

# Where Kubernetes looks for the reason of a container's end, and how much of it it reads.
TERMINATION_LOG = "/dev/termination-log"
_LONGEST_REASON = 4096


def finish(
    command: str, flags: dict[str, str], progress: Progress, failure: IstioInitError | None
) -> None:
    """Print the result with --format json; leave the reason of a failure."""
    if failure is not None:
        leave_reason(str(failure))
    resolved = progress.resolved
    if resolved:
        wanted = resolved.run.format == "json" and not resolved.run.prints_plan
    else:
        # Bad input leaves nothing to ask but the flags as they were written.
        wanted = flags.get("format", "").strip().lower() == "json" and not _is_dry(command, flags)
    if wanted:
        import json

        sys.stdout.write(json.dumps(document(command, progress, failure), indent=2) + "\n")
        sys.stdout.flush()


def _is_dry(command: str, flags: dict[str, str]) -> bool:
    """Whether the call is a dry run, which prints a plan in place of a result."""
    text = flags.get("dry-run", os.environ.get("DRY_RUN", ""))
    return command != CLEAN and text.strip().lower() not in ("", "0", "f", "false")


def leave_reason(reason: str) -> None:
    """Write one line to the termination log, where there is one that can be written.

    It is never created: a machine that is no container has none.
    """
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(TERMINATION_LOG, flags)
    except OSError:
        return
    try:
        if stat.S_ISREG(os.fstat(handle).st_mode):
            os.ftruncate(handle, 0)
            os.write(handle, _one_line(reason).encode(errors="replace")[:_LONGEST_REASON])
    except OSError:
        # The reason stands in the log too.
        pass
    finally:
        os.close(handle)


def _one_line(text: str) -> str:
    first, *rest = (line.strip() for line in text.splitlines() if line.strip())
    return f"{first}: {'; '.join(rest)}" if rest else first


def document(
    command: str, progress: Progress, failure: IstioInitError | None = None
) -> dict[str, Any]:
    """Return the result of a run."""
    resolved, result = progress.resolved, progress.result
    cleans = resolved.run.command == "clean" if resolved else command == CLEAN
    written = result.outcome.tables if result else ()
    planned = [
        (ruleset.family, table.name)
        for ruleset in (progress.plan.rulesets if progress.plan else ())
        for table in ruleset.tables
    ]
    steps = result.outcome.steps if result else ()
    changed = bool(result and result.outcome.changed)
    would = bool(resolved and resolved.run.dry_run)
    outcome = ("would-change" if would else "changed") if changed else "unchanged"
    return {
        "version": VERSION,
        "command": "clean" if cleans else "apply",
        "outcome": "failed" if failure else outcome,
        "code": failure.exit_code if failure else 0,
        "layout": resolved.config.layout if resolved else None,
        "backend": (result.backend or None) if result else None,
        "tables": [
            {"family": family, "table": table, "changed": (family, table) in written}
            for family, table in dict.fromkeys((*planned, *written))
        ],
        "routes": [{"verb": step.verb, "item": str(step.item)} for step in steps],
        "emptied": list(result.outcome.emptied) if result else [],
        "validated": [str(path) for path in progress.validated],
        "duration": round(time.monotonic() - progress.began, 6),
        "warnings": list(progress.log.warnings),
        "error": _error(failure) if failure else None,
    }


def print_error(failure: IstioInitError, verdict: str | None = "error") -> None:
    """Print why a command that looks could not look, in place of what it would have shown."""
    import json

    document = {
        "version": VERSION,
        "verdict": verdict,
        "code": failure.exit_code,
        "error": _error(failure),
    }
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
    sys.stdout.flush()


def _error(failure: IstioInitError) -> dict[str, Any]:
    location = failure.location
    problems = failure.problems if isinstance(failure, ConfigError) else ()
    fields = ("flag", "value", "expected", "annotation")
    return {
        "code": failure.exit_code,
        "message": str(failure),
        "backend": location.backend,
        "family": location.family,
        "table": location.table,
        "rule": location.rule,
        "flag": location.flag or (problems[0].flag if problems else ""),
        "remedy": failure.remedy,
        "rolled_back": failure.rolled_back if isinstance(failure, ApplyError) else None,
        "problems": [
            {**{name: getattr(one, name) for name in fields}, "reason": one.why} for one in problems
        ],
    }
