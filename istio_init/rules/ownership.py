"""Which live rules this program owns, and what a run makes of a live rule set.

Our chains are known by name. In the built-in chains, which are shared with other
programs, we own the rules that jump to our chains, the rules that the plan has,
and a few that either layout, or a sidecar of an earlier release, writes there and no
other program would: those with a port, a mark or a conntrack zone of the mesh.

A rule that anybody could have written in the same words, such as ``-i NIC -j RETURN``,
is ours only if the plan has it. Otherwise it stays: a rule of somebody else that is
lost cannot be had back.
"""

from __future__ import annotations

from istio_init.lean import TYPE_CHECKING, Record
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import BUILTIN_CHAINS, HEAD, Chain, Rule, Table, jump_of, make_table
from istio_init.rules.names import (
    AGENT_DNS_PORT,
    APP_ZONE,
    DEFAULT_LOOPBACK,
    DEFAULT_MARK,
    DNS_PORT,
    FILTER,
    INPUT,
    ISTIO_OUTPUT,
    ISTIO_REDIRECT,
    MANGLE,
    OUTBOUND_MARK,
    OUTPUT,
    OWN_CHAINS,
    PREROUTING,
    PROXY_ZONE,
)
from istio_init.rules.ranges import FULL_MASK, IPV6

if TYPE_CHECKING:
    from istio_init.rules.model import ForeignRule, Ruleset
    from istio_init.rules.ranges import Family

_TO_LOCAL = m.OutInterface("lo")
_TCP = m.Proto("tcp")
_REJECT_INBOUND = (
    Rule((m.CtState(("ESTABLISHED",), "state"),), t.Accept()),
    Rule((), t.Reject()),
)
# To this group the sidecar's rules write what they match. Source: istio 1.9 to 1.29,
# tools/istio-iptables/pkg/builder, AppendRule with --iptables-trace-logging.
_TRACE_GROUP = 1337
# Ways into our chains that no other layout has.
_ONLY_IN_LAYOUT_1_0 = frozenset(
    {
        Rule((_TCP,), t.Jump(ISTIO_OUTPUT)),
        Rule((m.Destination(DEFAULT_LOOPBACK, negated=True), _TO_LOCAL), t.Jump(ISTIO_REDIRECT)),
    }
)


class OwnershipEvidence(Record):
    """What our chains in live rule sets tell about the rules outside them.

    ``marks`` are the TPROXY marks that they put on packets, ``interfaces`` those that
    -k takes out of their reach, under a rule that leads into a chain of ours.
    ``layout_1_0`` says that it was this layout that built them.
    """

    marks: frozenset[int] = frozenset({DEFAULT_MARK})
    interfaces: frozenset[str] = frozenset()
    layout_1_0: bool = False


def traces(rulesets: tuple[Ruleset, ...]) -> OwnershipEvidence:
    """Return the evidence in the rules of both families together.

    The two are built by one call, and each may hold what the other lacks: -k
    redirects only where -i names a destination of the family.
    """
    tables = [table for ruleset in rulesets for table in ruleset.tables]
    marks = {mark for table in tables if table.name == MANGLE for mark in _marks(table)}
    interfaces = {name for table in tables for name in _virtual_interfaces(table)}
    layout_1_0 = any(
        rule in _ONLY_IN_LAYOUT_1_0
        for table in tables
        for chain in table.chains
        for rule in chain.rules
    )
    return OwnershipEvidence(frozenset(marks | {DEFAULT_MARK}), frozenset(interfaces), layout_1_0)


def _marks(table: Table) -> set[int]:
    marks = set()
    for chain in table.chains:
        for rule in chain.rules if chain.name in OWN_CHAINS else ():
            if isinstance(rule, Rule):
                if isinstance(rule.target, t.SetMark):
                    marks.add(rule.target.value)
                elif isinstance(rule.target, t.Tproxy):
                    marks.add(rule.target.mark)
                elif rule.target == t.Return():
                    # Without -b nothing sets the mark; it is looked for all the same.
                    matches = (one for one in rule.matches if isinstance(one, m.Mark))
                    marks |= {one.value for one in matches if not one.negated}
    return marks


