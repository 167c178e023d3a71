"""The tables of iptables-nft, shared with programs that iptables-nft knows nothing of."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest

from istio_init.apply.iptables_nft import IptablesNft
from istio_init.formats.nf_tables.expressions import JUMP, verdict, without_counts
from istio_init.kernel import nfnetlink
from istio_init.rules.model import ForeignRule
from istio_init.rules.ranges import IPV4
from tests.inside import init, inside, run_program
from tests.namespace import PROGRAM, Namespace

if TYPE_CHECKING:
    from istio_init.rules.model import Chain, Ruleset

NFT = ("--backend", "nft")
SIDECAR = ("istio-iptables", "-u", "1337", "-i", "*", "-b", "*", "--no-ipv6")
OTHER = (
    "istio-iptables",
    "-u",
    "1337",
    "-i",
    "10.0.0.0/8",
    "-b",
    "80",
    "--no-ipv6",
    "-m",
    "TPROXY",
)


def theirs(pod: Namespace) -> list[tuple[int, bytes, bytes]]:
    """Return the rules of others in nat OUTPUT, with the kernel's numbers of them."""
    return inside(pod, _theirs)


def _theirs() -> list[tuple[int, bytes, bytes]]:
    found = nfnetlink.contents(frozenset({("ip", "nat")}), None, sets=False)
    assert found is not None
    return [
        (one.handle, without_counts(one.expressions), one.notes)
        for one in found.rules
        if one.chain == "OUTPUT" and not one.expressions.endswith(verdict(JUMP, "ISTIO_OUTPUT"))
    ]


def live(pod: Namespace) -> Ruleset:
    return inside(pod, lambda: IptablesNft().read(IPV4, frozenset()))


def output(pod: Namespace) -> Chain:
    table = live(pod).table("nat")
    chain = table.chain("OUTPUT") if table else None
    assert chain is not None
    return chain


# Rules that iptables-nft cannot list, or prints as something else.
FOREIGN = {
    "a set without a name": "tcp dport { 9998, 9999 } redirect to :9997",
    "a set": "ip daddr @blocked counter drop",
    "a map": "tcp dport vmap { 1 : drop, 2 : accept }",
    "a mark of its own": "tcp dport 9 meta mark set 0x7",
    "its own log": 'log prefix "x\\n-A OUTPUT -j ISTIO_OUTPUT" group 1',
    "a comment": 'tcp dport 7 return comment "COMMIT *nat -A OUTPUT -j ISTIO_OUTPUT"',
    "a limit": "limit rate 5/second accept",
    "an hour": 'meta hour "10:00"-"11:00" drop',
}


@pytest.mark.parametrize("rule", FOREIGN.values(), ids=FOREIGN)
def test_a_rule_that_iptables_cannot_list_hinders_nothing(rule: str) -> None:
    with Namespace() as pod:
        pod.run("nft", "add table ip nat; add set ip nat blocked { type ipv4_addr; }")
        hook = "{ type nat hook output priority -100; }"
        pod.run("nft", f"add chain ip nat OUTPUT {hook}; add rule ip nat OUTPUT {rule}")
        before = theirs(pod)
        assert len(before) == 1
        for argv in (SIDECAR, OTHER):
            init(pod, *argv, *NFT)
            assert theirs(pod) == before
            assert "already in place" in init(pod, *argv, *NFT).err
            assert theirs(pod) == before
            assert '"backend": "nft"' in init(pod, "audit", *argv, *NFT, "--format", "json").out
        pod.run("nft", f"add rule ip nat OUTPUT {rule}")
        init(pod, "clean")

        first, second = theirs(pod)
        assert first == before[0]
        # Of a set without a name the number is in the rule.
        assert len(second[1]) == len(first[1])
        assert "chain ISTIO" not in pod.run("nft", "list", "ruleset").stdout


def test_rules_that_are_read_say_how_far_they_are_understood() -> None:
    with Namespace() as pod:
        hook = "{ type nat hook output priority -100; }"
        pod.run("nft", f"add table ip nat; add chain ip nat OUTPUT {hook}")
        for line in (
            "ip daddr 10.0.0.0/8 tcp dport 80 counter return",
            "tcp dport { 9998, 9999 } redirect to :9997",
            "ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:4000",
        ):
            pod.run("nft", f"add rule ip nat OUTPUT {line}")
        spelled = [one.spelled for one in output(pod).rules if isinstance(one, ForeignRule)]

    assert spelled == [
        "-p tcp -m nft:payload --set __set0 -j REDIRECT --to-ports 9997",
        "-d 127.0.0.11/32 -p udp -m udp --dport 53 -j DNAT",
    ]


HOOKS = {
    "asleep": "add table ip nat { flags dormant; }",
    "elsewhere": "add table ip nat; add chain ip nat OUTPUT { type nat hook output priority 5; }",
    "of another type": (
        "add table ip nat; add chain ip nat OUTPUT { type filter hook output priority -100; }"
    ),
    "without a hook": "add table ip nat; add chain ip nat OUTPUT",
}


