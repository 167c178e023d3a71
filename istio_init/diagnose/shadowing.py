"""Rules of others that stand above ours and keep packets from them."""

from __future__ import annotations

from istio_init.formats.iptables import rule_line, tool
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import BUILTIN_CHAINS, ForeignRule, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from istio_init.rules.model import Chain, Ruleset, Table
    from istio_init.rules.ranges import Family, Protocol

    # What becomes of the packets that a rule or a chain sees: all of them go no
    # further, some or all come back, or the rule is none that decides.
    Outcome = Literal["ends", "returns", "goes on"]

_PROTOCOLS: tuple[Protocol, ...] = ("tcp", "udp")

# Targets after which the next rule is tried. Any other may end the chain.
GO_ON = frozenset(
    {
        *("AUDIT", "CHECKSUM", "CLASSIFY", "CONNMARK", "CONNSECMARK", "CT", "DSCP", "ECN"),
        *("HL", "HMARK", "IDLETIMER", "LED", "LOG", "MARK", "NFLOG", "NOTRACK", "RATEEST"),
        *("SECMARK", "SET", "TCPMSS", "TCPOPTSTRIP", "TEE", "TOS", "TRACE", "TTL", "ULOG"),
    }
)
# Matches that keep no packet out: those written for people, and the protocol's
# own when nothing follows its name.
_IDLE_MATCHES = frozenset({"comment", "tcp", "udp"})


class Shadow(Record):
    """A rule of others that stands above ours, and what ours do not do because of it.

    ``index`` counts the rules of the chain from 0.
    """

    family: Family
    table: str
    chain: str
    index: int
    rule: Rule | ForeignRule
    lost: str

    def __str__(self) -> str:
        line = rule_line(self.chain, self.rule, self.family)
        place = f"{tool(self.family)} -t {self.table}"
        return f"{place}: the rule {line} stands above ours: {self.lost}"


def shadowed(live: Ruleset, planned: Ruleset) -> tuple[Shadow, ...]:
    """Return each rule of others that takes from ours what ours are for.

    Such a rule stands before one of ours in a built-in chain, sees at least the
    same packets of a protocol, and none goes on behind it. One that sees only
    some of them, by port, address, interface or user, is taken for meant.
    ``live`` holds the rules as they stand after a run, ``planned`` ours.
    """
    return tuple(one for one in rules_above_ours(live, planned) if one.lost)


def rules_above_ours(live: Ruleset, planned: Ruleset) -> Iterator[Shadow]:
    """Yield each rule of others that stands above ours and may keep packets from them.

    Of those that see only some of the packets ``lost`` is empty.
    """
    for plan in planned.tables:
        table = live.table(plan.name)
        for chain in table.chains if table else ():
            ours = plan.chain(chain.name)
            if table and ours and chain.name in BUILTIN_CHAINS[table.name]:
                yield from _hiding(chain, ours, table, plan, live.family)


def _hiding(
    chain: Chain, ours: Chain, table: Table, plan: Table, family: Family
) -> Iterator[Shadow]:
    last = {rule: position for position, rule in enumerate(chain.rules)}
    # Those of the plan: a rule that was read does not say what it is for.
    planned = [(last[one], one) for one in ours.rules if isinstance(one, Rule) and one in last]
    lowest = max((position for position, _ in planned), default=0)
    known = frozenset(ours.rules)
    for position, rule in enumerate(chain.rules[:lowest]):
        if rule in known:
            continue
        after = [one for at, one in planned if at > position]
        lost = _lost(rule, after, chain, table, plan)
        if lost or (after and _decides(rule)):
            yield Shadow(family, table.name, chain.name, position, rule, lost)


def _decides(rule: Rule | ForeignRule) -> bool:
    """Whether a packet that matches a rule may go no further than its target."""
    if isinstance(rule, ForeignRule):
        words = _words(rule.spelled)
        targets = [words[at + 1] for at, word in enumerate(words[:-1]) if word in ("-j", "-g")]
        return bool(targets) and targets[-1] not in GO_ON
    match rule.target:
        case t.Jump(name):
            return name not in GO_ON
        case t.Return() | t.Accept() | t.Drop() | t.Reject() | t.Redirect() | t.Tproxy():
            return True
        case _:
            return False


def _lost(
    rule: Rule | ForeignRule, after: list[Rule], chain: Chain, table: Table, plan: Table
) -> str:
    """Return what a rule prevents, ``""`` for nothing."""
    taken = [one for one in _PROTOCOLS if _outcome(rule, one, table, ()) == "ends"]
    lost = [
        (hidden, protocol)
        for one in after
        for protocol, hidden in _carried(one, plan)
        if protocol in taken or _is_before_its_like(rule, one, protocol, table)
    ]
    if not lost:
        return ""
    # No start of a pod without such a rule of others pays for these texts.
    from istio_init.diagnose.effects import CAPTURES, LETS_PASS, consequence

    lost = [
        (hidden, protocol)
        for hidden, protocol in lost
        if hidden.reason.effect not in LETS_PASS
        and (hidden.reason.effect != "shuts IPv6" or _may_let_in(rule))
    ]
    lost.sort(key=lambda one: one[0].reason.effect not in CAPTURES)
    texts = (consequence(hidden, chain.name, protocol) for hidden, protocol in lost)
    return "; ".join(dict.fromkeys(texts))


