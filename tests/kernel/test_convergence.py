"""Whatever was there before, one run leads to exactly the planned state."""

from __future__ import annotations

import random
import sys
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from istio_init.rules.model import TABLES
from tests.cases import CASES
from tests.inside import inside
from tests.kernel import legacy_tables
from tests.namespace import PROGRAM, TOOLS, Namespace, spelled
from tests.snapshot import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

BY_NAME = {case.name: case for case in CASES}
EVERYTHING = (
    *("istio-iptables", "-m", "TPROXY", "-i", "*", "-b", "*", "-d", "15090", "-c", "eth9"),
    *("-k", "vm0", "-x", "10.1.0.0/16,fd01::/16", "--redirect-dns", "--drop-invalid", "--ipv6"),
    *("--dns-servers", "10.0.0.10,fd00::10"),
)
BUILDS = {
    "1.0": BY_NAME["1.0-injector"].argv,
    "1.0-tproxy": BY_NAME["1.0-tproxy-wildcard-exclude"].argv,
    "1.30": BY_NAME["1.30-dns-uid-gid"].argv,
    "1.30-everything": EVERYTHING,
}
builds = pytest.mark.parametrize("argv", BUILDS.values(), ids=BUILDS)


@pytest.mark.parametrize("seed", [1, 2])
def test_every_case_follows_another(seed: int) -> None:
    cases = random.Random(seed).sample(CASES, len(CASES))
    with Namespace() as pod:
        for before, case in pairwise([*cases, cases[0]]):
            opens = case.layout == "1.0" and "ENABLE_INBOUND_IPV6" in case.env
            if before.claim or (opens and before.layout == "1.0"):
                # What anybody could have written stays where no flag names it.
                pod.init("clean", *before.claim)
            pod.init(*case.argv, env=case.env)
            assert pod.state(case.route_table) == case.expected, (before, case)
            # The route of the case before, in whatever table, is gone.
            found = counted(pod)
            routes = [*found["ip -4 route"], *found["ip -6 route"]]
            left = [line for line in routes if line.startswith("local default")]
            assert len(left) == len(case.expected["ip_rules"] + case.expected["ip6_rules"])


def live(pod: Namespace) -> Iterator[tuple[str, str, list[str]]]:
    """Yield each iptables program, each table, and the rules there."""
    for family, tool in TOOLS.items():
        for table in TABLES:
            yield tool, table, [line for line in pod.rules(family, table) if line[:2] == "-A"]


def edit(pod: Namespace, tool: str, table: str, lines: list[str]) -> None:
    pod.run(f"{tool}-restore", "--noflush", text=f"*{table}\n{spelled(lines)}COMMIT\n")


def delete_half_of_the_rules(pod: Namespace, dice: Random) -> None:
    for tool, table, lines in live(pod):
        # Those of layout 1.0's in filter are found by standing together.
        some = [line for line in lines if table != "filter" and dice.random() < 0.5]
        edit(pod, tool, table, [line.replace("-A", "-D", 1) for line in some])


def delete_one_of_the_two_that_shut_ipv6(pod: Namespace, dice: Random) -> None:
    lines = [line for line in pod.rules("ipv6", "filter") if line.startswith("-A INPUT")]
    if lines:
        edit(pod, TOOLS["ipv6"], "filter", [dice.choice(lines).replace("-A", "-D", 1)])


def empty_a_chain_of_each_table(pod: Namespace, dice: Random) -> None:
    for tool, table, lines in live(pod):
        if lines:
            edit(pod, tool, table, [f"-F {dice.choice(lines).split(' ')[1]}"])


def shuffle_our_chains(pod: Namespace, dice: Random) -> None:
    for tool, table, lines in live(pod):
        ours = [line for line in lines if "-A ISTIO" in line]
        emptied = sorted({f"-F {line.split(' ')[1]}" for line in ours})
        edit(pod, tool, table, [*emptied, *dice.sample(ours, len(ours))])


def write_all_rules_twice(pod: Namespace, _: Random) -> None:
    for tool, table, lines in live(pod):
        edit(pod, tool, table, lines)


def put_junk_into_our_chains(pod: Namespace, dice: Random) -> None:
    junk = ("-p icmp -j ACCEPT", "-j RETURN", "-m comment --comment junk -j ACCEPT", "-i eth0")
    for tool, table, lines in live(pod):
        chains = sorted({line.split(" ")[1] for line in lines if "-A ISTIO" in line})
        edit(pod, tool, table, [f"-I {chain} {dice.choice(junk)}" for chain in chains])


def remove_the_jumps(pod: Namespace, _: Random) -> None:
    for tool, table, lines in live(pod):
        jumps = [line for line in lines if "-j ISTIO" in line and "-A ISTIO" not in line]
        edit(pod, tool, table, [line.replace("-A", "-D", 1) for line in jumps])


def leave_chains_of_ours_where_none_belong(pod: Namespace, _: Random) -> None:
    for tool in TOOLS.values():
        # From another configuration, or left behind by a run of the original that
        # was stopped.
        for table, chain in (("filter", "ISTIO_DROP"), ("mangle", "ISTIO_REDIRECT")):
            wrong = [f"-N {chain}", f"-A {chain} -j ACCEPT", f"-A FORWARD -j {chain}"]
            edit(pod, tool, table, [*wrong, f"-I INPUT -g {chain}"])


