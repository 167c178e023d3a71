"""Rules in built-in chains that are shaped like ours: whose they are, and where they stand.

Each is a table and a line of ``iptables -S`` without its ``-A``.
"""

from __future__ import annotations

_COPIED = "--nfmask 0xffffffff --ctmask 0xffffffff"

# Anybody could have written these in the same words.
ANYBODYS = (
    *(
        (table, line.format(nic=nic))
        for table in ("nat", "mangle")
        for nic in ("net1", "net2")
        for line in ("PREROUTING -i {nic} -j RETURN", "OUTPUT -o {nic} -j RETURN")
    ),
    ("nat", "POSTROUTING -o net1 -j RETURN"),
    ("nat", "OUTPUT -p tcp -m tcp --dport 7 -j RETURN"),
    ("nat", "OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner 7 -j RETURN"),
    ("nat", "PREROUTING -p udp -m udp --dport 53 -j REDIRECT --to-ports 5353"),
    ("nat", "POSTROUTING -p udp -m udp --dport 5353 -j SNAT --to-source 192.0.2.1"),
    ("mangle", "PREROUTING -p udp -j MARK --set-xmark 0x7/0xffffffff"),
    ("raw", "OUTPUT -p udp -m udp --dport 5353 -j CT --zone 1"),
    ("filter", "INPUT -p tcp -m tcp --dport 22 -j ACCEPT"),
    ("filter", "FORWARD -i net1 -j ACCEPT"),
)
# So could these; but side by side they are what layout 1.0 shuts IPv6 with.
HALVES = (
    ("filter", "INPUT -m state --state ESTABLISHED -j ACCEPT"),
    ("filter", "INPUT -j REJECT --reject-with icmp6-port-unreachable"),
)
# Only a sidecar writes these.
SIDECARS = (
    ("nat", "OUTPUT -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053"),
    ("nat", "OUTPUT -p udp -m udp --dport 53 -j DNAT --to-destination 192.0.2.1:15053"),
    ("nat", "POSTROUTING -p udp -m udp --dport 15053 -j SNAT --to-source 192.0.2.1"),
    (
        "nat",
        "OUTPUT -p tcp -j NFLOG --nflog-prefix JumpOutbound --nflog-group 1337 --nflog-size 20",
    ),
    ("raw", "OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner 1337 -j CT --zone 1"),
    ("raw", "OUTPUT -p udp -m udp --sport 15053 -m owner --uid-owner 8 -j CT --zone 2"),
    ("raw", "PREROUTING -p udp -m udp --sport 53 -j CT --zone 1"),
)
# Whose these are depends on what stands beside them.
DEPENDING = (
    ("nat", "OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner 1337 -j RETURN"),
    ("nat", "OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner 8 -j RETURN"),
    *(
        ("mangle", line.format(mark=mark))
        for mark in ("0x539", "0x7")
        for line in (
            f"PREROUTING -p tcp -m mark --mark {{mark}} -j CONNMARK --save-mark {_COPIED}",
            "OUTPUT -o lo -p tcp -m mark --mark {mark} -j RETURN",
            f"OUTPUT -p tcp -m connmark --mark {{mark}} -j CONNMARK --restore-mark {_COPIED}",
        )
    ),
)
