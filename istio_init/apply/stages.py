"""What stands between two states of the tables, where going at once loses connections.

Each function returns whole rule sets, to be put in place one after the other before
the wanted one. All but one of their rules are planned or stood there before; the one
stands in a chain of ours, or is of a shape that ``rules.ownership`` knows, so that a
run which dies in between leaves nothing that the next one does not take away.
"""

from __future__ import annotations

from istio_init.lean import TYPE_CHECKING
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import Chain, Rule, rule
from istio_init.rules.names import (
    ISTIO_DIVERT,
    ISTIO_IN_REDIRECT,
    ISTIO_INBOUND,
    ISTIO_REDIRECT,
    MANGLE,
    NAT,
    PREROUTING,
)

if TYPE_CHECKING:
    from istio_init.rules.model import ForeignRule, Ruleset, Table

_TCP = m.Proto("tcp")
# Connections that are known already go on as they began.
_LEAVE_KNOWN = rule(_TCP, m.CtState(("RELATED", "ESTABLISHED")), target=t.Return())


def between_modes(before: Ruleset, after: Ruleset) -> tuple[Ruleset, ...]:
    """Return the states between REDIRECT and the TPROXY of layout 1.0, in either direction.

    A packet that meets both is lost: TPROXY gives it to a socket that waits for the
    address which nat then takes away. And TPROXY of layout 1.0 takes packets of
    connections that nat translates since before. So while both stand, nat leaves
    alone what has TPROXY's mark, and mangle every connection that is known.
    """
    marks = {*_tproxy_marks(before), *_tproxy_marks(after)}
    if len(marks) != 1:
        return ()
    ((mark, mask),) = marks
    leave_marked = rule(_TCP, m.Mark(mark, mask), target=t.Return())
    if _redirects(before) and _tproxy_marks(after) and not _redirects(after):
        first = _with_tables(before, _headed(before.table(NAT), leave_marked))
        second = _with_tables(first, _headed(after.table(MANGLE), _LEAVE_KNOWN))
        return first, second, _with_tables(second, after.table(NAT))
    if _tproxy_marks(before) and _redirects(after) and not _tproxy_marks(after):
        first = _with_tables(before, _headed(after.table(NAT), leave_marked))
        return first, _with_tables(first, after.table(MANGLE))
    return ()


def _redirects(ruleset: Ruleset) -> bool:
    """Whether inbound connections are captured in nat."""
    table = ruleset.table(NAT)
    chain = table.chain(ISTIO_INBOUND) if table else None
    return chain is not None and any(
        isinstance(one, Rule) and one.target in (t.Jump(ISTIO_IN_REDIRECT), t.Jump(ISTIO_REDIRECT))
        for one in chain.rules
    )


def _tproxy_marks(ruleset: Ruleset) -> set[tuple[int, int]]:
    """Return mark and mask of a TPROXY that tells connections apart by -m socket alone."""
    table = ruleset.table(MANGLE)
    inbound = table.chain(ISTIO_INBOUND) if table else None
    if table is None or inbound is None:
        return set()
    by_socket = any(
        isinstance(one, Rule) and m.Socket() in one.matches and one.target == t.Jump(ISTIO_DIVERT)
        for one in inbound.rules
    )
    return {
        (one.target.mark, one.target.mask)
        for chain in table.chains
        for one in chain.rules
        if by_socket and isinstance(one, Rule) and isinstance(one.target, t.Tproxy)
    }


def _headed(table: Table | None, first: Rule) -> Table | None:
    """Return a table with a rule before all others in the chain for inbound connections."""
    if table is None:
        return None
    return table.replace(
        chains=tuple(
            chain.replace(rules=(first, *chain.rules)) if chain.name == ISTIO_INBOUND else chain
            for chain in table.chains
        )
    )


def _with_tables(ruleset: Ruleset, table: Table | None) -> Ruleset:
    if table is None:
        return ruleset
    return ruleset.replace(
        tables=tuple(table if one.name == table.name else one for one in ruleset.tables)
    )


def for_two_backends(ruleset: Ruleset) -> Ruleset:
    """Return rules that can stand in two backends at once: marks are saved over lo only.

    Each backend saves the mark that the proxy puts on what it sends to the
    application, which comes over lo. That of the second one takes the mark of the
    first one's TPROXY for it, and the answers would be sent to lo.
    """
    table = ruleset.table(MANGLE)
    if table is None:
        return ruleset
    chains = tuple(
        chain.replace(rules=tuple(map(_over_lo, chain.rules)))
        if chain.name == PREROUTING
        else chain
        for chain in table.chains
    )
    return _with_tables(ruleset, table.replace(chains=chains))


def _over_lo(one: Rule | ForeignRule) -> Rule | ForeignRule:
    if not isinstance(one, Rule) or one.target != t.SaveMark():
        return one
    if any(isinstance(match, m.InInterface) for match in one.matches):
        return one
    return rule(m.InInterface("lo"), *one.matches, target=one.target, reason=one.reason)


def saves_marks(ruleset: Ruleset) -> bool:
    """Whether any rule of mangle's PREROUTING saves marks."""
    table = ruleset.table(MANGLE)
    chain: Chain | None = table.chain(PREROUTING) if table else None
    return chain is not None and any(
        isinstance(one, Rule) and one.target == t.SaveMark() for one in chain.rules
    )
