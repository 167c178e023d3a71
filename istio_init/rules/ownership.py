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
from istio_init.rules.model import (
    BUILTIN_CHAINS,
    HEAD,
    Chain,
    ForeignRule,
    Rule,
    Table,
    jump_of,
    make_table,
    words_of,
)
from istio_init.rules.names import (
    AGENT_DNS_PORT,
    APP_ZONE,
    DEFAULT_LOOPBACK,
    DEFAULT_MARK,
    DEFAULT_PROXY_ID,
    DNS_PORT,
    FILTER,
    INPUT,
    ISTIO_OUTPUT,
    ISTIO_PRERT,
    ISTIO_REDIRECT,
    MANGLE,
    NAT,
    OUTBOUND_MARK,
    OUTPUT,
    OWN_CHAINS,
    PREROUTING,
    PROXY_ZONE,
    RAW,
    TRACE_GROUP,
)
from istio_init.rules.ranges import FULL_MASK, IPV6, PortRange

if TYPE_CHECKING:
    from istio_init.rules.model import Ruleset
    from istio_init.rules.ranges import Family

_TO_LOCAL = m.OutInterface("lo")
_TCP = m.Proto("tcp")
# The two rules by which layout 1.0 shuts inbound IPv6.
REJECT_INBOUND = (
    Rule((m.CtState(("ESTABLISHED",), "state"),), t.Accept()),
    Rule((), t.Reject()),
)
_OWN_BESIDE_AMBIENT = OWN_CHAINS - {ISTIO_OUTPUT}
_DNS_PORTS = (DNS_PORT, PortRange(AGENT_DNS_PORT, AGENT_DNS_PORT))
_DEFAULT_OWNERS = frozenset({m.Owner("uid", DEFAULT_PROXY_ID), m.Owner("gid", DEFAULT_PROXY_ID)})
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
    ``layout_1_0`` says that it was this layout that built them, ``plans_layout_1_0``
    that a run is going to build its rules. ``dns_owners`` are the users and groups under
    which the agent of an earlier sidecar asked for names.
    """

    marks: frozenset[int] = frozenset({DEFAULT_MARK})
    interfaces: frozenset[str] = frozenset()
    layout_1_0: bool = False
    plans_layout_1_0: bool = False
    dns_owners: frozenset[m.Owner] = _DEFAULT_OWNERS


def traces(rulesets: tuple[Ruleset, ...], planned: tuple[Ruleset, ...] = ()) -> OwnershipEvidence:
    """Return the evidence in the live rules of both families together, and in a plan.

    The two families are built by one call, and each may hold what the other lacks: -k
    redirects only where -i names a destination of the family. What the plan will tell
    the next run tells this one too: else the next would find something to write.
    """
    tables = [table for ruleset in (*rulesets, *planned) for table in ruleset.tables]
    marks = {mark for table in tables if table.name == MANGLE for mark in _marks(table)}
    interfaces = {name for table in tables for name in _virtual_interfaces(table)}
    return OwnershipEvidence(
        frozenset(marks | {DEFAULT_MARK}),
        frozenset(interfaces),
        _is_layout_1_0(rulesets),
        _is_layout_1_0(planned),
        _DEFAULT_OWNERS.union(*(_dns_owners(table) for table in tables)),
    )


def _is_layout_1_0(rulesets: tuple[Ruleset, ...]) -> bool:
    return any(
        rule in _ONLY_IN_LAYOUT_1_0 and jump_of(rule) in own_chains(table)
        for ruleset in rulesets
        for table in ruleset.tables
        for chain in table.chains
        if chain.name in own_chains(table) or chain.name in BUILTIN_CHAINS[table.name]
        for rule in chain.rules
    )


def own_chains(table: Table) -> frozenset[str]:
    """Return the names by which chains of this table are ours.

    Beside chains of Istio's ambient mode, which has one called ISTIO_OUTPUT, that is
    not ours.
    """
    return OWN_CHAINS if table.chain(ISTIO_PRERT) is None else _OWN_BESIDE_AMBIENT


def ambient_tables(live: Ruleset, planned: Ruleset) -> tuple[str, ...]:
    """Return the tables in which the plan needs a chain whose name ambient mode has taken."""
    return tuple(
        table.name
        for table in live.tables
        if own_chains(table) != OWN_CHAINS
        and (plan := planned.table(table.name)) is not None
        and plan.chain(ISTIO_OUTPUT) is not None
    )


def _marks(table: Table) -> set[int]:
    marks = set()
    for chain in table.chains:
        for rule in chain.rules if chain.name in own_chains(table) else ():
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
        own, old_own = own_chains(table), own_chains(old)
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
            elif chain.name not in own:
                led_away = old_chain is not None and _unowned_rules(old_chain) == chain.rules
                chains[chain.name] = old_chain if old_chain and led_away else chain
        chains |= {chain.name: chain for chain in old.chains if chain.name in old_own}
        tables.append(make_table(table.name, chains, table.oddities))
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
    return any(chain.name in own_chains(table) for table in live.tables for chain in table.chains)


def _owned_rules(
    table: Table, plan: Table | None, family: Family, known: OwnershipEvidence
) -> dict[str, frozenset[int]]:
    """Return, for each built-in chain, the positions of our rules."""
    own = own_chains(table)
    # What -k takes out of nat is ours only beside a chain of ours.
    installed = table.name == NAT and any(chain.name in own for chain in table.chains)
    virtual = known.interfaces if installed else frozenset()
    exempt = known.dns_owners if _has_old_redirect(table) else frozenset()
    owned = {}
    for chain in table.chains:
        if chain.name not in BUILTIN_CHAINS[table.name]:
            continue
        planned_chain = plan.chain(chain.name) if plan else None
        # Each rule of that pair alone may belong to another program, as does a way into a
        # chain of ambient mode.
        planned = frozenset(
            rule
            for rule in (planned_chain.rules if planned_chain else ())
            if rule not in REJECT_INBOUND and jump_of(rule) not in OWN_CHAINS - own
        )
        positions = {
            position
            for position, rule in enumerate(chain.rules)
            if rule in planned
            or jump_of(rule) in own
            or is_old_sidecars(table.name, rule)
            or (
                isinstance(rule, Rule)
                and (
                    _is_virtual_interface(chain.name, rule, virtual)
                    or (table.name == MANGLE and _is_tproxy_shape(chain.name, rule, known.marks))
                    or _old_exemption(chain.name, rule) in exempt
                )
            )
        }
        if family == IPV6 and table.name == FILTER and chain.name == INPUT:
            is_planned = planned_chain is not None and planned_chain.rules[:2] == REJECT_INBOUND
            others = [(at, one) for at, one in enumerate(chain.rules) if at not in positions]
            positions |= _rejected_inbound(others, known, planned=is_planned)
        owned[chain.name] = frozenset(positions)
    return owned


def is_old_sidecars(table: str, rule: Rule | ForeignRule) -> bool:
    """Whether a rule of a built-in chain can only come from a sidecar of an earlier release.

    Releases up to 1.29 wrote rules for DNS, and traces, outside chains of their own. They
    lead to the agent's port 15053 or from it, keep queries in zone 1 or 2, or log to
    group 1337: no other program's rules do.

    Source: istio 1.8 to 1.29, tools/istio-iptables/pkg/cmd/run.go, later pkg/capture,
    HandleDNSUDP and addConntrackZoneDNSUDP; testdata/logging.golden.
    """
    if isinstance(rule, ForeignRule):
        return _is_old_sidecars_text(rule.spelled)
    match table, rule.target:
        case "nat", t.Redirect(port):
            return port == AGENT_DNS_PORT
        case "raw", t.CtZone(zone):
            return (
                zone in (PROXY_ZONE, APP_ZONE)
                and m.Proto("udp") in rule.matches
                and any(
                    one.ports in _DNS_PORTS and not one.negated
                    for one in rule.matches
                    if isinstance(one, m.Ports)
                )
            )
        case _:
            return False


def _is_old_sidecars_text(text: str) -> bool:
    # Most rules of others are done with here, before they are taken apart.
    if str(AGENT_DNS_PORT) not in text and str(TRACE_GROUP) not in text:
        return False
    words = words_of(text)
    start = 0
    while start < len(words) and words[start] != "-j":
        start += 2 if words[start] == "--comment" else 1
    matches, (target, *options) = words[:start], words[start + 1 :] or [""]
    port = str(AGENT_DNS_PORT)
    match target:
        case "DNAT":
            return _value(options, "--to-destination").endswith(f":{port}")
        case "SNAT":
            return _value(options, "--to-source").endswith(f":{port}") or port in (
                _value(matches, "--sport"),
                _value(matches, "--dport"),
            )
        case "REDIRECT":
            return _value(options, "--to-ports") == port
        case "NFLOG":
            return _value(options, "--nflog-group") == str(TRACE_GROUP)
        case _:
            return False


def _value(words: list[str], option: str) -> str:
    """Return what follows an option that is not negated, ``""`` where it is not there."""
    for before, word, after in zip(["", *words], words, words[1:], strict=False):
        if word == option and before != "!":
            return after
    return ""


def _has_old_redirect(table: Table) -> bool:
    chain = table.chain(OUTPUT) if table.name == NAT else None
    return chain is not None and any(is_old_sidecars(NAT, rule) for rule in chain.rules)


def _dns_owners(table: Table) -> set[m.Owner]:
    """Return whose queries an earlier sidecar kept in a zone: those of its agent."""
    chain = table.chain(OUTPUT) if table.name == RAW else None
    return {
        one
        for rule in (chain.rules if chain else ())
        if isinstance(rule, Rule) and is_old_sidecars(RAW, rule)
        for one in rule.matches
        if isinstance(one, m.Owner) and not one.negated
    }


def _old_exemption(chain: str, rule: Rule) -> m.Owner | None:
    """Return whose queries a rule keeps from being captured further down, None for nobody's."""
    match rule.matches, rule.target:
        case (
            m.Proto("udp", False),
            m.Ports(_, "dport", ports, False),
            m.Owner() as one,
        ), t.Return():
            return one if chain == OUTPUT and ports == DNS_PORT else None
        case _:
            return None