def wanted(live: Ruleset, planned: Ruleset, known: OwnershipEvidence, *, clean: bool) -> Ruleset:
    """Return ``live`` with our rules as planned and every other rule where it was.

    With ``clean`` nothing of ours is left, and ``planned`` only helps to
    recognise it.
    """
    tables = []
    for table in live.tables:
        plan = planned.table(table.name)
        ours = _owned_rules(table, plan, live.family, known)
        tables.append(_merged(table, None if clean else plan, ours))
    return live.replace(tables=tuple(tables))


def restored(live: Ruleset, before: Ruleset, planned: Ruleset, known: OwnershipEvidence) -> Ruleset:
    """Return ``live`` with our rules as they stood in ``before``, and others' as they are.

    ``planned`` is what the run that is taken back wanted to write.
    """
    tables = []
    for table in live.tables:
        plan = planned.table(table.name)
        old = before.table(table.name) or make_table(table.name, {})
        ours = _owned_rules(table, plan, live.family, known)
        old_ours = _owned_rules(old, plan, live.family, known)
        chains = {}
        for chain in table.chains:
            old_chain = old.chain(chain.name)
            if chain.name in ours and old_chain is not None:
                kept = _only(old_chain, old_ours[chain.name], ours=True)
                unchanged = _only(chain, ours[chain.name], ours=False) == _only(
                    old_chain, old_ours[chain.name], ours=False
                )
                rules = old_chain.rules if unchanged else _shared(chain, kept, ours[chain.name])
                chains[chain.name] = chain.replace(rules=rules)
            elif chain.name not in OWN_CHAINS:
                led_away = old_chain is not None and _unowned_rules(old_chain) == chain.rules
                chains[chain.name] = old_chain if old_chain and led_away else chain
        chains |= {chain.name: chain for chain in old.chains if chain.name in OWN_CHAINS}
        tables.append(make_table(table.name, chains))
    return live.replace(tables=tuple(tables))


def _unowned_rules(chain: Chain) -> tuple[Rule | ForeignRule, ...]:
    return tuple(rule for rule in chain.rules if jump_of(rule) not in OWN_CHAINS)


def _only(chain: Chain, positions: frozenset[int], *, ours: bool) -> tuple[Rule | ForeignRule, ...]:
    """Return the rules at our positions, or those at all others."""
    return tuple(
        rule for position, rule in enumerate(chain.rules) if (position in positions) == ours
    )


def has_ours(live: Ruleset) -> bool:
    """Whether any of our chains stands in this rule set."""
    return any(chain.name in OWN_CHAINS for table in live.tables for chain in table.chains)


def _owned_rules(
    table: Table, plan: Table | None, family: Family, traces: OwnershipEvidence
) -> dict[str, frozenset[int]]:
    """Return, for each built-in chain, the positions of our rules."""
    # What -k takes out of nat is ours only beside a chain of ours.
    installed = any(chain.name in OWN_CHAINS for chain in table.chains)
    virtual = traces.interfaces if installed else frozenset()
    old_dns = any(
        is_old_dns(table.name, chain.name, rule) for chain in table.chains for rule in chain.rules
    )
    owned = {}
    for chain in table.chains:
        if chain.name not in BUILTIN_CHAINS[table.name]:
            continue
        planned_chain = plan.chain(chain.name) if plan else None
        # Each rule of that pair alone may belong to another program.
        planned = frozenset(planned_chain.rules if planned_chain else ()).difference(
            _REJECT_INBOUND
        )
        owned[chain.name] = frozenset(
            position
            for position, rule in enumerate(chain.rules)
            if rule in planned
            or jump_of(rule) in OWN_CHAINS
            or is_old_dns(table.name, chain.name, rule)
            or (
                isinstance(rule, Rule)
                and (
                    _is_virtual_interface(chain.name, rule, virtual)
                    or (table.name == MANGLE and _is_tproxy_shape(chain.name, rule, traces.marks))
                    or (old_dns and _is_old_dns_exemption(table.name, chain.name, rule))
                )
            )
        ) | _rejected_inbound(
            table,
            chain,
            family,
            traces,
            planned=planned_chain is not None and planned_chain.rules[:2] == _REJECT_INBOUND,
        )
    return owned