def _may_let_in(rule: Rule | ForeignRule) -> bool:
    """Whether a packet that a rule takes may come in."""
    return not isinstance(rule, Rule) or isinstance(rule.target, t.Accept | t.Return | t.Jump)


def _is_before_its_like(
    rule: Rule | ForeignRule, ours: Rule, protocol: Protocol, table: Table
) -> bool:
    """Whether a rule asks for nothing that ours does not ask for too, and lets nothing on."""
    return (
        isinstance(rule, Rule)
        and set(rule.matches) <= set(ours.matches)
        and _verdict(rule, protocol, table, ()) == "ends"
    )


def _carried(rule: Rule, plan: Table) -> Iterator[tuple[Protocol, Rule]]:
    """Yield the protocols for which a rule of ours is there, each with the rule that says why.

    Most rules are for TCP. Zones are for UDP, and so is a jump to a chain in which
    DNS queries are captured.
    """
    for match in rule.matches:
        if isinstance(match, m.Proto):
            yield match.name, rule
            return
    if rule.reason.effect == "keeps zones":
        yield "udp", rule
        return
    yield "tcp", rule
    behind = plan.chain(rule.target.chain) if isinstance(rule.target, t.Jump) else None
    for one in behind.rules if behind else ():
        if isinstance(one, Rule) and one.reason.effect == "captures DNS":
            yield "udp", one
            return


def _outcome(
    rule: Rule | ForeignRule, protocol: Protocol, table: Table, inside: tuple[str, ...]
) -> Outcome:
    """Return what a rule does to all packets of a protocol; ``goes on`` if not to all."""
    if isinstance(rule, ForeignRule):
        return _foreign_outcome(rule, protocol, table, inside)
    if all(_keeps_nothing_out(match, protocol) for match in rule.matches):
        return _verdict(rule, protocol, table, inside)
    return "goes on"


def _keeps_nothing_out(match: m.Match, protocol: Protocol) -> bool:
    return isinstance(match, m.Proto) and (match.name == protocol) != match.negated


def _verdict(rule: Rule, protocol: Protocol, table: Table, inside: tuple[str, ...]) -> Outcome:
    """Return what becomes of the packets that a rule matches."""
    match rule.target:
        case t.Jump(name) if table.chain(name):
            return _chain_outcome(name, protocol, table, inside)
        case t.Jump(name):
            # A target without options of its own.
            return "goes on" if name in GO_ON else "ends"
        case t.Return():
            return "returns" if inside else "ends"
        case t.Accept() | t.Drop() | t.Reject() | t.Redirect() | t.Tproxy():
            return "ends"
        case _:
            return "goes on"


def _chain_outcome(name: str, protocol: Protocol, table: Table, inside: tuple[str, ...]) -> Outcome:
    chain = table.chain(name)
    # The kernel knows no loops; a set of rules made by hand may.
    if chain is None or name in inside:
        return "goes on"
    for rule in chain.rules:
        outcome = _outcome(rule, protocol, table, (*inside, name))
        if outcome != "goes on":
            # What comes back from a chain goes on behind the jump to it.
            return "ends" if outcome == "ends" else "goes on"
        if _may_return(rule, protocol):
            return "goes on"
    return "goes on"


def _may_return(rule: Rule | ForeignRule, protocol: Protocol) -> bool:
    if isinstance(rule, ForeignRule):
        return rule.spelled.endswith("-j RETURN")
    protocols = [match for match in rule.matches if isinstance(match, m.Proto)]
    return isinstance(rule.target, t.Return) and all(
        _keeps_nothing_out(one, protocol) for one in protocols
    )


def _foreign_outcome(
    rule: ForeignRule, protocol: Protocol, table: Table, inside: tuple[str, ...]
) -> Outcome:
    words = _words(rule.spelled)
    verb = target = ""
    for position, word in enumerate(words[:-1]):
        if word in ("-j", "-g"):
            verb, target = words[position : position + 2]
            words = words[:position]
            break
    if not verb or not _all_pass(words, protocol):
        return "goes on"
    if target == "RETURN":
        return "returns" if inside else "ends"
    if verb == "-j" and table.chain(target):
        return _chain_outcome(target, protocol, table, inside)
    # What went to a chain for good (-g) does not come back to where it was.
    return "goes on" if target in GO_ON else "ends"


def _all_pass(words: list[str], protocol: Protocol) -> bool:
    """Whether the matches of a rule keep no packet of a protocol out."""
    left = iter(words)
    for word in left:
        negated = word == "!"
        option = next(left, "") if negated else word
        value = next(left, "")
        if option == "-p":
            passes = (value in (protocol, "all")) != negated
        elif option == "--comment":
            passes = True
        else:
            passes = option == "-m" and value in _IDLE_MATCHES and not negated
        if not passes:
            return False
    return True


def _words(text: str) -> list[str]:
    if '"' not in text and "\\" not in text:
        return text.split()
    import shlex

    return shlex.split(text)