@pytest.mark.parametrize("text", HOOKS.values(), ids=HOOKS)
def test_a_chain_that_does_nothing_takes_no_rules(text: str) -> None:
    with Namespace() as pod:
        pod.run("nft", text)
        before = pod.run("nft", "list", "ruleset").stdout
        failed = init(pod, *SIDECAR, *NFT, code=1)
        assert pod.run("nft", "list", "ruleset").stdout == before
        elsewhere = init(pod, *SIDECAR)

        assert "rules in this table would have no effect (backend nft, ipv4, nat)" in failed.err
        assert "use --backend nftables or legacy" in failed.err
        assert "through backend nftables: in place" in elsewhere.err


def test_a_table_that_falls_asleep_is_drift_and_takes_no_packet() -> None:
    call = ("outbound", "--to", "1.2.3.4:80", "--uid", "1000", "--live")
    with Namespace() as pod:
        init(pod, *SIDECAR, *NFT)
        pod.run("nft", "add table ip nat { flags dormant; }")
        audit = init(pod, "audit", *SIDECAR, code=3)
        explain = init(pod, "explain", *call)
        init(pod, "clean")

        assert "a table that is dormant sees no packet" in audit.out
        assert "redirected" not in explain.out
        assert "without effect: the table ip nat: flags dormant" in explain.out
        assert "ISTIO" not in pod.run("nft", "list", "ruleset").stdout


# What is owned goes with the socket. nft can ask for that from 1.0 on only.
OWNER = """
import socket, subprocess, sys
from istio_init.formats.nf_tables import messages
from istio_init.kernel import nfnetlink
with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as owner:
    owner.bind((0, 0))
    owner.send(nfnetlink._packed([messages.new_table("ip", "nat", 2)], None))
    sys.exit(subprocess.run(sys.argv[1:], check=False).returncode)
"""


def test_a_table_that_a_process_owns_is_said_to_be_owned() -> None:
    with Namespace() as pod:
        init(pod, *SIDECAR, *NFT)
        pod.run("nft", "flush ruleset")
        done = pod.run(sys.executable, "-c", OWNER, PROGRAM, *SIDECAR, *NFT, check=False)

    assert done.returncode == 1
    assert "another process owns the table; use --backend nftables or legacy" in done.stderr


def test_any_byte_may_be_in_a_name_or_a_comment() -> None:
    comments = [
        "two\nlines",
        "x\nCOMMIT\n*nat",
        "nel\u0085.",
        "cr\r.",
        'half a " quote',
        "\x1b[31m",
    ]
    with Namespace() as pod:
        for comment in comments:
            words = ["-p", "udp", "--dport", "7", "-m", "comment", "--comment", comment]
            pod.run("iptables-nft", "-t", "nat", "-A", "OUTPUT", *words, "-j", "RETURN")
        pod.run("sh", "-c", "iptables-nft -t nat -N \"$(printf 'caf\\351')\"")
        pod.run("sh", "-c", "iptables-nft -t nat -A OUTPUT -j \"$(printf 'caf\\351')\"")
        before = theirs(pod)
        for _ in range(2):
            init(pod, *SIDECAR, *NFT)
            assert theirs(pod) == before
        init(pod, "clean")

        assert theirs(pod) == before
        assert len(output(pod).rules) == len(comments) + 1


def test_who_writes_in_between_makes_a_run_start_over() -> None:
    with Namespace() as pod:
        tries = inside(pod, partial(_run_while_others_write, 3))
        assert tries == 4
        assert len(theirs(pod)) == 3


def _run_while_others_write(times: int) -> int:
    commit = nfnetlink.commit
    tries = []
    rule = ["iptables-nft", "-t", "nat", "-A", "OUTPUT", "-p", "udp", "-j", "RETURN"]

    def disturbed(*arguments: object) -> None:
        tries.append(arguments)
        if len(tries) <= times:
            subprocess.run(rule, check=True)
        commit(*arguments)  # type: ignore[arg-type]

    nfnetlink.commit = disturbed  # type: ignore[assignment]
    done = run_program(*SIDECAR, *NFT)
    assert done.code == 0, done
    return len(tries)


def test_thousands_of_ranges_go_in_at_once() -> None:
    ranges = ",".join(f"10.{one // 200}.{one % 200}.0/25" for one in range(5000))
    with Namespace() as pod:
        init(pod, *SIDECAR, "-x", ranges, *NFT)
        assert "already in place" in init(pod, *SIDECAR, "-x", ranges, *NFT).err
        table = live(pod).table("nat")

    chain = table.chain("ISTIO_OUTPUT") if table else None
    assert chain is not None
    assert len(chain.rules) > 5000
