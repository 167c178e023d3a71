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
)
from istio_init.rules.names import LOOPBACK_IPV6, MANGLE, NAT, OWN_CHAINS, RAW
from istio_init.rules.ranges import IPV4
from istio_init.rules.sets import canonical, expand, group_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
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
# Of each packet, where many are followed.
_FEWER_WAYS = 500
# Chains that one packet enters: those that change marks can lead it about for ever.
_MOST_ENTERED = 12_000
# What it costs to get on, beside that of trying a rule.
_STEP = 10


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
    the packet as it is at the end. Where it is not ``whole`` the packet was not
    followed to its end.
    """

    packet: Packet
    steps: tuple[TraceStep, ...]
    outcome: Verdict
    depends: tuple[Dependence, ...]
    end: Packet
    whole: bool = True

    @property
    def certain(self) -> bool:
        """Whether nothing unknown could change the outcome."""
        return not self.depends and self.outcome.fate != "unknown"


def trace(rulesets: tuple[Rules, ...], packet: Packet, routes: Routes) -> Trace:
    """Return the way of a packet through the rules of its family.

    ``rulesets`` are in the order in which the kernel asks backends.
    """
    return Tracer(rulesets, routes).trace(packet)


def trace_in_any_order(rulesets: tuple[Rules, ...], packet: Packet, routes: Routes) -> Trace:
    """Return the way of a packet where it is not known which backend the kernel asks first.

    At equal priority that is the one whose hook was registered last, which nothing
    tells afterwards. The trace is that of the order of ``rulesets``; what happens in
    another order is in ``depends``, if it is something else.

    Source: linux/net/netfilter/core.c, nf_hook_entries_grow.
    """
    first, *others = (trace(one, packet, routes) for one in orders(rulesets))
    differs: dict[str, set[Verdict]] = {}
    for other in others:
        if other.outcome != first.outcome:
            captures = [step.backend for step in other.steps if step.did == "captured"]
            backend = (captures or [step.backend for step in other.steps if step.backend])[-1]
            differs.setdefault(backend, set()).add(other.outcome)
    depends = tuple(
        Dependence(_asked_first(packet, backend), _sorted(outcomes))
        for backend, outcomes in differs.items()
    )
    return first.replace(depends=(*first.depends, *depends))


def _asked_first(packet: Packet, backend: str) -> TraceStep:
    reason = f"the kernel asks backend {backend} first"
    return TraceStep(packet.hook, backend, "", "", "unknown", reason=reason)


def _sorted(outcomes: Iterable[Verdict]) -> tuple[Verdict, ...]:
    return tuple(sorted(outcomes, key=lambda one: (one.fate, one.port)))


class UnreadChain(Record):
    """A chain of nf_tables that may translate packets, whose rules are not looked into.

    ``first`` says that it is asked before the nat tables that are, or may be.
    """

    hook: Hook
    table: str
    chain: str
    first: bool


def with_unread(way: Trace, chains: Iterable[UnreadChain]) -> Trace:
    """Return a trace that depends on what chains do that are not looked into."""
    depends = []
    captured = way.outcome.fate == "redirected"
    for one in chains:
        nat = way.packet.state in ("NEW", "RELATED") and one.hook == way.packet.hook
        if nat and (one.first or not captured):
            reason = f"the chain {one.chain} of the table {one.table}, which is not read, takes it"
            step = TraceStep(one.hook, "", "", one.chain, "unknown", reason=reason)
            depends.append(Dependence(step, (Verdict("unknown"),)))
    return way.replace(depends=(*way.depends, *depends))


def orders(rulesets: tuple[Rules, ...]) -> tuple[tuple[Rules, ...], ...]:
    """Return rules in each order in which the kernel may ask their backends.

    The given one is the first.
    """
    if len(rulesets) < 2:
        return (rulesets,)
    return tuple(
        (one, *rest)
        for position, one in enumerate(rulesets)
        for rest in orders((*rulesets[:position], *rulesets[position + 1 :]))
    )


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


class _Frame:
    """A chain that a packet is in, with the rule that comes next, and the chain it comes back to.

    A tracer makes one frame alone for the same values: frames that are equal are the
    same, and however deep chains are, comparing them costs nothing.
    """

    __slots__ = ("below", "chain", "depth", "number")

    def __init__(self, chain: Chain, number: int, below: _Frame | None) -> None:
        self.chain = chain
        self.number = number
        self.below = below
        self.depth: int = below.depth + 1 if below else 1


class _Position(Record):
    """Where a packet is, and what has been decided about it.

    ``stage`` counts the tables of the hook, ``frame`` is the chain it is in, None
    between two tables. ``tracked`` says that
    connection tracking has seen it, ``to`` and ``since`` that nat has settled its
    destination and source. ``assumed`` holds what is taken for true or false.
    """

    packet: Packet
    hook: Hook
    stage: int = 0
    frame: _Frame | None = None
    tracked: bool = False
    to: bool = False
    since: bool = False
    captured: Verdict | None = None
    delivered: bool = False
    assumed: Assumed = NOTHING


Way = _Position | Verdict


class _Stage(Record):
    """One table of a hook, and its chains by their names."""

    backend: str
    table: str
    chains: dict[str, Chain]


class _Tested(Record):
    """Whether a rule matches; ``doubts`` are the matches for which it is not known."""

    truth: Truth
    reason: str = ""
    doubts: tuple[m.Match, ...] = ()


_FAILED = _Tested(truth=False)


class Tracer:
    """Follows packets through rules; every way that one may take has a place of its own.

    Where ``brief`` the traces have no steps that did not match, and what depends on
    something is looked for in fewer places: for many packets. ``work`` is what all of
    it cost, with a rule that was tried as its unit.
    """

    def __init__(
        self,
        rulesets: tuple[Rules, ...],
        routes: Routes,
        *,
        brief: bool = False,
        known: dict[int, tuple[Rule | ForeignRule, Parts]] | None = None,
    ) -> None:
        self._brief = brief
        self._routes = routes
        self._stages = {hook: tuple(_stages(hook, rulesets)) for hook in _HOOKS}
        # What was understood of each rule, which tracers of the same rules may share.
        self._known = {} if known is None else known
        self._left = 0
        self.work = 0
        self._frames: dict[tuple[int, int, int], _Frame] = {}

    def trace(self, packet: Packet) -> Trace:
        """Return the way of a packet."""
        self._begun = packet
        self._left = _FEWER_WAYS if self._brief else _MOST_WAYS
        self._frames.clear()
        steps: list[TraceStep] = []
        doubts: list[tuple[TraceStep, Way]] = []
        memory = _Memory()
        here: _Position | Verdict = _Position(packet, packet.hook)
        last = packet
        while not isinstance(here, Verdict):
            last = here.packet
            if memory.entered > _MOST_ENTERED:
                steps.append(self._given_up(here))
                return Trace(packet, tuple(steps), Verdict("unknown"), (), last, whole=False)
            step, ways = self.advance(here)
            if step is not None:
                steps.append(step)
                # What else could have happened; an outcome at once is known at once.
                doubts += [(step, way) for way in ways[1:]]
            here = memory.shortened(here, ways[0])
        depends = [
            Dependence(step, _sorted(others))
            for step, way in doubts
            if (others := self.outcomes(way) - {here})
        ]
        return Trace(packet, tuple(steps), here, tuple(depends), last)

    def _given_up(self, at: _Position) -> TraceStep:
        stage = self._stages[at.hook][at.stage]
        text = "the ways through its chains are too many: not followed further"
        return TraceStep(at.hook, stage.backend, stage.table, at.hook, "unknown", reason=text)

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
        self.work += _STEP
        stages = self._stages[at.hook]
        if at.stage == len(stages):
            return self._leave(at)
        stage = stages[at.stage]
        if at.frame is None:
            return self._enter(at, stage)
        if at.frame.number >= len(at.frame.chain.rules):
            return self._end(at, stage, at.frame)
        return self._try(at, stage, at.frame)

    def _frame(self, chain: Chain, number: int, below: _Frame | None) -> _Frame:
        key = id(chain), number, id(below)
        found = self._frames.get(key)
        if found is None:
            found = self._frames[key] = _Frame(chain, number, below)
        return found

    def _enter(self, at: _Position, stage: _Stage) -> tuple[TraceStep | None, tuple[Way, ...]]:
        chain = stage.chains.get(at.hook)
        if chain is None or (not chain.rules and chain.policy in (None, "ACCEPT")):
            return None, (_past(at),)
        sees_it = stage.table != NAT or _nat_sees(at)
        step = TraceStep(at.hook, stage.backend, stage.table, at.hook, "entered")
        if not sees_it:
            return step.replace(tried="passed over", reason=_why_unseen(at)), (_past(at),)
        return step, (at.replace(frame=self._frame(chain, 0, None)),)

    def _end(
        self, at: _Position, stage: _Stage, frame: _Frame
    ) -> tuple[TraceStep | None, tuple[Way, ...]]:
        if frame.below is not None:
            name = frame.chain.name
            step = TraceStep(at.hook, stage.backend, stage.table, name, "ended", did="let go")
            return step, (at.replace(frame=frame.below),)
        return self._by_policy(at, stage)

    def _by_policy(self, at: _Position, stage: _Stage) -> tuple[TraceStep, tuple[Way, ...]]:
        policy = stage.chains[at.hook].policy
        step = TraceStep(at.hook, stage.backend, stage.table, at.hook, "policy")
        if policy == "DROP":
            return step.replace(reason="the policy is DROP"), (Verdict("dropped"),)
        return step, (_past(at),)

    def _try(
        self, at: _Position, stage: _Stage, frame: _Frame
    ) -> tuple[TraceStep | None, tuple[Way, ...]]:
        native = stage.backend == NATIVE
        seen = _as_seen(at, stage.table)
        number = frame.number
        rules = frame.chain.rules
        while True:
            rule = rules[number]
            understood = self._parts(rule, seen.family)
            tested = _tested(understood, seen, at.assumed, native=native, brief=self._brief)
            number += 1
            if not self._brief or tested.truth is not False or number == len(rules):
                break
        self.work += number - frame.number
        below = at.replace(frame=self._frame(frame.chain, number, frame.below))
        if tested.truth is False and self._brief:
            return None, (below,)
        name = frame.chain.name
        step = TraceStep(at.hook, stage.backend, stage.table, name, "no", number, rule)
        if tested.truth is False:
            return step.replace(reason=tested.reason), (below,)
        if tested.truth is True:
            way, effect = self._effect(below, stage, understood)
            return step.replace(tried="yes", reason=effect, did=_did(below, way)), (way,)
        without = _assume(below, tested.doubts, matched=False)
        matched = _assume(below, tested.doubts, matched=True)
        way, _ = self._effect(matched, stage, understood)
        return step.replace(tried="unknown", reason=tested.reason), (without, way)

    def _parts(self, rule: Rule | ForeignRule, family: Family) -> Parts:
        found = self._known.get(id(rule))
        if found is None:
            # With the rule itself, so that nothing else gets its identity.
            found = self._known[id(rule)] = rule, _parts(rule, family)
        return found[1]

    def _effect(self, at: _Position, stage: _Stage, rule: Parts) -> tuple[Way, str]:
        """Return where a rule that matches leads, and what it does to the packet."""
        chain = stage.chains.get(rule.name)
        if chain is not None:
            return self._jump(at, stage, chain, for_good=rule.verb == "-g"), ""
        if rule.target is None or isinstance(rule.target, t.Jump):
            return self._of_others(at, rule)
        return self._target(at, stage, rule.target)

    def _jump(self, at: _Position, stage: _Stage, chain: Chain, *, for_good: bool) -> Way:
        below = _in_frame(at)
        if below.depth > len(stage.chains):
            # The kernel has no loops; rules that were made up may.
            return Verdict("unknown")
        if for_good:
            # What went there for good (-g) comes back to where this chain would.
            ends = self._frame(below.chain, len(below.chain.rules), None)
            below = below.below or ends
        return at.replace(frame=self._frame(chain, 0, below))

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
                if _in_frame(at).below is not None:
                    return at.replace(frame=_in_frame(at).below), ""
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
                start = self._begun
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
        to_self = self._begun.oif == LO and not self._leads(self._begun)
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


class _Memory:
    """What came of each chain, for a packet that comes to it again as it was.

    Chains that jump twice to the next one are walked once each.
    """

    def __init__(self) -> None:
        self._within: list[tuple[int, _Position]] = []
        self._returned: dict[tuple[int, _Position], _Position] = {}
        self._gone: set[_Position] = set()
        self.entered = 0

    def shortened(self, before: _Position, after: Way) -> Way:
        """Return where a step leads, with a chain whose end is known already left again."""
        if isinstance(after, Verdict) or before.frame is None or after.frame is None:
            self._within.clear()
            return after
        change = after.frame.depth - before.frame.depth
        if change > 0:
            start = id(after.frame.chain), after.replace(frame=None)
            if start in self._returned:
                return self._returned[start].replace(frame=after.frame.below)
            self._within.append(start)
            self.entered += 1
        elif change < 0:
            self._returned[self._within.pop()] = after.replace(frame=None)
        elif after.frame.chain is not before.frame.chain or not after.frame.number:
            # Those who went for good can go round for ever, where rules were made up.
            if after in self._gone:
                return Verdict("unknown")
            self._gone.add(after)
        return after


def _stages(hook: Hook, rulesets: tuple[Rules, ...]) -> Iterator[_Stage]:
    for name in _HOOKS[hook]:
        for rules in rulesets:
            table = rules.ruleset.table(name)
            if table is not None and hook in BUILTIN_CHAINS[name]:
                yield _Stage(rules.backend, name, {chain.name: chain for chain in table.chains})


def _in_frame(at: _Position) -> _Frame:
    if at.frame is None:
        raise AssertionError("a rule is tried within a chain")
    return at.frame


def _past(at: _Position) -> _Position:
    """Return the place behind a table."""
    return at.replace(stage=at.stage + 1, frame=None)


def _did(before: _Position, after: Way) -> Did:
    """Return what a rule that matched did for the way of the packet."""
    if isinstance(after, Verdict):
        return "stopped"
    if after.captured != before.captured:
        return "captured"
    left = after.frame is None or after.frame.depth < _in_frame(before).depth
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


def _tested(rule: Parts, packet: Packet, assumed: Assumed, *, native: bool, brief: bool) -> _Tested:
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
            return _FAILED if brief else _Tested(truth=False, reason=_because(match, packet))
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
