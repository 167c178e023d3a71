"""The command ``explain``: one packet through the rules of a plan, or of the kernel.

``istio_init/diagnose/text.py`` describes what ``--format json`` prints. Where nothing
could be explained, the object has ``version``, ``code``, a ``verdict`` of null, and
``error`` as ``istio_init/cli/result.py`` describes it.
"""

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
from istio_init.errors import BadValue, IstioInitError
from istio_init.kernel import host
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.rules.ranges import IPV6, Network

if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.cli.packet import Direction, PacketQuery
    from istio_init.config.resolve import Resolved
    from istio_init.diagnose.trace import UnreadChain
    from istio_init.log import Log


FORMATS = ("text", "json")


class _Subject(Record):
    """The rules that a packet meets, how it is routed, and notes on both.

    ``layout`` is that of a plan, ``""`` for live rules.
    """

    rules: tuple[Rules, ...]
    packet: Packet
    routes: Routes
    layout: str
    notes: tuple[str, ...] = ()
    unread: tuple[UnreadChain, ...] = ()


def run(
    command: str,
    direction: Direction,
    texts: Mapping[str, str],
    flags: dict[str, str],
    *,
    form: str,
    live: bool,
) -> int:
    """Explain a packet; return the exit code.

    ``texts`` are the flags of the packet, ``flags`` those of apply, both by their
    long names. ``command`` is the one whose layout is the default.

    Raises:
        ConfigError: bad values.
        ApplyError, UnsupportedError: what decides cannot be read.
    """
    query, problems = packet.read(direction, texts, host.HostFiles())
    if form not in FORMATS:
        problems += (BadValue("--format", form, " or ".join(FORMATS)),)
    resolved = prepare.resolve_call(command, flags, problems)
    log = prepare.open_log(resolved)
    if live:
        subject = _live(resolved, query, explicit=asks_for_rules(flags, os.environ))
    else:
        subject = _planned(resolved, query, log)
    _write(subject, as_json=form == "json")
    return 0


def _planned(resolved: Resolved, query: PacketQuery, log: Log) -> _Subject:
    config = resolved.config
    prepare.enter_for_addresses(resolved)
    plan = prepare.make_plan(config, log)
    family = query.packet.family
    rules = Rules(plan.ruleset(family))
    notes: tuple[str, ...] = ()
    if family == IPV6 and not rules.ruleset.tables and config.layout == LAYOUT_1_30:
        notes = ("IPv6 is left alone in this plan; --ipv6 captures it",)
    marked = tuple(route for route in plan.routes if route.family == family)
    sent = query.packet
    if not query.via and sent.oif and any(route.mark == sent.mark for route in marked):
        sent = sent.replace(oif=LO)
    routes = Routes(marked, _away(sent))
    return _Subject((rules,), sent, routes, config.layout, notes)


def _away(sent: Packet) -> str | None:
    """Return the interface by which packets leave that nothing leads anywhere else."""
    return sent.oif if sent.oif not in ("", LO) else USUAL_INTERFACE


def _live(resolved: Resolved, query: PacketQuery, *, explicit: bool) -> _Subject:
    """Return the live rules, with the reasons of the planned rules that equal them.

    The plan is that of the flags where they are ``explicit``, else that of the config
    that is inferred from the live rules.
    """
    from istio_init.apply import routes
    from istio_init.kernel import rtnetlink
    from istio_init.operate import live
    from istio_init.rules import ownership

    prepare.enter_namespace(resolved.run)
    sent = query.packet
    view = live.read(sent.family)
    marks = ownership.traces(tuple(one.ruleset for one in view.rules)).marks
    marked = tuple(
        route for route in routes.marks_to_local_routes(marks) if route.family == sent.family
    )
    notes = view.notes
    local = True
    away = _away(sent)
    if sent.destination is not None and not (query.via and sent.oif):
        to = Network(sent.family, sent.destination, len(sent.destination) * 8)
        try:
            way = rtnetlink.route_get(to, sent.mark or 0, sent.uid)
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
    plan = prepare.make_plan((resolved if explicit else _inferred(resolved)).config)
    rules = tuple(trace.explained(one, plan) for one in view.rules)
    if not rules:
        notes += ("there are no rules in this namespace",)
    return _Subject(rules, sent, Routes(marked, away, local=local), "", notes, view.unread)


def _inferred(resolved: Resolved) -> Resolved:
    """Return the settings with the config that is inferred from the live rules, if any is."""
    from istio_init.operate import audit

    try:
        state = audit.look(resolved.run)
        config = audit.infer(state) if state.installed else None
    except IstioInitError:
        # What cannot be looked at was noted where the rules were read.
        config = None
    return resolved.replace(config=config) if config else resolved


def _write(subject: _Subject, *, as_json: bool) -> None:
    way = trace.trace_in_any_order(subject.rules, subject.packet, subject.routes)
    way = trace.with_unread(way, subject.unread)
    if as_json:
        document = text.document(way, ANNOTATIONS, layout=subject.layout, notes=subject.notes)
        sys.stdout.write(document)
        sys.stdout.flush()
    else:
        terminal.write(text.lines(way, ANNOTATIONS, layout=subject.layout, notes=subject.notes))
