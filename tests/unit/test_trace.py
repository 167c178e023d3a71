"""Where packets land: tables of packets through the rules of both layouts, and of other people."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from istio_init.config.options import ANNOTATIONS
from istio_init.config.values import address, network
from istio_init.diagnose.packet import Packet, actual, holds
from istio_init.diagnose.text import document, lines, sentence
from istio_init.diagnose.trace import (
    NATIVE,
    Routes,
    Rules,
    UnreadChain,
    Verdict,
    decisions,
    explained,
    trace,
    trace_in_any_order,
    with_unread,
)
from istio_init.formats.nf_tables import expressions as e
from istio_init.formats.nf_tables import iptables
from istio_init.formats.save_reader import parse_save
from istio_init.rules import matches as m
from istio_init.rules.model import (
    LAYOUT,
    TABLES,
    Chain,
    ForeignRule,
    Rule,
    Ruleset,
    make_table,
    reason_of,
)
from istio_init.rules.ranges import FAMILIES, IPV4, IPV6, IdRange, PortRange
from istio_init.rules.sets import canonical
from tests.plans import plan_of

if TYPE_CHECKING:
    from istio_init.diagnose.packet import Hook
    from istio_init.diagnose.trace import Trace
    from istio_init.rules.model import Plan
    from istio_init.rules.ranges import Family

POD = "traffic.sidecar.istio.io/"


def packed(text: str) -> bytes:
    return address(text).packed


def packet(hook: str = "OUTPUT", to: str = "10.1.2.3", **given: Any) -> Packet:  # noqa: ANN401
    """Return a packet of an application, or of somebody who calls it."""
    family = address(to).family
    usual: dict[str, Any] = {"protocol": "tcp", "source": None, "destination": packed(to)}
    usual |= {"sport": 40000, "dport": 443, "socket": False}
    if hook == "OUTPUT":
        usual |= {"hook": "OUTPUT", "oif": "eth0", "uid": 1000, "gid": 1000}
    else:
        usual |= {"hook": "PREROUTING", "iif": "eth0", "owned": False}
    return Packet(family, **{**usual, **given})


def inbound(to: str = "10.1.0.1", **given: Any) -> Packet:  # noqa: ANN401
    return packet("PREROUTING", to, **given)


@cache
def planned(line: str, **env: str) -> Plan:
    return plan_of(*line.split(), env=env)


def through(line: str, sent: Packet) -> Trace:
    """Return the way of a packet through the rules of a call."""
    plan = planned(line)
    return trace((Rules(plan.ruleset(sent.family)),), sent, Routes(plan.routes, via="eth0"))


UNTOUCHED = Verdict("untouched")


def to_proxy(port: int) -> Verdict:
    return Verdict("redirected", port)


def by_tproxy(port: int) -> Verdict:
    return Verdict("tproxy", port)


@dataclass(frozen=True)
class Row:
    """Under one call, a packet that is captured and one, different in one thing, that is not."""

    name: str
    line: str
    captured: Packet
    spared: Packet
    outcome: Verdict
    flag: str
    spared_by: str = ""
    spared_as: Verdict = field(default=UNTOUCHED)


OLD = "-p 15001 -u 1337 -i * -x 10.9.0.0/16 -b *"
NEW = "istio-iptables -u 1337 -i * -x 10.9.0.0/16 -b * -d 15020 --ipv6"
LISTED = "istio-iptables -u 1337 -i 10.0.0.0/8 -q 25 -o 3306 -b 80,8000:8100 --no-ipv6"
DNS = "istio-iptables -u 1337 --redirect-dns --dns-servers 10.0.0.53,fd00::53 --ipv6"
TPROXY = "istio-iptables -u 1337 -b * -m TPROXY --ipv6"
OLD_TPROXY = "-u 1337 -b * -m TPROXY"
NICS = "istio-iptables -u 1337 -i * -b * -c eth1 -k vm0 --no-ipv6"
GROUPS = "istio-iptables -u 1337 -i * --outbound-owner-groups 2000-2001 --no-ipv6"
SELF: dict[str, Any] = {"to": "10.1.0.1", "source": packed("10.1.0.1"), "oif": "lo"}
PROXY: dict[str, Any] = {"uid": 1337, "gid": 1337}
LOCAL: dict[str, Any] = {"to": "127.0.0.1", "oif": "lo"}

ROWS = (
    Row("1.0 -x", OLD, packet(), packet(to="10.9.0.1"), to_proxy(15001), "-i", "-x"),
    Row("1.0 the proxy", OLD, packet(), packet(**PROXY), to_proxy(15001), "-i", "-u"),
    Row("1.0 its group", OLD, packet(), packet(gid=1337), to_proxy(15001), "-i", "-g"),
    Row("1.0 UDP", OLD, packet(), packet(protocol="udp"), to_proxy(15001), "-i"),
    Row("1.0 itself", OLD, packet(**SELF), packet(**LOCAL), to_proxy(15001), LAYOUT),
    Row("1.0 SSH", OLD, inbound(), inbound(dport=22), to_proxy(15001), "-b", LAYOUT),
    Row("-x", NEW, packet(), packet(to="10.9.0.1"), to_proxy(15001), "-i", "-x"),
    Row("the proxy", NEW, packet(), packet(**PROXY), to_proxy(15001), "-i", "-u"),
    Row("IPv6", NEW, packet(to="fd00::1"), packet(to="fd00::1", **PROXY), to_proxy(15001), "-i"),
    Row(
        "the proxy calls the pod",
        NEW,
        packet(**SELF, **PROXY),
        packet(**SELF),
        to_proxy(15006),
        "-u",
        "-u",
    ),
    Row(
        "the proxy delivers",
        NEW,
        packet(**SELF, **PROXY),
        packet(**{**SELF, "source": packed("127.0.0.6")}, **PROXY),
        to_proxy(15006),
        "-u",
        LAYOUT,
    ),
    Row("-d", NEW, inbound(dport=15021), inbound(dport=15020), to_proxy(15006), "-b", "-d"),
    Row("the tunnel", NEW, inbound(dport=15009), inbound(dport=15008), to_proxy(15006), "-b", "-e"),
    Row("off -i", LISTED, packet(), packet(to="11.0.0.1"), to_proxy(15001), "-i"),
    Row(
        "-q",
        LISTED,
        packet(to="11.0.0.1", dport=25),
        packet(to="11.0.0.1", dport=26),
        to_proxy(15001),
        "-q",
    ),
    Row("-o", LISTED, packet(dport=3307), packet(dport=3306), to_proxy(15001), "-i", "-o"),
    Row("off -b", LISTED, inbound(dport=8100), inbound(dport=8101), to_proxy(15006), "-b"),
    Row(
        "DNS",
        DNS,
        packet(to="10.0.0.53", protocol="udp", dport=53),
        packet(to="10.0.0.54", protocol="udp", dport=53),
        to_proxy(15053),
        "--redirect-dns",
    ),
    Row(
        "DNS by TCP",
        DNS,
        packet(to="fd00::53", dport=53),
        packet(to="fd00::53", dport=54),
        to_proxy(15053),
        "--redirect-dns",
    ),
    Row("-c in", NICS, inbound(), inbound(iif="eth1"), to_proxy(15006), "-b", "-c"),
    Row("-c out", NICS, packet(), packet(oif="eth1"), to_proxy(15001), "-i", "-c"),
    Row("-k", NICS, inbound(iif="vm0"), inbound(iif="vm0", protocol="udp"), to_proxy(15001), "-k"),
    Row("groups", GROUPS, packet(gid=2001), packet(gid=2002), to_proxy(15001), "-i"),
    Row("TPROXY", TPROXY, inbound(), inbound(mark=1337), by_tproxy(15006), "-b", "-t"),
    Row(
        "TPROXY over lo",
        TPROXY,
        packet(**SELF, uid=0, gid=1337),
        packet(**SELF, uid=0, gid=0),
        by_tproxy(15006),
        "-b",
        "-u",
    ),
    Row("1.0 TPROXY", OLD_TPROXY, inbound(), inbound(socket=True), by_tproxy(15001), "-b"),
    Row(
        "1.0 shut",
        "-u 1337",
        inbound("fd00::1"),
        inbound("fd00::1", state="ESTABLISHED"),
        Verdict("rejected"),
        "--no-ipv6",
        spared_as=Verdict("follows"),
    ),
    Row(
        "--drop-invalid",
        "istio-iptables --drop-invalid --no-ipv6",
        inbound(state="INVALID"),
        inbound(),
        Verdict("dropped"),
        "--drop-invalid",
    ),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_difference_in_one_thing_is_a_difference_in_where_it_lands(row: Row) -> None:
    captured = through(row.line, row.captured)
    spared = through(row.line, row.spared)

    told = "\n".join(told_of(one) for one in (captured, spared))
    assert (captured.outcome, captured.certain) == (row.outcome, True), told
    assert (spared.outcome, spared.certain) == (row.spared_as, True), told
    assert flags_of(captured)[0] == row.flag, told
    assert not row.spared_by or row.spared_by in flags_of(spared), told


def told_of(found: Trace) -> str:
    return "".join("".join(text for text, _ in line) + "\n" for line in lines(found, ANNOTATIONS))


def flags_of(found: Trace) -> list[str]:
    return [reason_of(step.rule).flag for step in decisions(found)]


def said(line: str, sent: Packet) -> str:
    return sentence(through(line, sent), ANNOTATIONS)


@pytest.mark.parametrize(
    ("line", "sent", "words"),
    [
        (
            NEW,
            packet(),
            (
                "redirected to 15001 by ISTIO_REDIRECT, original destination kept: ISTIO_OUTPUT "
                f"rule 10, because of -i '*' (pod annotation {POD}includeOutboundIPRanges)"
            ),
        ),
        (
            NEW,
            packet(to="10.9.0.1"),
            (
                "left untouched: RETURN in ISTIO_OUTPUT rule 9, because of -x 10.9.0.0/16 "
                f"(pod annotation {POD}excludeOutboundIPRanges)"
            ),
        ),
        (
            NEW,
            packet(to="127.0.0.1", oif="lo", **PROXY),
            "left untouched: RETURN in ISTIO_OUTPUT rule 4, because of -u 1337",
        ),
        (
            DNS,
            packet(to="127.0.0.1", oif="lo", dport=53),
            (
                "left untouched: RETURN in ISTIO_OUTPUT rule 9, because of "
                "--outbound-ipv4-loopback-cidr 127.0.0.1/32"
            ),
        ),
        (
            OLD,
            packet(**LOCAL),
            (
                "left untouched: RETURN in ISTIO_OUTPUT rule 4 (The containers of a pod call each "
                "other over loopback; such calls do not go through the proxy.)"
            ),
        ),
        (
            LISTED,
            packet(to="11.0.0.1"),
            (
                "left untouched: no rule of ISTIO_OUTPUT takes it, because "
                f"-q (pod annotation {POD}includeOutboundPorts) and "
                f"-i (pod annotation {POD}includeOutboundIPRanges) do not name it"
            ),
        ),
        (
            LISTED,
            inbound(dport=22),
            (
                "left untouched: no rule of ISTIO_INBOUND takes it, because "
                f"-b (pod annotation {POD}includeInboundPorts) does not name it"
            ),
        ),
        (
            NICS,
            packet(oif="eth1"),
            (
                "left untouched: RETURN in OUTPUT rule 1, because of -c eth1 "
                f"(pod annotation {POD}excludeInterfaces)"
            ),
        ),
        (DNS, packet(), "left untouched: no rule of ISTIO_OUTPUT takes it"),
        ("istio-iptables --no-ipv6", inbound(), "left untouched: no rule looks at it"),
        (
            TPROXY,
            inbound(),
            (
                "handed to 15006 by ISTIO_TPROXY, source and destination unchanged: ISTIO_INBOUND "
                f"rule 5, because of -b '*' (pod annotation {POD}includeInboundPorts)"
            ),
        ),
        (
            f"{TPROXY} -i * -k vm0",
            inbound(iif="vm0"),
            (
                "handed to 15006 by ISTIO_TPROXY, but with its destination port changed to 15001: "
                "ISTIO_INBOUND rule 5, because of -b '*' "
                f"(pod annotation {POD}includeInboundPorts)"
            ),
        ),
        (
            TPROXY,
            packet(state="ESTABLISHED", connmark=1337),
            "delivered to a local socket by its mark 0x539, whatever its destination",
        ),
        (
            NEW,
            packet(state="ESTABLISHED"),
            "goes where the first packet of its connection went; explain that one with --state NEW",
        ),
        (
            "istio-iptables --drop-invalid --no-ipv6",
            inbound(state="INVALID"),
            "dropped: DROP in ISTIO_DROP rule 1, because of --drop-invalid",
        ),
        (
            "-u 1337",
            inbound("fd00::1"),
            "rejected: REJECT in INPUT rule 2, because of --no-ipv6",
        ),
    ],
)
def test_verdict_in_words(line: str, sent: Packet, words: str) -> None:
    assert said(line, sent) == words


def test_nat_is_asked_once_a_connection_though_the_packet_comes_by_twice() -> None:
    # A rule for lo in PREROUTING does not get what OUTPUT has let go.
    found = through("istio-iptables -u 1337 -i * -k lo --no-ipv6", packet(**SELF))

    assert found.outcome == UNTOUCHED
    ways = [(step.hook, step.table, step.tried) for step in found.steps if not step.rule]
    assert ("PREROUTING", "", "comes in") in ways
    assert ("PREROUTING", "nat", "passed over") in ways


def test_of_two_zones_the_first_counts() -> None:
    query = packet(to="10.0.0.53", protocol="udp", dport=53)

    assert through(DNS, query.replace(uid=1337)).end.zone == 1
    assert through(DNS, query).end.zone == 2
    assert through(DNS, query.replace(dport=54)).end.zone == 0
    # On its second way the packet has its connection already.
    to_self: dict[str, Any] = {
        "to": "10.0.0.53",
        "oif": "lo",
        "protocol": "udp",
        "sport": 53,
        "dport": 53,
    }
    assert through(DNS, packet(**to_self)).end.zone == 2


def test_answers_of_tproxy_are_led_back() -> None:
    answer = packet(state="ESTABLISHED", connmark=1337)

    assert through(TPROXY, answer).outcome == Verdict("marked")
    assert through(TPROXY, answer.replace(connmark=1)).outcome == Verdict("follows")
    assert through(TPROXY, answer).end.iif == "lo"
    # Without the route the mark leads nowhere.
    rules = (Rules(planned(TPROXY).ruleset(IPV4)),)
    assert trace(rules, answer, Routes((), "eth0")).outcome == Verdict("follows")


def test_tproxy_marks_what_it_takes() -> None:
    found = through(f"{TPROXY} -t 0x10", inbound())

    assert (found.end.mark, found.end.connmark) == (0x10, 0)
    # The one that comes after is of a connection that the proxy has.
    later = through(f"{TPROXY} -t 0x10", inbound(state="ESTABLISHED", socket=True))
    assert (later.end.mark, later.outcome) == (0x10, Verdict("follows"))


# Rules of others.

NAT = "*nat\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\n"
OURS = (
    ":ISTIO_REDIRECT -\n-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001\n"
    "-A OUTPUT -p tcp -j ISTIO_REDIRECT\nCOMMIT\n"
)


def live(*rules: str, chains: str = "", before: str = "") -> tuple[Rules, ...]:
    text = f"{before}{NAT}{chains}:ISTIO_REDIRECT -\n" + "".join(f"{rule}\n" for rule in rules)
    text += OURS.partition("\n")[2]
    return (Rules(parse_save(text, IPV4), "nft"),)


def found_live(sent: Packet, *rules: str, chains: str = "", before: str = "") -> Trace:
    return trace(live(*rules, chains=chains, before=before), sent, Routes())


UNKNOWN_MATCHES = (
    "-p tcp -m time --timestart 01:00:00 --timestop 02:00:00",
    "-p tcp -m set --match-set spared dst",
    "-m addrtype ! --dst-type LOCAL",
    "-d 10.0.0.0/255.0.255.0",
    "-f",
    "-p tcp -m tcp --dport 443 --tcp-flags SYN,ACK SYN",
    "-m owner --gid-owner 1000 --suppl-groups",
    "-m conntrack --ctstate NEW,UNTRACKED",
    "-m mark --mark 0x0 -m string --string x --algo bm",
)


@pytest.mark.parametrize("matches", UNKNOWN_MATCHES)
def test_unknown_match_is_never_guessed(matches: str) -> None:
    found = found_live(packet(), f"-A OUTPUT {matches} -j RETURN")

    assert not found.certain
    assert found.outcome == to_proxy(15001)
    (doubt,) = found.depends
    assert (doubt.step.chain, doubt.step.number, doubt.outcomes) == ("OUTPUT", 1, (UNTOUCHED,))
    assert "unless OUTPUT rule 1 matches" in told_of(found)
    assert "then left untouched" in told_of(found)


@pytest.mark.parametrize("matches", UNKNOWN_MATCHES)
@pytest.mark.parametrize("fails", ["-s 11.0.0.0/8", "! -o eth+", "-p udp", "-p 1", "! -p tcp"])
def test_one_match_that_fails_settles_it(matches: str, fails: str) -> None:
    sent = packet(source=packed("10.1.0.1"))
    if "-p" in matches and "-p" in fails:
        matches = matches.removeprefix("-p tcp ")
    words = f"{fails} {matches}" if matches != "-f" else f"{matches} {fails}"
    found = found_live(sent, f"-A OUTPUT {words} -j RETURN")

    assert found.certain, told_of(found)
    assert found.outcome == to_proxy(15001)


@pytest.mark.parametrize(
    "rule",
    [
        # What changes nothing, whether it matches or not.
        "-A OUTPUT -m time --timestart 01:00 -j LOG",
        "-A OUTPUT -m time --timestart 01:00",
        "-A OUTPUT -m time --timestart 01:00 -j other",
        "-A OUTPUT -p tcp -m time --timestart 01:00 -j ISTIO_REDIRECT",
        "-A POSTROUTING -m time --timestart 01:00 -j MASQUERADE",
        # What is understood, though it is none of ours.
        '-A OUTPUT -m comment --comment "one -j RETURN" -j other',
        "-A OUTPUT -p tcp -m tcp ! --sport 40000 --dport 443 -j RETURN",
        "-A OUTPUT -p icmp -j RETURN",
        "-A OUTPUT -g other2",
    ],
)
def test_certain_all_the_same(rule: str) -> None:
    chains = ":other -\n:other2 -\n-A other2 -p tcp -j ISTIO_REDIRECT\n"
    found = found_live(packet(), rule, chains=chains)

    assert (found.outcome, found.certain) == (to_proxy(15001), True), told_of(found)


@pytest.mark.parametrize(
    ("rules", "outcome"),
    [
        (["-A OUTPUT -j RETURN"], UNTOUCHED),
        (["-A OUTPUT -j ACCEPT"], UNTOUCHED),
        (['-A OUTPUT -m comment --comment "a b" -j RETURN'], UNTOUCHED),
        (["-A OUTPUT -p tcp -m tcp --sport 40000 --dport 443 -j RETURN"], UNTOUCHED),
        # For good: what returns from there does not come back.
        (["-A OUTPUT -g other"], UNTOUCHED),
        (["-A OUTPUT -j outer", "-A outer -g other", "-A outer -j RETURN"], to_proxy(15001)),
        (["-A OUTPUT -p tcp -j DNAT --to-destination 1.2.3.4"], Verdict("unknown")),
        (["-A OUTPUT -p tcp -j REDIRECT --to-ports 80-90"], Verdict("unknown")),
        (["-A OUTPUT -j NFQUEUE --queue-num 0"], Verdict("unknown")),
        (["-A OUTPUT -p tcp -j REDIRECT --to-ports 80"], to_proxy(80)),
        # Nobody but a person makes these.
        (["-A OUTPUT -j outer", "-A outer -j outer"], Verdict("unknown")),
    ],
)
def test_targets_of_others(rules: list[str], outcome: Verdict) -> None:
    found = found_live(packet(), *rules, chains=":other -\n:outer -\n")

    assert found.outcome == outcome, told_of(found)
    assert found.certain == (outcome.fate != "unknown")
    assert not found.depends


@pytest.mark.parametrize(
    ("before", "outcome"),
    [
        ("*raw\n:PREROUTING ACCEPT\n:OUTPUT DROP\nCOMMIT\n", Verdict("dropped")),
        ("*raw\n:OUTPUT ACCEPT\n-A OUTPUT -j DROP\nCOMMIT\n", Verdict("dropped")),
        ("*filter\n:OUTPUT ACCEPT\n-A OUTPUT -o eth0 -j DROP\nCOMMIT\n", Verdict("dropped")),
        # Behind nat the packet leaves by the interface of before, and comes in by lo.
        ("*filter\n:INPUT ACCEPT\n-A INPUT -i eth0 -j DROP\nCOMMIT\n", to_proxy(15001)),
        (
            "*filter\n:INPUT ACCEPT\n-A INPUT -i lo -p tcp -m tcp --dport 15001 -j DROP\nCOMMIT\n",
            Verdict("dropped"),
        ),
        (
            "*mangle\n:POSTROUTING ACCEPT\n-A POSTROUTING -o lo -j DROP\nCOMMIT\n",
            Verdict("dropped"),
        ),
        (
            "*mangle\n:PREROUTING ACCEPT\n-A PREROUTING -d 127.0.0.1/32 -j DROP\nCOMMIT\n",
            Verdict("dropped"),
        ),
        # Who sent it is forgotten there: such a rule cannot match.
        (
            "*filter\n:INPUT ACCEPT\n-A INPUT -m owner --uid-owner 1000 -j DROP\nCOMMIT\n",
            to_proxy(15001),
        ),
        # In raw no connection is known yet, but for the second time.
        (
            "*raw\n:OUTPUT ACCEPT\n-A OUTPUT -m conntrack --ctstate NEW -j DROP\nCOMMIT\n",
            to_proxy(15001),
        ),
        (
            "*raw\n:PREROUTING ACCEPT\n-A PREROUTING -m conntrack --ctstate NEW -j DROP\nCOMMIT\n",
            Verdict("dropped"),
        ),
        ("*mangle\n:FORWARD ACCEPT\n-A FORWARD -j DROP\nCOMMIT\n", to_proxy(15001)),
    ],
)
def test_every_hook_on_the_way_is_passed(before: str, outcome: Verdict) -> None:
    found = found_live(packet(), before=before)

    assert (found.outcome, found.certain) == (outcome, True), told_of(found)


def test_what_is_not_for_this_namespace_is_forwarded() -> None:
    before = "*filter\n:FORWARD ACCEPT\n-A FORWARD -o eth0 -j DROP\nCOMMIT\n"
    through_here = Routes((), "eth0", local=False)

    assert trace(live(before=before), inbound(), through_here).outcome == Verdict("dropped")
    assert trace(live(before=before), inbound(), Routes()).outcome == UNTOUCHED
    assert trace(live(), inbound(), through_here).outcome == UNTOUCHED


def test_a_mark_that_others_write_is_not_known() -> None:
    mangle = "*mangle\n:OUTPUT ACCEPT\n-A OUTPUT -j MARK --set-xmark 0x1/0x2 -m x\n{}COMMIT\n"
    asks = "-A OUTPUT -m mark --mark 0x1 -j DROP\n"
    found = found_live(packet(), before=mangle.format(asks).replace(" -m x", ""))
    unknown = found_live(packet(), before=mangle.format(asks).replace("MARK --set", "HMARK --x"))

    assert found.certain
    assert not unknown.certain
    assert unknown.depends[0].outcomes == (Verdict("dropped"),)


def test_causes_are_found_among_rules_of_others() -> None:
    redirect = '-A other -p tcp -m comment --comment "a b" -j REDIRECT --to-ports 9'
    captured = found_live(
        packet(),
        "-A OUTPUT -m comment --comment x -j other",
        redirect,
        chains=":other -\n",
        before="*filter\n:INPUT ACCEPT\n-A INPUT -j ACCEPT\nCOMMIT\n",
    )
    (theirs,) = live("-A OUTPUT -j other", chains=":other -\n")
    (ours,) = live("-A OUTPUT -p udp -j ISTIO_REDIRECT", "-A OUTPUT -j other", chains=":other -\n")

    assert sentence(captured, {}) == (
        "redirected to 9 by other, original destination kept: "
        "-A OUTPUT -m comment --comment x -j other, rule 1"
    )
    spared = trace((ours,), packet(protocol="udp"), Routes())
    assert sentence(spared, {}) == "left untouched: no rule of ISTIO_REDIRECT takes it"
    spared = trace((theirs,), packet(protocol="udp"), Routes())
    assert sentence(spared, {}) == "left untouched: no rule of other takes it"


def test_a_second_nat_table_is_asked_what_the_first_let_go() -> None:
    (ours,) = live()
    (theirs,) = live("-A OUTPUT -p tcp -j REDIRECT --to-ports 9")

    assert trace((ours, theirs), packet(), Routes()).outcome == to_proxy(15001)
    assert trace((theirs, ours), packet(), Routes()).outcome == to_proxy(9)
    (lets_go,) = live("-A OUTPUT -j RETURN")
    assert trace((lets_go, ours), packet(), Routes()).outcome == to_proxy(15001)


# What is not known of the packet.


def test_of_an_unknown_user_it_is_said_what_depends_on_it() -> None:
    found = through(NEW, packet(uid=None, gid=None))

    assert found.outcome == to_proxy(15001)
    assert [(one.step.number, one.outcomes) for one in found.depends] == [
        (4, (UNTOUCHED,)),
        (7, (UNTOUCHED,)),
    ]
    assert "(-m owner --uid-owner 1337: its user is not known): then left untouched" in told_of(
        found
    )


def test_one_assumption_is_kept_to_the_end() -> None:
    # To a user of whom it was taken that it is not the proxy's nothing else happens
    # later: the second rule that asks decides nothing.
    found = through(GROUPS, packet(uid=1000, gid=None))

    wrong = [one for one in found.depends if Verdict("dropped") in one.outcomes]
    assert not wrong
    assert {outcome for one in found.depends for outcome in one.outcomes} <= {
        UNTOUCHED,
        to_proxy(15001),
    }


def test_what_depends_on_nothing_is_certain_whatever_is_unknown() -> None:
    found = through("istio-iptables -u 1337 --no-ipv6", packet(uid=None, gid=None, dport=None))

    assert (found.outcome, found.certain) == (UNTOUCHED, True)
    assert any(step.tried == "unknown" for step in found.steps)


def test_what_is_assumed_of_an_interface_or_an_address_is_kept() -> None:
    asks = ("-o eth7", "-d 10.9.0.0/16")
    for match in asks:
        found = found_live(
            packet(oif=None).replace(destination=None),
            f"-A OUTPUT {match} -j other",
            f"-A OUTPUT ! {match} -j ACCEPT",
            f"-A OUTPUT {match} -j DROP",
            chains=":other -\n",
        )
        # Either the one or the other: the chain is not gone through to its end.
        assert found.outcome == UNTOUCHED
        assert [one.outcomes for one in found.depends] == [(Verdict("dropped"),)]


def test_ranges_of_users_that_overlap_are_kept_apart() -> None:
    found = found_live(
        packet(uid=None),
        "-A OUTPUT -m owner --uid-owner 1000-2000 -j other",
        "-A OUTPUT -m owner --uid-owner 1500-2500 -j RETURN",
        "-A OUTPUT -m owner ! --uid-owner 1000-2500 -j RETURN",
        "-A OUTPUT -m owner --uid-owner 1000-1499 -j DROP",
        chains=":other -\n",
    )

    # Whoever is none of them returns; of those in the first range not all do.
    assert found.outcome == UNTOUCHED
    (doubt,) = found.depends
    assert (doubt.step.number, doubt.outcomes) == (1, (Verdict("dropped"),))
    ports = found_live(
        packet(dport=None),
        "-A OUTPUT -p tcp -m multiport --dports 1:5,7 -j other",
        "-A OUTPUT -p tcp -m tcp --dport 1:7 -j RETURN",
        "-A OUTPUT -p tcp -m multiport ! --dports 6,8 -j RETURN",
        "-A OUTPUT -p tcp -m tcp ! --dport 8 -j DROP",
        chains=":other -\n",
    )
    # What is left when neither of the three matches is port 8 alone: nothing is dropped.
    assert ports.outcome == to_proxy(15001)
    assert [(one.step.number, one.outcomes) for one in ports.depends] == [
        (number, (UNTOUCHED,)) for number in (1, 2, 3)
    ]


def test_many_unknowns_end() -> None:
    ids = ",".join(f"{low}-{low + 1}" for low in range(2000, 2128, 2))
    line = f"istio-iptables -u {ids} --redirect-dns --capture-all-dns -i * --no-ipv6"
    found = through(line, packet(to="10.0.0.53", protocol="udp", dport=53, uid=None, gid=None))

    assert not found.certain


def test_inbound_to_an_unknown_address_is_not_to_loopback() -> None:
    found = through(TPROXY, inbound().replace(destination=None))

    assert (found.outcome, found.certain) == (by_tproxy(15006), True)
    by_lo = through(TPROXY, inbound(iif="lo", mark=1338).replace(destination=None))
    assert not by_lo.certain


def test_a_socket_that_may_wait_is_a_doubt() -> None:
    found = through(OLD_TPROXY, inbound(socket=None))

    assert found.outcome == by_tproxy(15001)
    assert [one.outcomes for one in found.depends] == [(UNTOUCHED,)]


# Each match for itself: packets that it holds for, does not, and cannot tell.

MATCHES: tuple[tuple[m.Match, Packet, Packet, Packet | None], ...] = (
    (
        m.Source(network("10.0.0.0/8")[0]),
        packet(source=packed("10.255.0.1")),
        packet(source=packed("11.0.0.0")),
        packet(source=None),
    ),
    (
        m.Destination(network("fd00::/64")[0]),
        packet(to="fd00::ffff"),
        packet(to="fd00:0:0:1::"),
        packet().replace(destination=None),
    ),
    (m.InInterface("eth0"), inbound(), inbound(iif="eth01"), inbound(iif=None)),
    (m.InInterface("lo"), inbound(iif="lo"), packet(), None),
    (m.OutInterface("eth+"), packet(oif="eth"), packet(oif="et"), packet(oif=None)),
    (m.Proto("tcp"), packet(), packet(protocol="udp"), None),
    (
        m.Ports("tcp", "dport", PortRange(443, 444)),
        packet(dport=444),
        packet(dport=445),
        packet(dport=None),
    ),
    (
        m.Ports("udp", "sport", PortRange(53, 53)),
        packet(protocol="udp", sport=53),
        packet(protocol="udp", sport=54),
        packet(protocol="udp", sport=None),
    ),
    (
        m.MultiPorts("dport", (PortRange(1, 1), PortRange(5, 9))),
        packet(dport=9),
        packet(dport=4),
        packet(dport=None),
    ),
    (
        m.MultiPorts("sport", (PortRange(5, 9),)),
        packet(sport=5),
        packet(sport=10),
        packet(sport=None),
    ),
    (m.Owner("uid", IdRange(1, 3)), packet(uid=3), packet(uid=4), packet(uid=None)),
    (m.Owner("gid", IdRange(0, 0)), packet(gid=0), packet(gid=1), packet(gid=None)),
    (m.CtState(("NEW",)), packet(), packet(state="RELATED"), None),
    (m.Mark(0x10, 0xF0), packet(mark=0x1F), packet(mark=0x2F), packet(mark=None)),
    (m.ConnMark(5), packet(connmark=5), packet(connmark=4), packet(connmark=None)),
)


@pytest.mark.parametrize(("match", "yes", "no", "unknown"), MATCHES)
def test_match(match: m.Match, yes: Packet, no: Packet, unknown: Packet | None) -> None:
    negated = match if isinstance(match, m.Socket) else match.replace(negated=True)

    assert [holds(one, yes) for one in (match, negated)] == [True, False]
    assert [holds(one, no) for one in (match, negated)] == [False, True]
    assert actual(match, yes) != actual(match, no)
    if unknown is not None:
        assert [holds(one, unknown) for one in (match, negated)] == [None, None]
        assert "not known" in actual(match, unknown)


def test_matches_that_negation_does_not_turn_round() -> None:
    # A port of another protocol is no port but this one.
    port = m.Ports("tcp", "dport", PortRange(1, 1), negated=True)
    assert not holds(port, packet(protocol="udp"))
    assert actual(port, packet(protocol="udp")) == "it is udp"
    assert not holds(
        m.MultiPorts("dport", (PortRange(1, 1),), negated=True), packet(protocol="icmp")
    )
    # A packet of no connection has no connection's mark.
    mark = m.ConnMark(5, negated=True)
    assert not holds(mark, packet(state="INVALID"))
    assert actual(mark, packet(state="INVALID")) == "it is of no connection"


def test_without_a_socket_nft_compares_no_owner() -> None:
    owner = m.Owner("uid", IdRange(1, 1))

    assert not holds(owner, inbound())
    assert holds(owner.replace(negated=True), inbound())
    assert not holds(owner.replace(negated=True), inbound(), native=True)
    assert actual(owner, inbound()) == "no local socket sent it"


@pytest.mark.parametrize(("socket", "word"), [(True, "a socket"), (False, "no socket")])
def test_socket(socket: bool, word: str) -> None:  # noqa: FBT001 - a field of the packet
    assert holds(m.Socket(), inbound(socket=socket)) is socket
    assert actual(m.Socket(), inbound(socket=socket)).startswith(word)
    assert holds(m.Socket(), inbound(socket=None)) is None


# Tables of nft's own.


def native(*rules: bytes, jump: str = "") -> tuple[Rules, ...]:
    """Return our rules as nft keeps them, with rules of others before them in OUTPUT."""
    ruleset = canonical(planned(NEW).ruleset(IPV4))
    table = ruleset.table("nat")
    assert table is not None
    chains = {chain.name: chain for chain in table.chains}
    foreign: tuple[Rule | ForeignRule, ...] = tuple(
        iptables.foreign(one, b"", e.Reader().statements(one), FAMILIES).replace(jump=jump)
        for one in rules
    )
    chains["OUTPUT"] = Chain("OUTPUT", "ACCEPT", (*foreign, *chains["OUTPUT"].rules))
    return (Rules(Ruleset(IPV4, (make_table("nat", chains),)), NATIVE),)


# The hour of the day, which no match of iptables compares.
SOMETHING = e.meta(29) + e.compare("==", bytes(4))


@pytest.mark.parametrize(
    ("line", "jump", "otherwise"),
    [
        (e.verdict(e.RETURN), "", (UNTOUCHED,)),
        (e.verdict(e.ACCEPT), "", (UNTOUCHED,)),
        (e.verdict(e.DROP), "", (Verdict("dropped"),)),
        (e.expression("log"), "", ()),
        (e.COUNTER, "", ()),
        (e.immediate(bytes(4)) + e.expression("nat"), "", (Verdict("unknown"),)),
        (e.immediate(b"\1") + e.set_meta(12) + e.verdict(e.ACCEPT), "", (UNTOUCHED,)),
        (e.verdict(e.JUMP, "ISTIO_REDIRECT"), "ISTIO_REDIRECT", ()),
        (e.verdict(e.GOTO, "ISTIO_IN_REDIRECT"), "ISTIO_IN_REDIRECT", 6),
        (e.verdict(e.JUMP, "gone"), "gone", (Verdict("unknown"),)),
    ],
)
def test_rules_of_others_in_native_tables(
    line: bytes, jump: str, otherwise: tuple[Verdict, ...] | int
) -> None:
    found = trace(native(SOMETHING + line, jump=jump), packet(), Routes())

    wanted = (to_proxy(15006),) if otherwise == 6 else otherwise
    assert found.outcome == to_proxy(15001)
    assert tuple(one for depends in found.depends for one in depends.outcomes) == wanted


@pytest.mark.parametrize("family", FAMILIES)
def test_canonical_rules_lead_packets_where_the_plans_do(family: Family) -> None:
    to = "10.9.0.1" if family == IPV4 else "fd00::1"
    line = "istio-iptables -i * -x 10.9.0.0/17,10.9.128.0/17 -o 1-5,7 -b * -d 9,10 -u 1,2,7 --ipv6"
    plan = planned(line)
    in_nft = (Rules(canonical(plan.ruleset(family)), NATIVE),)
    for sent in (
        *(packet(to=to, dport=port, uid=uid) for port in (5, 6, 7) for uid in (2, 3)),
        *(inbound(to, dport=port) for port in (8, 9, 10)),
    ):
        assert trace(in_nft, sent, Routes()).outcome == through(line, sent).outcome


def test_live_rules_get_the_plans_reasons() -> None:
    plan = planned(NEW)
    bare = Ruleset(
        IPV4,
        tuple(
            table.replace(
                chains=tuple(
                    chain.replace(
                        rules=tuple(
                            Rule(rule.matches, rule.target)
                            for rule in chain.rules
                            if isinstance(rule, Rule)
                        )
                    )
                    for chain in table.chains
                )
            )
            for table in plan.ruleset(IPV4).tables
        ),
    )
    unexplained = trace((Rules(bare, "nft"),), packet(to="10.9.0.1"), Routes())
    found = trace((explained(Rules(bare, "nft"), plan),), packet(to="10.9.0.1"), Routes())

    assert flags_of(unexplained) == [""]
    assert flags_of(found) == ["-x"]
    in_nft = explained(Rules(canonical(bare), NATIVE), plan)
    assert flags_of(trace((in_nft,), packet(to="10.9.0.1"), Routes())) == ["-x"]
    # Tables and chains that the plan has not are as they were.
    nothing = planned("istio-iptables --no-ipv6 --layout 1.30")
    assert explained(Rules(bare), nothing).ruleset == bare


# What is printed.


def test_lines_say_what_was_tried_and_why() -> None:
    text = told_of(through(NEW, packet(to="10.9.0.1", source=packed("10.1.0.1"))))

    assert text.startswith(
        "tcp from 10.1.0.1:40000 to 10.9.0.1:443, out by eth0, user 1000, group 1000, NEW, "
        "against the live rules\n\n"
        "nat OUTPUT\n  yes   1  -A OUTPUT -j ISTIO_OUTPUT   "
    )
    assert "\nnat ISTIO_OUTPUT (in OUTPUT)\n  no    1  -A ISTIO_OUTPUT -s 127.0.0.6/32 " in text
    assert "  -m owner --uid-owner 1337: its user is 1000\n" in text
    assert "  yes   9  -A ISTIO_OUTPUT -d 10.9.0.0/16 -j RETURN " in text
    assert text.splitlines()[-1].startswith("left untouched: RETURN in ISTIO_OUTPUT rule 9, ")


def test_lines_say_where_a_packet_comes_by_again() -> None:
    text = told_of(through(TPROXY, packet(**SELF, uid=0, gid=1337)))

    assert "its mark is 0x53a now\n" in text
    assert "\nin again by lo\n\nmangle PREROUTING\n" in text
    assert "\nnat PREROUTING\n" not in text


@pytest.mark.parametrize(
    ("sent", "head"),
    [
        (inbound(), "tcp to 10.1.0.1:443, in by eth0, NEW"),
        (inbound().replace(destination=None), "tcp to the pod's port 443, in by eth0, NEW"),
        (
            inbound("fd00::1", protocol="ipv6-icmp", dport=None).replace(destination=None),
            "ipv6-icmp to the pod, in by eth0, NEW",
        ),
        (
            packet(to="fd00::1", mark=16, connmark=17, state="ESTABLISHED", uid=None, gid=5),
            (
                "tcp to [fd00::1]:443, out by eth0, user not known, group 5, mark 0x10, "
                "connection's mark 0x11, ESTABLISHED"
            ),
        ),
        (packet(oif=None), "tcp to 10.1.2.3:443, out by an interface that is not known, user 1000"),
        (inbound(iif=None), "tcp to 10.1.0.1:443, in by an interface that is not known, NEW"),
    ],
)
def test_first_line_is_the_packet(sent: Packet, head: str) -> None:
    assert told_of(trace((), sent, Routes())).startswith(head)


def test_notes_and_rules_are_named() -> None:
    found = trace((), packet(), Routes())
    text = [
        "".join(text for text, _ in line) for line in lines(found, {}, layout="1.0", notes=("y",))
    ]

    assert text[0].endswith(", NEW, against the plan of layout 1.0")
    assert text[-2:] == ["left untouched: no rule looks at it", "note: y"]


def test_document() -> None:
    found = found_live(packet(uid=None), "-A OUTPUT -m time --timestart 01:00 -j DROP")
    data = json.loads(document(found, ANNOTATIONS, notes=("one",)))

    assert (data["version"], data["against"], data["notes"]) == (1, "live", ["one"])
    assert data["layout"] is None
    assert data["packet"]["destination"] == "10.1.2.3"
    assert data["packet"]["uid"] is None
    assert [step["tried"] for step in data["steps"][:3]] == ["entered", "unknown", "yes"]
    assert data["steps"][1]["rule"] == "-A OUTPUT -m time --timestart 01:00 -j DROP"
    verdict = data["verdict"]
    assert (verdict["fate"], verdict["port"], verdict["certain"]) == ("redirected", 15001, False)
    assert verdict["text"].startswith("redirected to 15001 by ISTIO_REDIRECT")
    (doubt,) = verdict["depends_on"]
    assert doubt["outcomes"] == [{"fate": "dropped", "port": None}]
    assert [step["number"] for step in verdict["decided_by"]] == [2, 1]


def test_document_names_flag_and_annotation() -> None:
    found = through(NEW, packet(to="10.9.0.1"))
    (step,) = json.loads(document(found, ANNOTATIONS, layout="1.30"))["verdict"]["decided_by"]

    assert (step["flag"], step["annotation"]) == ("-x", f"{POD}excludeOutboundIPRanges")
    assert step["why"].startswith("This destination is to be left alone; ")


def test_a_return_to_a_policy_that_drops_says_so() -> None:
    before = "*raw\n:OUTPUT DROP\n-A OUTPUT -j RETURN\nCOMMIT\n"

    assert sentence(found_live(packet(), before=before), {}) == (
        "dropped: RETURN in OUTPUT rule 1 (the policy is DROP)"
    )


def test_every_table_of_the_model_has_its_hooks() -> None:
    for table in TABLES:
        dropped = Ruleset(IPV6, (make_table(table, {"OUTPUT": Chain("OUTPUT", "DROP")}),))
        found = trace((Rules(dropped),), packet(to="fd00::1"), Routes())
        assert found.outcome == Verdict("dropped")
        assert sentence(found, {}).startswith(f"dropped: the policy is DROP in {table} OUTPUT")


def backends(*rules: str) -> tuple[Rules, ...]:
    """Return the rules of backends with one rule each in nat OUTPUT."""
    names = ("legacy", "nft", "nftables")
    return tuple(
        Rules(parse_save(f"*nat\n:OUTPUT ACCEPT\n-A OUTPUT {rule}\nCOMMIT\n", IPV4), name)
        for rule, name in zip(rules, names, strict=False)
    )


ON_80 = "-p tcp -j REDIRECT --to-ports 80"
ON_81 = "-p tcp -j REDIRECT --to-ports 81"


def test_what_depends_on_the_order_of_backends_is_not_certain() -> None:
    found = trace_in_any_order(backends(ON_80, ON_81, "-j RETURN"), packet(), Routes())

    assert (found.outcome, found.certain) == (to_proxy(80), False)
    assert [(one.step.backend, one.outcomes) for one in found.depends] == [("nft", (to_proxy(81),))]
    assert sentence(found, {}).startswith("not certain: redirected to 80 by OUTPUT")
    assert "  unless the kernel asks backend nft first: then redirected to 81" in told_of(found)
    verdict = json.loads(document(found, ANNOTATIONS))["verdict"]
    assert verdict["certain"] is False


@pytest.mark.parametrize(
    "rules", [(ON_80,), (ON_80, ON_80), (ON_80, "-j RETURN"), ("-j ACCEPT", ON_80)]
)
def test_what_does_not_depend_on_the_order_is_certain(rules: tuple[str, ...]) -> None:
    found = trace_in_any_order(backends(*rules), packet(), Routes())

    assert (found.outcome, found.certain) == (to_proxy(80), True)


def test_one_that_stops_packets_may_be_asked_first() -> None:
    found = trace_in_any_order(backends(ON_80, "-j NFQUEUE --queue-num 1"), packet(), Routes())

    assert [(one.step.backend, one.outcomes) for one in found.depends] == [
        ("nft", (Verdict("unknown"),))
    ]


@pytest.mark.parametrize(
    ("hook", "first", "rules", "certain"),
    [
        ("OUTPUT", True, (ON_80,), False),
        ("OUTPUT", False, (ON_80,), True),
        ("OUTPUT", False, ("-j RETURN",), False),
        ("PREROUTING", True, (ON_80,), True),
    ],
)
def test_a_chain_that_nobody_reads(
    hook: Hook,
    first: bool,  # noqa: FBT001
    rules: tuple[str, ...],
    certain: bool,  # noqa: FBT001
) -> None:
    unread = UnreadChain(hook, "ip theirs", "out", first)
    found = with_unread(trace(backends(*rules), packet(), Routes()), (unread,))

    assert found.certain == certain
    if not certain:
        assert "unless the chain out of the table ip theirs, which is not read, takes it" in (
            told_of(found)
        )
