"""The encoder of the legacy backend against iptables itself, byte for byte.

The same rules go into one namespace by iptables-legacy and into another by this
program; what the kernel then holds must not tell who wrote it.
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING

import pytest

from istio_init.config.values import network
from istio_init.formats.iptables import match_negated, rule_words
from istio_init.formats.xt_entry import decode, encode
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import TABLES, Chain, ForeignRule, Rule, rule
from istio_init.rules.ranges import FAMILIES, FULL_MASK, IdRange, PortRange
from tests.inside import inside
from tests.kernel import legacy_tables
from tests.namespace import TOOLS, Namespace, spelled
from tests.strategies import CHAINS, drawn, rules, tables_of

if TYPE_CHECKING:
    from istio_init.rules.ranges import Family, Protocol

SIEVE = "SIEVE"
RANDOM_RULES = 700
TCP, UDP = m.Proto("tcp"), m.Proto("udp")
LARGEST_ID = 4294967294

NETWORKS = {
    "ipv4": ("127.0.0.1/32", "10.0.0.0/8", "0.0.0.0/1", "192.168.255.252/30", "255.255.255.255/32"),
    "ipv6": ("::1/128", "fd00::/8", "::/1", "::ffff:10.0.0.0/104", "2001:db8::4:0:0:1/127"),
}
ANYWHERE = {"ipv4": "0.0.0.0/0", "ipv6": "::/0"}
INTERFACES = (
    "lo",
    "eth0",
    "eth+",
    "0eth",
    "abcdefghijklmno",
    "abcdefghijklmn+",
    "a+b",
    "c++",
    "é.@:$",
)


def both(kind: type, *values: object) -> list[tuple[m.Match, ...]]:
    """Return a match as it is and negated."""
    return [(kind(*values, negated=False),), (kind(*values, negated=True),)]


def every_match(family: Family) -> list[tuple[m.Match, ...]]:
    """Return each kind of match, with the values at its edges."""
    found: list[tuple[m.Match, ...]] = [
        (),
        (TCP,),
        (UDP,),
        (m.Proto("tcp", negated=True),),
        (m.Socket(),),
    ]
    for text in NETWORKS[family]:
        found += both(m.Source, network(text)[0]) + both(m.Destination, network(text)[0])
    found.append((m.Source(network(ANYWHERE[family])[0], negated=True),))
    for prefix in range(1, 33 if family == "ipv4" else 129):
        address = (
            "10.171.205.239" if family == "ipv4" else "fdab:cdef:1234:5678::9abc"
        ) + f"/{prefix}"
        found.append((m.Destination(network(address)[0]),))
    for name in INTERFACES:
        found += both(m.InInterface, name) + both(m.OutInterface, name)
    protocols: tuple[tuple[Protocol, m.Proto], ...] = (("tcp", TCP), ("udp", UDP))
    for protocol, proto in protocols:
        for side in ("sport", "dport"):
            for low, high in ((1, 1), (53, 53), (65535, 65535), (1, 65535), (8000, 9000)):
                found += [
                    (proto, *match) for match in both(m.Ports, protocol, side, PortRange(low, high))
                ]
            for ports in lists_of_ports():
                found += [(proto, *match) for match in both(m.MultiPorts, side, ports)]
    for kind in ("uid", "gid"):
        for low, high in ((0, 0), (1337, 1337), (LARGEST_ID, LARGEST_ID), (0, LARGEST_ID), (5, 6)):
            found += both(m.Owner, kind, IdRange(low, high))
    for module in ("conntrack", "state"):
        for states in (
            *((state,) for state in m.CT_STATES),
            ("RELATED", "ESTABLISHED"),
            (*m.CT_STATES,),
        ):
            found += both(m.CtState, states, module)
    for mark in ((0,), (1337,), (FULL_MASK,), (1, 1), (0x539, 0xFF00), (0, 0)):
        found += both(m.Mark, *mark) + both(m.ConnMark, *mark)
    found.append(
        (TCP, m.Ports("tcp", "sport", PortRange(1, 2)), m.Ports("tcp", "dport", PortRange(3, 3)))
    )
    found.append(
        (m.Mark(1), m.Mark(2, 3), m.ConnMark(4), m.Owner("uid", IdRange(0, 9)), m.CtState(("NEW",)))
    )
    return found


def lists_of_ports() -> list[tuple[PortRange, ...]]:
    """Return lists for multiport; it has 15 slots, a range takes two."""
    singles = tuple(PortRange(port, port) for port in range(1, 16))
    ranges = tuple(PortRange(port, port + 1) for port in range(100, 700, 100))
    return [singles[:1], singles, ranges, (*ranges, PortRange(900, 65535), PortRange(7, 7))]


TARGETS: tuple[t.Target, ...] = (
    *(t.Jump(chain) for chain in CHAINS),
    *(t.Return(), t.Accept(), t.Drop(), t.Reject(), t.SaveMark(), t.RestoreMark()),
    *(t.Redirect(port) for port in (1, 15001, 65535)),
    *(t.Tproxy(15006, 1337), t.Tproxy(65535, 0, 0), t.Tproxy(1, 0x539, 0xFF)),
    *(t.SetMark(1338), t.SetMark(0, 0), t.SetMark(FULL_MASK, 0xF0)),
    *(t.CtZone(1), t.CtZone(2), t.CtZone(65535)),
)


@cache
def sample(kind: str, family: Family) -> dict[str, list[Rule]]:
    """Return the rules to try, by the table in which they are to stand."""
    if kind == "random":
        wished = drawn(rules(family), RANDOM_RULES)
    else:
        wished = [rule(*matches, target=t.Return()) for matches in every_match(family)]
        needed = [(TCP,) if isinstance(target, t.Redirect | t.Tproxy) else () for target in TARGETS]
        wished += [
            rule(*matches, target=target) for matches, target in zip(needed, TARGETS, strict=True)
        ]
    found: dict[str, list[Rule]] = {table: [] for table in TABLES}
    for number, one in enumerate(wished):
        tables = tables_of(one.target)
        found[tables[number % len(tables)]].append(one)
    return found


def lines(wished: list[Rule], family: Family, verb: str = "-A") -> list[str]:
    return [f"{verb} {SIEVE} {' '.join(rule_words(one, family))}" for one in wished]


def restore(pod: Namespace, family: Family, commands: dict[str, list[str]]) -> None:
    """Give iptables commands for several tables in one go."""
    text = "".join(f"*{table}\n{spelled(some)}COMMIT\n" for table, some in commands.items())
    pod.run(f"{TOOLS[family]}-restore", "--noflush", text=text)


def rules_of(pod: Namespace, family: Family, table: str) -> list[str]:
    """Return the rules that iptables prints; the chains are the same in every table."""
    return [line for line in pod.rules(family, table) if line.startswith("-A")]


def write_by_iptables(pod: Namespace, family: Family, wished: dict[str, list[Rule]]) -> None:
    made = [f":{chain} - [0:0]" for chain in (SIEVE, *CHAINS)]
    restore(pod, family, {table: made + lines(some, family) for table, some in wished.items()})


def write_by_program(pod: Namespace, family: Family, wished: dict[str, list[Rule]]) -> None:
    leaves = [Chain(chain, None) for chain in CHAINS]
    tables = {table: [Chain(SIEVE, None, tuple(some)), *leaves] for table, some in wished.items()}
    inside(pod, partial(legacy_tables.write, family, tables))


samples = pytest.mark.parametrize("kind", ["hand-picked", "random"])
families = pytest.mark.parametrize("family", FAMILIES)


@families
def test_random_rules_use_everything_there_is(family: Family) -> None:
    found = [one for some in sample("random", family).values() for one in some]
    kinds = {(type(match), match_negated(match)) for one in found for match in one.matches}
    plain = {type(match) for matches in every_match(family) for match in matches}
    wanted = {(kind, negated) for kind in plain for negated in (False, True)} - {(m.Socket, True)}

    assert len(found) == RANDOM_RULES
    assert kinds == wanted
    assert {type(one.target) for one in found} == {type(target) for target in TARGETS}


@samples
@families
def test_kernel_cannot_tell_who_wrote_a_rule(kind: str, family: Family) -> None:
    wished = sample(kind, family)
    with Namespace() as theirs, Namespace() as ours:
        write_by_iptables(theirs, family, wished)
        write_by_program(ours, family, wished)
        for table, some in wished.items():
            printed = lines(some, family)
            assert rules_of(theirs, family, table) == printed
            assert rules_of(ours, family, table) == printed
            written = inside(theirs, partial(legacy_tables.entries, family, table))
            # Eight or so entries more: heads and ends of the chains.
            assert len(written) > len(some)
            assert inside(ours, partial(legacy_tables.entries, family, table)) == written


@samples
@families
def test_rules_of_iptables_are_read_as_they_were_meant(kind: str, family: Family) -> None:
    wished = sample(kind, family)
    with Namespace() as theirs:
        write_by_iptables(theirs, family, wished)
        live = inside(theirs, partial(legacy_tables.read, family, *wished))

    for table in live.tables:
        sieve = table.chain(SIEVE)
        assert sieve is not None
        assert sieve.rules == tuple(wished[table.name])


@samples
@families
def test_rules_survive_encoding(kind: str, family: Family) -> None:
    for some in sample(kind, family).values():
        for one in some:
            assert decode(encode(one, family), family) == one


@samples
@families
def test_iptables_finds_and_deletes_our_rules(kind: str, family: Family) -> None:
    wished = sample(kind, family)
    with Namespace() as ours:
        write_by_program(ours, family, wished)
        restore(ours, family, {table: lines(some, family, "-C") for table, some in wished.items()})
        for verb in ("-C", "-D"):
            restore(
                ours, family, {table: lines(some, family, verb) for table, some in wished.items()}
            )
        left = [line for table in TABLES for line in rules_of(ours, family, table)]
        gone = lines(wished["raw"][:1], family, "-C")[0].split(" ")
        missing = ours.run(TOOLS[family], "-t", "raw", *gone, check=False)

    assert left == []
    # Had -C found everything always, the loop would have proved nothing.
    assert missing.returncode == 1


@families
def test_64_owner_groups_fit_into_one_rule(family: Family) -> None:
    # iptables-restore takes no more than 49; iptables itself takes these.
    groups = tuple(
        m.Owner("gid", IdRange(3000 + one, 3000 + one), negated=True) for one in range(64)
    )
    excluding = rule(*groups, target=t.Return())
    words = rule_words(excluding, family)
    with Namespace() as theirs, Namespace() as ours:
        theirs.run(TOOLS[family], "-t", "nat", "-N", SIEVE)
        theirs.run(TOOLS[family], "-t", "nat", "-A", SIEVE, *words)
        one = {"nat": [Chain(SIEVE, None, (excluding,))]}
        inside(ours, partial(legacy_tables.write, family, one))
        written = inside(theirs, partial(legacy_tables.entries, family, "nat"))
        assert inside(ours, partial(legacy_tables.entries, family, "nat")) == written
        assert rules_of(ours, family, "nat") == lines([excluding], family)
        ours.run(TOOLS[family], "-t", "nat", "-C", SIEVE, *words)
        ours.run(TOOLS[family], "-t", "nat", "-D", SIEVE, *words)
        assert rules_of(ours, family, "nat") == []


# Rules of others, by table, as iptables prints them.
FOREIGN = {
    "raw": (
        "-j NOTRACK",
        "-j CT --notrack",
        "-j CT --zone mark",
        "-j CT",
        '-m comment --comment "with blanks" -j ACCEPT',
    ),
    "mangle": (
        "-p tcp -m tcp --tcp-flags SYN,ACK SYN",
        "-p tcp -m tcp --sport 5 --dport 6 -j RETURN",
        "-p tcp -m tcp",
        "-p udp -m udp -j ACCEPT",
        "-p tcp -m tcp --dport 0 -j ACCEPT",
        "-p tcp -m multiport --ports 5,6 -j ACCEPT",
        "-p 253 -j ACCEPT",
        "-p tcp -m tcp --tcp-flags SYN SYN -j TCPMSS --clamp-mss-to-pmtu",
        "-m owner --socket-exists -j ACCEPT",
        "-m owner --uid-owner 1 --gid-owner 2 -j ACCEPT",
        "-m conntrack --ctproto 6 -j ACCEPT",
        "-m conntrack --ctstate NEW,SNAT -j ACCEPT",
        "-m conntrack --ctstate NEW --ctproto 6 -j ACCEPT",
        "-m state --state UNTRACKED -j ACCEPT",
        "-m statistic --mode nth --every 2 --packet 0 -j ACCEPT",
        "-j MARK --set-xmark 0x5/0x7",
        "-j CONNMARK --set-xmark 0x4/0xffffffff",
        "-j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff",
        "-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
    ),
    "nat": (
        "-p tcp -j REDIRECT",
        "-p tcp -j REDIRECT --to-ports 5-6",
        "-p tcp -j REDIRECT --to-ports 5 --random",
        "-j MASQUERADE",
    ),
    "filter": (
        "",
        "-g other",
        "-j other",
        "-m limit --limit 5/min -j ACCEPT",
        '-m limit --limit 3/sec --limit-burst 7 -j LOG --log-prefix "seen: " --log-level 7',
        "-j NFLOG",
        "-p tcp -j REJECT --reject-with tcp-reset",
        "-m length --length 5 -j DROP",
        "-m mark --mark 0x5/0x3 -j QUEUE",
    ),
}
FOREIGN_OF = {
    "ipv4": {
        "mangle": (
            "-f -j ACCEPT",
            "-s 1.0.3.0/255.0.255.0 -j ACCEPT",
            "-p icmp -m icmp --icmp-type 8 -j ACCEPT",
            "-m ttl --ttl-eq 5 -j TTL --ttl-set 6",
            "-p tcp -j TPROXY --on-port 5 --on-ip 1.2.3.4 --tproxy-mark 0x1/0x1",
        ),
        "nat": (
            "-j SNAT --to-source 1.2.3.4",
            "-p tcp -j DNAT --to-destination 1.2.3.4:55",
        ),
        "filter": ("-j REJECT --reject-with icmp-host-prohibited",),
    },
    "ipv6": {
        "mangle": (
            "-s fd00::3/ffff::ffff -j ACCEPT",
            "-p ipv6-icmp -m icmp6 --icmpv6-type 128 -j ACCEPT",
            "-m hl --hl-eq 5 -j HL --hl-set 6",
            "-m frag --fragfirst -j ACCEPT",
            "-p tcp -j TPROXY --on-port 5 --on-ip fd00::1 --tproxy-mark 0x1/0x1",
        ),
        "nat": (
            "-j SNAT --to-source fd00::1",
            "-p tcp -j DNAT --to-destination [fd00::1]:55",
        ),
        "filter": ("-j REJECT --reject-with icmp6-adm-prohibited",),
    },
}
# These read like rules of ours, and may be taken for such.
KNOWN_SHAPES = {
    "-j other",
    "-j MARK --set-xmark 0x5/0x7",
    "-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
}


def foreign(family: Family, table: str) -> list[str]:
    """Return rules of others, as they follow ``-A SIEVE``."""
    return [*FOREIGN[table], *FOREIGN_OF[family].get(table, ())]


@families
def test_a_match_on_every_interface_is_not_taken_for_one_of_ours(family: Family) -> None:
    # The kernel keeps the "+". iptables 1.8.9 prints none, 1.8.11 the one that is negated.
    with Namespace() as pod:
        restore(pod, family, {"filter": ["-A FORWARD -i + ! -o + -j ACCEPT"]})
        before = inside(pod, partial(legacy_tables.entries, family, "filter"))
        spelled_before = rules_of(pod, family, "filter")
        found = inside(pod, partial(legacy_tables.rewrite, family, "filter", "FORWARD"))
        after = inside(pod, partial(legacy_tables.entries, family, "filter"))
        printed = rules_of(pod, family, "filter")

    assert [type(one) for one in found] == [ForeignRule]
    assert after == before
    assert printed == spelled_before


@families
@pytest.mark.parametrize("table", TABLES)
def test_foreign_rules_survive_a_rewrite(family: Family, table: str) -> None:
    texts = foreign(family, table)
    with Namespace() as pod:
        made = [f":{chain} - [0:0]" for chain in (SIEVE, "other")]
        written = [f"-A {SIEVE} {text}".rstrip() for text in texts]
        restore(pod, family, {table: [*made, *written]})
        before = inside(pod, partial(legacy_tables.entries, family, table))
        found = inside(pod, partial(legacy_tables.rewrite, family, table, SIEVE))
        after = inside(pod, partial(legacy_tables.entries, family, table))
        printed = rules_of(pod, family, table)

    assert printed == written
    assert after == before
    for text, one in zip(texts, found, strict=True):
        assert isinstance(one, ForeignRule) == (text not in KNOWN_SHAPES), text
        if isinstance(one, Rule):
            assert rule_words(one, family) == text.split(" ")
        else:
            assert one.jump == ("other" if text == "-g other" else ""), text
