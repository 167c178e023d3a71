"""Rules of others that stand above ours, or beside them, and may keep packets from them."""

from __future__ import annotations

from istio_init.lean import TYPE_CHECKING, Record
from istio_init.rules import targets as t
from istio_init.rules.model import BUILTIN_CHAINS, ForeignRule, Rule
from istio_init.rules.ranges import IPV4

if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.rules.model import Chain, Ruleset, Table

# Targets after which the next rule is tried. Any other may end the chain.
GO_ON = frozenset(
    {
        *("AUDIT", "CHECKSUM", "CLASSIFY", "CONNMARK", "CONNSECMARK", "CT", "DSCP", "ECN"),
        *("HL", "HMARK", "IDLETIMER", "LED", "LOG", "MARK", "NFLOG", "NOTRACK", "RATEEST"),
        *("SECMARK", "SET", "TCPMSS", "TCPOPTSTRIP", "TEE", "TOS", "TRACE", "TTL", "ULOG"),
    }
)


class Shadow(Record):
    """A rule of others that stands above ours; ``index`` counts its chain's rules from 0."""

    table: str
    chain: str
    index: int
    rule: Rule | ForeignRule


def has_others(live: Ruleset, planned: Ruleset) -> bool:
    """Whether a rule of others, or a policy, may keep packets from those that are planned.

    ``live`` are rules of the plan's backend; of another one nothing is planned.
    """
    for table in live.tables:
        ours = planned.table(table.name)
        for name in BUILTIN_CHAINS[table.name]:
            chain = table.chain(name)
            if chain is None:
                continue
            expected = ours.chain(name) if ours else None
            if chain.rules != (expected.rules if expected else ()):
                return True
            if chain.policy not in (None, "ACCEPT"):
                return True
    return False


def rules_above_ours(live: Ruleset, planned: Ruleset) -> Iterator[Shadow]:
    """Yield each rule of others that stands above ours and may keep packets from them.

    ``live`` holds the rules as they stand, ``planned`` ours.
    """
    for plan in planned.tables:
        table = live.table(plan.name)
        for chain in table.chains if table else ():
            ours = plan.chain(chain.name)
            if table and ours and chain.name in BUILTIN_CHAINS[table.name]:
                yield from _above(chain, ours, table)


def _above(chain: Chain, ours: Chain, table: Table) -> Iterator[Shadow]:
    known = frozenset(ours.rules)
    last = max((at for at, rule in enumerate(chain.rules) if rule in known), default=0)
    for position, rule in enumerate(chain.rules[:last]):
        if rule not in known and _decides(rule):
            yield Shadow(table.name, chain.name, position, rule)


def _decides(rule: Rule | ForeignRule) -> bool:
    """Whether a packet that matches a rule may go no further than its target."""
    if isinstance(rule, ForeignRule):
        # No start of a pod without such a rule of others pays for reading it.
        from istio_init.formats.save_reader import parts

        target = parts(rule.spelled, IPV4)
        return bool(target.verb) and target.name not in GO_ON
    match rule.target:
        case t.Jump(name):
            return name not in GO_ON
        case t.Return() | t.Accept() | t.Drop() | t.Reject() | t.Redirect() | t.Tproxy():
            return True
        case _:
            return False
