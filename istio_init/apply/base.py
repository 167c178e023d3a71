"""One run as a transaction: read, compare, commit, verify, or put everything back."""

from __future__ import annotations

import signal

from istio_init import ownership
from istio_init.apply import routes
from istio_init.diff import changes
from istio_init.errors import ApplyError, IstioInitError, UnsupportedError
from istio_init.model import FAMILIES, IPV6
from istio_init.typed import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn, Protocol

    from istio_init.apply.routes import Step
    from istio_init.diff import TableChanges
    from istio_init.log import Log
    from istio_init.model import Family, Plan, Ruleset
    from istio_init.ownership import Traces

    class Applier(Protocol):
        """A backend: one of the places where the kernel keeps rules."""

        name: str

        def read(self, family: Family, needed: frozenset[str]) -> Ruleset:
            """Return the live tables of a family, those of ``needed`` at least."""

        def wanted(self, live: Ruleset, planned: Ruleset, known: Traces, *, clean: bool) -> Ruleset:
            """Return what the live tables of a family are to become."""

        def restored(
            self, live: Ruleset, before: Ruleset, planned: Ruleset, known: Traces
        ) -> Ruleset:
            """Return ``live`` with our rules as they stood in ``before``."""

        def commit(self, changes: tuple[TableChanges, ...], results: tuple[Ruleset, ...]) -> None:
            """Change tables of both families, each in one kernel transaction at most.

            ``results`` are the whole rule sets that the changes lead to.
            """


# Programs that take no lock can change a table between read and commit; each
# try starts from what they left.
_TRIES = 20


class _Undisturbed:
    """Holds SIGTERM and SIGINT back for the length of a ``with`` block."""

    _SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __enter__(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, self._SIGNALS)

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._SIGNALS)


class TableChangedError(Exception):
    """Another program changed a table between reading and committing it."""


class Outcome(Record):
    """What a run did: the tables it changed as (family, table), and the route steps."""

    tables: tuple[tuple[Family, str], ...]
    steps: tuple[Step, ...]

    @property
    def changed(self) -> bool:
        """Whether anything was written."""
        return bool(self.tables or self.steps)


class Transaction:
    """Brings the live state to a plan, or to nothing of ours, and back on failure.

    The caller holds the xtables lock. With ``clean`` the plan only helps to
    recognise what is ours; without ``routes`` only tables are looked at.
    """

    def __init__(
        self,
        applier: Applier,
        plan: Plan,
        log: Log,
        *,
        clean: bool = False,
        routes: bool = True,
    ) -> None:
        self._applier = applier
        self._plan = plan
        self._log = log
        self._clean = clean
        self._with_routes = routes
        # As it was before the first try: what a failure goes back to.
        self._before: dict[Family, Ruleset] = {}
        self._written: dict[tuple[Family, str], None] = {}
        self._steps: list[Step] = []

    def run(self) -> Outcome:
        """Return what was changed; afterwards the live state is what was wanted.

        Raises:
            ApplyError, UnsupportedError: it could not be done; ``rolled_back``
                or the text says what state was left.
        """
        try:
            self._until_still(self._converge)
        except IstioInitError as error:
            if not self._touched:
                raise
            self._explain_and_undo(error)
        except BaseException:
            self.undo()
            raise
        return Outcome(tuple(self._written), tuple(self._steps))

    @property
    def _touched(self) -> bool:
        return bool(self._written or self._steps)

    def _explain_and_undo(self, error: IstioInitError) -> NoReturn:
        restored = self.undo()
        if isinstance(error, ApplyError):
            error.rolled_back = restored
            raise error
        failure = ApplyError(
            "the rules cannot be put in place",
            where=f"backend {self._applier.name}",
            why=str(error),
            rolled_back=restored,
        )
        failure.missing = error.missing
        raise failure from error

    def _until_still(self, action: Callable[[], None]) -> None:
        for _ in range(_TRIES):
            try:
                action()
            except TableChangedError:
                self._log.debug("another program changed a table meanwhile: starting again")
            else:
                return
        raise ApplyError(
            "the tables do not stand still",
            where=f"backend {self._applier.name}",
            why=f"another program changed them during each of {_TRIES} tries",
            remedy="stop the program that writes rules without taking the xtables lock",
        )

    def _converge(self) -> None:
        live = self._read()
        known = ownership.traces(live)
        steps = self._route_steps(known)
        # Marked packets need their route before, and after, there are marks.
        self._take(tuple(step for step in steps if step.verb == "add"))
        results = tuple(
            self._applier.wanted(one, self._plan.ruleset(one.family), known, clean=self._clean)
            for one in live
        )
        self._commit(live, results)
        self._take(tuple(step for step in steps if step.verb == "del"))

    def _read(self) -> tuple[Ruleset, ...]:
        """Return the live tables of both families; IPv6's only where the kernel has them."""
        found = []
        for family in FAMILIES:
            planned = self._plan.ruleset(family)
            needed = frozenset(table.name for table in planned.tables)
            try:
                live = self._applier.read(family, frozenset() if self._clean else needed)
            except UnsupportedError:
                if not self._can_do_without(family, needed):
                    raise
                self._log.debug("this kernel has no IPv6 tables: none are needed")
                continue
            self._before.setdefault(family, live)
            found.append(live)
        return tuple(found)

    def _can_do_without(self, family: Family, needed: frozenset[str]) -> bool:
        from istio_init.host import has_ipv6

        # Without IPv6 nothing can pass beside the proxy by it.
        return family == IPV6 and not self._plan.addresses and (not needed or not has_ipv6())

    def _commit(self, live: tuple[Ruleset, ...], results: tuple[Ruleset, ...]) -> None:
        """Write what differs, read it again and compare.

        Raises:
            TableChangedError: another program wrote at the same time.
        """
        found = [
            change
            for before, after in zip(live, results, strict=True)
            for change in changes(before, after)
        ]
        if not found:
            return
        self._written |= dict.fromkeys((change.family, change.table) for change in found)
        self._applier.commit(tuple(found), results)
        for family in dict.fromkeys(change.family for change in found):
            written = {change.table: change.result for change in found if change.family == family}
            after = self._applier.read(family, frozenset(written))
            if any(after.table(name) != table for name, table in written.items()):
                raise TableChangedError

    def _route_steps(self, known: Traces) -> tuple[Step, ...]:
        if not self._with_routes:
            return ()
        live = routes.live(known.marks, self._plan.routes)
        return routes.changes(live, () if self._clean else routes.wanted(self._plan))

    def _take(self, steps: tuple[Step, ...]) -> None:
        routes.take(steps)
        self._steps += steps

    def undo(self) -> bool:
        """Put back what was there before this run; return whether that worked.

        Rules that others added meanwhile stay. From here on SIGTERM and SIGINT
        wait: half a way back is worse than either end.
        """
        with _Undisturbed():
            return self._undo()

    def _undo(self) -> bool:
        try:
            if self._written:
                self._until_still(self._put_tables_back)
            routes.take(tuple(step.undone for step in reversed(self._steps)))
        except (IstioInitError, OSError) as error:
            self._log.error(f"rolling back failed: {error}")
            return False
        return True

    def _put_tables_back(self) -> None:
        before = self._before
        live = tuple(
            self._applier.read(family, frozenset(table.name for table in one.tables))
            for family, one in before.items()
        )
        known = ownership.traces((*live, *before.values()))
        results = tuple(
            self._applier.restored(one, before[one.family], self._plan.ruleset(one.family), known)
            for one in live
        )
        self._commit(live, results)
