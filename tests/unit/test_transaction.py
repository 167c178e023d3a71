"""A run as a transaction, over backends in memory."""

from __future__ import annotations

import signal
from functools import partial
from typing import TYPE_CHECKING

import pytest

from istio_init.apply import routes
from istio_init.apply.backend import ApplyResult, BackendChanges, Transaction
from istio_init.apply.memory import Fake
from istio_init.errors import ApplyError, UnsupportedError
from istio_init.formats.listing import table_lines
from istio_init.kernel import signals
from istio_init.log import Log
from istio_init.planner.draft import TCP
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import rule
from istio_init.rules.ranges import IPV4, IPV6, PortRange
from tests.plans import plan_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from istio_init.apply.routes import Item, RouteStep
    from istio_init.rules.diff import TableChanges
    from istio_init.rules.model import Plan, Ruleset

REDIRECT = plan_of("istio-iptables", "-i", "*", "-b", "*", "--ipv6")
TPROXY = plan_of("istio-iptables", "-i", "*", "-b", "*", "-m", "TPROXY", "--ipv6")
OTHER_TPROXY = plan_of("-i", "*", "-b", "80", "-m", "TPROXY", "-t", "1400", "-r", "140")
FOREIGN = rule(TCP, m.Ports("tcp", "dport", PortRange(7, 7)), target=t.Return())
LOG = Log("none")


class Roads:
    """Policy rules, routes and addresses in memory, in place of those of the kernel."""

    def __init__(self) -> None:
        self.items: tuple[Item, ...] = ()
        self.taken: list[RouteStep] = []
        self.fail_at: tuple[int, bool] | None = None

    def live(self, _marks: frozenset[int], _hints: object) -> tuple[Item, ...]:
        return self.items

    def take(self, steps: Sequence[RouteStep]) -> None:
        for step in steps:
            self.taken.append(step)
            fails, after = self.fail_at or (0, False)
            if fails == len(self.taken) and not after:
                raise ApplyError("cannot", where="routes", why="injected")
            if step.verb == "add":
                self.items = (*self.items, step.item)
            else:
                self.items = tuple(item for item in self.items if item != step.item)
            if fails == len(self.taken):
                raise ApplyError("cannot", where="routes", why="injected")


@pytest.fixture(autouse=True)
def roads(monkeypatch: pytest.MonkeyPatch) -> Roads:
    found = Roads()
    monkeypatch.setattr(routes, "live", found.live)
    monkeypatch.setattr(routes, "apply_steps", found.take)
    return found


def run(plan: Plan, into: Fake, *others: Fake) -> ApplyResult:
    sides = [
        BackendChanges(into, plan, LOG),
        *(BackendChanges(other, plan, LOG, clean=True) for other in others),
    ]
    return Transaction(tuple(sides), plan, LOG, clean=False).run()


def attempt(plan: Plan, into: Fake, *others: Fake) -> ApplyError | None:
    """Return how a run failed, None for one that did not."""
    try:
        run(plan, into, *others)
    except ApplyError as error:
        return error
    return None


def clean(*backends: Fake) -> ApplyResult:
    sides = tuple(BackendChanges(one, TPROXY, LOG, clean=True) for one in backends)
    return Transaction(sides, TPROXY, LOG, clean=True).run()


def printed(plan: Plan) -> str:
    lines: list[str] = []
    for ruleset in plan.rulesets:
        for table in ruleset.tables:
            lines += [f"# {ruleset.family} {table.name}", *table_lines(table, ruleset.family)]
    return "".join(f"{line}\n" for line in lines)


def holding(plan: Plan, name: str = "fake") -> Fake:
    """Return a backend that holds a plan and nothing else, and has not been called yet."""
    return Fake(*plan.rulesets, name=name)


@pytest.mark.parametrize("before", [None, REDIRECT, TPROXY, OTHER_TPROXY])
@pytest.mark.parametrize("plan", [REDIRECT, TPROXY, OTHER_TPROXY])
def test_one_run_leads_from_any_plan_to_any_other(
    roads: Roads, before: Plan | None, plan: Plan
) -> None:
    backend = Fake(*(before.rulesets if before else ()))

    run(plan, backend)

    assert backend.dump() == printed(plan)
    assert set(roads.items) == set(routes.wanted(plan))


