"""Where the rules lead one packet, and why.

The packet is followed through the hooks that the kernel takes it through, from
the rules of a plan or from live ones. A match is true, false or, where it asks
for something that is not known, neither: then both ways are followed, and the
verdict says that it depends on it.

Sources: linux/net/netfilter (nf_nat_core.c, nf_conntrack_core.c, nft_meta.c,
xt_owner.c, xt_socket.c, xt_CT.c, xt_TPROXY.c), linux/net/ipv4 (ip_output.c,
ip_input.c, netfilter/nf_nat_l3proto).
"""

from __future__ import annotations

from istio_init.diagnose.packet import (
    LO,
    NOTHING,
    Assumed,
    Packet,
    actual,
    assume,
    holds,
    is_loopback,
    mark_text,
    taken_for,
)
from istio_init.diagnose.shadowing import GO_ON
from istio_init.formats.iptables import match_words
from istio_init.formats.save_reader import Parts, parts
from istio_init.lean import TYPE_CHECKING, Record, assert_never
from istio_init.rules import targets as t
from istio_init.rules.model import (
    BUILTIN_CHAINS,
    Chain,
    ForeignRule,
    PolicyRoute,
    Rule,
    Ruleset,
    Table,
)
from istio_init.rules.names import LOOPBACK_IPV6, MANGLE, NAT, OWN_CHAINS, RAW
from istio_init.rules.ranges import IPV4
from istio_init.rules.sets import canonical, expand, group_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from istio_init.diagnose.packet import Hook, Truth
    from istio_init.rules import matches as m
    from istio_init.rules.model import Plan
    from istio_init.rules.ranges import Family

    Tried = Literal["comes in", "entered", "yes", "no", "unknown", "ended", "policy", "passed over"]
    Did = Literal["", "captured", "let go", "stopped"]
    Fate = Literal[
        "redirected",
        "tproxy",
        "untouched",
        "marked",
        "follows",
        "dropped",
        "rejected",
        "unknown",
    ]
    Frames = tuple[tuple[str, int], ...]

NATIVE = "nftables"

# The tables of each hook in the order in which a packet passes them. Connection
# tracking sits between raw and the rest.
_HOOKS: dict[Hook, tuple[str, ...]] = {
    "PREROUTING": (RAW, MANGLE, NAT),
    "INPUT": (MANGLE, "filter", NAT),
    "FORWARD": (MANGLE, "filter"),
    "OUTPUT": (RAW, MANGLE, NAT, "filter"),
    "POSTROUTING": (MANGLE, NAT),
}
# Where nat chooses destinations; in the others it chooses sources.
_DESTINATION_HOOKS = ("PREROUTING", "OUTPUT")
_IPV4_LOOPBACK = b"\x7f\x00\x00\x01"

# Targets of others that write marks, in ways that are not looked into.
_MARKING = frozenset({"MARK", "CONNMARK", "CONNSECMARK", "HMARK"})
# Those that change how a connection is tracked.
_TRACKING = frozenset({"CT", "NOTRACK"})
# Those that give a connection another source, which nothing here asks for.
_SOURCES = frozenset({"MASQUERADE", "SNAT"})
# How a rule may name protocols otherwise than the packet does.
_PROTOCOLS = {"0": "all", "1": "icmp", "6": "tcp", "17": "udp", "58": "ipv6-icmp", "132": "sctp"}
# What nft writes between a rule's matches and its end.

# Places to look at for what depends on what is not known: some seconds, and far
# more than the rules of any pod have.
_MOST_WAYS = 10_000


class Rules(Record):
    """The rules of one family in one backend; ``backend`` is ``""`` for a plan's."""

    ruleset: Ruleset
    backend: str = ""


class Routes(Record):
    """How packets are routed, as far as it matters to rules.

    Packets with a mark of ``marked`` are delivered locally. Others leave by
    ``via``, and come in for this namespace itself if ``local`` says so.
    """

    marked: tuple[PolicyRoute, ...] = ()
    via: str | None = "eth0"
    local: bool = True


