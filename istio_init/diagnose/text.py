"""The way of one packet, for people and as a JSON document, version 1.

    {
      "version": 1,
      "against": "plan" or "live",
      "layout": "1.30",                 null against live rules
      "packet": {"family": "ipv4", "hook": "OUTPUT", "protocol": "tcp", ...},
      "steps": [STEP, ...],
      "verdict": {"fate": "redirected", "port": 15001, "certain": true, "text": "...",
                  "decided_by": [STEP, ...], "depends_on": [DEPENDENCE, ...]},
      "notes": ["...", ...]
    }

STEP is ``{"hook", "backend", "table", "chain", "tried", "number", "rule", "reason",
"why", "flag", "annotation"}``: ``rule`` is what ``iptables -S`` prints, ``number``
counts the rules of a chain from 1, and ``tried`` is one of entered, yes, no,
unknown, ended, policy, passed over. DEPENDENCE is a STEP with ``outcomes``, what
may happen if its rule matches. Keys are added within a version; none changes
its meaning or goes away.
"""

from __future__ import annotations

import json

from istio_init.diagnose.packet import Packet, address
from istio_init.diagnose.trace import Trace, TraceStep, Verdict, decisions
from istio_init.formats.iptables import rule_words, target_words
from istio_init.lean import TYPE_CHECKING, assert_never
from istio_init.rules import targets as t
from istio_init.rules.model import LAYOUT, ForeignRule, Rule, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any, Literal

    from istio_init.rules.model import Effect, Reason
    from istio_init.rules.ranges import Family

    # What a piece of a line is, for whoever gives it a colour.
    Style = Literal["", "head", "yes", "no", "unknown", "faint", "good", "warn"]
    StyledLine = tuple[tuple[str, Style], ...]

VERSION = 1

_WIDEST = 72

_SIGNS: dict[str, tuple[str, Style]] = {
    "yes": ("yes", "yes"),
    "no": ("no", "no"),
    "unknown": ("?", "unknown"),
}
# The effects of rules whose flags list what is captured.
_LISTS: tuple[Effect, ...] = ("captures inbound", "captures outbound")


def lines(
    trace: Trace,
    annotations: Mapping[str, str],
    *,
    layout: str = "",
    notes: tuple[str, ...] = (),
) -> Iterator[StyledLine]:
    """Yield what a person reads: the packet, each chain and rule, and the verdict.

    ``annotations`` has the pod annotation of each flag that one feeds. ``layout``
    is that of the plan, ``""`` for live rules.
    """
    family = trace.packet.family
    against = f"the plan of layout {layout}" if layout else "the live rules"
    yield ((f"{described(trace.packet)}, against {against}", ""),)
    widths = [len(_spelled(step, family)) for step in trace.steps if step.rule]
    # One long rule does not push every reason off the screen.
    width = max((one for one in widths if one <= _WIDEST), default=0)
    place = None
    for step in trace.steps:
        if step.tried == "ended" or (step.tried == "policy" and not step.reason):
            continue
        if place != (step.hook, step.backend, step.table, step.chain):
            place = (step.hook, step.backend, step.table, step.chain)
            yield ()
            yield ((_place(step), "head"),)
        if step.rule is not None:
            yield _tried(step, family, width)
        elif step.reason:
            yield ((f"  {step.reason}", "faint"),)
    yield ()
    yield ((sentence(trace, annotations), "good" if trace.certain else "warn"),)
    for depends in trace.depends:
        yield ((f"  unless {_unless(depends.step, depends.outcomes)}", "unknown"),)
    for note in notes:
        yield ((f"note: {note}", "faint"),)


def described(packet: Packet) -> str:
    """Return a packet in one line."""
    way = [packet.protocol]
    if packet.source is not None:
        way += ["from", _end(packet.family, packet.source, packet.sport)]
    way += ["to", _end(packet.family, packet.destination, packet.dport)]
    words = [" ".join(way)]
    if packet.hook == "OUTPUT":
        words.append(f"out by {packet.oif or 'an interface that is not known'}")
        for what, owner in (("user", packet.uid), ("group", packet.gid)):
            words.append(f"{what} {'not known' if owner is None else owner}")
    else:
        words.append(f"in by {packet.iif or 'an interface that is not known'}")
    if packet.mark:
        words.append(f"mark {packet.mark:#x}")
    if packet.connmark:
        words.append(f"connection's mark {packet.connmark:#x}")
    return ", ".join((*words, packet.state))