def leads_into_ours(rule: Rule | ForeignRule) -> bool:
    """Whether a rule jumps to a chain of ours."""
    return jump_of(rule) in OWN_CHAINS


def _is_tproxy_shape(chain: str, rule: Rule, marks: frozenset[int]) -> bool:
    """Whether a rule is one of those that layout 1.30 puts into mangle's own chains."""
    match chain, rule.matches, rule.target:
        case "PREROUTING", (m.Proto("tcp", False), m.Mark(value, mask, False)), t.SaveMark():
            return value in marks and mask == FULL_MASK
        case (
            "PREROUTING",
            # As it stands while rules move from one backend to another.
            (m.InInterface("lo", False), m.Proto("tcp", False), m.Mark(value, mask, False)),
            t.SaveMark(),
        ):
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


def _is_virtual_interface(chain: str, rule: Rule, virtual: frozenset[str]) -> bool:
    name, inbound = _interface(rule)
    return name in virtual and inbound and chain == PREROUTING


def _rejected_inbound(
    others: list[tuple[int, Rule | ForeignRule]], known: OwnershipEvidence, *, planned: bool
) -> set[int]:
    """Return where layout 1.0 shut inbound IPv6: its two rules, one after the other.

    Any firewall may have the two. They are ours where they are ``planned``, or at the
    head of the chain beside chains of that layout which are to go; one of them alone in
    the chain is what was left of the two. ``others`` are the rules of the chain that are
    not known as ours, with their positions.
    """
    if len(others) == 1 and known.layout_1_0 and (planned or not known.plans_layout_1_0):
        return {position for position, rule in others if rule in REJECT_INBOUND}
    positions: set[int] = set()
    if planned:
        # Two that come together once those between them are gone count too.
        opened: list[int] = []
        for position, rule in others:
            if rule == REJECT_INBOUND[0]:
                opened.append(position)
            elif rule == REJECT_INBOUND[1] and opened:
                positions |= {opened.pop(), position}
            else:
                opened.clear()
    elif known.layout_1_0 and not known.plans_layout_1_0:
        for first, second in zip(others[::2], others[1::2], strict=False):
            if (first[1], second[1]) != REJECT_INBOUND:
                break
            positions |= {first[0], second[0]}
    return positions


def _merged(table: Table, plan: Table | None, ours: dict[str, frozenset[int]]) -> Table:
    chains = {}
    own = own_chains(table)
    taken = OWN_CHAINS - own
    kept_own = {chain.name for chain in plan.chains} & own if plan else set()
    for chain in table.chains:
        if chain.name in ours:
            planned = plan.chain(chain.name) if plan else None
            room = (one for one in planned.rules if jump_of(one) not in taken) if planned else ()
            rules = _shared(chain, tuple(room), ours[chain.name])
            chains[chain.name] = chain.replace(rules=rules)
        elif chain.name not in own:
            # A rule of someone else's that leads into a chain of ours has to go
            # with the chain; the kernel keeps no jump to nowhere.
            left = tuple(rule for rule in chain.rules if jump_of(rule) not in own - kept_own)
            chains[chain.name] = chain.replace(rules=left)
    for chain in plan.chains if plan else ():
        if chain.name in own:
            chains[chain.name] = chain
    return make_table(table.name, chains, table.oddities)


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