class TraceStep(Record):
    """One thing tried.

    ``number`` counts the rules of a chain from 1 and is 0 where no rule was
    tried. ``reason`` says which match failed or is not known, or what the rule
    did to the packet, ``did`` what became of its way. Where a packet comes in
    again by lo it is in no table.
    """

    hook: Hook
    backend: str
    table: str
    chain: str
    tried: Tried
    number: int = 0
    rule: Rule | ForeignRule | None = None
    reason: str = ""
    did: Did = ""


class Verdict(Record):
    """What becomes of a packet; ``port`` is the proxy's where it is captured, else 0.

    ``untouched`` packets go where they were going. ``marked`` ones are delivered to a
    local socket by their mark. What ``follows`` goes where nat sent the first
    packet of its connection.
    """

    fate: Fate
    port: int = 0


class Dependence(Record):
    """A step that could not be decided, and what may happen if it matches."""

    step: TraceStep
    outcomes: tuple[Verdict, ...]


class Trace(Record):
    """The way of a packet.

    ``steps`` and ``outcome`` are those of the way on which nothing matches of
    which it is not known whether it does; ``depends`` has the others. ``end`` is
    the packet as it is at the end.
    """

    packet: Packet
    steps: tuple[TraceStep, ...]
    outcome: Verdict
    depends: tuple[Dependence, ...]
    end: Packet

    @property
    def certain(self) -> bool:
        """Whether nothing unknown could change the outcome."""
        return not self.depends and self.outcome.fate != "unknown"


def trace(rulesets: tuple[Rules, ...], packet: Packet, routes: Routes) -> Trace:
    """Return the way of a packet through the rules of its family.

    ``rulesets`` are in the order in which the kernel asks backends.
    """
    tracer = _Tracer(rulesets, packet, routes)
    steps: list[TraceStep] = []
    doubts: list[tuple[TraceStep, Way]] = []
    here: _Position | Verdict = _Position(packet, packet.hook)
    last = packet
    while not isinstance(here, Verdict):
        last = here.packet
        step, ways = tracer.advance(here)
        if step is not None:
            steps.append(step)
            # What else could have happened; an outcome at once is known at once.
            doubts += [(step, way) for way in ways[1:]]
        here = ways[0]
    depends = [
        Dependence(step, tuple(sorted(others, key=lambda one: (one.fate, one.port))))
        for step, way in doubts
        if (others := tracer.outcomes(way) - {here})
    ]
    return Trace(packet, tuple(steps), here, tuple(depends), last)


def decisions(trace: Trace) -> tuple[TraceStep, ...]:
    """Return the steps that decided, in order.

    For a captured packet these are the rule that leads to the capturing chain and
    the one that captured it; for one that was stopped the last; else those with
    which the rules let go of it.
    """
    tried = [step for step in trace.steps if step.table and step.tried != "entered"]
    match trace.outcome.fate:
        case "redirected" | "tproxy":
            return _capture(tried)
        case "dropped" | "rejected" | "unknown":
            return tuple(tried[-1:])
        case _:
            return _releases(tried)


def _capture(tried: list[TraceStep]) -> tuple[TraceStep, ...]:
    position, capture = next(
        (position, step) for position, step in enumerate(tried) if step.did == "captured"
    )
    ways = [step for step in tried[:position] if _leads_to(step, capture.chain)]
    return (*ways[-1:], capture)


def _leads_to(step: TraceStep, chain: str) -> bool:
    if step.tried != "yes":
        return False
    if isinstance(step.rule, Rule):
        return step.rule.target == t.Jump(chain)
    return step.rule is not None and step.rule.jump == chain


def _releases(tried: list[TraceStep]) -> tuple[TraceStep, ...]:
    """Return the last word of each table that might have captured the packet."""
    releases: dict[tuple[str, str, str], TraceStep] = {}
    for step in tried:
        captures = step.table == NAT or (step.table, step.hook) == (MANGLE, "PREROUTING")
        if not captures or step.hook not in _DESTINATION_HOOKS or step.did != "let go":
            continue
        place = (step.hook, step.backend, step.table)
        # Where ours had their say, what others do behind them decides nothing.
        ours = place in releases and releases[place].chain in OWN_CHAINS
        if not ours or step.chain in OWN_CHAINS:
            releases[place] = step
    return tuple(releases.values())