def take_the_routes(pod: Namespace, _: Random) -> None:
    script = """\
    for family in -4 -6; do
        ip $family rule del fwmark 1337 lookup 133
        ip $family route flush table 133
    done
    ip -6 address del ::6/128 dev lo
    """
    pod.run("sh", "-c", script, check=False)


def take_everything(pod: Namespace, dice: Random) -> None:
    for tool, table, _ in live(pod):
        edit(pod, tool, table, ["-F", "-X"])
    take_the_routes(pod, dice)


def add_the_ip_rule_three_times(pod: Namespace, _: Random) -> None:
    # As three runs of the original would.
    for family in ("-4", "-6") * 3:
        pod.run("ip", family, "rule", "add", "fwmark", "1337", "lookup", "133")


DAMAGES: tuple[Callable[[Namespace, Random], None], ...] = (
    delete_half_of_the_rules,
    delete_half_of_the_rules,
    delete_one_of_the_two_that_shut_ipv6,
    delete_one_of_the_two_that_shut_ipv6,
    empty_a_chain_of_each_table,
    shuffle_our_chains,
    write_all_rules_twice,
    put_junk_into_our_chains,
    remove_the_jumps,
    leave_chains_of_ours_where_none_belong,
    take_the_routes,
    add_the_ip_rule_three_times,
    take_everything,
)


@builds
def test_one_run_repairs_any_damage(argv: tuple[str, ...]) -> None:
    dice = random.Random(1337)
    with Namespace() as pod:
        pod.init(*argv)
        whole = counted(pod)
        for damage in DAMAGES:
            damage(pod, dice)
            damaged = counted(pod)
            repaired = pod.init(*argv)
            assert counted(pod) == whole, damage.__name__
            assert ("already in place" in repaired.stderr) == (damaged == whole), damage.__name__


@pytest.mark.parametrize(
    "damage",
    [
        delete_half_of_the_rules,
        write_all_rules_twice,
        put_junk_into_our_chains,
        leave_chains_of_ours_where_none_belong,
        add_the_ip_rule_three_times,
    ],
)
def test_clean_removes_what_damage_left(damage: Callable[[Namespace, Random], None]) -> None:
    with Namespace() as pod:
        before = counted(pod)
        for argv in (BUILDS["1.0-tproxy"], EVERYTHING):
            pod.init(*argv)
            damage(pod, random.Random(1338))
            flags = argv[1:] if argv[0] == "istio-iptables" else argv
            pod.init("clean", *flags)
            assert counted(pod) == before, argv


# The kernel counts a quota anew whenever the rule's table is replaced, even by
# itself, and tells nobody: the rule matches its one packet again. Counters, which
# survive a replacement, then show two.
CANARY = "-A OUTPUT -p udp -m udp --dport 9 -m quota --quota {quota}"
# Room for one empty datagram, not for two.
QUOTAS = {TOOLS["ipv4"]: 30, TOOLS["ipv6"]: 50}
SEND = """\
import socket
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    for _ in range(2):
        # A connection of its own each: nat sees only the first packet of one.
        socket.socket(family, socket.SOCK_DGRAM).sendto(b"", (address, 9))
"""


def plant_canaries(pod: Namespace) -> None:
    for tool, quota in QUOTAS.items():
        for table in TABLES:
            pod.run(tool, "-t", table, *CANARY.format(quota=quota).split(" "))


def times_written(pod: Namespace) -> dict[str, int]:
    """Return how often each table was written since the canaries came; asking counts."""
    pod.run(sys.executable, "-c", SEND)
    return {
        section: int(line[1:].partition(":")[0])
        for section, lines in counted(pod).items()
        for line in lines
        if "-m quota" in line
    }


@builds
def test_a_second_run_writes_nothing(argv: tuple[str, ...]) -> None:
    other_port = (*argv, "-p", "15101")
    with Namespace() as pod:
        pod.init(*argv)
        plant_canaries(pod)
        before = times_written(pod)
        again = pod.init(*argv)
        after_second = times_written(pod)
        pod.init(*other_port)
        after_change = times_written(pod)
        pod.init("clean")
        once_clean = times_written(pod)
        clean_again = pod.init("clean")
        twice_clean = times_written(pod)

    assert set(before.values()) == {1}
    assert len(before) == 8
    assert after_second == before
    assert "already in place" in again.stderr
    # The canaries do sing: the new port stands in nat (in 1.0's TPROXY also in mangle).
    written = {section for section in before if after_change[section] != before[section]}
    assert "iptables-legacy nat" in written
    assert not any(section.endswith((" raw", " filter")) for section in written)
    assert twice_clean == once_clean
    assert "nothing of ours" in clean_again.stderr


def test_a_second_run_leaves_routes_alone() -> None:
    with Namespace() as pod:
        first = inside(pod, partial(legacy_tables.announced, PROGRAM, *EVERYTHING))
        second = inside(pod, partial(legacy_tables.announced, PROGRAM, *EVERYTHING))
        inside(pod, partial(legacy_tables.announced, PROGRAM, "clean"))
        cleaned = inside(pod, partial(legacy_tables.announced, PROGRAM, "clean"))

    assert len(first) >= 5
    assert second == []
    assert cleaned == []
