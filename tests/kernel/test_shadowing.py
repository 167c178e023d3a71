"""Rules of others that take packets from ours are reported, as the kernel holds them."""

from __future__ import annotations

import pytest

from tests.inside import init
from tests.namespace import BACKENDS, Namespace

CALL = ("istio-iptables", "-i", "*", "-b", "*", "--ipv6")
OUTBOUND = "outbound TCP does not reach the proxy"
INBOUND = "inbound TCP does not reach the proxy"

# Chain, rule, what the legacy tables show of it where that is less, and the consequence.
WIDE = [
    ("OUTPUT", "-p tcp -j RETURN", OUTBOUND),
    ("PREROUTING", '-m comment --comment "not ours" -j ACCEPT', INBOUND),
    ("OUTPUT", "-p tcp -m tcp -j ACCEPT", OUTBOUND),
    ("OUTPUT", "-j THEIRS", OUTBOUND),
    ("OUTPUT", "-g THEIRS", OUTBOUND),
    ("PREROUTING", "-p tcp -j REDIRECT --to-ports 9", INBOUND),
    ("OUTPUT", "-p tcp -j NETMAP --to {network}", OUTBOUND),
    ("OUTPUT", "-p tcp -j DNAT --to-destination {address}:5-7", OUTBOUND),
]
NARROW = [
    ("OUTPUT", "-p tcp -m tcp --dport 80 -j RETURN"),
    ("OUTPUT", "-p tcp -m tcp --tcp-flags SYN SYN -j RETURN"),
    ("OUTPUT", "-o eth7 -j ACCEPT"),
    ("OUTPUT", "-p udp -j ACCEPT"),
    ("OUTPUT", "-p tcp -m statistic --mode nth --every 2 --packet 0 -j ACCEPT"),
    ("OUTPUT", "-p tcp -m connmark --mark 0x1 -j RETURN"),
    ("PREROUTING", "-m mac --mac-source 00:00:00:00:00:07 -j ACCEPT"),
    ("PREROUTING", "-p tcp -m limit --limit 1/s -j ACCEPT"),
    ("OUTPUT", "-j LOG"),
]


def warnings(text: str) -> list[str]:
    lines = [line.split("\t", 2) for line in text.splitlines()]
    return [line for _, level, line in lines if level == "warn"]


@pytest.mark.parametrize("ip", ["ip", "ip6"])
@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_each_is_named_as_it_stands_with_what_is_lost(backend: str, ip: str) -> None:
    tool = f"{ip}tables-{backend}"
    network = "192.0.2.0/24" if ip == "ip" else "2001:db8::/32"
    address = "192.0.2.1" if ip == "ip" else "[2001:db8::1]"
    with Namespace() as pod:
        pod.run(tool, "-t", "nat", "-N", "THEIRS")
        pod.run(tool, "-t", "nat", "-A", "THEIRS", "-j", "ACCEPT")
        script = [f"{tool} -t nat -A {chain} {rule}" for chain, rule, _ in WIDE]
        pod.run("sh", "-ec", "\n".join(script).format(network=network, address=address))
        first = init(pod, *CALL, "--backend", backend)
        again = init(pod, *CALL, "--backend", backend)
        cleaned = init(pod, "clean")

    expected = []
    for chain in ("PREROUTING", "OUTPUT"):
        for one, rule, lost in WIDE:
            if one == chain:
                spelled = rule.format(network=network, address=address)
                expected.append(
                    f"{ip}tables -t nat: the rule -A {chain} {spelled} stands above ours: {lost}"
                )
    assert warnings(first.err) == expected
    assert warnings(again.err) == expected
    assert "already in place" in again.err
    assert warnings(cleaned.err) == []


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_a_rule_for_some_packets_is_not(backend: str) -> None:
    tool = f"iptables-{backend}"
    with Namespace() as pod:
        script = [f"{tool} -t nat -A {chain} {rule}" for chain, rule in NARROW]
        pod.run("sh", "-ec", "\n".join(script))
        done = init(pod, *CALL, "--backend", backend)

    assert warnings(done.err) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_behind_ours_nothing_is_lost(backend: str) -> None:
    with Namespace() as pod:
        init(pod, *CALL, "--backend", backend)
        for tool in ("iptables-legacy", "iptables-nft"):
            pod.run(tool, "-t", "nat", "-A", "OUTPUT", "-j", "ACCEPT")
        done = init(pod, *CALL, "--backend", backend)

    assert warnings(done.err) == []