def test_second_run_writes_nothing(roads: Roads) -> None:
    backend = Fake()
    first = run(TPROXY, backend)
    backend.calls.clear()
    roads.taken.clear()

    second = run(TPROXY, backend)

    assert first.changed
    assert not second.changed
    assert "commit" not in backend.calls
    assert not roads.taken


def test_rules_of_others_stay_where_they_are() -> None:
    theirs = "-A OUTPUT -p tcp -m tcp --dport 7 -j RETURN"
    backend = Fake()
    backend.add(IPV4, "nat", "OUTPUT", FOREIGN)
    run(REDIRECT, backend)
    backend.add(IPV4, "nat", "OUTPUT", FOREIGN)

    run(TPROXY, backend)
    nat = backend.dump().partition("# ipv4 nat")[2].partition("# ipv6")[0]
    clean(backend)

    jump = "-A OUTPUT -j ISTIO_OUTPUT"
    lines = [line for line in nat.splitlines() if line in (theirs, jump)]
    assert lines == [theirs, jump, theirs]
    assert backend.dump().count(theirs) == 2
    assert "ISTIO" not in backend.dump()


def note(journal: list[str], backend: Fake) -> None:
    journal.append(f"{backend.name} {backend.calls[-1]}")


def test_rules_move_out_of_the_other_backend_after_they_stand_in_this() -> None:
    journal: list[str] = []
    here, there = Fake(name="here"), holding(OTHER_TPROXY, "there")
    for number in range(1, 9):
        here.at(number, partial(note, journal, here))
        there.at(number, partial(note, journal, there))

    outcome = run(TPROXY, here, there)

    assert journal.index("here commit") < journal.index("there commit")
    assert outcome.emptied == ("there",)
    assert here.dump() == printed(TPROXY)
    assert there.dump() == ""


