"""Packets that stand for a pod's traffic, one for each rule of a plan, and where they go.

A rule of a plan is there for some packets. For each rule one packet is made that meets
it when only the plan's rules are there; live rules keep the plan's promise if that
packet goes the same way there.

A packet stands for most of what its rule is for: the interface of the default route,
and of addresses, ports and users the largest range that no rule treats apart. So a
rule of others that names one port or one range takes no such packet, and one that
takes half of all addresses does.
"""

from __future__ import annotations

from bisect import bisect_right

from istio_init.diagnose.packet import LO, Packet
from istio_init.diagnose.shadowing import GO_ON
from istio_init.diagnose.trace import Routes, Rules, Trace, Tracer, TraceStep, Verdict
from istio_init.formats.iptables import match_negated, target_words
from istio_init.formats.save_reader import parts
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import BUILTIN_CHAINS, ForeignRule, Rule, reason_of
from istio_init.rules.names import LOOPBACK_IPV6, NAT
from istio_init.rules.ranges import IPV4
from istio_init.rules.sets import joined, span_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Literal

    from istio_init.diagnose.packet import ConntrackState, Hook
    from istio_init.rules.model import Plan, Ruleset, Table
    from istio_init.rules.ranges import Family, Network, Protocol
    from istio_init.rules.sets import Span

    Field = Literal["source", "destination", "sport", "dport", "uid", "gid"]
    Spans = tuple[Span, ...]
    # A chain, and a rule of it.
    Placed = tuple[str, Rule | ForeignRule]
    Kept = Literal["zone", "mark", "connmark"]

# Rules of one chain with one flag and one effect are alike: some of them stand for all.
_MOST_ALIKE = 8
# How many ranges of a field are tried, the largest first.
_MOST_RANGES = 4
_HOOKS: tuple[Hook, ...] = ("PREROUTING", "INPUT", "OUTPUT")
_NAT_HOOKS: tuple[Hook, ...] = ("PREROUTING", "OUTPUT")
_STOPPED = ("dropped", "rejected")
# Targets that leave destinations as they are.
_UNTRANSLATED = frozenset({"ACCEPT", "DROP", "MASQUERADE", "REJECT", "RETURN", "SNAT"})
# Rules of another backend that are looked at, and how deep their chains are.
_MOST_PLACES = 20_000
_DEEPEST = 20
# A client's port, which no rule is likely to name.
_CLIENT_PORT = 40000
_PORTS: Spans = ((1, 0xFFFF),)
# The ids that images are built with; beyond them are those that a platform hands out.
_IDS: Spans = ((0, 0xFFFF),)
_ALL_IDS: Spans = ((0, 0xFFFFFFFE),)
# Where a pod's peers are: no loopback, link-local or multicast addresses.
# Sources: RFC 6890, RFC 4291.
_UNICAST: dict[Family, Spans] = {
    "ipv4": joined([(0x01000000, 0x7EFFFFFF), (0x80000000, 0xA9FDFFFF), (0xA9FF0000, 0xDFFFFFFF)]),
    "ipv6": ((0x2000 << 112, (0x4000 << 112) - 1), (0xFC00 << 112, (0xFE00 << 112) - 1)),
}
# Whatever one host can be called by: all but those of groups.
_ALL_ADDRESSES: dict[Family, Spans] = {
    "ipv4": ((1, 0xDFFFFFFF),),
    "ipv6": ((1, (0xFF00 << 112) - 1),),
}
_LOOPBACK: dict[Family, Spans] = {
    "ipv4": ((0x7F000000, 0x7FFFFFFF),),
    "ipv6": (span_of(LOOPBACK_IPV6),),
}
# What stands in for an address that the pod does not have. Sources: RFC 2544, RFC 5180.
_NO_ADDRESS: dict[Family, int] = {"ipv4": 0xC6120005, "ipv6": (0x20010002 << 96) + 5}


class PodNetwork(Record):
    """How a pod is connected: its interfaces but lo, the main one first, and its addresses."""

    interfaces: tuple[str, ...] = ("eth0",)
    addresses: tuple[Network, ...] = ()


