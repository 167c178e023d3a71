"""What is wrong with live rules, and what it means for the pod's traffic.

Live rules are compared with those that a run would leave, by the same diff that
writes them. What a missing rule means is told by its reason, what an unplanned
one does by its target.
"""

from __future__ import annotations

from istio_init.diagnose.effects import (
    CAPTURES,
    LETS_PASS,
    consequence,
    consequences,
    direction,
    traffic,
)
from istio_init.diagnose.shadowing import rules_above_ours
from istio_init.formats.iptables import rule_line, tool
from istio_init.formats.listing import table_lines
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.rules import targets as t
from istio_init.rules.diff import replaced
from istio_init.rules.model import (
    BUILTIN_CHAINS,
    UNKNOWN,
    Chain,
    ForeignRule,
    Rule,
    Table,
    make_table,
    reason_of,
)
from istio_init.rules.names import (
    ISTIO_IN_REDIRECT,
    ISTIO_OUTPUT_DNS,
    ISTIO_REDIRECT,
    ISTIO_TPROXY,
    OWN_CHAINS,
)
from istio_init.rules.ownership import has_ours
from istio_init.rules.ranges import IPV4, IPV6

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Literal

    from istio_init.rules.model import Ruleset
    from istio_init.rules.ranges import Family

    FindingKind = Literal[
        "missing",
        "extra",
        "reordered",
        "duplicate",
        "absent",
        "shadowed",
        "diverted",
        "second-backend",
        "not-intercepted",
        "unclaimed",
        "trap",
    ]

# Where a jump leads a packet to the proxy, or to the agent.
_CAPTURING_CHAINS = frozenset({ISTIO_REDIRECT, ISTIO_IN_REDIRECT, ISTIO_TPROXY, ISTIO_OUTPUT_DNS})


class Finding(Record):
    """One thing that is not as planned, or that the plan itself leaves open.

    ``rule`` is a line of ``iptables -S``, or another item's name; ``number`` its
    place in the live chain, counted from 1, 0 where it does not stand there.
    ``why`` and ``flag`` say what it is for, and which flag asks for it. Only
    ``drift`` makes an audit fail; the rest is worth knowing.
    """

    kind: FindingKind
    consequence: str
    family: str = ""
    table: str = ""
    chain: str = ""
    number: int = 0
    rule: str = ""
    why: str = ""
    flag: str = ""
    drift: bool = True

    def __str__(self) -> str:
        where = " ".join(one for one in (self.family, self.table) if one)
        subject = f"{self.kind} {self.rule}" if self.rule else self.kind
        if self.number:
            subject += f" (rule {self.number})"
        return ": ".join(one for one in (where, subject, self.consequence) if one)


def findings(live: Ruleset, wanted: Ruleset, planned: Ruleset) -> Iterator[Finding]:
    """Yield what differs in one family, table by table.

    ``wanted`` is what a run would make of ``live``, with the same tables;
    ``planned`` has our rules alone.
    """
    if not has_ours(live) and has_ours(wanted):
        yield _absent(live, planned)
    else:
        for table in wanted.tables:
            stands = live.table(table.name) or make_table(table.name, {})
            yield from _in_table(stands, table, live.family)


def notes(live: Ruleset, planned: Ruleset) -> Iterator[Finding]:
    """Yield the rules of others above ours: for some packets they may be let by on purpose."""
    for shadow in rules_above_ours(live, planned):
        yield Finding(
            "shadowed",
            _taken_before(shadow.rule, shadow.chain),
            live.family,
            shadow.table,
            shadow.chain,
            shadow.index + 1,
            rule_line(shadow.chain, shadow.rule, live.family),
            drift=False,
        )


def _taken_before(rule: Rule | ForeignRule, chain: str) -> str:
    """Return what a rule of others does to the packets that it takes from ours."""
    if isinstance(rule, ForeignRule) or isinstance(rule.target, t.Jump):
        return "stands above ours: packets that it takes do not reach them"
    match rule.target:
        case t.Drop() | t.Reject():
            return f"stands above ours: {traffic(rule, chain)} is dropped"
        case t.Redirect() | t.Tproxy():
            return f"stands above ours: {traffic(rule, chain)} goes elsewhere"
        case _:
            return f"stands above ours: {traffic(rule, chain)} bypasses the proxy"


