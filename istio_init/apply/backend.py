"""One run as a transaction: read, compare, commit, verify, or put everything back."""

from __future__ import annotations

from istio_init.apply import routes
from istio_init.diagnose.shadowing import has_others
from istio_init.errors import ApplyError, IstioInitError, Location, UnsupportedError
from istio_init.kernel import signals
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.rules import ownership
from istio_init.rules.diff import changes
from istio_init.rules.model import BUILTIN_CHAINS, PolicyRoute
from istio_init.rules.names import FILTER
from istio_init.rules.ranges import FAMILIES, IPV4, IPV6

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn, Protocol

    from istio_init.apply.routes import Item, RouteStep
    from istio_init.log import Log
    from istio_init.rules.diff import TableChanges
    from istio_init.rules.model import Plan, Ruleset, Table
    from istio_init.rules.ownership import OwnershipEvidence
    from istio_init.rules.ranges import Family

    class Applier(Protocol):
        """A backend: one of the places where the kernel keeps rules."""

        name: str

        def read(self, family: Family, needed: frozenset[str]) -> Ruleset:
            """Return the live tables of a family, those of ``needed`` at least."""

        def wanted(
            self, live: Ruleset, planned: Ruleset, known: OwnershipEvidence, *, clean: bool
        ) -> Ruleset:
            """Return what the live tables of a family are to become."""

        def restored(
            self, live: Ruleset, before: Ruleset, planned: Ruleset, known: OwnershipEvidence
        ) -> Ruleset:
            """Return ``live`` with our rules as they stood in ``before``."""

        def as_written(self, ruleset: Ruleset) -> Ruleset:
            """Return a rule set in the form in which it is read back once it was written."""

        def commit(self, changes: tuple[TableChanges, ...], results: tuple[Ruleset, ...]) -> None:
            """Change tables of both families, each in one kernel transaction at most.

            Those of a family are changed in the order of ``changes``. ``results``
            are the whole rule sets that the changes lead to.
            """


# Programs that take no lock can change a table between read and commit; each
# try starts from what they left.
_TRIES = 20
# In seconds: how long a change of mode waits for connections that are under way.
_PAUSE = 0.25


class TableChangedError(Exception):
    """Another program changed a table between reading and committing it."""


