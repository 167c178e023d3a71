"""A whole run: choose the backend, converge, and leave nothing of ours in the others."""

from __future__ import annotations

from istio_init.apply import detect
from istio_init.apply.backend import ApplyResult, BackendChanges, Transaction
from istio_init.config.model import BACKENDS
from istio_init.kernel import signals
from istio_init.kernel.lock import XtablesLock
from istio_init.lean import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from istio_init.apply.backend import Applier
    from istio_init.apply.detect import Evidence
    from istio_init.config.model import Backend, BackendChoice, Run
    from istio_init.log import Log
    from istio_init.rules.model import Plan


class Result(Record):
    """What a run did, and in which backend."""

    backend: str
    outcome: ApplyResult


def converge(plan: Plan, run: Run, log: Log) -> Result:
    """Put the plan in place, in one backend only.

    Rules of ours in another backend are removed once they stand in this one.

    Raises:
        ApplyError: it could not be done, and what stood before stands again.
        UnsupportedError: this kernel or machine cannot do it; nothing was changed.
    """
    with signals.SignalsHeld(), XtablesLock(run.wait):
        made: dict[BackendChoice, Applier] = {}
        evidence = detect.look(made)
        kind = detect.choose(evidence) if run.backend == "auto" else run.backend
        log.debug(f"backend {kind}; found {evidence}")
        others = _emptied(evidence, made, plan, log, kept=kind)
        sides = (BackendChanges(detect.applier(kind, made), plan, log), *others)
        return Result(kind, Transaction(sides, plan, log, clean=False).run())


def clean(hints: Plan, run: Run, log: Log) -> Result:
    """Remove everything of ours from every backend, and the routes.

    ``hints`` holds what the flags of this call could have built. A dry run only
    says what would go.

    Raises:
        ApplyError: it could not be done, and what stood before stands again.
        UnsupportedError: this machine cannot do it; nothing was changed.
    """
    with signals.SignalsHeld(), XtablesLock(run.wait):
        made: dict[BackendChoice, Applier] = {}
        evidence = detect.look(made)
        sides = _emptied(evidence, made, hints, log, unseen=evidence.unseen)
        transaction = Transaction(sides, hints, log, clean=True)
        outcome = transaction.preview() if run.dry_run else transaction.run()
        return Result(", ".join(side.name for side in sides), outcome)


def _emptied(
    evidence: Evidence,
    made: dict[BackendChoice, Applier],
    plan: Plan,
    log: Log,
    *,
    kept: str = "",
    unseen: frozenset[Backend] = frozenset(),
) -> tuple[BackendChanges, ...]:
    """Return the backends with any rules, but for the one that is kept: ours go from there.

    Some of our rules can be told from those of others without a chain of ours
    beside them, so a backend that seems to hold only theirs is looked at too.
    """
    found = evidence.ours | evidence.others | unseen
    return tuple(
        BackendChanges(
            detect.applier(kind, made), plan, log, clean=True, may_skip=kind not in evidence.ours
        )
        for kind in BACKENDS
        if kind in found and kind != kept
    )
