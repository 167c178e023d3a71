"""The native nftables backend on the kernel."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from istio_init.apply.nftables import Nftables
from istio_init.errors import ApplyError, UnsupportedError
from istio_init.formats.listing import table_lines
from istio_init.formats.netlink import read_attributes
from istio_init.formats.nf_tables import expressions, messages
from istio_init.formats.nft_script import script
from istio_init.kernel import netlink, nfnetlink
from istio_init.planner.draft import TCP, UDP
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.diff import changes
from istio_init.rules.model import TABLES, Chain, ForeignRule, Rule, Ruleset, make_table, rule
from istio_init.rules.names import ISTIO_DIVERT, ISTIO_INBOUND, ISTIO_OUTPUT, NATIVE_TABLES
from istio_init.rules.ranges import FAMILIES, IPV4, IPV6, IdRange, Network, PortRange
from istio_init.rules.sets import canonical, canonical_table
from tests.cases import CASES, Case
from tests.inside import Done, init, inside, run_program
from tests.kernel.test_faults import BOTH, try_every_step
from tests.namespace import Namespace, spelled, untouched
from tests.plans import plan_of
from tests.snapshot import sorted_blocks
from tests.steps import fail, refuse_lines

if TYPE_CHECKING:
    from istio_init.rules.diff import TableChanges
    from istio_init.rules.ranges import Family

NFTABLES = ("--backend", "nftables")
SIDECAR = ("istio-iptables", "-u", "1337", "-i", "*", "-b", "*", "-d", "15090,15021,15020")
TPROXY = (*SIDECAR, "-m", "TPROXY")
ENCODED_AS_BY = "nftables v1.0.6 "
DNS = ("--redirect-dns", "--dns-servers", "10.96.0.10")


def listed(pod: Namespace, *options: str) -> str:
    """Return the whole of nf_tables without counters."""
    return pod.run("nft", "--stateless", *options, "list", "ruleset").stdout


def tables(pod: Namespace) -> list[str]:
    return pod.run("nft", "list", "tables").stdout.splitlines()


def live(pod: Namespace) -> dict[Family, Ruleset]:
    """Return what the backend reads."""
    return inside(
        pod, lambda: {family: Nftables().read(family, frozenset()) for family in FAMILIES}
    )


def rule_lines(listing: str) -> list[str]:
    """Return the lines of a listing that are rules."""
    lines = [line.strip() for line in listing.splitlines() if line.startswith("\t\t")]
    kept = []
    in_set = False
    for line in lines:
        in_set = in_set or line.startswith("elements = {")
        if not in_set and not line.startswith(("type ", "flags ")):
            kept.append(line)
        in_set = in_set and not line.endswith("}")
    return kept


def run_case(case: Case) -> Done:
    os.environ.update(case.env)
    return run_program(*case.argv, *NFTABLES)


def assert_holds(pod: Namespace, *argv: str, env: dict[str, str] | None = None) -> None:
    """Assert that what is read back is what the call plans, in both families."""
    plan = plan_of(*argv, env=env)
    used = [name for name in TABLES if any(one.table(name) for one in plan.rulesets)]
    for family, found in live(pod).items():
        assert [table.name for table in found.tables] == used
        wanted = canonical(plan.ruleset(family))
        for table in found.tables:
            assert table == (wanted.table(table.name) or make_table(table.name, {}))
    assert sorted(tables(pod)) == sorted(f"table inet {NATIVE_TABLES[name]}" for name in used)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_run_puts_a_case_in_place_and_a_second_writes_nothing(case: Case) -> None:
    with Namespace() as pod:
        first = inside(pod, partial(run_case, case))
        after = listed(pod, "--handle")
        assert_holds(pod, *case.argv, env=case.env)
        state = pod.state(case.route_table)
        second = inside(pod, partial(run_case, case))

        assert (first.code, second.code) == (0, 0)
        assert "already in place" in second.err
        # A table that is written again gets other handles.
        assert listed(pod, "--handle") == after
        rest = {key: case.expected[key] for key in state if "tables" not in key}
        assert state == {**untouched(), **rest}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_clean_leaves_nothing_of_a_case(case: Case) -> None:
    with Namespace() as pod:
        inside(pod, partial(run_case, case))
        init(pod, "clean")

        assert tables(pod) == []
        assert pod.state(case.route_table) == untouched()
        assert "nothing of ours" in init(pod, "clean").err


@pytest.mark.parametrize("case", CASES, ids=str)
def test_dry_run_prints_the_script_that_is_applied(case: Case) -> None:
    printed = ("--dry-run", "--format", "nft")
    with Namespace() as pod, Namespace() as other:
        inside(pod, partial(run_case, case))
        text = pod.init(*case.argv, *printed, env=case.env).stdout
        other.run("nft", "-f", "-", text=text)

        assert listed(other) == listed(pod)
        assert live(other) == live(pod)
        # Other releases of nft say the same by other expressions, and note more at a set.
        if pod.run("nft", "-V").stdout.startswith(ENCODED_AS_BY):
            assert inside(other, kernel_objects) == inside(pod, kernel_objects)


def kernel_objects() -> list[tuple[object, ...]]:
    """Return what the kernel holds of our tables, but for the numbers it gives to objects."""
    found = nfnetlink.contents(nfnetlink.NATIVE_PLACES, None, sets=True)
    assert found is not None
    assert not found.others
    objects: list[tuple[object, ...]] = [(one,) for one in (*found.tables, *found.chains)]
    for rule_ in found.rules:
        bare = expressions.without_counts(rule_.expressions)
        objects.append((rule_.table, rule_.chain, bare, rule_.notes))
    for one, elements in found.sets:
        given = dict(read_attributes(one.body[4:]))
        # The handle, and what newer kernels tell of how they keep a set.
        kept = {kind: value for kind, value in given.items() if kind not in (16, 19)}
        held = {element for body in elements for element in messages.read_elements(body)}
        objects.append((one.table, one.name, kept, held))
    return objects


@pytest.mark.parametrize("argv", [SIDECAR, TPROXY, (*SIDECAR, *DNS), (*SIDECAR, "-k", "eth+")])
def test_no_rule_sees_ipv6_where_it_is_off(argv: tuple[str, ...]) -> None:
    with Namespace() as pod:
        init(pod, *argv, "--no-ipv6", *NFTABLES)
        lines = rule_lines(listed(pod))
        found = live(pod)[IPV6]

    assert len(lines) > 10
    for line in lines:
        assert line.startswith(("meta nfproto ipv4", "ip saddr", "ip daddr")), line
    assert not any(chain.rules for table in found.tables for chain in table.chains)


MODES = {
    "redirect": (*SIDECAR, "--no-ipv6"),
    "tproxy": (*TPROXY, "--no-ipv6"),
    "tproxy, both families": (*TPROXY, "--ipv6", "--drop-invalid"),
    "dns": (*SIDECAR, *DNS, "--ipv6"),
    "old layout": ("-u", "1337", "-b", "80", "-i", "10.0.0.0/8"),
}


@pytest.mark.parametrize("after", MODES)
def test_every_mode_gives_way_to_every_other(after: str) -> None:
    both, marked = "both" in after, "tproxy" in after
    with Namespace() as pod:
        for before, argv in MODES.items():
            init(pod, *argv, *NFTABLES)
            init(pod, *MODES[after], *NFTABLES)

            assert_holds(pod, *MODES[after])
            state = pod.state()
            assert bool(state["ip_rules"]) == bool(state["ip_routes"]) == marked, before
            assert bool(state["ip6_rules"]) == bool(state["ip6_routes"]) == both, before
            assert bool(state["lo_addresses"]) == (both or after == "dns"), before


def test_thousands_of_networks_are_as_many_rules_as_one() -> None:
    drawn = random.Random(1)
    networks = [
        f"{drawn.randrange(11, 200)}.{drawn.randrange(256)}.{drawn.randrange(256)}.0/"
        f"{drawn.choice((20, 24, 25, 30))}"
        for _ in range(5000)
    ]
    with Namespace() as pod:
        lengths = set()
        for count in (2, 1000, 5000):
            argv = (*SIDECAR, "--no-ipv6", "-x", ",".join(networks[:count]))
            init(pod, *argv, *NFTABLES)
            lengths.add(len(rule_lines(listed(pod))))
            assert_holds(pod, *argv)
            assert "already in place" in init(pod, *argv, *NFTABLES).err

    assert len(lengths) == 1


def test_thousand_ports_are_as_many_rules_as_one() -> None:
    ports = ",".join(str(number) for number in range(1, 2001, 2))
    flags = {"redirect": ("-b",), "tproxy": ("-m", "TPROXY", "-b"), "outbound": ("-q",)}
    for words in (*flags.values(), ("-o",)):
        with Namespace() as pod:
            init(pod, "istio-iptables", "--ipv6", *words, "81,83", *NFTABLES)
            few = len(rule_lines(listed(pod)))
            init(pod, "istio-iptables", "--ipv6", *words, ports, *NFTABLES)
            assert_holds(pod, "istio-iptables", "--ipv6", *words, ports)

            assert len(rule_lines(listed(pod))) == few


@pytest.mark.parametrize(
    "groups",
    [
        ",".join(str(5000 + 2 * number) for number in range(64)),
        ",".join(f"{5000 + 10 * number}-{5004 + 10 * number}" for number in range(64)),
    ],
    ids=["ids", "ranges"],
)
def test_sixty_four_groups(groups: str) -> None:
    argv = ("istio-iptables", "-i", "*", "--ipv6")
    with Namespace() as pod:
        for word in ("--outbound-owner-groups", "--outbound-owner-groups-exclude"):
            init(pod, *argv, word, groups, *NFTABLES)
            assert_holds(pod, *argv, word, groups)
            assert len([line for line in rule_lines(listed(pod)) if "@groups-" in line]) == 1


@pytest.mark.parametrize(
    "servers", ["10.0.0.2", "10.0.0.2,10.0.0.9", "fd00::2", "fd00::2,10.0.0.2"]
)
@pytest.mark.parametrize("ipv6", ["--ipv6", "--no-ipv6"])
def test_dns_servers_of_one_family(servers: str, ipv6: str) -> None:
    argv = (*SIDECAR, ipv6, "--redirect-dns", "--dns-servers", servers)
    with Namespace() as pod:
        init(pod, *argv, *NFTABLES)
        assert_holds(pod, *argv)


def test_dual_stack_is_decided_by_the_addresses() -> None:
    with Namespace() as pod:
        pod.run("ip", "address", "add", "10.0.0.1/32", "dev", "lo")
        pod.run("ip", "address", "add", "fd00::1/128", "dev", "lo")
        init(pod, *SIDECAR, *NFTABLES)
        assert_holds(pod, *SIDECAR, "--no-ipv6")
        init(pod, *SIDECAR, "--dual-stack", *NFTABLES)
        assert_holds(pod, *SIDECAR, "--ipv6")


@pytest.mark.parametrize("other", ["legacy", "nft"])
def test_rules_move_between_backends(other: str) -> None:
    tool = {"legacy": "iptables-legacy-save", "nft": "iptables-nft-save"}[other]
    with Namespace() as pod:
        init(pod, *TPROXY, "--ipv6", "--backend", other)
        assert "ISTIO" in pod.run(tool).stdout
        moved = init(pod, *TPROXY, "--ipv6", *NFTABLES)
        assert_native = [line for line in tables(pod) if "istio-proxy" in line]
        assert "ISTIO" not in pod.run(tool).stdout
        assert len(assert_native) == 2
        assert f"removed the rules from backend {other}" in moved.err
        assert len(pod.state()["ip_rules"]) == 1

        back = init(pod, *TPROXY, "--ipv6", "--backend", other)
        assert "removed the rules from backend nftables" in back.err
        assert not [line for line in tables(pod) if "istio-proxy" in line]
        assert "ISTIO" in pod.run(tool).stdout


def test_without_a_backend_named_the_rules_stay_where_they_are() -> None:
    with Namespace() as pod:
        init(pod, *SIDECAR, "--no-ipv6", *NFTABLES)

        assert "backend nftables: already in place" in init(pod, *SIDECAR, "--no-ipv6").err


NATIVE = {
    "a table of its own kind": """
        table inet istio-proxy-nat {
            chain prerouting { type nat hook prerouting priority -101; }
            chain output { type nat hook output priority -100; ct state new jump istio-output; }
            chain istio-output { meta nftrace set 1; tcp dport { 80, 443 } counter redirect to :1; }
            chain theirs { ip daddr . tcp dport { 10.0.0.1 . 80 } drop; }
        }""",
    "an empty table": "add table inet istio-proxy-mangle",
    "an empty table beside ours": "add table inet istio-proxy-filter",
    "a table asleep": "add table inet istio-proxy-nat { flags dormant; }",
    "a chain without a hook": "table inet istio-proxy-nat { chain output { }; }",
    "a set of others": "table inet istio-proxy-raw { set s { type mark; }; }",
    "a map of others": "table inet istio-proxy-raw { map m { type mark : verdict; }; }",
    "a counter with a name": "table inet istio-proxy-raw { counter c { }; }",
}


@pytest.mark.parametrize("text", NATIVE.values(), ids=NATIVE)
def test_what_others_left_under_our_names_goes(text: str) -> None:
    with Namespace() as pod:
        pod.run("nft", "-f", "-", text=text)
        init(pod, *SIDECAR, "--no-ipv6")
        assert_holds(pod, *SIDECAR, "--no-ipv6")

    with Namespace() as pod:
        pod.run("nft", "-f", "-", text=text)
        init(pod, "clean")
        assert tables(pod) == []


@pytest.mark.parametrize("text", NATIVE.values(), ids=NATIVE)
def test_what_others_left_under_our_names_comes_back_when_a_run_fails(text: str) -> None:
    argv = (*SIDECAR, "--no-ipv6", *NFTABLES)
    with Namespace() as pod:
        pod.run("nft", "-f", "-", text=text)
        inside(pod, lambda: try_every_step(argv, fail, BOTH))

        assert_holds(pod, *argv[:-2])


DRIFT = {
    "a rule more": "insert rule inet istio-proxy-nat istio-output tcp dport 80 return",
    "a rule at the end": "add rule inet istio-proxy-nat istio-redirect counter",
    "a chain more": "add chain inet istio-proxy-nat theirs",
    "a chain emptied": "flush chain inet istio-proxy-nat istio-output",
    "a table gone": "delete table inet istio-proxy-nat",
    "a rule with a set": "insert rule inet istio-proxy-nat output tcp dport { 1, 3 } drop",
    "a set more": "add set inet istio-proxy-nat s { type mark; }",
    "a table more": "add table inet istio-proxy-mangle",
    "the table asleep": "add table inet istio-proxy-nat { flags dormant; }",
    "a rule for the other family": "add rule inet istio-proxy-nat output meta nfproto ipv6 drop",
    "another policy": "add chain inet istio-proxy-nat output { policy drop; }",
}


@pytest.mark.parametrize("change", DRIFT.values(), ids=DRIFT)
def test_drift_is_seen_and_undone(change: str) -> None:
    argv = (*SIDECAR, "--no-ipv6", *NFTABLES)
    with Namespace() as pod:
        init(pod, *argv)
        before = listed(pod)
        pod.run("nft", "-f", "-", text=change)
        assert listed(pod) != before
        again = init(pod, *argv)

        assert "already in place" not in again.err
        assert sorted_blocks(listed(pod)) == sorted_blocks(before)


def test_sets_in_use_cannot_be_changed() -> None:
    with Namespace() as pod:
        init(pod, *SIDECAR, "--no-ipv6", *NFTABLES)
        (name,) = re.findall(r"set (ports-\w+)", listed(pod))
        for verb, port in (("add", 81), ("delete", 15008)):
            change = f"{verb} element inet istio-proxy-nat {name} {{ {port} }}"
            assert pod.run("nft", change, check=False).returncode == 1


def test_half_a_set_that_a_run_left_is_made_whole() -> None:
    argv = (*SIDECAR, "--no-ipv6", *NFTABLES)
    with Namespace() as pod:
        init(pod, *argv)
        before = listed(pod)
        (name,) = re.findall(r"set (ports-\w+)", before)
        left = f"set {name} {{ type inet_service; flags constant; elements = {{ 15008 }}; }}"
        other = "set users-0123456789ab { type uid; flags constant; elements = { 7 }; }"
        pod.run("nft", "-f", "-", text="flush ruleset")
        pod.run("nft", "-f", "-", text=f"table inet istio-proxy-nat {{ {left}; {other}; }}")
        init(pod, *argv)

        assert listed(pod) == before


_REFUSED_CONNECTION = """
import socket
with socket.socket() as client:
    assert client.connect_ex(("127.0.0.1", 9)) != 0