def explained(live: Rules, plan: Plan) -> Rules:
    """Return live rules with the reasons of those that the plan has too."""
    planned = plan.ruleset(live.ruleset.family)
    native = live.backend == NATIVE
    in_form = canonical(planned) if native else planned
    tables = []
    for table in live.ruleset.tables:
        chains = []
        for chain in table.chains:
            reasons: dict[Rule | ForeignRule, Rule | ForeignRule] = {
                rule: rule for rule in _rules(in_form, table.name, chain.name)
            }
            for rule in _rules(planned, table.name, chain.name) if native else ():
                # A set may hold values of several flags.
                reasons |= {one: one for one in expand(group_of(rule))}
            rules = tuple(reasons.get(rule, rule) for rule in chain.rules)
            chains.append(chain.replace(rules=rules))
        tables.append(table.replace(chains=tuple(chains)))
    return live.replace(ruleset=live.ruleset.replace(tables=tuple(tables)))


def _rules(ruleset: Ruleset, table: str, chain: str) -> Iterator[Rule]:
    """Yield the rules of a chain, those that ask for the same last to first."""
    tables = ruleset.table(table)
    of_chain = tables.chain(chain) if tables else None
    for rule in reversed(of_chain.rules if of_chain else ()):
        if isinstance(rule, Rule):
            yield rule


class _Position(Record):
    """Where a packet is, and what has been decided about it.

    ``stage`` counts the tables of the hook, ``frames`` are the chains it is in,
    outermost first, each with the rule that comes next. ``tracked`` says that
    connection tracking has seen it, ``to`` and ``since`` that nat has settled its
    destination and source. ``assumed`` holds what is taken for true or false.
    """

    packet: Packet
    hook: Hook
    stage: int = 0
    frames: Frames = ()
    tracked: bool = False
    to: bool = False
    since: bool = False
    captured: Verdict | None = None
    delivered: bool = False
    assumed: Assumed = NOTHING


Way = _Position | Verdict


class _Stage(Record):
    """One table of a hook."""

    backend: str
    table: Table


class _Tested(Record):
    """Whether a rule matches; ``doubts`` are the matches for which it is not known."""

    truth: Truth
    reason: str = ""
    doubts: tuple[m.Match, ...] = ()