def difference(live: Ruleset, wanted: Ruleset, backend: str) -> Iterator[str]:
    """Yield the lines of a unified diff from what is wanted to what is live, as -S spells it."""
    from difflib import unified_diff

    for table in wanted.tables:
        stands = live.table(table.name) or make_table(table.name, {})
        if stands != table:
            name = f"{tool(live.family)} -t {table.name} -S ({backend})"
            yield from unified_diff(
                list(table_lines(table, live.family)),
                list(table_lines(stands, live.family)),
                f"planned: {name}",
                f"live: {name}",
                lineterm="",
            )


def _absent(live: Ruleset, planned: Ruleset) -> Finding:
    """Return that a family has none of the planned chains."""
    entries = [
        (rule, chain.name)
        for table in planned.tables
        for chain in table.chains
        if chain.name in BUILTIN_CHAINS[table.name]
        for rule in chain.rules
        # Where nothing is captured nothing has to be let pass.
        if isinstance(rule, Rule) and rule.reason.effect not in LETS_PASS
    ]
    return Finding("absent", consequences(entries), live.family, rule="every rule of ours")


def _in_table(live: Table, wanted: Table, family: Family) -> Iterator[Finding]:
    for chain in wanted.chains:
        stands = live.chain(chain.name)
        if stands is None:
            yield _without_chain(live, chain, family)
        elif stands.rules != chain.rules:
            yield from _in_chain(live, stands, chain, family)
    for stands in live.chains:
        here = Finding("extra", "", family, live.name, stands.name)
        if wanted.chain(stands.name) is not None:
            continue
        if stands.name in OWN_CHAINS:
            text = _led_to(live, stands.name)
            yield here.replace(consequence=text, rule=f"-N {stands.name}")
    for odd in live.oddities:
        # Where it is to stay, because the table is not ours alone, rules of ours
        # in it have to have an effect all the same.
        if odd not in wanted.oddities or (odd.idle and _has_rules_of_ours(wanted)):
            yield Finding("extra", odd.consequence, family, live.name, rule=odd.name)


def _has_rules_of_ours(table: Table) -> bool:
    return any(chain.name in OWN_CHAINS for chain in table.chains)


def _without_chain(table: Table, chain: Chain, family: Family) -> Finding:
    rules = [rule for rule in chain.rules if isinstance(rule, Rule)]
    reason = rules[0].reason if rules else UNKNOWN
    return Finding(
        "missing",
        consequences((rule, chain.name) for rule in rules),
        family,
        table.name,
        chain.name,
        rule=f"-N {chain.name}",
        why=reason.text,
        flag=reason.flag,
    )


def _led_to(table: Table, name: str) -> str:
    """Return what an unplanned chain of ours does: nothing, where nothing leads into it."""
    for chain in table.chains:
        for rule in chain.rules:
            jump = rule.jump if isinstance(rule, ForeignRule) else ""
            if jump == name or (isinstance(rule, Rule) and rule.target == t.Jump(name)):
                return f"packets are sent to it from {chain.name}, though no flag asks for it"
    return "no rule jumps to it: left over from another configuration"


def _in_chain(table: Table, live: Chain, wanted: Chain, family: Family) -> Iterator[Finding]:
    """Yield each rule that is missing, too much, or in another place than planned."""
    here = Finding("missing", "", family, table.name, wanted.name)
    missing: list[int] = []
    extra: list[int] = []
    for start, end, live_start, live_end in replaced(wanted.rules, live.rules):
        missing += range(start, end)
        extra += range(live_start, live_end)
    left: dict[Rule | ForeignRule, list[int]] = {}
    for position in reversed(extra):
        left.setdefault(live.rules[position], []).append(position)
    order = _Order(live, wanted)
    moved: set[int] = set()
    still_missing = []
    for position in missing:
        rule = wanted.rules[position]
        if left.get(rule):
            now = left[rule].pop()
            moved.add(now)
            text = order.moved(position, now)
            yield _of_rule(here.replace(kind="reordered", number=now + 1), text, rule)
        else:
            still_missing.append(rule)
    for rule in still_missing:
        if isinstance(rule, Rule):
            yield _of_rule(here, consequence(rule, wanted.name), rule)
    for position in extra:
        if position not in moved:
            text = _added(position, live, wanted, table, last_capture=order.last_capture)
            rule = live.rules[position]
            yield _of_rule(here.replace(kind="extra", number=position + 1), text, rule)


