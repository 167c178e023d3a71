"""The steps from one rule set to another."""

from __future__ import annotations

from istio_init.lean import TYPE_CHECKING, Record
from istio_init.rules.model import Chain, ForeignRule, Rule, Table

if TYPE_CHECKING:
    from typing import Literal

    from istio_init.rules.model import Ruleset
    from istio_init.rules.ranges import Family

    ChangeVerb = Literal["create-chain", "delete-chain", "flush", "append", "insert", "delete"]


class Change(Record):
    """One step within a table; ``index`` counts rules from 0 at the time of the step."""

    verb: ChangeVerb
    chain: str
    index: int = 0
    rule: Rule | ForeignRule | None = None


class TableChanges(Record):
    """The steps of one table, to be taken together, and where they lead."""

    family: Family
    table: str
    steps: tuple[Change, ...]
    result: Table


def changes(live: Ruleset, wanted: Ruleset) -> tuple[TableChanges, ...]:
    """Return the steps for each table that differs, in table order.

    ``wanted`` has the same tables as ``live``. Chains come before the rules that
    jump to them and go after those have gone. Policies are left alone. A table
    that differs in its oddities alone has no steps: what they are for is the
    backend's affair.
    """
    changed = []
    for before in live.tables:
        after = wanted.table(before.name) or before
        steps = _table(before, after)
        if steps or before.oddities != after.oddities:
            changed.append(TableChanges(live.family, before.name, steps, after))
    return tuple(changed)


def _table(before: Table, after: Table) -> tuple[Change, ...]:
    old = {chain.name: chain for chain in before.chains}
    new = {chain.name: chain for chain in after.chains}
    gone = [name for name in old if name not in new]
    steps = [Change("create-chain", name) for name in new if name not in old]
    for name, chain in new.items():
        steps += _chain(old.get(name, Chain(name, None)), chain)
    steps += [Change("flush", name) for name in gone if old[name].rules]
    steps += [Change("delete-chain", name) for name in gone]
    return tuple(steps)


def _chain(before: Chain, after: Chain) -> list[Change]:
    if before.rules == after.rules:
        return []
    name = after.name
    if after.policy is None:
        emptied = [Change("flush", name)] if before.rules else []
        return emptied + [Change("append", name, rule=rule) for rule in after.rules]
    return _edits(before, after)


def _edits(before: Chain, after: Chain) -> list[Change]:
    """Return single deletions and insertions: rules that stay keep their counters.

    The deletions come first, from the end: a backend that deletes a rule by what
    it says would else find the same rule where it has just been put.
    """
    changed = replaced(before.rules, after.rules)
    deletions = [
        Change("delete", after.name, index, before.rules[index])
        for start, end, _, _ in reversed(changed)
        for index in reversed(range(start, end))
    ]
    insertions = [
        Change("insert", after.name, index, after.rules[index])
        for _, _, start, end in changed
        for index in range(start, end)
    ]
    return deletions + insertions


def replaced(
    before: tuple[Rule | ForeignRule, ...], after: tuple[Rule | ForeignRule, ...]
) -> list[tuple[int, int, int, int]]:
    """Return the ranges of ``before`` that ranges of ``after`` stand in place of."""
    same = 0
    while same < min(len(before), len(after)) and before[same] == after[same]:
        same += 1
    if same in (len(before), len(after)):
        return [(same, len(before), same, len(after))]
    from difflib import SequenceMatcher

    matcher = SequenceMatcher(None, before, after, autojunk=False)
    return [
        (start, end, new_start, new_end)
        for verb, start, end, new_start, new_end in matcher.get_opcodes()
        if verb != "equal"
    ]