class ApplyResult(Record):
    """What a run did: the tables it changed as (family, table), and the route steps.

    ``emptied`` names the backends from which rules of ours were removed,
    ``hidden`` has a sentence for each rule that keeps packets from ours: one of others,
    or one of which nobody can tell whose it is.
    """

    tables: tuple[tuple[Family, str], ...]
    steps: tuple[RouteStep, ...]
    emptied: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether anything was written."""
        return bool(self.tables or self.steps)


class BackendChanges:
    """The rules of one backend, on their way to a plan or, with ``clean``, to nothing of ours.

    With ``clean`` the plan only helps to recognise what is ours. Tables that
    cannot be shown may be passed over where ``may_skip`` says that no chain of
    ours is among them.
    """

    def __init__(
        self, applier: Applier, plan: Plan, log: Log, *, clean: bool = False, may_skip: bool = False
    ) -> None:
        self.name = applier.name
        self.clean = clean
        self._applier = applier
        self._plan = plan
        self._log = log
        self._may_skip = may_skip
        # As it was before the first try: what a failure goes back to.
        self._before: dict[Family, Ruleset] = {}
        self.written: dict[tuple[Family, str], None] = {}

    def read(self) -> tuple[Ruleset, ...]:
        """Return the live tables of both families; IPv6's only where the kernel has them."""
        rulesets = []
        for family in FAMILIES:
            signals.check()
            planned = self._plan.ruleset(family)
            needed = frozenset(table.name for table in planned.tables)
            try:
                live = self._applier.read(family, frozenset() if self.clean else needed)
            except UnsupportedError as error:
                if not self._may_skip and not self._can_do_without(family, needed):
                    raise
                self._log.debug(f"not looked at: {error}")
                continue
            except TableChangedError as error:
                raise self._restless() from error
            self._before.setdefault(family, live)
            rulesets.append(live)
        return tuple(rulesets)

    def _can_do_without(self, family: Family, needed: frozenset[str]) -> bool:
        from istio_init.kernel.host import has_ipv6

        # Without IPv6 nothing can pass beside the proxy by it.
        return family == IPV6 and not self._plan.addresses and (not needed or not has_ipv6())

    def converge(
        self, live: tuple[Ruleset, ...], *, beside_another: bool = False
    ) -> tuple[Ruleset, ...]:
        """Write what ``live``, just read, lacks; return what stands in the kernel then.

        With ``beside_another`` rules of ours still stand in another backend.

        Raises:
            ApplyError, UnsupportedError: it cannot be done.
        """
        for _ in range(_TRIES):
            results = self._wanted(live)
            if beside_another:
                results = self._for_two_backends(results)
            try:
                self._commit(live, results)
            except TableChangedError:
                self._log.debug("another program changed a table meanwhile: starting again")
                live = self.read()
            else:
                return results
        raise self._restless()

    def missing(self, live: tuple[Ruleset, ...]) -> list[TableChanges]:
        """Return what ``live``, just read, lacks."""
        return _differences(live, self._wanted(live))

    def _wanted(self, live: tuple[Ruleset, ...]) -> tuple[Ruleset, ...]:
        # A later try finds tables from which the old rules, and their traces, are gone.
        known = ownership.traces(tuple(self._before.values()), self._plan.rulesets)
        for one in () if self.clean or self.name == "nftables" else live:
            self._refuse_ambient(one)
        return tuple(
            self._applier.wanted(one, self._plan.ruleset(one.family), known, clean=self.clean)
            for one in live
        )

    def _refuse_ambient(self, live: Ruleset) -> None:
        taken = ownership.ambient_tables(live, self._plan.ruleset(live.family))
        if taken:
            raise ApplyError(
                "the chain ISTIO_OUTPUT is not ours to write",
                where=f"backend {self.name}, {live.family}, {', '.join(taken)}",
                why="ISTIO_PRERT stands beside it: these are the rules of Istio's ambient mode, "
                "which captures this pod's traffic already",
                remedy="take the pod out of ambient mode (istio.io/dataplane-mode: none) and start "
                "it again, or run it without a sidecar",
            ).at(Location(self.name, live.family, taken[0]))

    def put_back(self) -> None:
        """Restore our rules as they stood before; what others wrote meanwhile stays.

        Raises:
            ApplyError, UnsupportedError: it cannot be done.
        """
        if not self.written:
            return
        before = self._before
        for _ in range(_TRIES):
            try:
                live = tuple(
                    self._applier.read(family, frozenset(table.name for table in one.tables))
                    for family, one in before.items()
                )
                known = ownership.traces((*live, *before.values()), self._plan.rulesets)
                results = tuple(
                    self._applier.restored(
                        one, before[one.family], self._plan.ruleset(one.family), known
                    )
                    for one in live
                )
                self._commit(live, results)
            except TableChangedError:
                continue
            else:
                return
        raise self._restless()

    def _restless(self) -> ApplyError:
        return ApplyError(
            "the tables kept changing while they were read",
            where=f"backend {self.name}",
            why=f"another program changed them during each of {_TRIES} tries",
            remedy="stop the program that writes rules without taking the xtables lock",
        )

    def _commit(self, live: tuple[Ruleset, ...], results: tuple[Ruleset, ...]) -> None:
        """Write what differs, read it again and compare; where that takes steps, step by step.

        Raises:
            TableChangedError: another program wrote at the same time.
        """
        # A pod's first run has nothing to go over from.
        over = any(map(ownership.has_ours, live)) and _differences(live, results)
        steps = _steps_between(live, results) if over else ()
        for step in steps:
            wished = tuple(map(self._applier.as_written, step))
            self._commit_at_once(live, wished)
            live = wished
        if steps:
            # Connections that began in the old mode come to their end.
            from time import sleep

            sleep(_PAUSE)
            signals.check()
        self._commit_at_once(live, results)

    def make_room(self, live: tuple[Ruleset, ...]) -> tuple[Ruleset, ...]:
        """Let ``live``, just read, stand beside the rules of another backend; return it then.

        Raises:
            ApplyError, UnsupportedError: it cannot be done.
        """
        for _ in range(_TRIES):
            results = self._for_two_backends(live)
            try:
                self._commit_at_once(live, results)
            except TableChangedError:
                live = self.read()
            else:
                return results
        raise self._restless()

    def _for_two_backends(self, rulesets: tuple[Ruleset, ...]) -> tuple[Ruleset, ...]:
        from istio_init.apply.stages import for_two_backends

        return tuple(self._applier.as_written(for_two_backends(one)) for one in rulesets)

    def _commit_at_once(self, live: tuple[Ruleset, ...], results: tuple[Ruleset, ...]) -> None:
        pending = _differences(live, results)
        if not pending:
            return
        # A connection that both the old and the new rules capture, in different
        # tables, has to be captured between the two commits too.
        # And what shuts IPv6 in layout 1.0 is known as ours by that layout's IPv4 rules:
        # as long as it may have to go these stay.
        shut = any((one.family, one.table) == (IPV6, FILTER) for one in pending)
        pending.sort(key=lambda one: (_gives_up_traffic(one), shut and one.family == IPV4))
        self.written |= dict.fromkeys((change.family, change.table) for change in pending)
        self._applier.commit(tuple(pending), results)
        if any(table != change.result for change, table in self._written_tables(pending)):
            raise TableChangedError

    def _written_tables(
        self, pending: list[TableChanges]
    ) -> list[tuple[TableChanges, Table | None]]:
        """Return each change with the table as it stands now."""
        now: dict[Family, Ruleset] = {}
        for family in dict.fromkeys(change.family for change in pending):
            tables = frozenset(change.table for change in pending if change.family == family)
            now[family] = self._applier.read(family, tables)
        return [(change, now[change.family].table(change.table)) for change in pending]