class Sample(Record):
    """Packets for one rule of a plan, the one that stands for most of its traffic first.

    ``way`` are the rules that lead to it from a built-in chain, each with its chain, and
    the rule itself last. ``verdict`` is what the plan's rules alone do with each packet,
    ``kept`` what of it the rule changes, and to what, None where it changes nothing.
    """

    way: tuple[Placed, ...]
    packets: tuple[Packet, ...]
    verdict: Verdict
    kept: tuple[Kept, int | None] | None = None


class Deviation(Record):
    """A sample that does not go where the plan sends it.

    ``packet`` is the one of the sample that was followed, ``trace`` its way through the
    live rules, and ``blamed`` the step of it at which a rule that is not the plan's
    decided, None where no such rule did. ``certain`` is False where the packet may go
    that way, depending on something that is not known.
    """

    sample: Sample
    packet: Packet
    trace: Trace
    blamed: TraceStep | None
    certain: bool


def samples(
    plan: Plan, family: Family, pod: PodNetwork, others: Iterable[Rule | ForeignRule] = ()
) -> tuple[Sample, ...]:
    """Return the packets that stand for the traffic of a family, in the order of the rules.

    ``others`` are the rules that are not the plan's and may treat packets apart.
    """
    ruleset = plan.ruleset(family)
    tracer = Tracer((Rules(ruleset),), routes_of(plan, family, pod), brief=True)
    maker = _Maker(ruleset, pod, others)
    found: dict[tuple[object, ...], Sample] = {}
    for one in _spread(_reached(ruleset)):
        sample = _sample(one, tuple(maker.packets(one.hook, one.matches)), tracer)
        if sample is not None:
            found.setdefault((sample.packets, sample.kept), sample)
    return tuple(found.values())


def routes_of(plan: Plan, family: Family, pod: PodNetwork) -> Routes:
    """Return how a pod's packets are routed where the plan's routes are in place."""
    marked = tuple(one for one in plan.routes if one.family == family)
    return Routes(marked, pod.interfaces[0])


def deviation(
    sample: Sample, tracers: Iterable[Tracer], planned: Ruleset, backend: str
) -> Deviation | None:
    """Return where a sample goes in place of where the plan sends it, None if it goes there.

    There is a tracer for each order in which the kernel may ask the backends: the
    sample has to go there in each. ``backend`` is the one of ``planned``. A packet
    that a firewall stops proves nothing as long as another one of the sample arrives.
    """
    first = None
    for packet in sample.packets:
        worst = None
        for tracer in tracers:
            way = tracer.trace(packet)
            if not _as_planned(way, sample):
                worst = Deviation(
                    sample, packet, way, _blamed(way, planned, backend), certain=way.whole
                )
                break
            if worst is None and (doubt := _doubt(way, sample)):
                worst = Deviation(sample, packet, way, doubt, certain=False)
        if worst is None:
            return None
        first = first or worst
        if worst.trace.outcome.fate not in _STOPPED:
            return worst
    return first


def _as_planned(way: Trace, sample: Sample) -> bool:
    if sample.kept and getattr(way.end, sample.kept[0]) != sample.kept[1]:
        return False
    return _same(way.outcome, sample.verdict)


def _same(one: Verdict, other: Verdict) -> bool:
    """Whether it makes no difference to a sender which of two verdicts it is."""
    return one == other or (one.fate in _STOPPED and other.fate in _STOPPED)


def _doubt(way: Trace, sample: Sample) -> TraceStep | None:
    """Return the step in a built-in chain because of which a packet may get by.

    That a firewall may stop it does not count.
    """
    for one in way.depends:
        outcomes = (outcome for outcome in one.outcomes if outcome.fate not in _STOPPED)
        if any(not _same(outcome, sample.verdict) for outcome in outcomes):
            within = one.step
            for step in way.steps:
                if step.rule is not None and step.chain == step.hook and step.tried != "no":
                    within = step
                if step is one.step:
                    return within
    return None


