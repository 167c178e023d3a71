"""``istio-init explain --live``: the rules that stand in the kernel, read and left alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.inside import init
from tests.namespace import BACKENDS, Namespace, program_for_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.config.model import Backend

SIDECAR = ("istio-iptables", "-u", "1337", "-i", "*", "-x", "10.9.0.0/16", "-b", "*", "--ipv6")
OUT = ("explain", "outbound", "--live", "--uid", "1000", "--to")
IN = ("explain", "inbound", "--live", "--from", "10.0.0.9", "--to-port", "80")
APP = "10.5.0.1"


@pytest.fixture
def pod() -> Iterator[Namespace]:
    with Namespace() as pod:
        for line in (
            "ip link add eth7 type veth peer name other",
            f"ip addr add {APP}/24 dev eth7",
            "ip addr add fd05::1/64 dev eth7 nodad",
            "ip link set other up",
            "ip link set eth7 up",
            "ip route add default dev eth7",
            "ip -6 route add default dev eth7",
        ):
            pod.run(*line.split())
        yield pod


def verdict(pod: Namespace, *argv: str) -> dict[str, Any]:
    done = init(pod, *argv, "--format", "json")
    assert done.err == ""
    found: dict[str, Any] = json.loads(done.out)
    return found


def fate(pod: Namespace, *argv: str) -> tuple[str, int | None, bool]:
    found = verdict(pod, *argv)["verdict"]
    return found["fate"], found["port"], found["certain"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_live_rules_of_every_backend(pod: Namespace, backend: Backend) -> None:
    init(pod, *SIDECAR, "--backend", backend)

    for to, left in (("10.2.0.1:80", "10.9.0.1:80"), ("[fd00::1]:80", "[fd05::1]:80")):
        assert fate(pod, *OUT, to) == ("redirected", 15001, True)
        assert fate(pod, *OUT, left) == ("untouched", None, True)
        assert fate(pod, *OUT, to, "--uid", "1337") == ("untouched", None, True)
    assert fate(pod, *IN) == ("redirected", 15006, True)
    assert {step["backend"] for step in verdict(pod, *IN)["steps"]} == {backend}


@pytest.mark.parametrize("flags", [SIDECAR, ()], ids=["said", "recognised"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_reasons_of_live_rules_are_the_flags_that_built_them(
    pod: Namespace, backend: Backend, flags: tuple[str, ...]
) -> None:
    init(pod, *SIDECAR, "--backend", backend)
    said = verdict(pod, *OUT, "10.9.0.1:80", *flags)["verdict"]["text"]

    assert said.endswith(
        ", because of -x 10.9.0.0/16 "
        "(pod annotation traffic.sidecar.istio.io/excludeOutboundIPRanges)"
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_kernels_own_routes_decide_where_a_packet_leaves(
    pod: Namespace, backend: Backend
) -> None:
    init(pod, *SIDECAR, "-m", "TPROXY", "--backend", backend)
    away = verdict(pod, *OUT, "10.2.0.1:80")["packet"]
    self_call = verdict(pod, *OUT, f"{APP}:80")["packet"]
    marked = verdict(pod, *OUT, "10.2.0.1:80", "--mark", "1337")["packet"]

    assert (away["out"], away["source"]) == ("eth7", APP)
    assert (self_call["out"], self_call["source"]) == ("lo", APP)
    assert marked["out"] == "lo"
    assert fate(pod, *IN) == ("tproxy", 15006, True)
    back = ("--state", "ESTABLISHED", "--connmark", "1337")
    assert fate(pod, *OUT, "10.2.0.1:80", *back) == ("marked", None, True)
    # Without the route the mark leads nowhere.
    pod.run("ip", "route", "flush", "table", "133")
    assert fate(pod, *OUT, "10.2.0.1:80", *back) == ("follows", None, True)


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_a_match_of_others_that_is_not_understood_is_a_doubt(
    pod: Namespace, backend: Backend
) -> None:
    init(pod, *SIDECAR, "--backend", backend)
    tool = f"iptables-{backend}"
    pod.run(tool, "-t", "nat", "-I", "OUTPUT", "-m", "statistic", *EVERY_SECOND, "-j", "RETURN")
    found = verdict(pod, *OUT, "10.2.0.1:80")["verdict"]

    assert (found["fate"], found["port"], found["certain"]) == ("redirected", 15001, False)
    (doubt,) = found["depends_on"]
    assert (doubt["chain"], doubt["number"]) == ("OUTPUT", 1)
    assert doubt["outcomes"] == [{"fate": "untouched", "port": None}]
    # Where something that is understood fails, the rest makes no difference.
    assert fate(pod, *OUT, "[fd00::1]:80") == ("redirected", 15001, True)


EVERY_SECOND = ("--mode", "nth", "--every", "2", "--packet", "0")


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_a_rule_of_others_that_lets_everything_pass_is_named(
    pod: Namespace, backend: Backend
) -> None:
    init(pod, *SIDECAR, "--backend", backend)
    comment = ("-m", "comment", "--comment", "spare us")
    pod.run(f"iptables-{backend}", "-t", "nat", "-I", "OUTPUT", *comment, "-j", "RETURN")
    found = verdict(pod, *OUT, "10.2.0.1:80")["verdict"]

    assert (found["fate"], found["certain"]) == ("untouched", True)
    assert found["text"] == (
        'left untouched: -A OUTPUT -m comment --comment "spare us" -j RETURN, rule 1'
    )


def test_lines_of_others_in_native_tables_are_doubts(pod: Namespace) -> None:
    init(pod, *SIDECAR, "--backend", "nftables")
    pod.run(
        *["nft", "insert", "rule", "inet", "istio-proxy-nat", "output", "ip", "ttl", "5", "accept"]
    )
    found = verdict(pod, *OUT, "10.2.0.1:80")["verdict"]

    assert (found["fate"], found["certain"]) == ("redirected", False)
    assert found["depends_on"][0]["outcomes"] == [{"fate": "untouched", "port": None}]


def test_what_others_put_into_native_tables_is_said(pod: Namespace) -> None:
    init(pod, *SIDECAR, "--backend", "nftables")
    hook = "{ type filter hook output priority 0; }"
    pod.run("nft", f"add chain inet istio-proxy-nat theirs {hook}")

    assert verdict(pod, *OUT, "10.2.0.1:80")["notes"] == [
        "not understood: chain theirs in the table inet istio-proxy-nat"
    ]


def test_what_is_not_read_is_said(pod: Namespace) -> None:
    init(pod, *SIDECAR, "--backend", "nft")
    pod.run("nft", "add", "table", "inet", "others")

    assert verdict(pod, *OUT, "10.2.0.1:80")["notes"] == [
        "not looked at: the table inet others of nft"
    ]


def test_two_backends_with_rules_are_both_asked(pod: Namespace) -> None:
    init(pod, *SIDECAR, "--backend", "legacy")
    pod.run("iptables-nft", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-j", "RETURN")
    found = verdict(pod, *OUT, "10.2.0.1:80")

    assert found["verdict"]["fate"] == "redirected"
    assert found["notes"] == [
        "several backends have a nat table: the one that was registered last is asked first"
    ]
    tables = [
        (step["backend"], step["table"]) for step in found["steps"] if step["tried"] == "entered"
    ]
    assert tables[0] == ("legacy", "nat")


def test_looking_creates_nothing(pod: Namespace) -> None:
    def state() -> tuple[str, ...]:
        names = ("cat", "/proc/self/net/ip_tables_names", "/proc/self/net/ip6_tables_names")
        return pod.run(*names).stdout, pod.run("nft", "list", "ruleset").stdout

    before = state()
    found = verdict(pod, *OUT, "10.2.0.1:80")
    assert fate(pod, *IN) == ("untouched", None, True)

    assert before == state() == ("", "")
    assert found["verdict"]["text"] == "left untouched: no rule looks at it"
    assert found["notes"] == ["there are no rules in this namespace"]


def test_no_route_is_said(pod: Namespace) -> None:
    pod.run("ip", "route", "del", "default")
    notes = verdict(pod, *OUT, "192.0.2.1:80")["notes"]

    assert notes[0] == "there is no route to 192.0.2.1 from here: Network is unreachable"
    # Who names the interface asks for no route.
    assert len(verdict(pod, *OUT, "192.0.2.1:80", "--via", "eth7")["notes"]) == 1


def test_inbound_to_another_host_is_forwarded(pod: Namespace) -> None:
    pod.run("iptables-legacy", "-A", "FORWARD", "-j", "DROP")
    asked = ("explain", "inbound", "--live", "--from", "10.0.0.9", "--to")

    assert fate(pod, *asked, "10.2.0.1:80") == ("dropped", None, True)
    assert fate(pod, *asked, f"{APP}:80") == ("untouched", None, True)


def test_namespace_may_be_named_from_outside(pod: Namespace) -> None:
    init(pod, *SIDECAR, "--backend", "nft")
    with Namespace() as elsewhere:
        named = ("--network-namespace", pod.path)
        assert fate(elsewhere, *OUT, "10.2.0.1:80", *named) == ("redirected", 15001, True)
        assert fate(elsewhere, *OUT, "10.2.0.1:80") == ("untouched", None, True)


def test_plan_needs_no_privilege(pod: Namespace) -> None:
    argv = ("explain", "outbound", "--to", "10.2.0.1:80", "--uid", "1000", *SIDECAR)
    done = pod.run(program_for_all(), *argv, uid=65534)

    assert "redirected to 15001 by ISTIO_REDIRECT" in done.stdout


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_privilege_live_rules_cannot_be_read_and_it_is_said(
    pod: Namespace, backend: Backend
) -> None:
    init(pod, *SIDECAR, "--backend", backend)
    done = pod.run(program_for_all(), *OUT, "10.2.0.1:80", uid=65534, check=False)

    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    assert "nothing was changed" in done.stderr