def _steps_between(
    live: tuple[Ruleset, ...], results: tuple[Ruleset, ...]
) -> tuple[tuple[Ruleset, ...], ...]:
    """Return what stands between two states, both families together."""
    from istio_init.apply import stages

    of_families = [
        stages.between_modes(before, after) for before, after in zip(live, results, strict=True)
    ]
    longest = max(map(len, of_families))
    return tuple(
        tuple(
            some[min(number, len(some) - 1)] if some else before
            for some, before in zip(of_families, live, strict=True)
        )
        for number in range(longest)
    )


def _differences(live: tuple[Ruleset, ...], results: tuple[Ruleset, ...]) -> list[TableChanges]:
    return [
        change
        for before, after in zip(live, results, strict=True)
        for change in changes(before, after)
    ]


def _gives_up_traffic(change: TableChanges) -> bool:
    """Whether fewer rules lead into our chains afterwards."""
    balance = 0
    for step in change.steps:
        if step.rule is not None and step.chain in BUILTIN_CHAINS[change.table]:
            leads = ownership.leads_into_ours(step.rule)
            balance += -leads if step.verb == "delete" else leads
    return balance < 0


class Transaction:
    """Brings sides and routes to where they are wanted, all of them or none.

    The caller holds the xtables lock, and signals back. With ``clean`` no
    routes are wanted.
    """

    def __init__(
        self, sides: tuple[BackendChanges, ...], plan: Plan, log: Log, *, clean: bool
    ) -> None:
        self._sides = sides
        self._plan = plan
        self._log = log
        self._wanted = () if clean else routes.wanted(plan)
        self._routes_before: tuple[Item, ...] = ()
        self._marks: frozenset[int] = frozenset()
        self._steps: tuple[RouteStep, ...] = ()

    def run(self) -> ApplyResult:
        """Return what was changed; afterwards the live state is what was wanted.

        Raises:
            ApplyError, UnsupportedError: it could not be done; ``rolled_back``
                or the text says what state was left.
        """
        try:
            outcome = self._run()
            signals.check()
        except IstioInitError as error:
            if not self._touched:
                raise
            self._explain_and_undo(error)
        except BaseException:
            self._undo()
            raise
        return outcome

    @property
    def _touched(self) -> bool:
        return bool(self._steps or any(side.written for side in self._sides))

    def preview(self) -> ApplyResult:
        """Return what ``run`` would change now; nothing is written.

        Raises:
            ApplyError, UnsupportedError: the live state cannot be read.
        """
        lives, steps = self._look()
        tables = [
            (change.family, change.table)
            for side, live in zip(self._sides, lives, strict=True)
            for change in side.missing(live)
        ]
        return ApplyResult(tuple(tables), steps)

    def _look(self) -> tuple[list[tuple[Ruleset, ...]], tuple[RouteStep, ...]]:
        """Return the live tables of each side, and the route steps to be taken."""
        lives = [side.read() for side in self._sides]
        for live in lives:
            self._marks |= ownership.traces(live, self._plan.rulesets).marks
        signals.check()
        self._routes_before = routes.live(self._marks, self._plan.routes)
        return lives, routes.changes(self._routes_before, self._wanted)

    def _run(self) -> ApplyResult:
        lives, steps = self._look()
        # Marked packets need their route before, and after, there are marks.
        self._take(tuple(step for step in steps if step.verb == "add"))
        beside = len(self._sides) > 1 and self._save_marks_twice(lives)
        if beside:
            lives = self._stand_side_by_side(lives)
        standing: list[tuple[str, tuple[Ruleset, ...]]] = []
        left: list[str] = []
        for side, live in zip(self._sides, lives, strict=True):
            signals.check()
            # The other side's transactions made what was read of this one old.
            stands = side.converge(side.read() if beside else live)
            # Nobody else has rules in tables of our own.
            if side.name != "nftables":
                left += self._leftovers(live if side.clean else stands)
            standing.append((side.name, stands))
        self._take(tuple(step for step in steps if step.verb == "del"))
        written = sorted(
            dict.fromkeys(place for side in self._sides for place in side.written),
            key=lambda place: FAMILIES.index(place[0]),
        )
        emptied = tuple(side.name for side in self._sides if side.clean and side.written)
        return ApplyResult(tuple(written), steps, emptied, (*left, *self._hidden(standing)))

    def _hidden(self, standing: list[tuple[str, tuple[Ruleset, ...]]]) -> Iterator[str]:
        """Yield a sentence for each rule of others that keeps packets from ours.

        Where nobody else has rules on a hook this costs nothing.
        """
        if all(side.clean for side in self._sides):
            return
        for family in FAMILIES:
            planned = self._plan.ruleset(family)
            none = planned.replace(tables=())
            found = [
                (name, one)
                for name, rulesets in standing
                for one in rulesets
                if one.family == family
            ]
            others = (has_others(one, none if at else planned) for at, (_, one) in enumerate(found))
            if not any(others):
                continue
            from istio_init.diagnose.interception import obstacles
            from istio_init.diagnose.trace import Rules
            from istio_init.kernel.pod import pod_network

            live = tuple(Rules(one, name) for name, one in found)
            pod = pod_network(family)
            for one in obstacles(self._plan, family, live, pod, signals.check):
                if one.takes:
                    yield str(one)

    def _leftovers(self, rulesets: tuple[Ruleset, ...]) -> tuple[str, ...]:
        # Where nobody else has a rule no start of a pod pays for these texts.
        if all(one.tables == self._plan.ruleset(one.family).tables for one in rulesets):
            return ()
        from istio_init.diagnose.leftovers import leftovers

        return leftovers(rulesets, self._plan)

    def _save_marks_twice(self, lives: list[tuple[Ruleset, ...]]) -> bool:
        """Whether two backends would save the marks of connections, as TPROXY needs it."""
        from istio_init.apply.stages import saves_marks

        return any(map(saves_marks, self._plan.rulesets)) and any(
            saves_marks(one)
            for side, live in zip(self._sides, lives, strict=True)
            for one in live
            if side.clean
        )

    def _stand_side_by_side(self, lives: list[tuple[Ruleset, ...]]) -> list[tuple[Ruleset, ...]]:
        """Put the plan in place beside the rules in other backends, and remove those.

        Returns what each backend has then; what made room is still to go.
        """
        pairs = list(zip(self._sides, lives, strict=True))
        made = [side.make_room(live) if side.clean else live for side, live in pairs]
        # What was read before room was made is older than nf_tables is now.
        pairs = list(zip(self._sides, made, strict=True))
        roomy = [live if side.clean else side.read() for side, live in pairs]
        found = [
            side.converge(live, beside_another=not side.clean)
            for side, live in zip(self._sides, roomy, strict=True)
        ]
        signals.check()
        return found

    def _take(self, steps: tuple[RouteStep, ...]) -> None:
        if steps:
            signals.check()
            # Noted first: a step that fails may have been taken all the same.
            self._steps += steps
            routes.apply_steps(steps)

    def _explain_and_undo(self, error: IstioInitError) -> NoReturn:
        restored = self._undo()
        if isinstance(error, ApplyError):
            error.rolled_back = restored
            raise error
        failure = ApplyError(
            "the rules cannot be put in place",
            where="this run",
            why=error.what if isinstance(error, UnsupportedError) else str(error),
            remedy=error.remedy,
            rolled_back=restored,
        )
        failure.missing = error.missing
        raise failure.at(error.location) from error

    def _undo(self) -> bool:
        """Put back what was there before this run; return whether that worked.

        One part that cannot be put back keeps no other from it.
        """
        worked = True
        for part in (*(side.put_back for side in reversed(self._sides)), self._put_routes_back):
            try:
                part()
            except (IstioInitError, OSError) as error:
                self._log.error(f"rolling back failed: {error}")
                worked = False
        return worked

    def _put_routes_back(self) -> None:
        if self._steps:
            before = self._routes_before
            rules = [item for item in before if isinstance(item, routes.PolicyRule)]
            hints = tuple(PolicyRoute(rule.family, rule.mark, rule.table) for rule in rules)
            now = routes.live(self._marks, (*self._plan.routes, *hints))
            routes.apply_steps(routes.restore_steps(now, before))