def _blamed(way: Trace, planned: Ruleset, backend: str) -> TraceStep | None:
    """Return the step in a built-in chain by which a rule of others decided.

    That is where a packet left a table in which the plan has rules too, or where it was
    sent elsewhere or stopped. A step without a rule is a policy.
    """
    within = None
    for number, step in enumerate(way.steps):
        if step.tried == "entered" or (step.tried == "policy" and not _goes_for_good(within)):
            within = None
        if step.rule is not None and step.chain == step.hook and step.tried == "yes":
            within = step
        if step.tried == "policy" and step.reason:
            return within or step
        after = way.steps[number + 1] if number + 1 < len(way.steps) else None
        left = after is None or _visit(step) != _visit(after) or after.tried == "entered"
        decided = step.did in ("captured", "stopped") or (
            left and step.backend == backend and _has_rules(planned, step)
        )
        if decided and within is not None and not _is_planned(within, planned, backend):
            return within
    return None if way.whole else within


def _visit(step: TraceStep) -> tuple[str, str, str]:
    return step.hook, step.backend, step.table


def _goes_for_good(step: TraceStep | None) -> bool:
    """Whether what comes back from the chain of a rule does not come back to the rule."""
    return (
        step is not None
        and isinstance(step.rule, ForeignRule)
        and parts(step.rule.spelled, IPV4).verb == "-g"
    )


def _has_rules(planned: Ruleset, step: TraceStep) -> bool:
    table = planned.table(step.table)
    chain = table.chain(step.hook) if table else None
    return chain is not None and bool(chain.rules)


def _is_planned(step: TraceStep, planned: Ruleset, backend: str) -> bool:
    table = planned.table(step.table)
    chain = table.chain(step.chain) if table else None
    return step.backend == backend and chain is not None and step.rule in chain.rules


def _sample(reached: _Reached, packets: tuple[Packet, ...], tracer: Tracer) -> Sample | None:
    """Return the sample of a rule; None where no packet meets it."""
    kept: list[Packet] = []
    first: tuple[Verdict, int | None] | None = None
    target = reached.rule.target if isinstance(reached.rule, Rule) else None
    field = _changed(target)
    for packet in packets:
        way = tracer.trace(packet)
        meets = any(step.rule is reached.rule and step.tried == "yes" for step in way.steps)
        end = way.outcome, getattr(way.end, field) if field else None
        if meets and way.certain and first in (None, end):
            first = end
            kept.append(packet)
    if first is None:
        return None
    return Sample(reached.way, tuple(kept), first[0], (field, first[1]) if field else None)


def _changed(target: t.Target | None) -> Kept | None:
    """Return what of a packet a target is there to change, None if it decides its way."""
    match target:
        case t.CtZone():
            return "zone"
        case t.SaveMark():
            return "connmark"
        case t.RestoreMark():
            return "mark"
        case _:
            return None


class _Reached(Record):
    """A rule at which a way through a plan ends, the way, and every match on it."""

    hook: Hook
    way: tuple[Placed, ...]
    matches: tuple[m.Match, ...]

    @property
    def rule(self) -> Rule | ForeignRule:
        return self.way[-1][1]


def _reached(ruleset: Ruleset) -> Iterator[_Reached]:
    """Yield each rule at which a way through the plan ends."""
    for table in ruleset.tables:
        for hook in _HOOKS:
            if hook in BUILTIN_CHAINS[table.name]:
                yield from _within(table, hook, hook, (), ())


def _within(
    table: Table, hook: Hook, name: str, matches: tuple[m.Match, ...], way: tuple[Placed, ...]
) -> Iterator[_Reached]:
    chain = table.chain(name)
    # A plan is a few chains deep, and its chains jump in no circle.
    for rule in chain.rules if chain else ():
        if not isinstance(rule, Rule):
            continue
        both = (*matches, *rule.matches)
        here = (*way, (name, rule))
        if isinstance(rule.target, t.Jump):
            yield from _within(table, hook, rule.target.chain, both, here)
        else:
            yield _Reached(hook, here, both)


def captured_elsewhere(
    plan: Plan, family: Family, pod: PodNetwork, beside: Rules
) -> Iterator[Sample]:
    """Yield packets that the plan captures, each for a nat rule of others in another backend.

    Such a rule may send its packets elsewhere before the plan's are asked.
    """
    table = beside.ruleset.table(NAT)
    if table is None:
        return
    ruleset = plan.ruleset(family)
    tracer = Tracer((Rules(ruleset),), routes_of(plan, family, pod), brief=True)
    maker = _Maker(ruleset, pod)
    for hook in _NAT_HOOKS:
        for way, matches in _translating(table, hook, family):
            for packet in maker.packets(hook, matches):
                planned = tracer.trace(packet)
                if planned.certain and planned.outcome.port:
                    yield Sample(way, (packet,), planned.outcome)
                    break


