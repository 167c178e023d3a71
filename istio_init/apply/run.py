"""A whole run: choose the backend, converge, and leave nothing of ours in the others."""

from __future__ import annotations

import signal

from istio_init.apply import choose
from istio_init.apply.base import Outcome, Transaction
from istio_init.apply.lock import XtablesLock
from istio_init.errors import ApplyError
from istio_init.typed import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from types import FrameType

    from istio_init.config import Run
    from istio_init.log import Log
    from istio_init.model import Plan


class Result(Record):
    """What a run did: in which backend, and out of which others it moved our rules."""

    backend: str
    outcome: Outcome
    moved_from: tuple[str, ...] = ()


def converge(plan: Plan, run: Run, log: Log) -> Result:
    """Put the plan in place, in one backend only.

    Rules of ours in another backend are removed once they stand in this one.

    Raises:
        ApplyError: it could not be done, and what stood before stands again.
        UnsupportedError: this kernel or machine cannot do it; nothing was changed.
    """
    _stop_on_sigterm()
    with XtablesLock(run.wait):
        evidence = choose.look()
        kind = choose.choose(evidence) if run.backend == "auto" else run.backend
        log.debug(f"backend {kind}; found {evidence}")
        transaction = Transaction(choose.applier(kind), plan, log)
        outcome = transaction.run()
        others = tuple(other for other in choose.KINDS if other in evidence.ours - {kind})
        try:
            for other in others:
                Transaction(choose.applier(other), plan, log, clean=True, routes=False).run()
        except BaseException:
            transaction.undo()
            raise
        return Result(kind, outcome, others)


def clean(hints: Plan, run: Run, log: Log) -> Result:
    """Remove everything of ours from every backend, and the routes.

    ``hints`` holds what the flags of this call could have built.

    Raises:
        ApplyError: it could not be done, and what stood before stands again.
        UnsupportedError: this machine cannot do it; nothing was changed.
    """
    _stop_on_sigterm()
    with XtablesLock(run.wait):
        evidence = choose.look()
        kinds = [kind for kind in choose.KINDS if kind in evidence.ours | evidence.others]
        if run.backend != "auto":
            kinds = [run.backend]
        # The routes go with whichever backend there is, even an empty one.
        kinds = kinds or [choose.choose(evidence)]
        done: list[Transaction] = []
        outcomes: list[Outcome] = []
        try:
            for kind in kinds:
                last = kind == kinds[-1]
                transaction = Transaction(choose.applier(kind), hints, log, clean=True, routes=last)
                outcomes.append(transaction.run())
                done.append(transaction)
        except BaseException:
            for transaction in reversed(done):
                transaction.undo()
            raise
        tables = tuple(table for outcome in outcomes for table in outcome.tables)
        return Result(", ".join(kinds), Outcome(tables, outcomes[-1].steps))


def _stop_on_sigterm() -> None:
    """Make SIGTERM a failure like any other: what was begun is taken back."""
    signal.signal(signal.SIGTERM, _terminated)


def _terminated(_number: int, _frame: FrameType | None) -> None:
    raise ApplyError(
        "stopped by SIGTERM before the end",
        where="this run",
        why="the container was told to stop",
        remedy="the next run starts over",
    )
