"""The plan as ``iptables -S``, ``ip rule``, ``ip route`` and ``ip addr`` will print it."""

from __future__ import annotations

from istio_init.formats.iptables import rule_line, tool
from istio_init.lean import TYPE_CHECKING
from istio_init.rules.names import RULE_PRIORITY
from istio_init.rules.ranges import IPV4

if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.rules.model import Plan, PolicyRoute, Table
    from istio_init.rules.ranges import Family


def render(plan: Plan) -> str:
    """Return every table, rule and address the plan touches, each under its command.

    Byte for byte what the command prints after the plan was applied in an empty
    network namespace, policies included.
    """
    return "".join(f"{line}\n" for line in _lines(plan))


def _lines(plan: Plan) -> Iterator[str]:
    for ruleset in plan.rulesets:
        for table in ruleset.tables:
            yield f"# {tool(ruleset.family)} -t {table.name} -S"
            yield from table_lines(table, ruleset.family)
    for route in plan.routes:
        ip = "ip -4" if route.family == IPV4 else "ip -6"
        yield f"# {ip} rule show"
        yield policy_rule_line(route)
        yield f"# {ip} route show table {route.table}"
        yield local_route_line(route.family)
    if plan.addresses:
        yield "# ip addr show dev lo"
    for address in plan.addresses:
        yield f"inet6 {address} scope global"


def table_lines(table: Table, family: Family) -> Iterator[str]:
    """Yield the lines of ``iptables -t TABLE -S``."""
    for chain in table.chains:
        yield f"-N {chain.name}" if chain.policy is None else f"-P {chain.name} {chain.policy}"
    for chain in table.chains:
        for rule in chain.rules:
            yield rule_line(chain.name, rule, family)


def policy_rule_line(route: PolicyRoute) -> str:
    """Return the line of ``ip rule show``, with single blanks."""
    return f"{RULE_PRIORITY}: from all fwmark {route.mark:#x} lookup {route.table}"


def local_route_line(family: Family) -> str:
    """Return the line of ``ip route show table N``."""
    if family == IPV4:
        return "local default dev lo scope host"
    return "local default dev lo metric 1024 pref medium"
