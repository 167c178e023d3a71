"""A backend in memory, for tests of what is built on backends."""

from __future__ import annotations

from istio_init.apply.backend import TableChangedError
from istio_init.formats.listing import table_lines
from istio_init.lean import TYPE_CHECKING
from istio_init.rules import ownership
from istio_init.rules.model import TABLES, Chain, Rule, Ruleset, jump_of, make_table
from istio_init.rules.ranges import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from istio_init.rules.diff import Change, TableChanges
    from istio_init.rules.model import ForeignRule, Table
    from istio_init.rules.ranges import Family

    Call = Literal["read", "commit"]


class Fake:
    """Keeps rules as a kernel does: one commit changes all of its tables, or none.

    Changes are made in a copy, which takes the place of what stood when all went
    well. A step that names what is not there fails as the kernel's would.
    """

    wanted = staticmethod(ownership.wanted)
    restored = staticmethod(ownership.restored)

    def as_written(self, ruleset: Ruleset) -> Ruleset:
        """Return a rule set in the form in which it is read back once it was written."""
        return ruleset

    def __init__(self, *rulesets: Ruleset, name: str = "fake") -> None:
        self.name = name
        self.calls: list[Call] = []
        self._live = {family: Ruleset(family, ()) for family in FAMILIES}
        self._live |= {ruleset.family: ruleset for ruleset in rulesets}
        self._events: dict[int, Callable[[], None]] = {}
        self._errors: dict[int, tuple[Exception, bool]] = {}

    def at(self, call: int, event: Callable[[], None]) -> None:
        """Let something happen right before the call of that number, counted from 1."""
        self._events[call] = event

    def fail_at(self, call: int, error: Exception, *, after: bool = False) -> None:
        """Let the call of that number fail, before or after it has had its effect."""
        self._errors[call] = error, after

    def add(self, family: Family, table: str, chain: str, *rules: Rule | ForeignRule) -> None:
        """Append rules as another program would; table and chain come into being."""
        live = self._live[family]
        before = live.table(table) or make_table(table, {})
        kept = before.chain(chain) or Chain(chain, None)
        chains = {one.name: one for one in before.chains}
        chains[chain] = kept.replace(rules=(*kept.rules, *rules))
        self._live[family] = _with(live, make_table(table, chains))

    def read(self, family: Family, needed: frozenset[str]) -> Ruleset:
        """Return the live tables; those that are needed come into being."""
        fails_after = self._begin("read")
        live = self._live[family]
        for name in needed:
            if live.table(name) is None:
                live = _with(live, make_table(name, {}))
        self._live[family] = live
        if fails_after is not None:
            raise fails_after
        return live

    def commit(self, changes: tuple[TableChanges, ...], _results: tuple[Ruleset, ...]) -> None:
        """Take the steps of every table.

        Raises:
            TableChangedError: a step names a rule or a chain that is not there,
                or deletes a chain that a rule leads to.
        """
        fails_after = self._begin("commit")
        copy = dict(self._live)
        for change in changes:
            table = copy[change.family].table(change.table) or make_table(change.table, {})
            copy[change.family] = _with(copy[change.family], _changed(table, change.steps))
        self._live = copy
        if fails_after is not None:
            raise fails_after

    def dump(self) -> str:
        """Return every table that holds anything, as ``iptables -S`` prints it."""
        lines: list[str] = []
        for live in self._live.values():
            for table in live.tables:
                shown = list(table_lines(table, live.family))
                if any(not line.startswith("-P ") for line in shown):
                    lines += [f"# {live.family} {table.name}", *shown]
        return "".join(f"{line}\n" for line in lines)

    def _begin(self, call: Call) -> Exception | None:
        """Count a call; return the error it ends with, if it is to fail after its effect."""
        self.calls.append(call)
        number = len(self.calls)
        if number in self._events:
            self._events.pop(number)()
        error, after = self._errors.pop(number, (None, False))
        if error is not None and not after:
            raise error
        return error


def _with(live: Ruleset, table: Table) -> Ruleset:
    tables = {one.name: one for one in live.tables} | {table.name: table}
    return live.replace(tables=tuple(tables[name] for name in TABLES if name in tables))


def _changed(table: Table, steps: tuple[Change, ...]) -> Table:
    chains = {chain.name: list(chain.rules) for chain in table.chains}
    for step in steps:
        if step.verb == "create-chain":
            if step.chain in chains:
                raise TableChangedError
            chains[step.chain] = []
            continue
        if step.chain not in chains:
            raise TableChangedError
        _take(chains[step.chain], step)
        if step.verb == "delete-chain":
            del chains[step.chain]
    leads = {jump_of(rule) for rules in chains.values() for rule in rules} - {""}
    if any(step.chain in leads for step in steps if step.verb == "delete-chain"):
        raise TableChangedError
    policies = {chain.name: chain.policy for chain in table.chains}
    return make_table(
        table.name,
        {name: Chain(name, policies.get(name), tuple(rules)) for name, rules in chains.items()},
    )


def _take(rules: list[Rule | ForeignRule], step: Change) -> None:
    match step.verb:
        case "flush":
            rules.clear()
        case "append" if step.rule is not None:
            rules.append(step.rule)
        case "insert" if step.rule is not None and step.index <= len(rules):
            rules.insert(step.index, step.rule)
        case "delete" if step.index < len(rules) and rules[step.index] == step.rule:
            del rules[step.index]
        case "delete-chain" if not rules:
            pass
        case _:
            raise TableChangedError
