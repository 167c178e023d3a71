"""The command ``explain``: one packet through the rules of a plan, or of the kernel."""

from __future__ import annotations

import os
import sys
from _socket import if_indextoname

from istio_init.cli import packet, prepare, terminal
from istio_init.cli.packet import USUAL_INTERFACE
from istio_init.config.model import LAYOUT_1_30
from istio_init.config.options import ANNOTATIONS
from istio_init.config.resolve import asks_for_rules
from istio_init.diagnose import text, trace
from istio_init.diagnose.packet import LO, Packet
from istio_init.diagnose.trace import Routes, Rules
from istio_init.errors import IstioInitError, Problem
from istio_init.kernel import host
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.log import Log
from istio_init.rules.ranges import IPV6, Network

if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.cli.packet import Asked, Direction
    from istio_init.config.resolve import Resolved


class _Found(Record):
    """The rules that a packet meets, how it is routed, and what has to be said of them.

    ``layout`` is that of a plan, ``""`` for live rules.
    """

    rules: tuple[Rules, ...]
    packet: Packet
    routes: Routes
    layout: str
    notes: tuple[str, ...] = ()


def run(
    command: str,
    direction: Direction,
    texts: Mapping[str, str],
    flags: dict[str, str],
    *,
    live: bool,
) -> int:
    """Explain a packet; return the exit code.

    ``texts`` are the flags of the packet, ``flags`` those of apply, both by their
    long names. ``command`` is the way in whose layout is the default.
    """
    log = Log()
    try:
        form = flags.pop("format", packet.FORMATS[0])
        asked, problems = packet.read(direction, texts, host.HostFiles())
        if form not in packet.FORMATS:
            problems += (Problem("--format", form, " or ".join(packet.FORMATS)),)
        resolved = prepare.resolve_call(command, flags, problems)
        log = prepare.open_log(resolved)
        if live:
            found = _live(resolved, asked, said=asks_for_rules(flags, os.environ))
        else:
            found = _planned(resolved, asked, log)
        _write(found, as_json=form == "json")
    except IstioInitError as error:
        log.error(*error.lines)
        return error.exit_code
    return 0


def _planned(resolved: Resolved, asked: Asked, log: Log) -> _Found:
    config = resolved.config
    prepare.enter_for_addresses(resolved)
    plan = prepare.make_plan(config, log)
    family = asked.packet.family
    rules = Rules(plan.ruleset(family))
    notes: tuple[str, ...] = ()
    if family == IPV6 and not rules.ruleset.tables and config.layout == LAYOUT_1_30:
        notes = ("IPv6 is left alone in this plan; --ipv6 captures it",)
    marked = tuple(route for route in plan.routes if route.family == family)
    sent = asked.packet
    if not asked.via and sent.oif and any(route.mark == sent.mark for route in marked):
        sent = sent.replace(oif=LO)
    routes = Routes(marked, _away(sent))
    return _Found((rules,), sent, routes, config.layout, notes)


def _away(sent: Packet) -> str | None:
    """Return the interface by which packets leave that nothing leads anywhere else."""
    return sent.oif if sent.oif not in ("", LO) else USUAL_INTERFACE


def _live(resolved: Resolved, asked: Asked, *, said: bool) -> _Found:
    """Return the live rules with the reasons of the flags, ``said`` or recognised in them."""
    from istio_init.apply import routes
    from istio_init.kernel import rtnetlink
    from istio_init.operate import live
    from istio_init.rules import ownership

    prepare.enter_namespace(resolved.run)
    sent = asked.packet
    found = live.read(sent.family)
    marks = ownership.traces(tuple(one.ruleset for one in found.rules)).marks
    marked = tuple(route for route in routes.led_locally(marks) if route.family == sent.family)
    notes = found.notes
    local = True
    away = _away(sent)
    if sent.destination is not None and not (asked.via and sent.oif):
        to = Network(sent.family, sent.destination, len(sent.destination) * 8)
        try:
            way = rtnetlink.way_to(to, sent.mark or 0, sent.uid)
            interface = if_indextoname(way.interface)
        except OSError as error:
            notes += (f"there is no route to {to.address} from here: {error.strerror}",)
        else:
            if sent.oif:
                sent = sent.replace(oif=interface, source=sent.source or way.source)
                away = _away(sent)
            else:
                local, away = way.local, interface
    # What stands there and would be planned too is there for the reason it would be planned.
    plan = prepare.make_plan((resolved if said else _recognised(resolved)).config)
    rules = tuple(trace.explained(one, plan) for one in found.rules)
    if not rules:
        notes += ("there are no rules in this namespace",)
    return _Found(rules, sent, Routes(marked, away, local=local), "", notes)


def _recognised(resolved: Resolved) -> Resolved:
    """Return what the live rules look as if it had been asked for."""
    from istio_init.operate import audit

    try:
        state = audit.look(resolved.run)
        config = audit.recognise(state) if state.installed else None
    except IstioInitError:
        # What cannot be looked at was noted where the rules were read.
        config = None
    return resolved.replace(config=config) if config else resolved


def _write(found: _Found, *, as_json: bool) -> None:
    way = trace.trace(found.rules, found.packet, found.routes)
    if as_json:
        document = text.document(way, ANNOTATIONS, layout=found.layout, notes=found.notes)
        sys.stdout.write(document)
        sys.stdout.flush()
    else:
        terminal.write(text.lines(way, ANNOTATIONS, layout=found.layout, notes=found.notes))