def is_old_dns(table: str, chain: str, rule: Rule | ForeignRule) -> bool:
    """Whether a rule of a built-in chain leads DNS to a sidecar's agent, or traces for it.

    Sidecars up to release 1.29 wrote such rules outside chains of their own. They name
    the agent's port 15053, keep queries in zone 1 or 2, or log to group 1337: no other
    program's rules do.

    Source: istio 1.8 to 1.29, tools/istio-iptables/pkg/capture/run.go, HandleDNSUDP and
    addConntrackZoneDNSUDP; pkg/builder, the log rules.
    """
    if chain not in BUILTIN_CHAINS[table]:
        return False
    if isinstance(rule, Rule):
        match table, rule.target:
            case "nat", t.Redirect(port):
                return port == AGENT_DNS_PORT
            case "raw", t.CtZone(zone):
                return zone in (PROXY_ZONE, APP_ZONE) and _is_of_dns(rule)
            case _:
                return False
    words = rule.spelled.split()
    return f":{AGENT_DNS_PORT}" in rule.spelled.partition("--to-destination ")[2] or (
        _follows(words, "--nflog-group", str(_TRACE_GROUP))
        or (_follows(words, "-j", "SNAT") and _follows(words, "--dport", str(AGENT_DNS_PORT)))
    )


def _follows(words: list[str], option: str, value: str) -> bool:
    return (option, value) in zip(words, words[1:], strict=False)


def _is_of_dns(rule: Rule) -> bool:
    return m.Proto("udp") in rule.matches and any(
        isinstance(one, m.Ports)
        and not one.negated
        and one.ports.low == one.ports.high
        and one.ports.low in (DNS_PORT.low, AGENT_DNS_PORT)
        for one in rule.matches
    )


def _is_old_dns_exemption(table: str, chain: str, rule: Rule) -> bool:
    """Whether a rule keeps the agent's own queries from a redirect that is_old_dns knows."""
    match table, chain, rule.target:
        case "nat", "OUTPUT", t.Return():
            ports = [one for one in rule.matches if isinstance(one, m.Ports)]
            owners = [one for one in rule.matches if isinstance(one, m.Owner)]
            return (
                len(rule.matches) == 3
                and len(owners) == 1
                and not owners[0].negated
                and any(one.side == "dport" and one.ports == DNS_PORT for one in ports)
            )
        case _:
            return False


def leads_into_ours(rule: Rule | ForeignRule) -> bool:
    """Whether a rule jumps to a chain of ours."""
    return jump_of(rule) in OWN_CHAINS


def _is_tproxy_shape(chain: str, rule: Rule, marks: frozenset[int]) -> bool:
    """Whether a rule is one of those that layout 1.30 puts into mangle's own chains."""
    match chain, rule.matches, rule.target:
        case "PREROUTING", (m.Proto("tcp", False), m.Mark(value, mask, False)), t.SaveMark():
            return value in marks and mask == FULL_MASK
        case "OUTPUT", (to, m.Proto("tcp", False), m.Mark(value, mask, False)), t.Return():
            return to == _TO_LOCAL and value in marks and mask == FULL_MASK
        case "OUTPUT", (m.Proto("tcp", False), m.ConnMark(value, mask, False)), t.RestoreMark():
            return value in marks and mask == FULL_MASK
        case "OUTPUT", (
            m.Destination(_, True),
            to,
            m.Proto("tcp", False),
            m.Owner(_, _, False),
        ), t.SetMark():
            return to == _TO_LOCAL and rule.target == t.SetMark(OUTBOUND_MARK)
        case _:
            return False


def _interface(rule: Rule | ForeignRule) -> tuple[str, bool]:
    """Return the interface of a rule that only sends its traffic back, and whether inbound."""
    if isinstance(rule, Rule) and rule.target == t.Return() and len(rule.matches) == 1:
        match = rule.matches[0]
        if isinstance(match, m.InInterface | m.OutInterface) and not match.negated:
            return match.name, isinstance(match, m.InInterface)
    return "", False


def _virtual_interfaces(table: Table) -> frozenset[str]:
    """Return the interfaces that -k together with -i takes out of this table.

    Their rule stands in PREROUTING beside one that redirects what comes in by them.
    """
    incoming, redirected = set(), set()
    chain = table.chain(PREROUTING)
    for rule in chain.rules if chain else ():
        name, inbound = _interface(rule)
        if name and inbound:
            incoming.add(name)
        elif jump_of(rule) == ISTIO_REDIRECT and isinstance(rule, Rule):
            redirected |= {one.name for one in rule.matches if isinstance(one, m.InInterface)}
    return frozenset(incoming & redirected)


