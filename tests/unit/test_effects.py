"""What is said of a rule that does not work: one sentence for each effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from istio_init.diagnose.effects import CAPTURES, LETS_PASS, consequence, consequences
from istio_init.rules import targets as t
from istio_init.rules.model import Rule
from istio_init.rules.ranges import FAMILIES
from tests.documents import RULE_CALLS
from tests.plans import plan_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.rules.model import Plan


def planned(plan: Plan) -> Iterator[tuple[Rule, str]]:
    for family in FAMILIES:
        for table in plan.ruleset(family).tables:
            for chain in table.chains:
                for rule in chain.rules:
                    assert isinstance(rule, Rule)
                    yield rule, chain.name


def said(flag: str, *argv: str) -> set[str]:
    """Return what is said of the rules that a flag puts into a plan."""
    rules = [one for one in planned(plan_of(*argv)) if one[0].reason.flag == flag]
    return {consequence(rule, chain) for rule, chain in rules}


NEW = ("istio-iptables", "-u", "1337", "-g", "1337", "--no-ipv6")
SELF = "calls of {} to the pod's own address bypass the proxy"
LOOP = "the proxy's own connections of {} are redirected to the proxy again, in an endless loop"
ZONES = "DNS connections of the application and of the agent are not kept apart"
SOCKET = "packets of connections that the proxy holds do not reach its socket"
ANSWERS = "answers of captured connections do not find their way back to the proxy"
DELIVERY = "connections that the proxy opens to the application come back to the proxy"


@pytest.mark.parametrize(
    ("flag", "argv", "texts"),
    [
        ("-i", (*NEW, "-i", "*"), {"outbound TCP does not reach the proxy"}),
        (
            "-i",
            (*NEW, "-i", "10.0.0.0/8"),
            {"outbound TCP to 10.0.0.0/8 does not reach the proxy"},
        ),
        ("-p", NEW, {"outbound TCP does not reach the proxy"}),
        ("-q", (*NEW, "-q", "25"), {"outbound TCP to port 25 does not reach the proxy"}),
        (
            "-o",
            (*NEW, "-o", "53"),
            {
                "outbound TCP to port 53 is still redirected to the proxy",
                "outbound UDP to port 53 is still redirected to the agent if it is DNS",
            },
        ),
        (
            "-x",
            (*NEW, "-x", "10.9.0.0/16"),
            {"outbound to 10.9.0.0/16 is still redirected to the proxy"},
        ),
        (
            "-u",
            NEW,
            {
                SELF.format("uid 1337"),
                LOOP.format("uid 1337"),
                "outbound by lo not of uid 1337 is still redirected to the proxy",
            },
        ),
        # An application's group: nothing of it runs in a circle.
        (
            "--outbound-owner-groups-exclude",
            (*NEW, "--outbound-owner-groups-exclude", "2000"),
            {"outbound of gid 2000 is still redirected to the proxy"},
        ),
        (
            "--outbound-owner-groups",
            (*NEW, "--outbound-owner-groups", "2000"),
            {"outbound not of gid 2000 is still redirected to the proxy"},
        ),
        (
            "-b",
            (*NEW, "-b", "80"),
            {
                "inbound TCP does not reach the proxy",
                "inbound TCP to port 80 does not reach the proxy",
            },
        ),
        (
            "-b",
            ("-b", "80", "-m", "TPROXY"),
            {
                "inbound TCP does not reach the proxy",
                "inbound TCP to port 80 does not reach the proxy",
                SOCKET,
            },
        ),
        (
            "-d",
            (*NEW, "-b", "*", "-d", "81"),
            {"inbound TCP to port 81 is still redirected to the proxy"},
        ),
        (
            "-c",
            (*NEW, "-c", "eth1"),
            {
                "inbound by eth1 is still redirected to the proxy",
                "outbound by eth1 is still redirected to the proxy",
            },
        ),
        (
            "-k",
            (*NEW, "-k", "vm0", "-i", "10.0.0.0/8"),
            {
                "TCP from vm0 to 10.0.0.0/8 does not reach the proxy",
                "inbound by vm0 is still redirected to the proxy",
            },
        ),
        ("-t", (*NEW, "-b", "*", "-m", "TPROXY"), {SOCKET, ANSWERS, DELIVERY}),
        (
            "-m",
            (*NEW, "-b", "*", "-m", "TPROXY"),
            {
                SOCKET,
                DELIVERY,
                "inbound TCP by lo not with mark 0x53a is still redirected to the proxy",
                "inbound TCP not to 127.0.0.1/32 does not reach the proxy",
            },
        ),
        (
            "--redirect-dns",
            (*NEW, "--redirect-dns", "--dns-servers", "10.0.0.53"),
            {
                "DNS queries do not reach the agent",
                "DNS queries over TCP to 10.0.0.53/32 do not reach the agent",
                "DNS queries over UDP to 10.0.0.53/32 do not reach the agent",
                ZONES,
            },
        ),
        (
            "--drop-invalid",
            (*NEW, "--drop-invalid"),
            {"invalid packets are not dropped: the kernel resets their connections"},
        ),
        (
            "--no-ipv6",
            ("-i", "*"),
            {
                "inbound IPv6 bypasses the proxy",
                "answers to the pod's own IPv6 connections are rejected",
            },
        ),
        (
            "-i",
            ("-i", "10.0.0.0/8"),
            {
                "outbound TCP to 10.0.0.0/8 does not reach the proxy",
                "nothing changes: the end of the chain does the same",
            },
        ),
        (
            "--layout",
            ("-b", "*"),
            {
                "outbound TCP does not reach the proxy",
                "calls to the pod's own address bypass the proxy",
                "outbound to 127.0.0.1/32 is still redirected to the proxy",
                "inbound TCP to port 22 is still redirected to the proxy",
            },
        ),
    ],
)
def test_what_is_said_of_the_rules_of_a_flag(
    flag: str, argv: tuple[str, ...], texts: set[str]
) -> None:
    assert said(flag, *argv) == texts


def test_no_effect_both_captures_and_lets_pass() -> None:
    effects = {
        rule.reason.effect
        for layout, calls in RULE_CALLS.items()
        for call in calls
        for rule, _ in planned(plan_of(*call, "--layout", layout))
    }

    assert not CAPTURES & LETS_PASS
    assert effects >= CAPTURES
    assert LETS_PASS - {"not known"} <= effects
    assert "not known" not in effects


def test_of_several_rules_the_worst_comes_first_and_nothing_twice() -> None:
    plan = plan_of(*NEW, "-i", "*", "-x", "10.9.0.0/16", "-b", "*")
    rules = [one for one in planned(plan) if one[1] in ("ISTIO_OUTPUT", "ISTIO_REDIRECT")]
    texts = consequences(rules).split("; ")

    assert texts[:2] == [SELF.format("uid 1337"), SELF.format("gid 1337")]
    assert texts[2] == "outbound TCP does not reach the proxy"
    assert len(texts) == len(set(texts))


def test_of_a_rule_that_no_plan_made_nothing_is_said() -> None:
    assert consequence(Rule((), t.Drop()), "OUTPUT") == "what the rule is for is not known"