class _Tracer:
    """Follows a packet; every way that it may take has a place of its own."""

    def __init__(self, rulesets: tuple[Rules, ...], packet: Packet, routes: Routes) -> None:
        self._start = packet
        self._left = _MOST_WAYS
        self._routes = routes
        self._stages = {hook: tuple(_stages(hook, rulesets)) for hook in _HOOKS}

    def outcomes(self, start: Way) -> frozenset[Verdict]:
        """Return everything that may happen from a place on."""
        outcomes: set[Verdict] = set()
        seen: set[Way] = set()
        ways = [start]
        while ways:
            here = ways.pop()
            if isinstance(here, Verdict):
                outcomes.add(here)
            elif here not in seen:
                seen.add(here)
                self._left -= 1
                if self._left < 0:
                    return frozenset(outcomes | {Verdict("unknown")})
                ways += self.advance(here)[1]
        return frozenset(outcomes)

    def advance(self, at: _Position) -> tuple[TraceStep | None, tuple[Way, ...]]:
        """Return what is tried here, and where it leads; first of all if it does not match."""
        stages = self._stages[at.hook]
        if at.stage == len(stages):
            return self._leave(at)
        stage = stages[at.stage]
        if not at.frames:
            return self._enter(at, stage)
        name, number = at.frames[-1]
        chain = _chain(stage.table, name)
        if number >= len(chain.rules):
            return self._end(at, stage, chain)
        return self._try(at, stage, chain.rules[number])

    def _enter(self, at: _Position, stage: _Stage) -> tuple[TraceStep | None, tuple[Way, ...]]:
        chain = _chain(stage.table, at.hook)
        if not chain.rules and chain.policy in (None, "ACCEPT"):
            return None, (_past(at),)
        sees_it = stage.table.name != NAT or _nat_sees(at)
        step = TraceStep(at.hook, stage.backend, stage.table.name, at.hook, "entered")
        if not sees_it:
            return step.replace(tried="passed over", reason=_why_unseen(at)), (_past(at),)
        return step, (at.replace(frames=((at.hook, 0),)),)

    def _end(
        self, at: _Position, stage: _Stage, chain: Chain
    ) -> tuple[TraceStep | None, tuple[Way, ...]]:
        if len(at.frames) > 1:
            step = TraceStep(
                at.hook, stage.backend, stage.table.name, chain.name, "ended", did="let go"
            )
            return step, (at.replace(frames=at.frames[:-1]),)
        return self._by_policy(at, stage)

    def _by_policy(self, at: _Position, stage: _Stage) -> tuple[TraceStep, tuple[Way, ...]]:
        policy = _chain(stage.table, at.hook).policy
        step = TraceStep(at.hook, stage.backend, stage.table.name, at.hook, "policy")
        if policy == "DROP":
            return step.replace(reason="the policy is DROP"), (Verdict("dropped"),)
        return step, (_past(at),)

    def _try(
        self, at: _Position, stage: _Stage, rule: Rule | ForeignRule
    ) -> tuple[TraceStep | None, tuple[Way, ...]]:
        name, number = at.frames[-1]
        step = TraceStep(at.hook, stage.backend, stage.table.name, name, "no", number + 1, rule)
        native = stage.backend == NATIVE
        seen = _as_seen(at, stage.table.name)
        understood = _parts(rule, seen.family)
        tested = _tested(understood, seen, at.assumed, native=native)
        below = at.replace(frames=(*at.frames[:-1], (name, number + 1)))
        if tested.truth is False:
            return step.replace(reason=tested.reason), (below,)
        if tested.truth is True:
            way, effect = self._effect(below, stage, understood)
            return step.replace(tried="yes", reason=effect, did=_did(below, way)), (way,)
        without = _assume(below, tested.doubts, matched=False)
        matched = _assume(below, tested.doubts, matched=True)
        way, _ = self._effect(matched, stage, understood)
        return step.replace(tried="unknown", reason=tested.reason), (without, way)

    def _effect(self, at: _Position, stage: _Stage, rule: Parts) -> tuple[Way, str]:
        """Return where a rule that matches leads, and what it does to the packet."""
        chain = stage.table.chain(rule.name)
        if chain is not None:
            return self._jump(at, chain, for_good=rule.verb == "-g"), ""
        if rule.target is None or isinstance(rule.target, t.Jump):
            return self._of_others(at, rule)
        return self._target(at, stage, rule.target)

    def _jump(self, at: _Position, chain: Chain, *, for_good: bool) -> Way:
        if any(name == chain.name for name, _ in at.frames):
            # The kernel has no loops; rules that were made up may.
            return Verdict("unknown")
        # What went there for good (-g) comes back to where this chain would.
        kept = at.frames[:-1] if for_good and len(at.frames) > 1 else at.frames
        if for_good and len(at.frames) == 1:
            kept = ((at.frames[0][0], _FOR_GOOD),)
        return at.replace(frames=(*kept, (chain.name, 0)))

    def _of_others(self, at: _Position, rule: Parts) -> tuple[Way, str]:
        if not rule.verb:
            return at, "it has no target"
        if rule.name in _MARKING:
            packet = at.packet.replace(mark=None, connmark=None)
            return at.replace(packet=packet), f"{rule.name} may change its marks"
        if rule.name in _SOURCES:
            return _past(at.replace(packet=at.packet.replace(source=None))), "its source changes"
        if rule.name in GO_ON - _TRACKING:
            return at, f"{rule.name} lets it go on"
        what = f"what {rule.name} does" if rule.name else "what the rule does"
        return Verdict("unknown"), f"{what} is not known"

    def _target(self, at: _Position, stage: _Stage, target: t.Target) -> tuple[Way, str]:
        packet = at.packet
        match target:
            case t.Jump():
                raise AssertionError(f"no such chain: {target.chain}")
            case t.Return():
                if len(at.frames) > 1:
                    return at.replace(frames=at.frames[:-1]), ""
                step, ways = self._by_policy(at, stage)
                return ways[0], step.reason
            case t.Accept():
                return _past(at), ""
            case t.Drop():
                return Verdict("dropped"), ""
            case t.Reject():
                return Verdict("rejected"), ""
            case t.Redirect():
                return self._redirect(at, target), ""
            case t.Tproxy():
                marked = _flip(packet.mark, target.mask, target.mark)
                after = at.replace(packet=packet.replace(mark=marked))
                return _past(after.replace(captured=Verdict("tproxy", target.port))), ""
            case t.SetMark():
                marked = _flip(packet.mark, target.mask, target.value)
                return _remarked(at, packet.replace(mark=marked), "its")
            case t.SaveMark():
                return _remarked(at, packet.replace(connmark=packet.mark), "its connection's")
            case t.RestoreMark():
                return _remarked(at, packet.replace(mark=packet.connmark), "its")
            case t.CtZone():
                return _zoned(at, target)
            case _:
                assert_never(target)

    def _redirect(self, at: _Position, target: t.Redirect) -> Way:
        to: bytes | None = None
        if at.hook == "OUTPUT":
            to = _IPV4_LOOPBACK if at.packet.family == IPV4 else LOOPBACK_IPV6.packed
        packet = at.packet.replace(destination=to, dport=target.port)
        # A socket that TPROXY has found keeps the packet, wherever it is sent now.
        captured = at.captured or Verdict("redirected", target.port)
        return _past(at.replace(packet=packet, captured=captured, to=True))

    def _leave(self, at: _Position) -> tuple[TraceStep | None, tuple[Way, ...]]:
        """Return where a packet goes behind the last table of a hook."""
        way = self._next_hook(at)
        if at.hook != "POSTROUTING" or isinstance(way, Verdict):
            return None, (way,)
        # The same packet, on the other side of lo.
        return TraceStep("PREROUTING", "", "", "", "comes in"), (way,)

    def _next_hook(self, at: _Position) -> Way:
        packet = at.packet
        after = at.replace(stage=0, tracked=True)
        match at.hook:
            case "OUTPUT":
                start = self._start
                moved = (packet.destination, packet.mark) != (start.destination, start.mark)
                delivered = moved and start.oif != LO and self._leads(packet)
                if moved:
                    packet = packet.replace(oif=self._out(packet))
                return after.replace(
                    packet=packet, hook="POSTROUTING", to=True, delivered=delivered
                )
            case "POSTROUTING":
                if packet.oif != LO:
                    return self._arrive(at)
                # The interface takes the packet from its socket, and nothing else.
                came = packet.replace(iif=LO, oif="", owned=False)
                return after.replace(packet=came, hook="PREROUTING", since=True)
            case "PREROUTING":
                stays = packet.iif == LO or at.captured or self._leads(packet)
                after = after.replace(to=True)
                if stays or self._routes.local:
                    return after.replace(hook="INPUT")
                gone = packet.replace(oif=self._routes.via)
                return after.replace(packet=gone, hook="FORWARD")
            case "FORWARD":
                return after.replace(hook="POSTROUTING")
            case "INPUT":
                return self._arrive(at)
            case _:
                assert_never(at.hook)

    def _out(self, packet: Packet) -> str | None:
        """Return the interface by which a packet leaves that is routed anew."""
        if _goes_to_loopback(packet) or self._leads(packet):
            return LO
        to_self = self._start.oif == LO and not self._leads(self._start)
        return LO if to_self else self._routes.via

    def _leads(self, packet: Packet) -> bool:
        """Whether the mark of a packet leads it to a local socket."""
        return any(
            route.family == packet.family and route.mark == packet.mark
            for route in self._routes.marked
        )

    def _arrive(self, at: _Position) -> Verdict:
        if at.captured:
            return at.captured
        if at.packet.mark is None and self._routes.marked:
            return Verdict("unknown")
        if at.delivered:
            return Verdict("marked")
        return Verdict("follows" if at.packet.state == "ESTABLISHED" else "untouched")


