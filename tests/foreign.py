"""Rules of others, which every run has to leave where they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.namespace import Namespace

_RULES = """
{tool} -t nat -A OUTPUT -p tcp --dport 7 -j RETURN
{tool} -t nat -A PREROUTING -p tcp --dport 7 -m comment --comment "not ours" -j RETURN
{tool} -t mangle -N THEIRS
{tool} -t mangle -A THEIRS -j MARK --set-mark 7
{tool} -t mangle -A OUTPUT -o eth7 -j THEIRS
{tool} -t raw -A PREROUTING -i eth7 -j ACCEPT
{tool} -t filter -A INPUT -p tcp --dport 7 -j DROP
"""
_REST = """
nft add table inet theirs
nft add chain inet theirs one
nft add rule inet theirs one tcp dport 7 drop
ip rule add priority 40000 fwmark 7 lookup 77
ip route add local default dev lo table 77
"""
_TOOLS = {"legacy": "tables-legacy", "nft": "tables-nft"}


def plant(pod: Namespace, *backends: str) -> None:
    """Put rules of others into every table of these backends, and beside them."""
    script = "set -e\n" + _REST
    for backend in backends:
        if backend in _TOOLS:
            for family in ("ip", "ip6"):
                script += _RULES.format(tool=family + _TOOLS[backend])
    pod.run("sh", "-c", script)