def _of_rule(here: Finding, text: str, rule: Rule | ForeignRule) -> Finding:
    family = IPV4 if here.family == IPV4 else IPV6
    reason = reason_of(rule)
    return here.replace(
        consequence=text,
        rule=rule_line(here.chain, rule, family),
        why=reason.text,
        flag=reason.flag,
    )


def _added(position: int, live: Chain, wanted: Chain, table: Table, *, last_capture: int) -> str:
    """Return what an unplanned rule does to packets, as far as its target tells."""
    rule = live.rules[position]
    if isinstance(rule, ForeignRule):
        return f"this program does not know what it does to {direction(live.name)} packets"
    packets = traffic(rule, live.name)
    match rule.target:
        case t.Return() | t.Accept():
            if position < last_capture:
                return f"{packets} bypasses the proxy"
            return "changes nothing: no rule below it captures anything"
        case t.Drop() | t.Reject():
            return f"{packets} is dropped"
        case t.Jump(name) if name in OWN_CHAINS and rule in wanted.rules:
            return f"packets enter {name} a second time"
        case t.Redirect() | t.Tproxy():
            return f"{packets} is redirected to the proxy, though no flag asks for it"
        case t.Jump(name) if name in _CAPTURING_CHAINS:
            return f"{packets} is redirected to the proxy, though no flag asks for it"
        case t.Jump(name) if table.chain(name):
            return f"{packets} is sent to {name}, though no flag asks for it"
        case t.CtZone():
            return "connections are kept in a conntrack zone, though no flag asks for it"
        case _:
            return "packets are marked, though no flag asks for it"


class _Order:
    """Where the rules of a chain stand, and where they are planned."""

    def __init__(self, live: Chain, wanted: Chain) -> None:
        self._live = live
        self._wanted = wanted
        self._planned_at = {rule: at for at, rule in reversed(tuple(enumerate(wanted.rules)))}
        stands_at = {rule: at for at, rule in reversed(tuple(enumerate(live.rules)))}
        last_at = {rule: at for at, rule in enumerate(live.rules)}
        captures = {rule for rule in wanted.rules if _captures(rule)}
        # Before which a rule may take from one of ours what it captures.
        self.last_capture = max((last_at.get(rule, -1) for rule in captures), default=-1)
        # Rules that stand, with their places: those that capture, and those that do not.
        self._others: dict[bool, list[tuple[Rule, int, int]]] = {True: [], False: []}
        for rule in wanted.rules:
            if isinstance(rule, Rule) and rule in stands_at:
                places = self._planned_at[rule], stands_at[rule]
                self._others[_captures(rule)].append((rule, *places))

    def moved(self, position: int, now: int) -> str:
        """Return what it means that a planned rule stands above others that belong above it."""
        rule = self._wanted.rules[position]
        if isinstance(rule, Rule):
            for other, planned, stands in self._others[not _captures(rule)]:
                if (position < planned) == (now < stands):
                    continue
                first, second = (rule, other) if now < stands else (other, rule)
                if _captures(first):
                    let_pass = traffic(second, self._live.name)
                    return f"{let_pass} is redirected to the proxy before it is let pass"
                return f"{traffic(first, self._live.name)} bypasses the proxy before it is captured"
        return "the order makes no difference to what is captured"


def _captures(rule: Rule | ForeignRule) -> bool:
    return reason_of(rule).effect in CAPTURES


def not_intercepted(addresses: Iterable[str], *, inbound: bool, drift: bool) -> Finding:
    """Return that IPv6 is up in this pod though it, or outbound IPv6 alone, is not captured."""
    which = "inbound and outbound IPv6 bypasses" if inbound else "outbound IPv6 bypasses"
    return Finding(
        "not-intercepted",
        f"{which} the proxy, and the pod has {', '.join(addresses)}",
        IPV6,
        drift=drift,
        flag="--dual-stack",
    )