def _end(family: Family, packed: bytes | None, port: int | None) -> str:
    if packed is None:
        # Only what comes in may go without: it goes to the pod itself.
        return "the pod" if port is None else f"the pod's port {port}"
    text = address(family, packed)
    if port is None:
        return text
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"


def _place(step: TraceStep) -> str:
    if step.tried == "comes in":
        return "in again by lo"
    place = f"{step.table} {step.chain}"
    if step.chain != step.hook:
        place += f" (in {step.hook})"
    return f"{place}, backend {step.backend}" if step.backend else place


def _tried(step: TraceStep, family: Family, width: int) -> StyledLine:
    sign, style = _SIGNS[step.tried]
    reason = step.reason
    if step.tried == "yes":
        reason = "; ".join(part for part in (_effect(step.rule), step.reason) if part)
    spelled = _spelled(step, family)
    line = f"  {sign:<4}{step.number:>3}  ", style
    if not reason:
        return line, (spelled, style if style == "no" else "")
    return line, (f"{spelled:<{width}}  ", style if style == "no" else ""), (reason, "faint")


def _effect(rule: Rule | ForeignRule | None) -> str:
    """Return what a planned rule does and by which flag, ``""`` of any other."""
    reason = reason_of(rule)
    return f"{reason.effect} ({_flag(reason)})" if reason.flag else ""


def _flag(reason: Reason) -> str:
    """Return the flag of a rule and the value that the rule comes from, as a user writes them."""
    value = "'*'" if reason.value == "*" else str(reason.value)
    return f"{reason.flag} {value}" if value else reason.flag


def _spelled(step: TraceStep, family: Family) -> str:
    if step.rule is None:
        return ""
    return " ".join(("-A", step.chain, *rule_words(step.rule, family)))


def sentence(trace: Trace, annotations: Mapping[str, str]) -> str:
    """Return the verdict in words."""
    causes = decisions(trace)
    text = outcome_words(trace.outcome)
    if any(one.step.rule is None for one in trace.depends):
        # Whoever reads no more than this line has to see that it is not the last word.
        text = f"not certain: {text}"
    match trace.outcome.fate:
        case "redirected" | "tproxy":
            *ways, capture = causes
            text = f"{text} by {capture.chain}, {_kept(trace)}"
            reasons = "; ".join(_cause(step, trace, annotations) for step in ways)
            return f"{text}: {reasons}" if reasons else text
        case "untouched":
            if not causes:
                return f"{text}: no rule looks at it"
            return f"{text}: " + "; then ".join(_cause(step, trace, annotations) for step in causes)
        case "marked":
            return f"{text} {trace.end.mark:#x}, whatever its destination"
        case "follows":
            return f"{text}; explain that one with --state NEW"
        case "dropped" | "rejected" | "unknown":
            return f"{text}: " + "".join(_cause(step, trace, annotations) for step in causes)
        case _:
            assert_never(trace.outcome.fate)


def _kept(trace: Trace) -> str:
    """Return what the proxy can still learn of where a packet was going."""
    if trace.outcome.fate == "redirected":
        return "original destination kept"
    if trace.end.dport != trace.packet.dport:
        # A REDIRECT behind TPROXY: the socket gets the packet, the destination is lost.
        return f"but with its destination port changed to {trace.end.dport}"
    return "source and destination unchanged"


def outcome_words(outcome: Verdict) -> str:
    """Return what becomes of a packet, in a few words."""
    match outcome.fate:
        case "redirected":
            return f"redirected to {outcome.port}"
        case "tproxy":
            return f"handed to {outcome.port}"
        case "untouched":
            return "left untouched"
        case "marked":
            return "delivered to a local socket by its mark"
        case "follows":
            return "goes where the first packet of its connection went"
        case "dropped" | "rejected":
            return outcome.fate
        case "unknown":
            return "not known"
        case _:
            assert_never(outcome.fate)


