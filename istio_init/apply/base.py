"""One run as a transaction: read, compare, commit, verify, or put everything back."""

from __future__ import annotations

from istio_init import ownership
from istio_init.apply import routes
from istio_init.apply.legacy import TableChangedError
from istio_init.diff import changes
from istio_init.errors import ApplyError, IstioInitError, UnsupportedError
from istio_init.model import FAMILIES, IPV6
from istio_init.typed import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from typing import Protocol

    from istio_init.apply.routes import Step
    from istio_init.diff import TableChanges
    from istio_init.log import Log
    from istio_init.model import Family, Plan, Ruleset
    from istio_init.ownership import Traces

    class Applier(Protocol):
        """A backend: reads whole rule sets and commits one table at a time."""

        name: str

        def read(self, family: Family, needed: frozenset[str]) -> Ruleset:
            """Return the live tables of a family, those of ``needed`` at least."""

        def commit(self, change: TableChanges) -> None:
            """Take all steps of one table in one kernel transaction."""


# Programs that take no lock can change a table between read and commit; each
# try starts from what they left.
_TRIES = 20


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
    recognise what is ours.
    """

    def __init__(self, applier: Applier, plan: Plan, log: Log, *, clean: bool) -> None:
        self._applier = applier
        self._plan = plan
        self._log = log
        self._clean = clean
        # As they were before this run's first change, for rolling back.
        self._snapshots: dict[Family, Ruleset] = {}
        self._done: list[TableChanges] = []
        self._steps: list[Step] = []

    def run(self) -> Outcome:
        """Return what was changed; afterwards the live state is what was wanted.

        Raises:
            ApplyError, UnsupportedError: it could not be done; ``rolled_back``
                or the text says what state was left.
        """
        try:
            return self._try()
        except BaseException as error:
            touched = bool(self._done or self._steps)
            restored = self._roll_back()
            if touched and isinstance(error, ApplyError):
                error.rolled_back = restored
            elif touched and isinstance(error, UnsupportedError):
                raise ApplyError(
                    "the rules cannot be put in place",
                    where=f"backend {self._applier.name}",
                    why=str(error),
                    rolled_back=restored,
                ) from error
            raise

    def _try(self) -> Outcome:
        for _ in range(_TRIES):
            try:
                return self._converge()
            except TableChangedError:
                self._log.debug("another program changed a table meanwhile: going on from there")
        raise ApplyError(
            "the tables do not stand still",
            where=f"backend {self._applier.name}",
            why=f"another program changed them during each of {_TRIES} tries",
            remedy="stop the program that writes iptables without taking the xtables lock",
        )

    def preview(self) -> Outcome:
        """Return what ``run`` would change now; nothing is written.

        Raises:
            ApplyError, UnsupportedError: the live state cannot be read.
        """
        found, steps = self._look()
        tables = [
            (change.family, change.table)
            for live in found.values()
            for change in changes(live, self._wanted(live))
        ]
        return Outcome(tuple(tables), steps)

    def _look(self) -> tuple[dict[Family, Ruleset], tuple[Step, ...]]:
        """Return the live tables, and the route steps to be taken."""
        found: dict[Family, Ruleset] = {}
        for family in FAMILIES:
            planned = self._plan.ruleset(family)
            needed = frozenset(table.name for table in planned.tables)
            live = self._read(family, frozenset() if self._clean else needed)
            if live is not None:
                found[family] = live
                self._snapshots.setdefault(family, live)
        return found, self._route_steps()

    def _converge(self) -> Outcome:
        found, steps = self._look()
        # Marked packets need their route before, and after, there are marks.
        self._take(tuple(step for step in steps if step.verb == "add"))
        results = {family: self._commit(live) for family, live in found.items()}
        self._take(tuple(step for step in steps if step.verb == "del"))
        self._verify(results)
        tables = dict.fromkeys((change.family, change.table) for change in self._done)
        return Outcome(tuple(tables), tuple(self._steps))

    def _read(self, family: Family, needed: frozenset[str]) -> Ruleset | None:
        """Return the live tables; None for IPv6 where the kernel has none to guard or clean."""
        from istio_init.host import has_ipv6

        try:
            return self._applier.read(family, needed)
        except UnsupportedError:
            if family == IPV6 and not self._plan.addresses and (not needed or not has_ipv6()):
                self._log.debug("this kernel has no IPv6 tables: none are needed")
                return None
            raise

    def _known(self) -> Traces:
        # A later try finds tables from which the old rules, and their traces, are gone.
        return ownership.traces(tuple(self._snapshots.values()))

    def _wanted(self, live: Ruleset) -> Ruleset:
        planned = self._plan.ruleset(live.family)
        return ownership.wanted(live, planned, self._known(), clean=self._clean)

    def _commit(self, live: Ruleset) -> Ruleset:
        wanted = self._wanted(live)
        for change in changes(live, wanted):
            self._applier.commit(change)
            self._done.append(change)
        return wanted

    def _route_steps(self) -> tuple[Step, ...]:
        live = routes.live(self._known().marks, self._plan.routes)
        return routes.changes(live, () if self._clean else routes.wanted(self._plan))

    def _take(self, steps: tuple[Step, ...]) -> None:
        routes.take(steps)
        self._steps += steps

    def _verify(self, results: dict[Family, Ruleset]) -> None:
        """Read what was changed again, and compare.

        Raises:
            TableChangedError: the kernel holds something else.
        """
        for family in {change.family for change in self._done}:
            wanted = results[family]
            live = self._applier.read(family, frozenset(table.name for table in wanted.tables))
            for table in wanted.tables:
                if live.table(table.name) != table:
                    raise TableChangedError

    def _roll_back(self) -> bool:
        """Put back what was there before; return whether that worked."""
        try:
            for family, before in self._snapshots.items():
                # Other tables may hold by now what others wrote.
                touched = {change.table for change in self._done if change.family == family}
                if touched:
                    tables = tuple(table for table in before.tables if table.name in touched)
                    live = self._applier.read(family, frozenset(touched))
                    for change in changes(live, before.replace(tables=tables)):
                        self._applier.commit(change)
            routes.take(tuple(step.undone for step in reversed(self._steps)))
        except (IstioInitError, TableChangedError, OSError) as error:
            self._log.error(f"rolling back failed: {error}")
            return False
        return True