def _translating(
    table: Table, hook: Hook, family: Family
) -> Iterator[tuple[tuple[Placed, ...], tuple[m.Match, ...]]]:
    """Yield the ways to rules that are no more than a translation, with every match on each."""
    chains = {chain.name: chain for chain in table.chains}
    places: list[tuple[str, int, tuple[m.Match, ...], tuple[Placed, ...]]] = [(hook, 0, (), ())]
    for _ in range(_MOST_PLACES):
        if not places:
            return
        name, number, matches, way = places.pop()
        chain = chains.get(name)
        if chain is None or number >= len(chain.rules) or len(way) > _DEEPEST:
            continue
        places.append((name, number + 1, matches, way))
        rule = chain.rules[number]
        asked, target = _understood(rule, family)
        both, here = (*matches, *asked), (*way, (name, rule))
        if target in chains:
            places.append((target, 0, both, here))
        elif target and target not in GO_ON | _UNTRANSLATED:
            yield here, both


def _understood(rule: Rule | ForeignRule, family: Family) -> tuple[tuple[m.Match, ...], str]:
    """Return the matches of a rule and the name of its target, as far as they are understood."""
    if isinstance(rule, Rule):
        return rule.matches, target_words(rule.target, family)[1]
    found = parts(rule.spelled, family)
    names: dict[str, Protocol] = {"tcp": "tcp", "udp": "udp"}
    protocols = (
        m.Proto(names[name], negated) for name, negated in found.protocols if name in names
    )
    return (*protocols, *found.matches), found.name


