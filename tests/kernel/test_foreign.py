"""What others put into a pod's tables and routes stays where it is, counters and all."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest

from tests.cases import CASES
from tests.namespace import TOOLS, Namespace
from tests.snapshot import Snapshot, counted

if TYPE_CHECKING:
    from tests.cases import Case

# Rules of both families. Some look much like ours, and are not.
BEFORE = """\
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:THEIRS - [0:0]
[1:10] -A PREROUTING -p tcp -m tcp --dport 4000 -j THEIRS
[2:20] -A OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner 999 -j CT --zone 5
[3:30] -A OUTPUT -m comment --comment "istio: not ours" -j NOTRACK
[4:40] -A THEIRS -j RETURN
COMMIT
*mangle
:FORWARD DROP [0:0]
:THEIRS - [0:0]
[5:50] -A PREROUTING -p tcp -m mark --mark 0x77 -j CONNMARK --save-mark
[6:60] -A INPUT -j THEIRS
[7:70] -A OUTPUT -o lo -p tcp -m mark --mark 0x77 -j RETURN
[8:80] -A OUTPUT -p tcp -m connmark --mark 0x77 -j CONNMARK --restore-mark
[9:90] -A POSTROUTING -j MARK --set-xmark 0x53a/0xffffffff
[10:100] -A THEIRS -m conntrack --ctstate INVALID -j DROP
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:THEIRS - [0:0]
:THEIRS_ISTIO_OUTPUT - [0:0]
[11:110] -A PREROUTING -p tcp -m tcp --dport 30000 -j REDIRECT --to-ports 8080
[12:120] -A PREROUTING -i cni0 -j RETURN
[13:130] -A INPUT -m mark --mark 0x1 -j ACCEPT
[14:140] -A OUTPUT -p tcp -j THEIRS_ISTIO_OUTPUT
[15:150] -A OUTPUT -p tcp -m tcp --dport 15008 -j RETURN
[16:160] -A POSTROUTING -o cni0 -j MASQUERADE
[17:170] -A THEIRS -g THEIRS_ISTIO_OUTPUT
[18:180] -A THEIRS_ISTIO_OUTPUT -m limit --limit 5/min -j LOG --log-prefix "out "
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:THEIRS - [0:0]
[19:190] -A INPUT -i lo -j ACCEPT
[20:200] -A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT
[21:210] -A INPUT -j THEIRS
[22:220] -A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN
[23:230] -A THEIRS -p tcp -m tcp --dport 22 -j ACCEPT
[24:240] -A THEIRS -p tcp -j REJECT --reject-with tcp-reset
COMMIT
"""

# Written while our rules stand: one above and one below them in every chain.
AFTER = """\
*raw
[31:310] -I PREROUTING -m comment --comment above -j ACCEPT
[32:320] -A PREROUTING -m comment --comment below -j ACCEPT
[33:330] -I OUTPUT -m comment --comment above -j ACCEPT
[34:340] -A OUTPUT -m comment --comment below -j ACCEPT
COMMIT
*mangle
[35:350] -I PREROUTING -m comment --comment above -j ACCEPT
[36:360] -A PREROUTING -m comment --comment below -j ACCEPT
[37:370] -I OUTPUT -m comment --comment above -j ACCEPT
[38:380] -A OUTPUT -m comment --comment below -j ACCEPT
COMMIT
*nat
[39:390] -I PREROUTING -m comment --comment above -j ACCEPT
[40:400] -A PREROUTING -m comment --comment below -j ACCEPT
[41:410] -I OUTPUT -m comment --comment above -j ACCEPT
[42:420] -A OUTPUT -m comment --comment below -j ACCEPT
COMMIT
*filter
[43:430] -A INPUT -m comment --comment below -j ACCEPT
COMMIT
"""

ROUTES = """\
ip address add 10.7.7.7/32 dev lo
ip address add fd00::7/128 dev lo
ip rule add from 10.9.0.0/16 lookup 133 priority 50
ip route add 10.99.0.0/16 dev lo table 133
ip -6 rule add from fd09::/16 lookup 133 priority 50
ip -6 route add fd99::/16 dev lo table 133
"""

# Each much like the two of 1.30's defaults, 1337 and 133, and none the same.
MARKED = """\
ip rule add fwmark 1337 lookup 200
ip rule add fwmark 0x77 lookup 133
ip rule add fwmark 1337/0xffff lookup 133
ip rule add fwmark 1337 from 10.9.0.0/16 lookup 133
ip rule add fwmark 1337 iif lo lookup 133
ip rule add fwmark 1337 prohibit
ip rule add not fwmark 1337 lookup 133
ip rule add fwmark 1337 ipproto tcp lookup 133
ip rule add fwmark 1337 ipproto udp dport 53 lookup 133
ip rule add fwmark 1337 ipproto udp sport 53 lookup 133
ip rule add fwmark 1337 lookup 133 suppress_prefixlength 0
ip rule add fwmark 1337 lookup 133 tun_id 5
ip rule add fwmark 1337 lookup 133 realms 5
ip rule add fwmark 1 lookup 100
ip route add local default dev lo table 100
ip route add 10.99.0.0/16 dev lo table 200
ip route add local 10.98.0.0/16 dev lo table 133
ip -6 rule add fwmark 1337 lookup 200
ip -6 rule add fwmark 0x77 lookup 133
ip -6 rule add fwmark 1 lookup 100
ip -6 route add local default dev lo table 100
"""

# So many chains of cases, for as many processes at a time.
PARTS = 4


def plant(pod: Namespace, rules: str) -> None:
    for tool in TOOLS.values():
        pod.run(f"{tool}-restore", "--noflush", "--counters", text=rules)


def prepared(pod: Namespace) -> None:
    """Make a pod in which others have been before."""
    pod.run("sh", "-e", "-c", ROUTES)
    plant(pod, BEFORE)


@cache
def without_us() -> Snapshot:
    """Return the state of a pod in which only others have been."""
    with Namespace() as pod:
        prepared(pod)
        plant(pod, AFTER)
        return counted(pod)


def ours(found: Snapshot) -> Snapshot:
    """Return the rules that are there because of us, without counters."""
    return {
        section: [
            line.partition("] ")[2]
            for line in lines
            if line not in without_us()[section] and not line.startswith(":")
        ]
        for section, lines in found.items()
        if not section.startswith("ip ")
    }


def theirs(found: Snapshot) -> Snapshot:
    """Return what is there without us."""
    return {
        section: [line for line in lines if line in without_us()[section]]
        for section, lines in found.items()
    }


def expected(case: Case) -> Snapshot:
    return {
        f"{TOOLS[family]} {table}": [line for line in lines if line.startswith("-A")]
        for family, tool in (("ipv4", "iptables"), ("ipv6", "ip6tables"))
        for table, lines in case.expected[tool].items()
    }


@pytest.mark.parametrize("part", range(PARTS))
def test_foreign_rules_stay_through_everything(part: int) -> None:
    with Namespace() as pod:
        prepared(pod)
        pod.init(*CASES[part].argv, env=CASES[part].env)
        plant(pod, AFTER)
        assert theirs(counted(pod)) == without_us()
        # Each case follows another, every second one an empty pod.
        for number, case in enumerate(CASES[part::PARTS]):
            pod.init(*case.argv, env=case.env)
            applied = counted(pod)
            assert ours(applied) == expected(case), case
            assert theirs(applied) == without_us(), case
            again = pod.init(*case.argv, env=case.env)
            assert "already in place" in again.stderr, case
            assert counted(pod) == applied, case
            if number % 2 or case.claim:
                pod.init("clean", *case.claim)
                assert counted(pod) == without_us(), case
        pod.init("clean")
        assert counted(pod) == without_us()


ROUTED = [case for case in CASES if case.expected["ip_rules"]]


@pytest.mark.parametrize("case", ROUTED, ids=str)
def test_foreign_policy_routes_stay(case: Case) -> None:
    with Namespace() as pod:
        pod.run("sh", "-e", "-c", ROUTES + MARKED)
        before = counted(pod)
        pod.init(*case.argv, env=case.env)
        applied = counted(pod)
        pod.init("clean")
        after = counted(pod)

    added = {}
    for section in before:
        if section.startswith("ip "):
            added[section] = [line for line in applied[section] if line not in before[section]]
            kept = [line for line in applied[section] if line in before[section]]
            assert kept == before[section]
    assert added == {
        "ip -4 rule": case.expected["ip_rules"],
        "ip -4 route": [f"local default dev lo table {case.route_table} scope host"],
        "ip -6 rule": [],
        "ip -6 route": [],
        "ip address": [],
    }
    assert after == before


SHUT = [
    "-A INPUT -m state --state ESTABLISHED -j ACCEPT",
    "-A INPUT -j REJECT --reject-with icmp6-port-unreachable",
]
SSH = "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT"


@pytest.mark.parametrize(
    "firewall",
    [[SHUT[0], SSH, SHUT[1]], [SSH, SHUT[1]], [SHUT[0], SSH], [SHUT[1]], [SHUT[1], SHUT[0]]],
)
def test_a_firewall_that_resembles_ours_stays_below_it(firewall: list[str]) -> None:
    # Layout 1.0 shuts inbound IPv6 with two rules that others write as well; ours
    # count only where they shut it, above everything else.
    with Namespace() as pod:
        for line in firewall:
            pod.run(TOOLS["ipv6"], *line.split(" "))
        pod.init("-i", "*")
        applied = pod.rules("ipv6", "filter")[3:]
        again = pod.init("-i", "*")
        pod.init("clean")
        cleaned = pod.rules("ipv6", "filter")[3:]

    assert applied == SHUT + firewall
    assert "already in place" in again.stderr
    assert cleaned == firewall
