"""What it means for the pod's traffic that a planned rule does not work.

One table from the effect of a rule to the consequence. ``findings`` reads it for
rules that are missing, ``shadowing`` for rules that a rule of others hides.
"""

from __future__ import annotations

from istio_init.formats.iptables import match_negated, match_words
from istio_init.lean import TYPE_CHECKING, assert_never
from istio_init.rules import matches as m
from istio_init.rules.names import (
    INPUT,
    ISTIO_DIVERT,
    ISTIO_DROP,
    ISTIO_IN_REDIRECT,
    ISTIO_INBOUND,
    ISTIO_TPROXY,
    PREROUTING,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from istio_init.rules.model import Effect, Rule
    from istio_init.rules.ranges import Protocol

# Rules with one of these effects bring connections to the proxy or to the agent.
CAPTURES: frozenset[Effect] = frozenset(
    {
        "captures inbound",
        "captures outbound",
        "captures a virtual machine",
        "captures DNS",
        "self-call through the proxy",
    }
)
# Rules with one of these effects only keep packets from the rules behind them.
LETS_PASS: frozenset[Effect] = frozenset(
    {
        "the proxy's own traffic",
        "delivers to the application",
        "left alone",
        "admits answers",
        "ends the chain",
        "not known",
    }
)
# The chains that see packets on their way in; the others see those on their way out.
_INBOUND_CHAINS = frozenset(
    {PREROUTING, INPUT, ISTIO_INBOUND, ISTIO_IN_REDIRECT, ISTIO_DIVERT, ISTIO_TPROXY, ISTIO_DROP}
)


def consequence(rule: Rule, chain: str, protocol: Protocol | None = None) -> str:
    """Return what happens to the packets of a planned rule of ``chain`` without the rule.

    ``protocol`` is that of the packets where the rule itself asks for none.
    """
    match rule.reason.effect:
        case "captures inbound":
            return f"inbound TCP{_limits(rule)} does not reach the proxy"
        case "captures outbound":
            return f"outbound TCP{_limits(rule)} does not reach the proxy"
        case "captures a virtual machine":
            limits = _limits(rule, without=(m.InInterface,))
            return f"TCP from {rule.reason.value}{limits} does not reach the proxy"
        case "captures DNS":
            limits = _limits(rule, without=(m.Ports,))
            return f"DNS queries{_over(rule, protocol)}{limits} do not reach the agent"
        case "self-call through the proxy":
            owners = "".join(f" {_word(one)}" for one in rule.matches if isinstance(one, m.Owner))
            return f"calls{owners} to the pod's own address bypass the proxy"
        case "the proxy's own traffic":
            own = f"the proxy's own connections{_limits(rule)}"
            return f"{own} are redirected to the proxy again, in an endless loop"
        case "delivers to the application":
            return "connections that the proxy opens to the application come back to the proxy"
        case "left alone" if m.Proto("udp") in rule.matches:
            return f"{traffic(rule, chain)} is still redirected to the agent if it is DNS"
        case "left alone":
            return f"{traffic(rule, chain)} is still redirected to the proxy"
        case "finds the proxy's socket":
            return "packets of connections that the proxy holds do not reach its socket"
        case "carries marks":
            return "answers of captured connections do not find their way back to the proxy"
        case "keeps zones":
            return "DNS connections of the application and of the agent are not kept apart"
        case "drops invalid":
            return "invalid packets are not dropped: the kernel resets their connections"
        case "shuts IPv6":
            return "inbound IPv6 bypasses the proxy"
        case "admits answers":
            return "answers to the pod's own IPv6 connections are rejected"
        case "ends the chain":
            return "nothing changes: the end of the chain does the same"
        case "not known":
            return "what the rule is for is not known"
        case _:
            assert_never(rule.reason.effect)


def consequences(rules: Iterable[tuple[Rule, str]]) -> str:
    """Return what happens without several rules, each with its chain.

    What is not captured comes first, what is captured too much last.
    """
    ranked = sorted(
        rules,
        key=lambda one: (one[0].reason.effect not in CAPTURES, one[0].reason.effect in LETS_PASS),
    )
    return "; ".join(dict.fromkeys(consequence(rule, chain) for rule, chain in ranked))


def traffic(rule: Rule, chain: str) -> str:
    """Return the packets that a rule of a chain matches, in words."""
    protocols = [one for one in rule.matches if isinstance(one, m.Proto)]
    negated = any(one.negated for one in protocols)
    name = f" {protocols[0].name.upper()}" if protocols and not negated else ""
    limits = _words(rule, without=() if negated else (m.Proto,))
    way = direction(chain)
    everything = " to any port" if way == "inbound" else " to anything"
    return f"{way}{name}{limits or everything}"


def direction(chain: str) -> str:
    """Return whether the packets that a chain sees are inbound or outbound."""
    return "inbound" if chain in _INBOUND_CHAINS else "outbound"


def _limits(rule: Rule, without: tuple[type, ...] = ()) -> str:
    """Return which packets of its protocol a rule matches, ``""`` for all."""
    return _words(rule, without=(m.Proto, *without))


def _over(rule: Rule, protocol: Protocol | None) -> str:
    for match in rule.matches:
        if isinstance(match, m.Proto):
            protocol = match.name
    return f" over {protocol.upper()}" if protocol else ""


def _words(rule: Rule, *, without: tuple[type, ...]) -> str:
    return "".join(f" {_word(one)}" for one in rule.matches if not isinstance(one, without))


def _word(match: m.Match) -> str:
    bang = "not " if match_negated(match) else ""
    match match:
        case m.Source(network):
            return f"{bang}from {network}"
        case m.Destination(network):
            return f"{bang}to {network}"
        case m.InInterface(name):
            return f"{bang}by {name}"
        case m.OutInterface(name):
            return f"{bang}by {name}"
        case m.Ports(_, side, ports):
            return f"{bang}{'from' if side == 'sport' else 'to'} port {ports}"
        case m.MultiPorts(side, ports):
            listed = ", ".join(str(one) for one in ports)
            return f"{bang}{'from' if side == 'sport' else 'to'} ports {listed}"
        case m.Owner(kind, ids):
            return f"{bang}of {kind} {ids}"
        case m.Mark(value):
            return f"{bang}with mark {value:#x}"
        case _:
            return " ".join(match_words(match))