def _spread(reached: Iterable[_Reached]) -> Iterator[_Reached]:
    """Yield some of the rules that are alike, from the first to the last, and all others."""
    alike: dict[tuple[str, ...], list[_Reached]] = {}
    for one in reached:
        reason = reason_of(one.rule)
        leads = reason_of(one.way[-2:][0][1])
        kind = (one.hook, one.way[-1][0], reason.flag, reason.effect, leads.flag, leads.effect)
        alike.setdefault(kind, []).append(one)
    for group in alike.values():
        if len(group) <= _MOST_ALIKE:
            yield from group
        else:
            last = len(group) - 1
            yield from (group[last * step // (_MOST_ALIKE - 1)] for step in range(_MOST_ALIKE))


def _boundaries(
    rules: Iterable[Rule | ForeignRule], family: Family
) -> dict[Field, tuple[int, ...]]:
    """Return for each field the values at which some rule begins to treat packets apart."""
    fields: dict[Field, set[int]] = {}
    for rule in rules:
        for match in _matches_of(rule, family):
            field, spans = _numbers(match, family)
            if field:
                edges = fields.setdefault(field, set())
                edges.update(low for low, _ in spans)
                edges.update(high + 1 for _, high in spans)
    return {field: tuple(sorted(edges)) for field, edges in fields.items()}


def _spared(rules: Iterable[Rule | ForeignRule]) -> dict[Field, frozenset[int]]:
    """Return the first of the users and groups that alone pass by a rule that asks for others."""
    fields: dict[Field, set[int]] = {}
    for rule in rules:
        for match in rule.matches if isinstance(rule, Rule) else ():
            if isinstance(match, m.Owner) and match.negated:
                fields.setdefault(match.kind, set()).add(match.ids.low)
    return {field: frozenset(ids) for field, ids in fields.items()}


def _matches_of(rule: Rule | ForeignRule, family: Family) -> tuple[m.Match, ...]:
    if isinstance(rule, Rule):
        return rule.matches
    return parts(rule.spelled, family).matches


def _numbers(match: m.Match, family: Family) -> tuple[Field | None, Spans]:
    """Return the field of a packet that a match compares with ranges, and these."""
    match match:
        case m.Source(network) if network.family == family:
            return "source", (span_of(network),)
        case m.Destination(network) if network.family == family:
            return "destination", (span_of(network),)
        case m.Ports():
            return match.side, ((match.ports.low, match.ports.high),)
        case m.MultiPorts():
            return match.side, joined((one.low, one.high) for one in match.ports)
        case m.Owner():
            return match.kind, ((match.ids.low, match.ids.high),)
        case _:
            return None, ()


class _Maker:
    """Makes packets that meet all of some matches."""

    def __init__(
        self, ruleset: Ruleset, pod: PodNetwork, others: Iterable[Rule | ForeignRule] = ()
    ) -> None:
        rules = tuple(
            rule for table in ruleset.tables for chain in table.chains for rule in chain.rules
        )
        boundaries = _boundaries((*rules, *others), ruleset.family)
        family = ruleset.family
        self._spared = _spared(rules)
        self._known: dict[tuple[Field, Spans], tuple[Span, ...]] = {}
        self._family = family
        self._pod = pod
        self._boundaries = boundaries
        own = [span_of(one) for one in pod.addresses if one.family == family]
        self._own: Spans = joined(own or [(_NO_ADDRESS[family], _NO_ADDRESS[family])])

    def packets(self, hook: Hook, matches: tuple[m.Match, ...]) -> Iterator[Packet]:
        """Yield packets, the one that stands for most of the traffic first; none if none can be."""
        interface = self._interface(hook, matches)
        protocol = _protocol(matches)
        state = _state(matches)
        mark, connmark = _mark(matches, m.Mark), _mark(matches, m.ConnMark)
        if interface is None or protocol is None or state is None:
            return
        if mark is None or connmark is None:
            return
        spans = self._spans(hook, interface, matches)
        ranges = {field: self._ranges(field, allowed) for field, allowed in spans.items()}
        if not all(ranges.values()):
            return
        typical = {field: _typical(one[0]) for field, one in ranges.items()}
        out = hook == "OUTPUT"
        packet = Packet(
            self._family,
            "OUTPUT" if out else "PREROUTING",
            protocol,
            source=self._packed(typical["source"]),
            destination=self._packed(typical["destination"]),
            sport=typical["sport"],
            dport=typical["dport"],
            iif="" if out else interface,
            oif=interface if out else "",
            owned=out,
            uid=typical["uid"] if out else None,
            gid=typical["gid"] if out else None,
            mark=mark,
            connmark=connmark,
            state=state,
            socket=any(isinstance(one, m.Socket) for one in matches),
        )
        yield packet
        yield from (packet.replace(dport=_typical(span)) for span in ranges["dport"][1:])
        for span in ranges["destination"][1:]:
            yield packet.replace(destination=self._packed(_typical(span)))
        if out:
            yield from (packet.replace(uid=_typical(span)) for span in ranges["uid"][1:])
            yield from (packet.replace(gid=_typical(span)) for span in ranges["gid"][1:])

    def _packed(self, address: int) -> bytes:
        return address.to_bytes(4 if self._family == IPV4 else 16, "big")

    def _spans(
        self, hook: Hook, interface: str, matches: tuple[m.Match, ...]
    ) -> dict[Field, Spans]:
        """Return the values that each field of a packet may have."""
        everywhere = _UNICAST[self._family]
        peers = _without(everywhere, self._own)
        own = self._own
        if hook == "OUTPUT":
            usual: dict[Field, Spans] = {
                "source": own,
                "destination": own if interface == LO else peers,
            }
        else:
            usual = {"source": own if interface == LO else peers, "destination": own}
        usual |= {"sport": ((_CLIENT_PORT, _CLIENT_PORT),), "dport": _PORTS}
        usual |= {"uid": _IDS, "gid": _IDS}
        most: dict[Field, Spans] = {
            "source": _ALL_ADDRESSES[self._family],
            "destination": _ALL_ADDRESSES[self._family],
            "sport": _PORTS,
            "dport": _PORTS,
            "uid": _ALL_IDS,
            "gid": _ALL_IDS,
        }
        return {
            field: self._allowed(field, spans, matches)
            or self._allowed(field, most[field], matches)
            for field, spans in usual.items()
        }

    def _allowed(self, field: Field, spans: Spans, matches: tuple[m.Match, ...]) -> Spans:
        for match in matches:
            named, values = _numbers(match, self._family)
            if named == field:
                spans = _without(spans, values) if match_negated(match) else _meet(spans, values)
        return spans

    def _ranges(self, field: Field, allowed: Spans) -> tuple[Span, ...]:
        """Return the largest ranges of allowed values that every rule treats alike."""
        if (field, allowed) not in self._known:
            edges = self._boundaries.get(field, ())
            pieces: list[Span] = []
            for low, high in allowed:
                inside = edges[bisect_right(edges, low) : bisect_right(edges, high)]
                starts = (low, *inside)
                ends = (*(start - 1 for start in inside), high)
                pieces += zip(starts, ends, strict=True)
            pieces.sort(key=lambda span: (span[0] - span[1], span))
            kept = pieces[:_MOST_RANGES]
            spared = self._spared.get(field, frozenset())
            kept += [piece for piece in pieces[_MOST_RANGES:] if piece[0] in spared][:1]
            self._known[field, allowed] = tuple(kept)
        return self._known[field, allowed]

    def _interface(self, hook: Hook, matches: tuple[m.Match, ...]) -> str | None:
        """Return the interface of a packet: the main one if the matches let it."""
        kind = m.OutInterface if hook == "OUTPUT" else m.InInterface
        named = [one for one in matches if isinstance(one, kind)]
        for one in named:
            # A name that is asked for may be of an interface that the pod lacks.
            if not one.negated and one.name not in (LO, *self._pod.interfaces):
                return one.name.replace("+", "0")
        for match in matches:
            if isinstance(match, m.Destination | m.Source) and not match.negated:
                span = span_of(match.network)
                if match.network.family == self._family and _meet((span,), _LOOPBACK[self._family]):
                    return LO if _meets(LO, named) else None
        for interface in (*self._pod.interfaces, LO):
            if _meets(interface, named):
                return interface
        return None


def _meets(interface: str, named: Sequence[m.InInterface | m.OutInterface]) -> bool:
    return all(
        (interface.startswith(one.name[:-1]) if one.name.endswith("+") else interface == one.name)
        != one.negated
        for one in named
    )


def _protocol(matches: tuple[m.Match, ...]) -> str | None:
    asked = {one.name for one in matches if isinstance(one, m.Proto) and not one.negated}
    asked |= {one.protocol for one in matches if isinstance(one, m.Ports)}
    refused = {one.name for one in matches if isinstance(one, m.Proto) and one.negated}
    for name in asked or ("tcp", "udp", "icmp"):
        if asked <= {name} and name not in refused:
            return name
    return None


def _state(matches: tuple[m.Match, ...]) -> ConntrackState | None:
    states: tuple[ConntrackState, ...] = ("NEW", "ESTABLISHED", "RELATED", "INVALID")
    if any(isinstance(one, m.ConnMark) and not one.negated for one in matches):
        # Only a connection that is there already can have a mark.
        states = ("ESTABLISHED", "RELATED", "NEW", "INVALID")
    asked = [one for one in matches if isinstance(one, m.CtState)]
    for state in states:
        if all((state in one.states) != one.negated for one in asked):
            return state
    return None


def _mark(matches: tuple[m.Match, ...], kind: type[m.Mark | m.ConnMark]) -> int | None:
    asked = [one for one in matches if isinstance(one, kind)]
    values = [0, *(one.value for one in asked if not one.negated), 1, 2]
    for value in values:
        if all((value & one.mask == one.value) != one.negated for one in asked):
            return value
    return None


def _typical(span: Span) -> int:
    """Return a value in the middle of a range, as unlike its ends as can be."""
    low, high = span
    return (low + high) // 2


def _meet(some: Spans, others: Spans) -> Spans:
    both = ((max(a, c), min(b, d)) for a, b in some for c, d in others)
    return tuple(sorted((low, high) for low, high in both if low <= high))


def _without(some: Spans, others: Spans) -> Spans:
    left = some
    for low, high in others:
        left = tuple(
            piece
            for a, b in left
            for piece in ((a, min(b, low - 1)), (max(a, high + 1), b))
            if piece[0] <= piece[1]
        )
    return left
