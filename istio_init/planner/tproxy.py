"""The marks of layout 1.30 in TPROXY mode; a plan in REDIRECT mode does not load them."""

from __future__ import annotations

from istio_init.config.model import TPROXY
from istio_init.lean import TYPE_CHECKING
from istio_init.planner.draft import TCP, for_owner, loopback, proxy_owners
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import Reason
from istio_init.rules.names import (
    ISTIO_INBOUND,
    MANGLE,
    OUTBOUND_MARK,
    OUTPUT,
    PASSTHROUGH,
    PREROUTING,
)

if TYPE_CHECKING:
    from istio_init.config.model import Config
    from istio_init.planner.draft import Draft

_RUN = "istio 1.30, capture/run.go, Run (TPROXY part)"

_MARKED_DELIVERY = Reason(
    "-t",
    "",
    "delivers to the application",
    "The proxy marks the connection that it opens to the application; it comes in again by lo and "
    "must not be given to the proxy a second time.",
    _RUN,
)
_BOUND_DELIVERY = Reason(
    "-m",
    TPROXY,
    "delivers to the application",
    "The proxy binds this address when it hands an inbound connection to the application; the "
    "connection comes in again by lo and must not be given to the proxy a second time.",
    _RUN,
)
_APPLICATION_SELF_CALL = Reason(
    "-m",
    TPROXY,
    "left alone",
    "A call of the application to its own pod comes in again by lo and needs no proxy; only the "
    "proxy's own calls, which carry this mark, are captured there.",
    _RUN,
)
_SAVE = Reason(
    "-t",
    "",
    "carries marks",
    "The connection keeps the mark of its first packet, from which the answers of the application "
    "get it back.",
    _RUN,
)
_SENT_DELIVERY = Reason(
    "-t",
    "",
    "delivers to the application",
    "The proxy's connection to the application must keep its mark; the next rule would put "
    "another one on it.",
    _RUN,
)
_PROXY_SELF_CALL = Reason(
    "-u",
    "",
    "self-call through the proxy",
    "The application called a service and the proxy chose its own pod; this mark lets the "
    "connection be captured as inbound when it comes in again by lo.",
    _RUN,
)
_RESTORE = Reason(
    "-t",
    "",
    "carries marks",
    "The application answers to the client's address; with the mark of its connection the answer "
    "is routed to the proxy and does not leave the pod.",
    _RUN,
)


def tproxy_guards(draft: Draft, config: Config) -> None:
    """Add what stands at the head of mangle ISTIO_INBOUND and lets connections over lo pass."""

    def let_pass(*matches: m.Match, reason: Reason) -> None:
        draft.append(MANGLE, ISTIO_INBOUND, TCP, *matches, target=t.Return(), reason=reason)

    by_lo = m.InInterface("lo")
    mark = config.tproxy_mark
    let_pass(m.Mark(mark), reason=_MARKED_DELIVERY.of(f"{mark:#x}"))
    let_pass(m.Source(PASSTHROUGH[draft.family]), by_lo, reason=_BOUND_DELIVERY)
    let_pass(by_lo, m.Mark(OUTBOUND_MARK, negated=True), reason=_APPLICATION_SELF_CALL)


def tproxy_marks(draft: Draft, config: Config) -> None:
    """Add the rules that carry marks between packets and their connections."""
    mark = config.tproxy_mark
    spelled = f"{mark:#x}"
    to_lo = m.OutInterface("lo")
    draft.append(
        MANGLE, PREROUTING, TCP, m.Mark(mark), target=t.SaveMark(), reason=_SAVE.of(spelled)
    )
    reason = _SENT_DELIVERY.of(spelled)
    draft.append(MANGLE, OUTPUT, TCP, to_lo, m.Mark(mark), target=t.Return(), reason=reason)
    not_local = m.Destination(loopback(config, draft.family), negated=True)
    for owner in proxy_owners(config):
        matches = (TCP, not_local, to_lo, owner)
        reason = for_owner(_PROXY_SELF_CALL, owner)
        draft.append(MANGLE, OUTPUT, *matches, target=t.SetMark(OUTBOUND_MARK), reason=reason)
    draft.append(
        MANGLE, OUTPUT, TCP, m.ConnMark(mark), target=t.RestoreMark(), reason=_RESTORE.of(spelled)
    )