"""


def test_counters_are_no_drift() -> None:
    argv = (*SIDECAR, "--no-ipv6", *NFTABLES)
    with Namespace() as pod:
        init(pod, *argv)
        pod.run(sys.executable, "-c", _REFUSED_CONNECTION)
        assert "packets 1 " in pod.run("nft", "list", "ruleset").stdout

        assert "already in place" in init(pod, *argv).err


def test_rules_of_others_stay() -> None:
    theirs = """
        table inet theirs {
            chain one { type filter hook output priority -200; tcp dport 7 drop; }
        }
        table ip nat {
            chain OUTPUT { type nat hook output priority -100; tcp dport 7 accept; }
        }
    """
    with Namespace() as pod:
        pod.run("nft", "-f", "-", text=theirs)
        before = listed(pod, "--handle")
        init(pod, *TPROXY, "--no-ipv6", *NFTABLES)
        assert before in listed(pod, "--handle")
        init(pod, "clean", *NFTABLES)
        assert listed(pod, "--handle") == before


# Rules of every kind, most of which are never planned.


def _network(drawn: random.Random, family: Family) -> Network:
    size = 4 if family == IPV4 else 16
    prefix = drawn.choice([1, 7, 8 * size - 3, 8 * size])
    low = drawn.getrandbits(8 * size) >> (8 * size - prefix) << (8 * size - prefix)
    return Network(family, low.to_bytes(size, "big"), prefix)


def _span(drawn: random.Random, most: int) -> tuple[int, int]:
    low = drawn.randint(1, most)
    return low, drawn.choice([low, drawn.randint(low, most), most])


def _match(drawn: random.Random, family: Family) -> m.Match:
    bang = drawn.random() < 0.3
    mask = drawn.choice([0xFFFFFFFF, 0xFF, 0xF0F0])
    states = tuple(drawn.sample(["INVALID", "NEW", "RELATED", "ESTABLISHED"], drawn.randint(1, 2)))
    side = drawn.choice(["sport", "dport"])
    ports = [PortRange(*_span(drawn, 65535)) for _ in range(3)]
    name = drawn.choice(["lo", "eth+", "a$b", "0#{", "x*", "äö", "a.b-c@d"])
    found: list[m.Match] = [
        m.Source(_network(drawn, family), bang),
        m.Destination(_network(drawn, family), bang),
        m.InInterface(name, bang),
        m.OutInterface(name, bang),
        m.Ports("tcp", "sport" if side == "sport" else "dport", ports[0], bang),
        m.MultiPorts("dport", tuple(ports), bang),
        m.Owner("uid", IdRange(*_span(drawn, 4294967294)), bang),
        m.Owner("gid", IdRange(*_span(drawn, 4294967294)), bang),
        m.CtState(states, "conntrack", bang),
        m.Mark(drawn.getrandbits(32) & mask, mask, bang),
        m.ConnMark(drawn.getrandbits(32) & mask, mask, bang),
        m.Socket(),
    ]
    return drawn.choice(found)


def _rule(drawn: random.Random, family: Family) -> Rule:
    matches = [_match(drawn, family) for _ in range(drawn.randint(0, 3))]
    mask = drawn.choice([0xFFFFFFFF, 0xFF, 0xF0F0])
    targets: list[t.Target] = [
        *(t.Jump(ISTIO_DIVERT), t.Return(), t.Accept(), t.Drop(), t.Reject()),
        *(t.Redirect(drawn.randint(1, 65535)), t.Tproxy(15001, 5), t.Tproxy(15001, 5, 0xFF)),
        *(t.SetMark(drawn.getrandbits(32), mask), t.SaveMark(), t.RestoreMark(), t.CtZone(65535)),
    ]
    target = t.Jump(ISTIO_DIVERT) if m.Socket() in matches else drawn.choice(targets)
    tcp = any(isinstance(one, m.Ports | m.MultiPorts) for one in matches)
    if tcp or isinstance(target, t.Redirect | t.Tproxy):
        matches.append(TCP if tcp else drawn.choice([TCP, UDP]))
    return rule(*matches, target=target)


def _random_rules(drawn: random.Random, family: Family) -> list[Rule]:
    """Return rules of which some differ in a value only."""
    found = []
    for _ in range(30):
        one = _rule(drawn, family)
        values = [_network(drawn, family) for _ in range(drawn.choice([0, 0, 1, 5]))]
        others = tuple(match for match in one.matches if not isinstance(match, m.Destination))
        found += [
            one,
            *(rule(*others, m.Destination(value), target=one.target) for value in values),
        ]
    return found


@pytest.mark.parametrize("seed", range(8))
def test_any_rule_is_read_back_as_it_was_written(seed: int) -> None:
    drawn = random.Random(seed)
    rulesets = []
    shared = [one for one in _random_rules(drawn, IPV4) if not _has_address(one)]
    for family in FAMILIES:
        chains = {
            ISTIO_DIVERT: Chain(
                ISTIO_DIVERT, None, (rule(target=t.SetMark(1)), rule(target=t.Accept()))
            ),
            ISTIO_INBOUND: Chain(ISTIO_INBOUND, None, tuple(_random_rules(drawn, family))),
            ISTIO_OUTPUT: Chain(ISTIO_OUTPUT, None, tuple(_mixed(drawn, shared, family))),
        }
        rulesets.append(canonical(Ruleset(family, (make_table("mangle", chains),))))
    wished = tuple(rulesets)
    with Namespace() as pod, Namespace() as other:
        inside(pod, partial(_write, wished))
        other.run("nft", "-f", "-", text=script("mangle", wished))
        found = [live(pod), live(other)]
        # And as a person would see, and save, it.
        other.run("nft", "-f", "-", text=f"flush ruleset\n{listed(pod)}")
        found.append(live(other))

    for ruleset in rulesets:
        (table,) = ruleset.tables
        for families in found:
            (read,) = families[ruleset.family].tables
            assert spelled(table_lines(read, IPV4)) == spelled(table_lines(table, IPV4))
            assert read == table
            assert canonical_table(read) == read


def _write(rulesets: tuple[Ruleset, ...]) -> None:
    backend = Nftables()
    found: list[TableChanges] = []
    for ruleset in rulesets:
        found += changes(backend.read(ruleset.family, frozenset({"mangle"})), ruleset)
    backend.commit(tuple(found), rulesets)


def _has_address(one: Rule) -> bool:
    return any(isinstance(match, m.Source | m.Destination) for match in one.matches)


def _mixed(drawn: random.Random, shared: list[Rule], family: Family) -> list[Rule]:
    """Return rules of both families with others of one between them."""
    return [one for each in shared for one in (each, _rule(drawn, family))]


# What can go wrong.


def test_without_rights_nothing_is_tried() -> None:
    with Namespace() as pod:
        done = inside(pod, lambda: run_program(*SIDECAR, "--no-ipv6", *NFTABLES), uid=1337)

        assert done.code == 1
        assert "NET_ADMIN" in done.err
        assert tables(pod) == []


def refused_at(needle: str, argv: tuple[str, ...]) -> ApplyError:
    """Return the error of a kernel that does not know what a line of the script needs."""
    refuse_lines(lambda line: needle in line)
    results = tuple(canonical(ruleset) for ruleset in plan_of(*argv).rulesets)
    backend = Nftables()
    found: list[TableChanges] = []
    for ruleset in results:
        needed = frozenset(table.name for table in ruleset.tables)
        found += changes(backend.read(ruleset.family, needed), ruleset)
    with pytest.raises(ApplyError) as caught:
        backend.commit(tuple(found), results)
    return caught.value


_REFUSED = [
    ("tproxy ip ", TPROXY, "mangle", "nft_tproxy", "TPROXY"),
    ("redirect to", SIDECAR, "nat", "nft_redir", "REDIRECT"),
    ("type nat", SIDECAR, "nat", "nft_chain_nat", "nat"),
    ("type route", TPROXY, "mangle", "nf_tables_inet", "mangle"),
    ("hook output priority -300", (*SIDECAR, *DNS), "raw", "nf_tables_inet", "raw"),
    ("ct zone", (*SIDECAR, *DNS), "raw", "nft_ct", "CT"),
    ("ct state", (*SIDECAR, "--drop-invalid"), "mangle", "nft_ct", "conntrack"),
    ("socket wildcard", ("-m", "TPROXY", "-b", "1"), "mangle", "nft_socket", "socket"),
    ("reject", ("-b", "1"), "filter", "nft_reject_inet", "REJECT"),
]


@pytest.mark.parametrize(
    ("needle", "argv", "table", "module", "missing"), _REFUSED, ids=[one[0] for one in _REFUSED]
)
def test_what_the_kernel_lacks_is_named(
    needle: str, argv: tuple[str, ...], table: str, module: str, missing: str
) -> None:
    family = ("--no-ipv6",) if argv[0] == "istio-iptables" else ()
    with Namespace() as pod:
        error = inside(pod, lambda: _error_of(needle, (*argv, *family)))

    assert f"backend nftables, {NATIVE_TABLES[table]}" in error["text"]
    assert needle in error["text"]
    assert module in error["text"]
    assert "--backend nft or legacy" in error["text"]
    assert missing in error["missing"]
    location = error["location"]
    assert (location.backend, location.table) == ("nftables", table)
    assert needle in location.rule
    # A chain is there for every rule in it, and -m socket is decided for several.
    flag = {"TPROXY": "-m", "REDIRECT": "-z", "CT": "--redirect-dns", "REJECT": "--no-ipv6"}
    assert location.flag == flag.get(missing, "--drop-invalid" if missing == "conntrack" else "")


def _error_of(needle: str, argv: tuple[str, ...]) -> dict[str, Any]:
    error = refused_at(needle, argv)
    return {"text": str(error), "missing": error.missing, "location": error.location}


def test_what_the_kernel_really_lacks_is_named() -> None:
    """A uid that the user namespace has not is refused by the kernel itself."""
    chain = Chain(ISTIO_OUTPUT, None, (rule(m.InInterface("x" * 40), target=t.Return()),))
    ruleset = canonical(Ruleset(IPV4, (make_table("nat", {ISTIO_OUTPUT: chain}),)))
    with Namespace() as pod:
        text = inside(pod, lambda: _refused_by_the_kernel(ruleset))

    assert 'iifname "xxxx' in text
    assert "backend nftables, istio-proxy-nat" in text


def _refused_by_the_kernel(ruleset: Ruleset) -> str:
    backend = Nftables()
    live = backend.read(IPV4, frozenset({"nat"}))
    with pytest.raises(ApplyError) as caught:
        backend.commit(changes(live, ruleset), (ruleset,))
    assert backend.read(IPV4, frozenset()).tables == ()
    return str(caught.value)


def test_without_zones_the_rest_can_be_had() -> None:
    with Namespace() as pod:
        done = inside(pod, lambda: _without_zones((*SIDECAR, *DNS, "--no-ipv6", *NFTABLES)))

        assert done.code == 0, done
        assert "--on-missing degrade" in done.err
        assert tables(pod) == [f"table inet {NATIVE_TABLES['nat']}"]


def _without_zones(argv: tuple[str, ...]) -> Done:
    refuse_lines(lambda line: "ct zone" in line)
    return run_program(*argv, "--on-missing", "degrade")


# Commands of nft between two readings, and how often our tables are read in all.
BETWEEN = {
    "nothing": ("", 1),
    "a table of others": ("add table inet others", 2),
    "a rule of others": ("add rule inet others-nat theirs drop", 2),
    "a rule in ours": ("add rule inet istio-proxy-nat istio-output drop", 2),
    "a table of ours gone": ("delete table inet istio-proxy-nat", 2),
}
BEFORE = ("add table inet others-nat", "add chain inet others-nat theirs")


@pytest.mark.parametrize("change", BETWEEN)
def test_tables_are_read_again_when_they_changed(change: str) -> None:
    line, times = BETWEEN[change]
    with Namespace() as pod:
        init(pod, *TPROXY, "--no-ipv6", *NFTABLES)
        for command in BEFORE:
            pod.run("nft", command)
        reads = inside(pod, lambda: _reads_of_reading_twice(line))

    assert reads == times


def _reads_of_reading_twice(change: str) -> int:
    contents = nfnetlink.contents
    reads = []

    def counted(
        places: frozenset[nfnetlink.TablePlace], now: int | None, *, sets: bool
    ) -> messages.Contents | None:
        reads.append(places)
        return contents(places, now, sets=sets)

    nfnetlink.contents = counted
    backend = Nftables()
    for _ in range(2):
        for family in (*FAMILIES, *FAMILIES):
            backend.read(family, frozenset())
        if change:
            subprocess.run(["nft", change], check=True)
            change = ""
    return len(reads)


def test_a_kernel_without_nf_tables_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "NETFILTER", 31)

    with pytest.raises(UnsupportedError, match="no nf_tables"):
        Nftables().read(IPV4, frozenset())


def test_a_rule_that_cannot_be_understood_is_still_a_difference() -> None:
    with Namespace() as pod:
        init(pod, *SIDECAR, "--no-ipv6", *NFTABLES)
        odd = (
            "add rule inet istio-proxy-nat istio-output ip daddr . tcp dport { 10.0.0.1 . 80 } drop"
        )
        pod.run("nft", odd)
        chain = next(
            chain
            for table in live(pod)[IPV4].tables
            for chain in table.chains
            if chain.name == ISTIO_OUTPUT
        )

    (foreign,) = [one for one in chain.rules if isinstance(one, ForeignRule)]
    assert foreign.spelled.endswith("-j DROP")
