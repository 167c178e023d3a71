"""Rules that stay because nobody can tell whose they are.

An earlier run, or a sidecar of an earlier release, may have left them; another program
may have written the same words. ``clean`` removes those that a flag names.
"""

from __future__ import annotations

from istio_init.formats.iptables import rule_line, tool
from istio_init.lean import TYPE_CHECKING
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import BUILTIN_CHAINS, Rule
from istio_init.rules.names import FILTER, INPUT, LOOPBACK_IPV6, OUTPUT, PREROUTING
from istio_init.rules.ownership import REJECT_INBOUND, excluded_interfaces, has_ours, own_chains
from istio_init.rules.ranges import IPV6

if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.rules.model import Plan, Ruleset, Table
    from istio_init.rules.ranges import Family

# Istio's init container stops TCP by such rules while it works, and takes them away
# again. Source: istio, tools/istio-iptables/pkg/builder, buildGuardrails.
_GUARD_RAILS = (
    Rule((m.Proto("tcp"),), t.Drop()),
    Rule((m.Proto("udp"),), t.Drop()),
)
# Istio 1.1 to 1.9 let the pod's calls to itself in between the two rules of layout 1.0.
_LOOPBACK_IN = Rule((m.Destination(LOOPBACK_IPV6), m.InInterface("lo")), t.Accept())
_SHUT_BY_ISTIO = (REJECT_INBOUND[0], _LOOPBACK_IN, REJECT_INBOUND[1])


def leftovers(live: tuple[Ruleset, ...], plan: Plan) -> tuple[str, ...]:
    """Return a sentence for each set of rules that may be left over, with what removes it.

    ``live`` are both families, ``plan`` what the flags given now ask for. What it has
    is no leftover.
    """
    if not any(has_ours(ruleset) for ruleset in live):
        return ()
    sentences: list[str] = []
    interfaces: dict[str, list[str]] = {}
    for ruleset in live:
        planned = plan.ruleset(ruleset.family)
        for table in ruleset.tables:
            place = f"{tool(ruleset.family)} -t {table.name}"
            wanted = planned.table(table.name)
            for name in _unclaimed_interfaces(table, wanted):
                interfaces.setdefault(name, []).append(place)
            if table.name == FILTER:
                sentences += _in_filter(table, wanted, place, ruleset.family)
    return (*(_of_interface(*one) for one in interfaces.items()), *sentences)


def _unclaimed_interfaces(table: Table, planned: Table | None) -> tuple[str, ...]:
    """Return the interfaces left alone in both directions beside our chains, unplanned."""
    if not any(chain.name in own_chains(table) for chain in table.chains):
        return ()
    claimed = excluded_interfaces(planned) if planned else ()
    return tuple(name for name in excluded_interfaces(table) if name not in claimed)


def _of_interface(name: str, places: list[str]) -> str:
    return (
        f"nobody can tell whose the rules -A {PREROUTING} -i {name} -j RETURN and "
        f"-A {OUTPUT} -o {name} -j RETURN are ({', '.join(places)}): no flag of this call names "
        f"{name}, so they stay, and its traffic bypasses the proxy where they stand above ours; "
        f"`istio-init clean -c {name}` removes them, with all that is ours"
    )


def _in_filter(table: Table, planned: Table | None, place: str, family: Family) -> Iterator[str]:
    for chain in table.chains:
        ours = planned.chain(chain.name) if planned else None
        if chain.name not in BUILTIN_CHAINS[FILTER]:
            continue
        for rule in chain.rules:
            if rule in _GUARD_RAILS and not (ours and rule in ours.rules):
                line = rule_line(chain.name, rule, family)
                yield (
                    f"{place}: the rule {line} stops all of its traffic, as Istio's init container "
                    "does while it works; nobody can tell whose it is, so it stays; "
                    f"`{place} -D {line.removeprefix('-A ')}` removes it"
                )
        if family == IPV6 and chain.name == INPUT and not (ours and ours.rules):
            for words in (REJECT_INBOUND, _SHUT_BY_ISTIO):
                if any(
                    chain.rules[at : at + len(words)] == words for at in range(len(chain.rules))
                ):
                    lines = [rule_line(INPUT, rule, family) for rule in words]
                    removed = "; ".join(f"{place} -D {line.removeprefix('-A ')}" for line in lines)
                    yield (
                        f"{place}: the rules {' and '.join(lines)} shut inbound IPv6, as earlier "
                        "releases of Istio do; nobody can tell whose they are, so they stay; "
                        f"`{removed}` removes them"
                    )
