"""A table as a kernel keeps it, taking one step at a time and refusing what it would refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from istio_init.rules import targets as t
from istio_init.rules.model import BUILTIN_CHAINS, Chain, ForeignRule, Rule, Table, make_table

if TYPE_CHECKING:
    from istio_init.rules.diff import Change

    AnyRule = Rule | ForeignRule


class RefusedError(Exception):
    """What the kernel, or the library before it, would not take."""


class ModelTable:
    """One table; each rule has a counter, which starts at 0 when it is written."""

    def __init__(self, table: Table) -> None:
        self.name = table.name
        self._policies = {chain.name: chain.policy for chain in table.chains}
        # Rules that were there before have been counted.
        self._held: dict[str, list[tuple[AnyRule, int]]] = {
            chain.name: [(rule, 1) for rule in chain.rules] for chain in table.chains
        }

    def table(self) -> Table:
        """Return the table as it is read."""
        return make_table(
            self.name,
            {
                name: Chain(name, self._policies[name], tuple(rule for rule, _ in held))
                for name, held in self._held.items()
            },
        )

    def counters(self, chain: str) -> list[int]:
        """Return the counters of a chain's rules."""
        return [counter for _, counter in self._held[chain]]

    def take(self, step: Change) -> None:
        """Take one step."""
        if step.verb == "create-chain":
            if step.chain in self._held:
                raise RefusedError(f"chain {step.chain} exists")
            self._held[step.chain] = []
            self._policies[step.chain] = None
            return
        if step.chain not in self._held:
            raise RefusedError(f"no chain {step.chain}")
        held = self._held[step.chain]
        match step.verb:
            case "flush":
                held.clear()
            case "delete-chain":
                self._delete(step.chain)
            case "append" if step.rule is not None:
                held.append((self._resolved(step.rule), 0))
            case "insert" if step.rule is not None:
                if not 0 <= step.index <= len(held):
                    raise RefusedError(f"no place {step.index} in {step.chain}")
                held.insert(step.index, (self._resolved(step.rule), 0))
            case "delete":
                if not 0 <= step.index < len(held):
                    raise RefusedError(f"no rule {step.index} in {step.chain}")
                del held[step.index]
            case _:
                raise RefusedError(f"{step.verb} without a rule")

    def _delete(self, chain: str) -> None:
        if chain in BUILTIN_CHAINS[self.name]:
            raise RefusedError(f"{chain} is built in")
        if self._held[chain]:
            raise RefusedError(f"{chain} is not empty")
        if any(_jump(rule) == chain for held in self._held.values() for rule, _ in held):
            raise RefusedError(f"something leads to {chain}")
        del self._held[chain]

    def _resolved(self, rule: AnyRule) -> AnyRule:
        # A name that is no chain at this moment is taken for an extension's.
        if _jump(rule) and _jump(rule) not in self._held:
            raise RefusedError(f"no chain {_jump(rule)} to lead to")
        return rule


def _jump(rule: AnyRule) -> str:
    if isinstance(rule, ForeignRule):
        return rule.jump
    return rule.target.chain if isinstance(rule.target, t.Jump) else ""


def after(table: Table, steps: tuple[Change, ...]) -> ModelTable:
    """Return the table after the steps have been taken in order."""
    model = ModelTable(table)
    for step in steps:
        model.take(step)
    return model