@pytest.mark.parametrize("failing", ["here", "there"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_any_call_that_fails_is_taken_back_in_every_backend(
    roads: Roads, when: str, failing: str
) -> None:
    # Both families are read, what changes is written, and both are read again.
    for number in range(1, 6):
        old = routes.wanted(OTHER_TPROXY)
        roads.items, roads.taken = old, []
        here, there = holding(REDIRECT, "here"), holding(OTHER_TPROXY, "there")
        before = here.dump(), there.dump()
        injected = ApplyError("cannot", where="here", why="injected")
        {"here": here, "there": there}[failing].fail_at(number, injected, after=when == "after")

        error = attempt(TPROXY, here, there)

        assert error is not None, number
        assert error.rolled_back is (True if roads.taken else None), number
        assert (here.dump(), there.dump()) == before, number
        assert set(roads.items) == set(old), number
        assert attempt(TPROXY, here, there) is None
        assert (here.dump(), there.dump()) == (printed(TPROXY), "")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_route_that_fails_is_taken_back_with_the_tables(roads: Roads, when: str) -> None:
    # An address, two routes and two rules come, a rule and a route go.
    for number in range(1, 8):
        old = routes.wanted(OTHER_TPROXY)
        roads.items, roads.taken = old, []
        roads.fail_at = number, when == "after"
        backend = holding(OTHER_TPROXY)

        error = attempt(TPROXY, backend)

        assert error is not None, number
        assert error.rolled_back is True, number
        assert backend.dump() == printed(OTHER_TPROXY), number
        assert set(roads.items) == set(old), number
        assert attempt(TPROXY, backend) is None


def test_routes_come_before_the_marks_and_go_after_them(roads: Roads) -> None:
    backend = holding(OTHER_TPROXY)
    roads.items = routes.wanted(OTHER_TPROXY)
    at_commit: list[tuple[Item, ...]] = []
    backend.at(3, lambda: at_commit.append(roads.items))

    run(TPROXY, backend)

    assert backend.calls[2] == "commit"
    assert set(at_commit[0]) == {*routes.wanted(OTHER_TPROXY), *routes.wanted(TPROXY)}
    assert set(roads.items) == set(routes.wanted(TPROXY))


def test_unsupported_that_comes_late_says_what_is_missing_and_is_rolled_back() -> None:
    backend = holding(REDIRECT)
    backend.fail_at(3, UnsupportedError("no owner here", missing=frozenset({"owner"})))

    with pytest.raises(ApplyError, match=r"no owner here.*rolled back") as caught:
        run(TPROXY, backend)

    assert caught.value.missing == {"owner"}
    assert backend.dump() == printed(REDIRECT)


def test_unsupported_before_any_change_is_left_as_it_is() -> None:
    backend = Fake()
    backend.fail_at(1, UnsupportedError("no tables here"))

    with pytest.raises(UnsupportedError, match=r"^no tables here$"):
        run(REDIRECT, backend)


def test_ipv6_tables_are_missed_only_where_they_are_needed() -> None:
    ipv4_only = plan_of("istio-iptables", "-i", "*", "--no-ipv6")
    for plan, works in ((ipv4_only, True), (REDIRECT, False)):
        backend = Fake()
        backend.fail_at(2, UnsupportedError("no ip6_tables"))
        if works:
            run(plan, backend)
            assert backend.dump() == printed(plan)
        else:
            with pytest.raises(UnsupportedError):
                run(plan, backend)


def test_a_backend_without_ours_that_cannot_be_shown_is_passed_over() -> None:
    here, there = Fake(), Fake(name="there")
    for number in (1, 2):
        there.fail_at(number, UnsupportedError("rules that cannot be shown"))
    sides = (
        BackendChanges(here, REDIRECT, LOG),
        BackendChanges(there, REDIRECT, LOG, clean=True, may_skip=True),
    )

    outcome = Transaction(sides, REDIRECT, LOG, clean=False).run()

    assert here.dump() == printed(REDIRECT)
    assert outcome.emptied == ()


def test_another_writer_between_read_and_commit_loses_nothing() -> None:
    backend = holding(REDIRECT)
    backend.at(3, lambda: backend.add(IPV4, "nat", "OUTPUT", FOREIGN))

    run(TPROXY, backend)

    assert backend.calls.count("commit") >= 1
    assert "--dport 7" in backend.dump()
    assert backend.dump().replace("-A OUTPUT -p tcp -m tcp --dport 7 -j RETURN\n", "") == printed(
        TPROXY
    )


def test_another_writer_that_never_ends_is_named_and_the_run_taken_back() -> None:
    backend = holding(REDIRECT)

    def write() -> None:
        backend.add(IPV4, "nat", "ISTIO_OUTPUT", FOREIGN)
        backend.at(len(backend.calls) + 1, write)

    backend.at(3, write)
    with pytest.raises(ApplyError, match="kept changing while they were read"):
        run(TPROXY, backend)


def test_what_is_not_ours_comes_and_goes_while_a_run_is_taken_back() -> None:
    backend = holding(REDIRECT)
    backend.fail_at(4, ApplyError("cannot", where="here", why="injected"))
    backend.at(5, lambda: backend.add(IPV4, "nat", "OUTPUT", FOREIGN))

    with pytest.raises(ApplyError, match="rolled back"):
        run(TPROXY, backend)

    theirs = "-A OUTPUT -p tcp -m tcp --dport 7 -j RETURN\n"
    assert theirs in backend.dump()
    assert backend.dump().replace(theirs, "") == printed(REDIRECT)


def test_a_way_back_that_fails_is_said_aloud() -> None:
    backend = holding(REDIRECT)
    for number in (4, 5):
        backend.fail_at(number, ApplyError("cannot", where="here", why="injected"))

    with pytest.raises(ApplyError, match="ROLL BACK FAILED") as caught:
        run(TPROXY, backend)

    assert caught.value.rolled_back is False


def test_one_backend_that_cannot_be_put_back_keeps_no_other_from_it(roads: Roads) -> None:
    roads.items = old = routes.wanted(OTHER_TPROXY)
    here, there = holding(REDIRECT, "here"), holding(OTHER_TPROXY, "there")
    for number in (4, 5):
        there.fail_at(number, ApplyError("cannot", where="there", why="injected"))

    with pytest.raises(ApplyError, match="ROLL BACK FAILED"):
        run(TPROXY, here, there)

    assert here.dump() == printed(REDIRECT)
    assert set(roads.items) == set(old)


def test_a_defect_is_rolled_back_and_goes_on_its_way() -> None:
    backend = holding(REDIRECT)
    backend.fail_at(4, ZeroDivisionError("a defect"))

    with pytest.raises(ZeroDivisionError):
        run(TPROXY, backend)

    assert backend.dump() == printed(REDIRECT)


@pytest.mark.parametrize(
    "number",
    [
        *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1),
        *(signal.SIGUSR2, signal.SIGALRM, signal.SIGXCPU, signal.SIGPWR, signal.SIGRTMAX),
    ],
)
@pytest.mark.parametrize("call", [1, 3, 5])
def test_a_signal_is_a_failure_after_the_step_at_hand(number: signal.Signals, call: int) -> None:
    backend = holding(REDIRECT)
    backend.at(call, lambda: signal.raise_signal(number))

    # A shell that starts a job behind its back makes it ignore SIGINT.
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with (
            signals.SignalsHeld(),
            pytest.raises(ApplyError, match=f"stopped by {number.name}") as caught,
        ):
            run(TPROXY, backend)
    finally:
        signal.signal(number, before)

    assert backend.dump() == printed(REDIRECT)
    assert caught.value.rolled_back is (None if call == 1 else True)


def test_a_signal_after_the_end_is_too_late() -> None:
    backend = Fake()
    with signals.SignalsHeld():
        run(REDIRECT, backend)
        signal.raise_signal(signal.SIGTERM)

    assert backend.dump() == printed(REDIRECT)
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_every_signal_that_ends_a_process_is_held_back() -> None:
    # Those that cannot be, that Python ignores, that a fault of the process sends, and
    # those whose default is to stop it, to go on, or nothing.
    others = {
        *(signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ),
        *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT),
        *(signal.SIGTRAP, signal.SIGSYS, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
        *(signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH),
    }

    with signals.SignalsHeld():
        held = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    assert held == signal.valid_signals() - others


def test_a_signal_without_a_name_is_a_number() -> None:
    number = signal.SIGRTMIN + 3
    with signals.SignalsHeld():
        signal.raise_signal(number)
        with pytest.raises(ApplyError, match=f"stopped by signal {number} "):
            signals.check()


def test_a_signal_that_the_caller_ignores_is_ignored() -> None:
    backend = Fake()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.SignalsHeld():
            backend.at(1, lambda: signal.raise_signal(signal.SIGINT))
            run(REDIRECT, backend)
    finally:
        signal.signal(signal.SIGINT, before)

    assert backend.dump() == printed(REDIRECT)


@pytest.mark.parametrize(
    ("before", "after", "last"), [(REDIRECT, TPROXY, "nat"), (TPROXY, REDIRECT, "mangle")]
)
def test_a_table_that_gives_traffic_up_is_written_last(
    monkeypatch: pytest.MonkeyPatch, before: Plan, after: Plan, last: str
) -> None:

    backend = holding(before)
    order: list[str] = []
    commit = backend.commit

    def watched(changes: tuple[TableChanges, ...], results: tuple[Ruleset, ...]) -> None:
        order.extend(change.table for change in changes)
        commit(changes, results)

    monkeypatch.setattr(backend, "commit", watched)

    run(after, backend)

    assert order[-2:] == [last, last]


def test_clean_removes_ours_from_every_backend_and_the_routes(roads: Roads) -> None:
    roads.items = routes.wanted(OTHER_TPROXY)
    one, other = holding(REDIRECT, "one"), holding(OTHER_TPROXY, "other")
    one.add(IPV6, "filter", "INPUT", FOREIGN)
    theirs = "# ipv6 filter\n"

    outcome = clean(one, other)
    again = clean(one, other)

    assert one.dump().startswith(theirs)
    assert "ISTIO" not in one.dump()
    assert other.dump() == ""
    assert roads.items == ()
    assert outcome.emptied == ("one", "other")
    assert not again.changed


def test_rules_that_take_packets_from_ours_are_reported() -> None:
    backend = Fake()
    backend.add(IPV4, "nat", "OUTPUT", rule(TCP, target=t.Accept()))

    outcome = run(REDIRECT, backend)
    again = run(REDIRECT, backend)

    assert outcome.hidden == again.hidden
    assert len(outcome.hidden) == 1
    assert "-A OUTPUT -p tcp -j ACCEPT" in outcome.hidden[0]