# Behind the last rule of any chain.
_FOR_GOOD = 1 << 32


def _stages(hook: Hook, rulesets: tuple[Rules, ...]) -> Iterator[_Stage]:
    for name in _HOOKS[hook]:
        for rules in rulesets:
            table = rules.ruleset.table(name)
            if table is not None and hook in BUILTIN_CHAINS[name]:
                yield _Stage(rules.backend, table)


def _chain(table: Table, name: str) -> Chain:
    return table.chain(name) or Chain(name, None)


def _past(at: _Position) -> _Position:
    """Return the place behind a table."""
    return at.replace(stage=at.stage + 1, frames=())


def _did(before: _Position, after: Way) -> Did:
    """Return what a rule that matched did for the way of the packet."""
    if isinstance(after, Verdict):
        return "stopped"
    if after.captured != before.captured:
        return "captured"
    left = after.stage != before.stage or len(after.frames) < len(before.frames)
    return "let go" if left else ""


def _nat_sees(at: _Position) -> bool:
    """Whether nat looks at this packet here: once a connection, for each of its ends."""
    settled = at.to if at.hook in _DESTINATION_HOOKS else at.since
    return at.packet.state in ("NEW", "RELATED") and not settled


def _why_unseen(at: _Position) -> str:
    if at.packet.state == "INVALID":
        return "nat skips packets that belong to no connection"
    if at.packet.state == "ESTABLISHED":
        return "nat sees only the first packet of a connection"
    return "nat has already decided about this connection"