def excluded_interfaces(table: Table) -> tuple[str, ...]:
    """Return the interfaces that two rules take out of a table in both directions.

    So does -c; but anybody could have written such rules.
    """
    incoming = _returned(table.chain(PREROUTING), inbound=True)
    outgoing = _returned(table.chain(OUTPUT), inbound=False)
    return tuple(name for name in dict.fromkeys(outgoing) if name in incoming)


def _returned(chain: Chain | None, *, inbound: bool) -> list[str]:
    interfaces = [_interface(rule) for rule in chain.rules] if chain else []
    return [name for name, incoming in interfaces if name and incoming == inbound]


def unclaimed_interfaces(live: Ruleset, planned: Ruleset) -> tuple[str, ...]:
    """Return the interfaces that stand beside our rules as -c would leave them, unplanned.

    The rules for them may be left over from a run with -c, or belong to another
    program: nobody can tell, so they stay.
    """
    names: dict[str, None] = {}
    for table in live.tables:
        plan = planned.table(table.name)
        if any(chain.name in OWN_CHAINS for chain in table.chains):
            known = excluded_interfaces(plan) if plan else ()
            names |= dict.fromkeys(one for one in excluded_interfaces(table) if one not in known)
    return tuple(names)


def _is_virtual_interface(chain: str, rule: Rule, virtual: frozenset[str]) -> bool:
    name, inbound = _interface(rule)
    return name in virtual and inbound and chain == PREROUTING


def _rejected_inbound(
    table: Table, chain: Chain, family: Family, traces: OwnershipEvidence, *, planned: bool
) -> frozenset[int]:
    """Return where layout 1.0 shut inbound IPv6: its two rules, one after the other.

    Any firewall may have the two. They are ours where they are ``planned``, or at the
    head of the chain beside that layout's other rules; one of them alone in the chain,
    beside these, is what was left of the two.
    """
    if family != IPV6 or table.name != FILTER or chain.name != INPUT:
        return frozenset()
    positions: set[int] = set()
    for position in range(len(chain.rules) - 1):
        if chain.rules[position : position + 2] == _REJECT_INBOUND and (
            planned or (traces.layout_1_0 and not position)
        ):
            positions |= {position, position + 1}
    if traces.layout_1_0 and len(chain.rules) == 1 and chain.rules[0] in _REJECT_INBOUND:
        positions.add(0)
    return frozenset(positions)


def _merged(table: Table, plan: Table | None, ours: dict[str, frozenset[int]]) -> Table:
    chains = {}
    kept_own = {chain.name for chain in plan.chains} & OWN_CHAINS if plan else set()
    for chain in table.chains:
        if chain.name in ours:
            planned = plan.chain(chain.name) if plan else None
            rules = _shared(chain, planned.rules if planned else (), ours[chain.name])
            chains[chain.name] = chain.replace(rules=rules)
        elif chain.name not in OWN_CHAINS:
            # A rule of someone else's that leads into a chain of ours has to go
            # with the chain; the kernel keeps no jump to nowhere.
            left = tuple(rule for rule in chain.rules if jump_of(rule) not in OWN_CHAINS - kept_own)
            chains[chain.name] = chain.replace(rules=left)
    for chain in plan.chains if plan else ():
        if chain.name in OWN_CHAINS:
            chains[chain.name] = chain
    return make_table(table.name, chains)


def _shared(
    chain: Chain, planned: tuple[Rule | ForeignRule, ...], ours: frozenset[int]
) -> tuple[Rule | ForeignRule, ...]:
    """Return a shared chain's rules with ours as planned.

    If ours are already there in order, nothing moves, whatever stands between
    them. Otherwise ours take the place of those that were there: what belongs
    at the head goes to the head, the rest where our last rule stood, or to the
    end.
    """
    if tuple(chain.rules[position] for position in sorted(ours)) == planned:
        return chain.rules
    head = tuple(rule for rule in planned if isinstance(rule, Rule) and rule.place == HEAD)
    tail = planned[len(head) :]
    # Where a run died between the two, what stands at the head says nothing about the rest.
    anchors = [
        position
        for position in ours
        if jump_of(chain.rules[position]) != ISTIO_REDIRECT and chain.rules[position] not in head
    ]
    split = max(anchors, default=len(chain.rules))
    before = tuple(
        rule for position, rule in enumerate(chain.rules[:split]) if position not in ours
    )
    after = tuple(
        rule for position, rule in enumerate(chain.rules[split:], split) if position not in ours
    )
    return (*head, *before, *tail, *after)
