"""Rules of others that take most of the packets are told from those that take some or none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from istio_init.diagnose import interception
from istio_init.diagnose.findings import Finding
from istio_init.diagnose.interception import obstacles
from istio_init.diagnose.samples import PodNetwork
from istio_init.diagnose.shadowing import has_others
from istio_init.diagnose.trace import Rules
from istio_init.formats.save_reader import parse_rule, parse_save
from istio_init.rules.model import BUILTIN_CHAINS, TABLES, Chain, Ruleset, Table, make_table
from istio_init.rules.ranges import IPV4, IPV6
from tests.plans import plan_of

if TYPE_CHECKING:
    from istio_init.diagnose.interception import Obstacle
    from istio_init.rules.model import Plan
    from istio_init.rules.ranges import Family

PLAN = plan_of("istio-iptables", "-i", "*", "-b", "*", "--no-ipv6")
WITH_DNS = plan_of("istio-iptables", "-i", "*", "--no-ipv6", "--redirect-dns", "--capture-all-dns")
OLD = plan_of("-i", "*", "-b", "80", "-u", "1337")
TPROXY = plan_of("istio-iptables", "-b", "*", "-m", "TPROXY", "--no-ipv6", "--drop-invalid")
VIRTUAL = plan_of("istio-iptables", "-i", "*", "-k", "dind0", "--no-ipv6")

OUTBOUND = "outbound TCP does not reach the proxy"
INBOUND = "inbound TCP does not reach the proxy"
DNS = "DNS queries over UDP do not reach the agent"
CHAINS = """
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:ENDS - [0:0]
:RETURNS - [0:0]
:ENDS_SOME - [0:0]
:RETURNS_SOME - [0:0]
:DEEPER - [0:0]
:RETURNS_ALL - [0:0]
-A ENDS -p udp -j RETURN
-A ENDS -j LOG
-A ENDS -j ACCEPT
-A RETURNS -j RETURN
-A RETURNS -j ACCEPT
-A ENDS_SOME -s 10.0.0.0/8 -j ACCEPT
-A RETURNS_SOME -s 10.0.0.0/8 -j RETURN
-A RETURNS_SOME -j ACCEPT
-A DEEPER -j RETURNS
-A DEEPER -j ENDS
COMMIT
"""


def look(plan: Plan, *live: Ruleset) -> tuple[Obstacle, ...]:
    """Return what keeps packets from a plan; the first rules are those of its own backend."""
    backends = ("legacy", "nft", "nftables")
    rules = tuple(Rules(one, backend) for one, backend in zip(live, backends, strict=False))
    return obstacles(plan, live[0].family, rules, PodNetwork(), lambda: None)


def sentences(live: Ruleset, plan: Plan) -> tuple[str, ...]:
    """Return what apply warns of."""
    return tuple(str(one) for one in look(plan, live) if one.takes)


def live(plan: Ruleset, table: str, chain: str, *rules: str, first: bool = True) -> Ruleset:
    """Return the rules of a plan with others before (or behind) ours in one chain."""
    theirs = tuple(parse_rule(one, plan.family) for one in rules)
    extra = parse_save(CHAINS, plan.family).tables[0]
    tables = []
    for one in plan.tables:
        chains: list[Chain] = []
        for found in one.chains:
            if one.name == table and found.name == chain:
                both = (*theirs, *found.rules) if first else (*found.rules, *theirs)
                chains.append(found.replace(rules=both))
            else:
                chains.append(found)
        if one.name == "nat":
            chains += [found for found in extra.chains if found.policy is None]
        tables.append(Table(one.name, tuple(chains)))
    return plan.replace(tables=tuple(tables))


WIDE = [
    "-j RETURN",
    "-j ACCEPT",
    "-p tcp -j RETURN",
    "! -p udp -j ACCEPT",
    "-p tcp -m tcp -j RETURN",
    '-p tcp -m comment --comment "not ours" -j ACCEPT',
    "-m comment --comment theirs -p tcp -j ACCEPT",
    "-p tcp -j REDIRECT --to-ports 1",
    "-p tcp -j DNAT --to-destination 192.0.2.1:80",
    "-p tcp -j QUEUE",
    "-j NFQUEUE --queue-num 1",
    "-p tcp -j SOMETHING --new",
    "-j ENDS",
    "-g RETURNS",
    "-p tcp -j DEEPER",
    "-j RETURNS_SOME",
    # Whatever it asks for, it is true of most of the traffic.
    '-m comment --comment "some" -m state --state NEW -j ACCEPT',
    "-p tcp -m conntrack --ctstate NEW,RELATED -j RETURN",
    "! -s 192.0.2.0/24 -p tcp -j ACCEPT",
    "! -d 192.0.2.0/24 -p tcp -j ACCEPT",
    "-p tcp -m tcp ! --dport 22 -j ACCEPT",
    "-m mark --mark 0x0 -j RETURN",
]
NARROW = [
    "-p udp -j RETURN",
    "-p icmp -j ACCEPT",
    "! -p tcp -j ACCEPT",
    "-p tcp -m tcp --dport 80 -j RETURN",
    "-p tcp -m multiport --dports 80,81 -j RETURN",
    "-d 192.0.2.0/24 -j RETURN",
    "-o eth7 -j ACCEPT",
    "-m owner --uid-owner 7 -j ACCEPT",
    "-p tcp -m mark --mark 0x7 -j ACCEPT",
    "-m statistic --mode random --probability 0.5 -j ACCEPT",
    "-p tcp -j LOG --log-prefix x",
    "-j MARK --set-xmark 0x7/0xffffffff",
    "-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff",
    "-p tcp -j TCPMSS --set-mss 1400",
    "-p tcp",
    "-j RETURNS",
    "-j ENDS_SOME",
    "-s 10.0.0.0/8 -j RETURNS_ALL",
    "-p tcp -f -j ACCEPT",
]


@pytest.mark.parametrize("rule", WIDE)
def test_a_rule_that_ends_the_chain_for_all_tcp_is_reported(rule: str) -> None:
    planned = PLAN.ruleset(IPV4)

    assert sentences(live(planned, "nat", "OUTPUT", rule), PLAN) == (
        f"iptables -t nat: the rule -A OUTPUT {rule} stands above ours: {OUTBOUND}",
    )
    assert sentences(live(planned, "nat", "PREROUTING", rule), PLAN) == (
        f"iptables -t nat: the rule -A PREROUTING {rule} stands above ours: {INBOUND}",
    )


@pytest.mark.parametrize("rule", NARROW)
def test_a_rule_for_some_packets_is_taken_for_meant(rule: str) -> None:
    planned = PLAN.ruleset(IPV4)

    assert sentences(live(planned, "nat", "OUTPUT", rule), PLAN) == ()


@pytest.mark.parametrize("rule", WIDE)
def test_behind_ours_a_rule_takes_nothing(rule: str) -> None:
    planned = PLAN.ruleset(IPV4)

    assert sentences(live(planned, "nat", "OUTPUT", rule, first=False), PLAN) == ()


def test_rules_in_other_chains_and_tables_take_nothing() -> None:
    planned = PLAN.ruleset(IPV4)

    assert sentences(live(planned, "nat", "POSTROUTING", "-j ACCEPT"), PLAN) == ()
    assert sentences(planned, PLAN) == ()


def test_each_rule_is_reported_once_in_their_order() -> None:
    planned = PLAN.ruleset(IPV4)
    found = sentences(live(planned, "nat", "OUTPUT", "-p tcp -j ACCEPT", "-j ACCEPT"), PLAN)

    assert [one.partition(" -A ")[2].partition(" stands")[0] for one in found] == [
        "OUTPUT -p tcp -j ACCEPT",
        "OUTPUT -j ACCEPT",
    ]


@pytest.mark.parametrize(
    ("plan", "table", "chain", "rule", "said"),
    [
        (WITH_DNS, "nat", "OUTPUT", "-p udp -j RETURN", DNS),
        (WITH_DNS, "nat", "OUTPUT", "-p tcp -j RETURN", OUTBOUND),
        (WITH_DNS, "nat", "OUTPUT", "-p icmp -j RETURN", None),
        (WITH_DNS, "raw", "OUTPUT", "-p udp -j ACCEPT", "are not kept apart"),
        (WITH_DNS, "raw", "PREROUTING", "-j ACCEPT", "are not kept apart"),
        (WITH_DNS, "raw", "OUTPUT", "-p tcp -j ACCEPT", None),
        (OLD, "nat", "OUTPUT", "-p tcp -j ACCEPT", OUTBOUND),
        (OLD, "nat", "OUTPUT", "-p udp -j ACCEPT", None),
        (TPROXY, "mangle", "PREROUTING", "-p tcp -j ACCEPT", "invalid packets are not dropped"),
        (
            TPROXY,
            "mangle",
            "PREROUTING",
            "-m conntrack --ctstate INVALID -j ACCEPT",
            "invalid packets are not dropped",
        ),
        (TPROXY, "mangle", "OUTPUT", "-j ACCEPT", "do not find their way back"),
        (VIRTUAL, "nat", "PREROUTING", "-j ACCEPT", "TCP from dind0 does not reach the proxy"),
        (
            VIRTUAL,
            "nat",
            "PREROUTING",
            "-i dind0 -j ACCEPT",
            "TCP from dind0 does not reach the proxy",
        ),
        (VIRTUAL, "nat", "PREROUTING", "-i dind1 -j ACCEPT", None),
    ],
)
def test_what_is_lost_is_named(
    plan: Plan, table: str, chain: str, rule: str, said: str | None
) -> None:
    planned = plan.ruleset(IPV4)
    found = sentences(live(planned, table, chain, rule), plan)

    if said is None:
        assert found == ()
    else:
        assert len(found) == 1
        assert said in found[0]


@pytest.mark.parametrize(
    ("rule", "reported"), [("-j ACCEPT", True), ("-p tcp -j ACCEPT", True), ("-j DROP", False)]
)
def test_inbound_ipv6_that_is_let_in_before_it_is_refused(rule: str, reported: bool) -> None:  # noqa: FBT001
    planned = OLD.ruleset(IPV6)
    found = sentences(live(planned, "filter", "INPUT", rule), OLD)

    assert bool(found) == reported
    assert all(one.startswith("ip6tables -t filter: ") for one in found)
    assert all(one.endswith("inbound IPv6 bypasses the proxy") for one in found)


def test_both_families_are_looked_at_with_their_own_programs() -> None:
    both = plan_of("istio-iptables", "-i", "*", "--ipv6")
    for family, program in ((IPV4, "iptables"), (IPV6, "ip6tables")):
        planned = both.ruleset(family)
        found = sentences(live(planned, "nat", "OUTPUT", "-j ACCEPT"), both)
        assert [one.split()[0] for one in found] == [program]


def parsed(*lines: str, family: Family = IPV4) -> Ruleset:
    """Return the rules of lines of iptables-save; chains that they do not name accept."""
    text = ""
    for line in lines:
        if line.startswith("*"):
            text += "COMMIT\n" if text else ""
            builtin = (f":{chain} ACCEPT" for chain in BUILTIN_CHAINS[line[1:]])
            text += "\n".join((line, *builtin, ""))
        else:
            text += f"{line}\n"
    return parse_save(f"{text}COMMIT\n", family)


def saved(plan: Plan, *lines: str, family: Family = IPV4) -> Ruleset:
    """Return the rules of a plan with those of others, lines of iptables-save, before ours."""
    others = parsed(*lines, family=family)
    planned = plan.ruleset(family)
    tables = []
    for name in TABLES:
        ours, theirs = planned.table(name), others.table(name)
        chains = {one.name: one for one in (theirs.chains if theirs else ())}
        for one in ours.chains if ours else ():
            first = chains.get(one.name)
            rules = (*(first.rules if first else ()), *one.rules)
            policy = first.policy if first else one.policy
            chains[one.name] = Chain(one.name, policy, rules)
        if chains:
            tables.append(make_table(name, chains))
    return planned.replace(tables=tuple(tables))


DOCKER = (
    "*nat",
    ":DOCKER_OUTPUT -",
    "-A OUTPUT -d 127.0.0.11/32 -j DOCKER_OUTPUT",
    "-A DOCKER_OUTPUT -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.11:41221",
)
EXCLUDED = plan_of("istio-iptables", "-i", "*", "-x", "10.9.0.0/16", "--no-ipv6")
DOCKER_DNS = plan_of(
    *("istio-iptables", "-i", "*", "--no-ipv6", "--redirect-dns", "--dns-servers", "127.0.0.11")
)
# A plan, rules of others, and the rules that are named because what they take is most.
MOST: list[tuple[Plan, tuple[str, ...], list[str]]] = [
    # Two halves are a whole; each half is most of what there is.
    (
        PLAN,
        ("*nat", "-A OUTPUT -d 0.0.0.0/1 -j RETURN", "-A OUTPUT -d 128.0.0.0/1 -j RETURN"),
        ["-A OUTPUT -d 0.0.0.0/1 -j RETURN", "-A OUTPUT -d 128.0.0.0/1 -j RETURN"],
    ),
    (PLAN, ("*nat", "-A OUTPUT ! -o lo -j RETURN"), ["-A OUTPUT ! -o lo -j RETURN"]),
    (
        PLAN,
        ("*nat", "-A OUTPUT -m owner ! --uid-owner 1337 -j RETURN"),
        ["-A OUTPUT -m owner ! --uid-owner 1337 -j RETURN"],
    ),
    # What returns from a chain that was gone to comes back to where its caller would.
    (
        PLAN,
        (
            *("*nat", ":FOO -", ":BAR -", "-A OUTPUT -j BAR", "-A BAR -p tcp -g FOO"),
            *("-A BAR -p tcp -j ACCEPT", "-A FOO -p tcp -j RETURN"),
        ),
        [],
    ),
    (PLAN, ("*nat", ":FOO -", "-A OUTPUT -p tcp -g FOO"), ["-A OUTPUT -p tcp -g FOO"]),
    # Firewalls.
    (PLAN, ("*filter", ":OUTPUT DROP"), ["-P OUTPUT DROP"]),
    (PLAN, ("*filter", ":OUTPUT DROP", "-A OUTPUT -j ACCEPT"), []),
    (PLAN, ("*filter", "-A OUTPUT -p tcp -j DROP"), ["-A OUTPUT -p tcp -j DROP"]),
    (PLAN, ("*filter", "-A OUTPUT -p udp -j DROP"), []),
    (PLAN, ("*filter", "-A OUTPUT -p tcp -m tcp --dport 25 -j REJECT"), []),
    (PLAN, ("*filter", "-A INPUT -i eth0 -p tcp -j DROP"), ["-A INPUT -i eth0 -p tcp -j DROP"]),
    (PLAN, ("*mangle", "-A OUTPUT -j ACCEPT"), []),
    (PLAN, ("*nat", "-A OUTPUT -j LOG", "-A PREROUTING -j MARK --set-xmark 0x7/0xff"), []),
    # Docker answers queries itself; where they are not captured that is as planned.
    (DOCKER_DNS, DOCKER, ["-A OUTPUT -d 127.0.0.11/32 -j DOCKER_OUTPUT"]),
    (PLAN, DOCKER, []),
    (
        OLD,
        ("*nat", "-A PREROUTING -p tcp -m tcp --dport 80 -j RETURN"),
        ["-A PREROUTING -p tcp -m tcp --dport 80 -j RETURN"],
    ),
    # What the plan lets pass may be redirected, but not to the proxy.
    (EXCLUDED, ("*nat", "-A OUTPUT -d 10.9.0.0/16 -p tcp -j REDIRECT --to-ports 9"), []),
    (
        EXCLUDED,
        ("*nat", "-A OUTPUT -d 10.9.0.0/16 -p tcp -j REDIRECT --to-ports 15001"),
        ["-A OUTPUT -d 10.9.0.0/16 -p tcp -j REDIRECT --to-ports 15001"],
    ),
    (
        PLAN,
        ("*nat", "-A OUTPUT -p tcp -m owner --uid-owner 1337 -j REDIRECT --to-ports 15001"),
        ["-A OUTPUT -p tcp -m owner --uid-owner 1337 -j REDIRECT --to-ports 15001"],
    ),
    # Their marks are the ones by which ours know packets that the proxy has seen.
    (TPROXY, ("*mangle", "-A PREROUTING -j MARK --set-xmark 0x539/0xffffffff"), ["marks"]),
]


@pytest.mark.parametrize(("plan", "lines", "named"), MOST)
def test_what_takes_most_is_named(plan: Plan, lines: tuple[str, ...], named: list[str]) -> None:
    found = [one for one in look(plan, saved(plan, *lines)) if one.certain]

    if named == ["marks"]:
        assert any("inbound TCP does not reach the proxy" in one.lost for one in found)
    else:
        assert [one.line for one in found] == named
        assert all(one.lost for one in found)


def test_a_match_that_is_not_understood_is_no_certainty() -> None:
    (one,) = look(PLAN, saved(PLAN, "*nat", "-A OUTPUT -m time --timestart 01:00 -j ACCEPT"))

    assert (one.certain, one.takes) == (False, False)
    assert one.finding().drift is False
    firewall = saved(PLAN, "*filter", "-A OUTPUT -m time --timestart 01:00 -j DROP")
    assert look(PLAN, firewall) == ()


def test_findings_have_the_place_of_the_rule() -> None:
    (one,) = look(PLAN, saved(PLAN, "*nat", "-A OUTPUT -j LOG", "-A OUTPUT -p tcp -j ACCEPT"))
    (two,) = look(PLAN, saved(PLAN, "*filter", ":OUTPUT DROP"))

    assert one.finding() == Finding(
        *("shadowed", OUTBOUND, "ipv4", "nat", "OUTPUT", 2, "-A OUTPUT -p tcp -j ACCEPT")
    )
    assert two.finding() == Finding(
        *("diverted", f"{OUTBOUND} (backend legacy)", "ipv4", "filter", "OUTPUT", 0),
        "-P OUTPUT DROP",
    )
    assert str(two) == (
        f"iptables -t filter, backend legacy: the rule -P OUTPUT DROP takes packets from ours: "
        f"{OUTBOUND}"
    )


# Rules of another backend, and whether they certainly take what is captured, or some of it.
ELSEWHERE = [
    ("-A OUTPUT -p tcp -j REDIRECT --to-ports 9999", True, False),
    ("-A OUTPUT -p tcp -j DNAT --to-destination 192.0.2.1:80", True, False),
    ("-A OUTPUT -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 9999", False, True),
    ("-A OUTPUT -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 15001", False, False),
    ("-A OUTPUT -p tcp -j RETURN", False, False),
    ("-A OUTPUT -p tcp -j ISTIO_OUTPUT", False, False),
    ("-A POSTROUTING -j MASQUERADE", False, False),
]


@pytest.mark.parametrize(("line", "certain", "some"), ELSEWHERE)
def test_rules_in_another_backend(line: str, certain: bool, some: bool) -> None:  # noqa: FBT001
    ours = PLAN.ruleset(IPV4)
    lines = ("*nat", ":ISTIO_OUTPUT -", line, "-A ISTIO_OUTPUT -p tcp -j REDIRECT --to-ports 9")
    found = look(PLAN, ours, parsed(*lines))

    assert [(one.certain, one.some) for one in found] == [(certain, some)] * (certain or some)
    for one in found:
        assert one.line == line
        assert one.finding().kind == "diverted"
        assert one.finding().drift is certain
        assert str(one).startswith("iptables -t nat, backend nft: the rule -A OUTPUT ")


def test_chains_that_double_take_no_time() -> None:
    lines = [f"-A c{at} -j c{at + 1}" for at in range(22) for _ in range(2)]
    chains = [f":c{at} -" for at in range(23)]

    assert look(PLAN, saved(PLAN, "*nat", *chains, "-A OUTPUT -j c0", *lines)) == ()
    with_marks = [
        line
        for at in range(22)
        for line in (
            f"-A c{at} -j c{at + 1}",
            f"-A c{at} -j MARK --set-xmark {1 << at:#x}/0x0",
            f"-A c{at} -j c{at + 1}",
        )
    ]
    found = look(PLAN, saved(PLAN, "*nat", *chains, "-A OUTPUT -j c0", *with_marks))
    assert [(one.line, one.certain) for one in found] == [("-A OUTPUT -j c0", False)]


def test_chains_are_followed_however_deep() -> None:
    lines = [f"-A c{at} -j c{at + 1}" for at in range(5000)]
    chains = [f":c{at} -" for at in range(5001)]
    returns = saved(PLAN, "*nat", *chains, "-A OUTPUT -j c0", *lines)
    accepts = saved(PLAN, "*nat", *chains, "-A OUTPUT -j c0", *lines, "-A c5000 -j ACCEPT")

    assert look(PLAN, returns) == ()
    assert [one.line for one in look(PLAN, accepts)] == ["-A OUTPUT -j c0"]


def test_chains_that_nobody_could_load_come_to_an_end() -> None:
    for lines in (
        ["-A a -j a"],
        ["-A a -g b", "-A b -g a"],
        ["-A a -g a"],
        ["-A a -j b", "-A b -j a"],
    ):
        found = look(PLAN, saved(PLAN, "*nat", ":a -", ":b -", "-A OUTPUT -j a", *lines))
        assert [one.line for one in found] == ["-A OUTPUT -j a"]


def test_too_many_rules_are_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interception, "_MOST_WORK", 1000)
    rules = [f"-A OUTPUT -d 10.0.{at // 250}.{at % 250}/32 -j RETURN" for at in range(500)]
    (one,) = look(PLAN, saved(PLAN, "*nat", *rules))

    assert (one.takes, one.line) == (False, "")
    assert str(one) == (
        "iptables: there are too many rules to follow a packet of each kind through them"
    )
    assert one.finding().drift is False


def test_whoever_is_asked_to_stop_stops() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    live = (Rules(saved(PLAN, "*nat", "-A OUTPUT -j ACCEPT"), "legacy"),)
    with pytest.raises(KeyboardInterrupt):
        obstacles(PLAN, IPV4, live, PodNetwork(), stop)


def test_where_nothing_is_planned_nothing_is_lost() -> None:
    assert look(PLAN, Ruleset(IPV6, ())) == ()
    assert obstacles(PLAN, IPV4, (), PodNetwork(), lambda: None) == ()


@pytest.mark.parametrize(
    ("lines", "has"),
    [
        (("*nat",), False),
        (("*nat", "-A OUTPUT -j LOG"), True),
        (("*nat", "-A POSTROUTING -j MASQUERADE"), True),
        (("*filter", ":OUTPUT DROP"), True),
        (("*nat", ":theirs -", "-A theirs -j ACCEPT"), False),
    ],
)
def test_only_where_others_have_rules_on_a_hook_packets_are_followed(
    lines: tuple[str, ...],
    has: bool,  # noqa: FBT001
) -> None:
    assert has_others(saved(PLAN, *lines), PLAN.ruleset(IPV4)) == has
