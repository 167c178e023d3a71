"""Everything of a namespace that the program could touch, in one reading."""

from __future__ import annotations

from typing import TYPE_CHECKING

from istio_init.model import TABLES
from tests.namespace import TOOLS

if TYPE_CHECKING:
    from tests.namespace import Namespace

Snapshot = dict[str, list[str]]

_MARK = "=== "
_COMMANDS = {
    "ip -4 rule": "ip -4 rule",
    "ip -6 rule": "ip -6 rule",
    "ip -4 route": "ip -4 route show table all",
    "ip -6 route": "ip -6 route show table all",
    "ip address": "ip -o address",
}


def snapshot(pod: Namespace) -> Snapshot:
    """Return both families' tables with counters, their policy rules, routes and addresses.

    Taking it creates every table that does not exist yet.
    """
    commands = {
        f"{tool} {table}": f"{tool}-save -c -t {table}"
        for tool in TOOLS.values()
        for table in TABLES
    } | _COMMANDS
    script = "\n".join(f"echo '{_MARK}{name}'; {command}" for name, command in commands.items())
    found: Snapshot = {}
    section: list[str] = []
    for line in pod.run("sh", "-e", "-c", script).stdout.splitlines():
        if line.startswith(_MARK):
            section = found.setdefault(line.removeprefix(_MARK), [])
        elif line.startswith(":"):
            # libiptc begins the counters of policies anew with every change,
            # whoever makes it.
            section.append(line.partition(" [")[0])
        elif not line.startswith("#"):
            section.append(" ".join(line.split()))
    return found


def tables_in_use(pod: Namespace) -> str:
    """Return what the kernel lists as tables of this namespace; asking creates none."""
    return pod.run("sh", "-c", "cat /proc/net/ip_tables_names /proc/net/ip6_tables_names").stdout