def _as_seen(at: _Position, table: str) -> Packet:
    """Return the packet as the matches see it: before tracking it is of no connection."""
    if table != RAW or at.tracked:
        return at.packet
    # A zone is kept in a connection that stands in for the real one.
    return at.packet.replace(state="NEW" if at.packet.zone else "INVALID")


def _parts(rule: Rule | ForeignRule, family: Family) -> Parts:
    """Return a rule in parts, as far as it is understood."""
    if isinstance(rule, Rule):
        name = rule.target.chain if isinstance(rule.target, t.Jump) else ""
        return Parts(rule.matches, (), (), "-j", name, rule.target)
    return parts(rule.spelled, family)


def _tested(rule: Parts, packet: Packet, assumed: Assumed, *, native: bool) -> _Tested:
    """Return whether a rule matches: one match that fails decides, whatever the others are."""
    reason = ""
    doubts: list[m.Match] = []
    for protocol, negated in rule.protocols:
        if (_PROTOCOLS.get(protocol, protocol) in (packet.protocol, "all")) == negated:
            bang = "! " if negated else ""
            return _Tested(truth=False, reason=f"{bang}-p {protocol}: it is {packet.protocol}")
    for match in rule.matches:
        truth = holds(match, packet, native=native)
        if truth is None:
            truth = taken_for(match, assumed)
        if truth is False:
            return _Tested(truth=False, reason=_because(match, packet))
        if truth is None:
            doubts.append(match)
            reason = reason or _because(match, packet)
    if rule.unknown:
        return _Tested(None, f"{rule.unknown[0]}: not known")
    if doubts:
        return _Tested(None, reason, tuple(doubts))
    return _Tested(truth=True)


def _flip(mark: int | None, mask: int, value: int) -> int | None:
    """Return a mark after MARK --set-xmark."""
    if mark is None:
        return value if mask == 0xFFFFFFFF else None
    return mark & ~mask & 0xFFFFFFFF ^ value


def _remarked(at: _Position, packet: Packet, whose: str) -> tuple[_Position, str]:
    mark = packet.connmark if whose == "its connection's" else packet.mark
    return at.replace(packet=packet), f"{whose} mark is {mark_text(mark)} now"


def _zoned(at: _Position, target: t.CtZone) -> tuple[_Position, str]:
    # Tracking has begun, or another rule was first.
    if at.tracked or at.packet.zone:
        return at, "its zone is already set"
    packet = at.packet.replace(zone=target.zone)
    return at.replace(packet=packet), f"its connection is tracked in zone {target.zone}"


def _because(match: m.Match, packet: Packet) -> str:
    return f"{' '.join(match_words(match))}: {actual(match, packet)}"


def _assume(at: _Position, doubts: tuple[m.Match, ...], *, matched: bool) -> _Position:
    """Return the place with what a rule's matching, or not, says about the packet.

    Of several that are not known no single one need have failed.
    """
    if not matched and len(doubts) != 1:
        return at
    assumed = at.assumed
    for match in doubts:
        assumed = assume(assumed, match, holds=matched)
    return at.replace(assumed=assumed)


def _goes_to_loopback(packet: Packet) -> bool:
    return packet.destination is not None and is_loopback(packet.family, packet.destination)
