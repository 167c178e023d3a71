"""The whole state of a namespace, from every program that shows a part of it."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

from istio_init.rules.model import BUILTIN_CHAINS, TABLES
from tests.namespace import TOOLS

if TYPE_CHECKING:
    from tests.namespace import Namespace

_COMMANDS = {
    "legacy ipv4": "iptables-legacy-save",
    "legacy ipv6": "ip6tables-legacy-save",
    "nft ipv4": "iptables-nft-save",
    "nft ipv6": "ip6tables-nft-save",
    "nftables": "nft --stateless list ruleset",
    "routing ipv4": "printf 'rule\\nroute show table all\\n' | ip -4 -batch -",
    "routing ipv6": "printf 'rule\\nroute show table all\\naddress\\n' | ip -6 -batch -",
}
_BETWEEN = "=== "
_SCRIPT = "".join(f"echo '{_BETWEEN}{name}'; {line};\n" for name, line in _COMMANDS.items())
_COUNTERS = re.compile(r"\[\d+:\d+\]")
_NFT_BLOCK = re.compile(r"\n?^\t\S.*? \{\n.*?^\t\}\n", re.DOTALL | re.MULTILINE)
_NFT_TABLE = re.compile(r"^table (\w+) (\S+) \{\n.*?^\}\n", re.DOTALL | re.MULTILINE)


class State(dict[str, str]):
    """What each program shows; a key for each table, ``nft ipv6 mangle`` for one.

    Two states are equal when rules, chains, policies, routes and addresses are.
    Counters do not count, nor does the order of the chains in a native table, and a
    table of iptables that holds nothing is as good as none: once used, a legacy
    table stays.
    """


def snapshot(pod: Namespace) -> State:
    """Return the state of a namespace."""
    return _state(pod.run("sh", "-c", _SCRIPT).stdout)


def snapshot_here() -> State:
    """Return the state of the namespace of this process."""
    shown = subprocess.run(["sh", "-c", _SCRIPT], capture_output=True, text=True, check=True)
    return _state(shown.stdout)


def _state(text: str) -> State:
    state = State()
    for part in text.split(_BETWEEN)[1:]:
        name, _, shown = part.partition("\n")
        if "tables-" in _COMMANDS[name]:
            for table, lines in _tables(shown):
                state[f"{name} {table}"] = lines
        elif name == "nftables":
            state |= {f"{name} {table}": lines for table, lines in _native(shown)}
        else:
            state[name] = shown
    return state


def _tables(saved: str) -> list[tuple[str, str]]:
    """Return the tables of iptables-save that hold anything."""
    found = []
    for part in saved.split("\n*")[1:]:
        name, *lines = part.partition("COMMIT")[0].splitlines()
        kept = [_COUNTERS.sub("", line).strip() for line in lines]
        if any(not line.endswith(" ACCEPT") or line.startswith("-A") for line in kept):
            found.append((name, "\n".join(kept)))
    return found


def _native(listed: str) -> list[tuple[str, str]]:
    """Return the tables of ``nft list ruleset`` that are not iptables' own."""
    return [
        (f"{found[1]} {found[2]}", sorted_blocks(found[0]))
        for found in _NFT_TABLE.finditer(listed)
        if not (found[1] in ("ip", "ip6") and found[2] in BUILTIN_CHAINS)
    ]


Snapshot = dict[str, list[str]]

_MARK = "=== "
_COUNTED = {
    "ip -4 rule": "ip -4 rule",
    "ip -6 rule": "ip -6 rule",
    "ip -4 route": "ip -4 route show table all",
    "ip -6 route": "ip -6 route show table all",
    "ip address": "ip -o address",
}


def counted(pod: Namespace) -> Snapshot:
    """Return both families' legacy tables with counters, their policy rules, routes and addresses.

    Taking it creates every table that does not exist yet.
    """
    commands = {
        f"{tool} {table}": f"{tool}-save -c -t {table}"
        for tool in TOOLS.values()
        for table in TABLES
    } | _COUNTED
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


def sorted_blocks(table: str, *, sets: bool = True) -> str:
    """Return a table as nft lists it with its sets and chains in order of their names.

    nft lists them in the order in which they came into being, which changes nothing.
    """
    blocks = [found[0].strip("\n") for found in _NFT_BLOCK.finditer(table)]
    kept = [one for one in blocks if sets or not one.startswith("\tset ")]
    head = _NFT_BLOCK.sub("", table).rstrip("}\n")
    return "\n\n".join((head, *sorted(kept), "}"))


def without_sets(table: str) -> str:
    """Return a table as ``sorted_blocks`` gives it without its sets."""
    return sorted_blocks(table, sets=False) if table.startswith("table inet ") else table
