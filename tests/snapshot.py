"""The whole state of a namespace, from every program that shows a part of it."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

from istio_init.model import BUILTIN_CHAINS

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
_NFT_TABLE = re.compile(r"^table (\w+) (\S+) \{\n.*?^\}\n", re.DOTALL | re.MULTILINE)


class State(dict[str, str]):
    """What each program shows; a key for each table, ``nft ipv6 mangle`` for one.

    Two states are equal when rules, chains, policies, routes and addresses are.
    Counters do not count, and a table of iptables that holds nothing is as good
    as none: once used, a legacy table stays.
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
        (f"{found[1]} {found[2]}", found[0])
        for found in _NFT_TABLE.finditer(listed)
        if not (found[1] in ("ip", "ip6") and found[2] in BUILTIN_CHAINS)
    ]