def _cause(step: TraceStep, trace: Trace, annotations: Mapping[str, str]) -> str:
    family = trace.packet.family
    if step.tried == "ended":
        return _ended(step, trace, annotations)
    if step.rule is None:
        return f"{step.reason or step.tried} in {step.table} {step.chain}"
    if isinstance(step.rule, ForeignRule):
        reason = f" ({step.reason})" if step.reason else ""
        return f"{_spelled(step, family)}, rule {step.number}{reason}"
    verb = target_words(step.rule.target, family)[1]
    place = f"{step.chain} rule {step.number}"
    text = place if isinstance(step.rule.target, t.Jump) else f"{verb} in {place}"
    stopped = f" ({step.reason})" if step.did == "stopped" and step.reason else ""
    return text + stopped + _because(step.rule, annotations)


def _because(rule: Rule, annotations: Mapping[str, str]) -> str:
    reason = rule.reason
    if reason.flag == LAYOUT:
        # No other flag takes such a rule away.
        return f" ({reason.text})"
    if not reason.flag:
        return ""
    return f", because of {_flag(reason)}{_annotated(reason.flag, annotations)}"


def _annotated(flag: str, annotations: Mapping[str, str]) -> str:
    annotation = annotations.get(flag, "")
    return f" (pod annotation {annotation})" if annotation else ""


def _ended(step: TraceStep, trace: Trace, annotations: Mapping[str, str]) -> str:
    """Return that a chain let go of the packet, and which flags might have captured it."""
    flags = {
        one.rule.reason.flag: None
        for one in trace.steps
        if one.tried == "no"
        and (one.hook, one.table, one.chain) == (step.hook, step.table, step.chain)
        and isinstance(one.rule, Rule)
        and one.rule.reason.effect in _LISTS
    }
    text = f"no rule of {step.chain} takes it"
    if not flags:
        return text
    names = " and ".join(f"{flag}{_annotated(flag, annotations)}" for flag in flags)
    return f"{text}, because {names} {'do' if len(flags) > 1 else 'does'} not name it"


def _unless(step: TraceStep, outcomes: tuple[Verdict, ...]) -> str:
    what = " or ".join(outcome_words(one) for one in outcomes)
    if step.rule is None:
        return f"{step.reason}: then {what}"
    return f"{step.chain} rule {step.number} matches ({step.reason}): then {what}"


def document(
    trace: Trace, annotations: Mapping[str, str], *, layout: str = "", notes: tuple[str, ...] = ()
) -> str:
    """Return the document, indented, with a newline at the end; see ``lines``."""
    packet = trace.packet
    family = packet.family
    depends = [
        {
            **_step(one.step, family, annotations),
            "outcomes": [
                {"fate": outcome.fate, "port": outcome.port or None} for outcome in one.outcomes
            ],
        }
        for one in trace.depends
    ]
    whole: dict[str, Any] = {
        "version": VERSION,
        "against": "plan" if layout else "live",
        "layout": layout or None,
        "packet": {
            "family": family,
            "hook": packet.hook,
            "protocol": packet.protocol,
            "source": packet.source and address(family, packet.source),
            "source_port": packet.sport,
            "destination": packet.destination and address(family, packet.destination),
            "destination_port": packet.dport,
            "in": packet.iif,
            "out": packet.oif,
            "uid": packet.uid,
            "gid": packet.gid,
            "mark": packet.mark,
            "connection_mark": packet.connmark,
            "state": packet.state,
        },
        "steps": [_step(step, family, annotations) for step in trace.steps],
        "verdict": {
            "fate": trace.outcome.fate,
            "port": trace.outcome.port or None,
            "certain": trace.certain,
            "text": sentence(trace, annotations),
            "decided_by": [_step(step, family, annotations) for step in decisions(trace)],
            "depends_on": depends,
        },
        "notes": list(notes),
    }
    return json.dumps(whole, indent=2) + "\n"


def _step(step: TraceStep, family: Family, annotations: Mapping[str, str]) -> dict[str, Any]:
    reason = reason_of(step.rule)
    return {
        "hook": step.hook,
        "backend": step.backend,
        "table": step.table,
        "chain": step.chain,
        "tried": step.tried,
        "number": step.number,
        "rule": _spelled(step, family),
        "reason": step.reason,
        "why": reason.text,
        "flag": reason.flag,
        "annotation": annotations.get(reason.flag, ""),
    }
