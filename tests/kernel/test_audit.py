"""``audit``: every way in which live rules can differ is found, in each backend, and named."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from istio_init.operate.audit import DRIFT
from tests.cases import CALLS, Call
from tests.inside import Done, init
from tests.kernel.test_choice import NEVER_TOUCHED, footprint
from tests.kernel.test_network_namespace import sleeper
from tests.namespace import BACKENDS, PROGRAM, Namespace
from tests.snapshot import snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

NEW = ("istio-iptables", "-u", "1337", "-i", "*", "-b", "*", "-x", "10.9.0.0/16", "--ipv6")
TPROXY = (*NEW, "-m", "TPROXY")
OLD = ("apply", "-u", "1337", "-i", "*", "-b", "*")
DNS = (*NEW, "--redirect-dns", "--dns-servers", "10.96.0.10,fd00::a")
TOOLS = {"legacy": "iptables-legacy", "nft": "iptables-nft"}
# A call of every kind: what is planned and what is recognised has to be what stands.
KINDS = (
    *("1.0-tproxy-own-mark", "1.30-template-dual-stack", "1.30-tproxy-with-everything"),
    *("1.30-owner-groups-64", "1.30-virtual-interfaces-and-ranges"),
)
STANDING = [call for call in CALLS if call.name in KINDS]


def audit(pod: Namespace, *argv: str, code: int = DRIFT) -> list[dict[str, Any]]:
    """Return the findings of an audit that count as drift."""
    found = json.loads(init(pod, "audit", *argv, "--format", "json", code=code).out)
    assert found["code"] == code
    assert found["verdict"] == ("drift" if code == DRIFT else "ok")
    return [one for one in found["findings"] if one["drift"]]


def named(findings: list[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    return [(one["kind"], one["family"], one["rule"], one["consequence"]) for one in findings]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("call", STANDING, ids=str)
def test_what_a_run_leaves_is_as_planned(call: Call, backend: str) -> None:
    flags = call.argv if call.argv[0] == "istio-iptables" else ("apply", *call.argv)
    flags += ("--layout", call.layout)
    with Namespace() as pod:
        init(pod, *call.argv, "--backend", backend)
        before = snapshot(pod), footprint(pod)
        asked = init(pod, "audit", *flags)
        recognised = init(pod, "audit")
        after = snapshot(pod), footprint(pod)

    assert after == before
    for done in (asked, recognised):
        assert f"layout {call.layout}, " in done.out
        assert f"backend {backend}; " in done.out
        assert "ok: the rules are as planned\n" in done.out
        assert "drift" not in done.out
        assert "---" not in done.out


def test_looking_at_nothing_creates_nothing() -> None:
    with Namespace() as pod:
        recognised = audit(pod)
        asked = audit(pod, *NEW)
        touched = footprint(pod)

    assert touched == NEVER_TOUCHED
    assert named(recognised) == [
        (
            "absent",
            "",
            "",
            "no backend holds a rule of istio-init: no traffic is redirected to the proxy",
        )
    ]
    both = "inbound TCP does not reach the proxy; outbound TCP does not reach the proxy"
    assert named(asked)[:2] == [
        ("absent", family, "every rule of ours", both) for family in ("ipv4", "ipv6")
    ]
    assert [one["rule"] for one in asked[2:]] == ["the address ::6/128 on lo"]


# What is done to the rules of a call, and what has to be found: kind, rule and consequence.
BROKEN: tuple[tuple[tuple[str, ...], str, str, str, str], ...] = (
    (
        NEW,
        "-t nat -D OUTPUT -j ISTIO_OUTPUT",
        "missing",
        "-A OUTPUT -j ISTIO_OUTPUT",
        "outbound TCP does not reach the proxy",
    ),
    (
        NEW,
        "-t nat -D PREROUTING -p tcp -j ISTIO_INBOUND",
        "missing",
        "-A PREROUTING -p tcp -j ISTIO_INBOUND",
        "inbound TCP does not reach the proxy",
    ),
    (
        NEW,
        "-t nat -D ISTIO_OUTPUT -j ISTIO_REDIRECT",
        "missing",
        "-A ISTIO_OUTPUT -j ISTIO_REDIRECT",
        "outbound TCP does not reach the proxy",
    ),
    (
        NEW,
        "-t nat -F ISTIO_REDIRECT",
        "missing",
        "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001",
        "outbound TCP does not reach the proxy",
    ),
    (
        NEW,
        "-t nat -D ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN",
        "missing",
        "-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN",
        (
            "the proxy's own connections of uid 1337 are redirected to the proxy again, in an "
            "endless loop"
        ),
    ),
    (
        NEW,
        "-t nat -D ISTIO_OUTPUT -d 10.9.0.0/16 -j RETURN",
        "missing",
        "-A ISTIO_OUTPUT -d 10.9.0.0/16 -j RETURN",
        "outbound to 10.9.0.0/16 is still redirected to the proxy",
    ),
    (
        NEW,
        "-t nat -I ISTIO_OUTPUT 3 -d 10.7.0.0/16 -j RETURN",
        "extra",
        "-A ISTIO_OUTPUT -d 10.7.0.0/16 -j RETURN",
        "outbound to 10.7.0.0/16 bypasses the proxy",
    ),
    (
        NEW,
        "-t nat -A ISTIO_OUTPUT -d 10.7.0.0/16 -j RETURN",
        "extra",
        "-A ISTIO_OUTPUT -d 10.7.0.0/16 -j RETURN",
        "changes nothing: no rule below it captures anything",
    ),
    (
        NEW,
        ("-t nat -I ISTIO_INBOUND 1 -p tcp --dport 8443 -m comment --comment odd -j ACCEPT"),
        "extra",
        "-A ISTIO_INBOUND -p tcp -m tcp --dport 8443 -m comment --comment odd -j ACCEPT",
        "this program does not know what it does to inbound packets",
    ),
    (
        NEW,
        "-t nat -A OUTPUT -j ISTIO_OUTPUT",
        "extra",
        "-A OUTPUT -j ISTIO_OUTPUT",
        "packets enter ISTIO_OUTPUT a second time",
    ),
    (
        NEW,
        "-t nat -N ISTIO_TPROXY",
        "extra",
        "-N ISTIO_TPROXY",
        "no rule jumps to it: left over from another configuration",
    ),
    (
        NEW,
        "-t nat -I OUTPUT 1 -j RETURN",
        "shadowed",
        "-A OUTPUT -j RETURN",
        "outbound TCP does not reach the proxy",
    ),
    (
        NEW,
        ("-t nat -D ISTIO_OUTPUT -j ISTIO_REDIRECT; -t nat -I ISTIO_OUTPUT 1 -j ISTIO_REDIRECT"),
        "reordered",
        "-A ISTIO_OUTPUT -j ISTIO_REDIRECT",
        "outbound from 127.0.0.6/32 by lo is redirected to the proxy before it is let pass",
    ),
    (
        TPROXY,
        "-t mangle -F ISTIO_TPROXY",
        "missing",
        (
            "-A ISTIO_TPROXY ! -d 127.0.0.1/32 -p tcp -j TPROXY --on-port 15006"
            " --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff"
        ),
        "inbound TCP not to 127.0.0.1/32 does not reach the proxy",
    ),
    (
        DNS,
        "-t nat -D ISTIO_OUTPUT -j ISTIO_OUTPUT_DNS",
        "missing",
        "-A ISTIO_OUTPUT -j ISTIO_OUTPUT_DNS",
        "DNS queries do not reach the agent",
    ),
    (
        DNS,
        "-t raw -D OUTPUT -j ISTIO_OUTPUT_DNS",
        "missing",
        "-A OUTPUT -j ISTIO_OUTPUT_DNS",
        "DNS connections of the application and of the agent are not kept apart",
    ),
    (
        OLD,
        "-t nat -I ISTIO_INBOUND 1 -p tcp --dport 81 -j RETURN",
        "extra",
        "-A ISTIO_INBOUND -p tcp -m tcp --dport 81 -j RETURN",
        "inbound TCP to port 81 bypasses the proxy",
    ),
)


@pytest.mark.parametrize("backend", TOOLS)
@pytest.mark.parametrize("broken", BROKEN, ids=[one[1] for one in BROKEN])
def test_each_difference_is_named_with_its_consequence(
    broken: tuple[tuple[str, ...], str, str, str, str], backend: str
) -> None:
    call, harm, kind, rule, consequence = broken
    with Namespace() as pod:
        init(pod, *call, "--backend", backend)
        pod.run("sh", "-ec", "".join(f"{TOOLS[backend]} {one}\n" for one in harm.split(";")))
        findings = audit(pod, *call)
        shown = init(pod, "audit", *call, code=DRIFT).out
        init(pod, *call)
        # Rules of others stay, and so does what they do.
        audit(pod, *call, code=DRIFT if kind == "shadowed" else 0)

    assert named(findings) == [(kind, "ipv4", rule, consequence)]
    line = next(line for line in shown.splitlines() if line.startswith("drift  ipv4 "))
    assert f"{kind} {rule}" in line
    assert line.endswith(f": {consequence}")
    sign = {"missing": "-", "extra": "+", "reordered": "+", "shadowed": ""}[kind]
    assert not sign or f"\n{sign}{rule}\n" in shown


NATIVE = (
    (
        "delete rule inet istio-proxy-nat output handle {output}",
        ("missing", "-A OUTPUT -j ISTIO_OUTPUT", "outbound TCP does not reach the proxy"),
    ),
    (
        "flush chain inet istio-proxy-nat istio-redirect",
        (
            "missing",
            "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001",
            "outbound TCP does not reach the proxy",
        ),
    ),
    (
        "insert rule inet istio-proxy-nat istio-output ip daddr 10.7.0.0/16 counter return",
        (
            "extra",
            "-A ISTIO_OUTPUT -d 10.7.0.0/16 -j RETURN",
            "outbound to 10.7.0.0/16 bypasses the proxy",
        ),
    ),
    (
        "add chain inet istio-proxy-nat odd; add rule inet istio-proxy-nat odd counter accept",
        ("extra", "chain odd", "this program writes no such thing, and what it does is not known"),
    ),
    (
        "add table inet istio-proxy-nat { flags dormant; }",
        (
            "extra",
            "flags dormant",
            "a table that is dormant sees no packet: everything bypasses the proxy",
        ),
    ),
    (
        "insert rule inet istio-proxy-nat istio-output meta nfproto ipv4 ct mark 7 log return",
        ("extra", None, "this program does not know what it does to outbound packets"),
    ),
)


@pytest.mark.parametrize(("harm", "expected"), NATIVE, ids=[one[0] for one in NATIVE])
def test_each_difference_in_native_tables_is_named(
    harm: str, expected: tuple[str, str | None, str]
) -> None:
    with Namespace() as pod:
        init(pod, *NEW, "--backend", "nftables")
        listed = pod.run("nft", "-a", "list", "chain", "inet", "istio-proxy-nat", "output").stdout
        handles = re.findall(r"jump istio-output # handle (\d+)", listed)
        pod.run("nft", harm.replace("{output}", handles[0]))
        findings = audit(pod, *NEW)

    kind, rule, consequence = expected
    found = [one for one in findings if one["family"] == "ipv4"]
    assert [(one["kind"], one["consequence"]) for one in found] == [(kind, consequence)]
    assert rule is None or found[0]["rule"] == rule


@pytest.mark.parametrize("backend", BACKENDS)
def test_rules_in_a_second_backend_are_found(backend: str) -> None:
    other = {"legacy": "nft", "nft": "nftables", "nftables": "legacy"}[backend]
    with Namespace() as pod:
        init(pod, *NEW, "--backend", other)
        saved = {
            "legacy": ("iptables-legacy-save", "iptables-legacy-restore"),
            "nft": ("iptables-nft-save", "iptables-nft-restore"),
            "nftables": ("nft list ruleset", "nft -f -"),
        }[other]
        kept = pod.run(*saved[0].split()).stdout
        init(pod, *NEW, "--backend", backend)
        pod.run(*saved[1].split(), text=kept)
        findings = audit(pod, *NEW, "--backend", backend)

    assert [one["kind"] for one in findings] == ["second-backend"]
    assert findings[0]["rule"].startswith(f"rules of istio-init in {other} (ipv4 nat")
    assert f"a packet meets them and those in {backend}" in findings[0]["consequence"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_routes_and_the_lo_address_are_held_against_the_plan_too(backend: str) -> None:
    rule = "the ipv4 rule fwmark 0x539 lookup 133"
    with Namespace() as pod:
        init(pod, *TPROXY, "--backend", backend)
        pod.run("ip", "rule", "add", "fwmark", "1337", "lookup", "133", "priority", "100")
        duplicate = named(audit(pod))
        pod.run("ip", "rule", "delete", "priority", "100")
        assert audit(pod, code=0) == []
        pod.run("ip", "rule", "delete", "fwmark", "1337")
        missing = named(audit(pod, *TPROXY))
        init(pod, *TPROXY)
        pod.run("ip", "route", "flush", "table", "133")
        pod.run("ip", "address", "delete", "::6/128", "dev", "lo")
        more = named(audit(pod, *TPROXY))
        lines = init(pod, "audit", *TPROXY, code=DRIFT).out
        init(pod, *TPROXY)
        pod.run("ip", "-6", "rule", "add", "fwmark", "7", "lookup", "133")
        init(pod, *NEW, "--backend", backend)
        pod.run("ip", "rule", "add", "fwmark", "1337", "lookup", "133")
        extra = named(audit(pod, *NEW))

    assert duplicate == [
        ("duplicate", "ipv4", rule, "the first one decides; deleting one of them leaves the others")
    ]
    timeout = "inbound connections that TPROXY marks are not delivered to the proxy: they time out"
    assert missing == [("missing", "ipv4", rule, timeout)]
    assert more == [
        (
            "missing",
            "ipv6",
            "the address ::6/128 on lo",
            "the proxy cannot deliver inbound IPv6 connections, whose source it is",
        ),
        ("missing", "ipv4", "the ipv4 local default route of table 133", timeout),
    ]
    assert "\n-the address ::6/128 on lo\n" in lines
    assert extra == [
        (
            "extra",
            "ipv4",
            rule,
            "packets with mark 0x539 stay in the pod, though no flag asks for it",
        )
    ]


def test_left_overs_of_a_clean_up_that_forgot_them_are_found() -> None:
    with Namespace() as pod:
        init(pod, *TPROXY, "--backend", "legacy")
        for tool in ("iptables-legacy", "ip6tables-legacy"):
            for table in ("nat", "mangle"):
                pod.run("sh", "-ec", f"{tool} -t {table} -F; {tool} -t {table} -X")
        findings = audit(pod)

    assert [one["kind"] for one in findings] == ["absent", *["extra"] * 5]


@pytest.mark.parametrize("backend", BACKENDS)
def test_ipv6_that_is_up_but_not_captured_is_found(backend: str) -> None:
    ipv4 = NEW[:-1]
    with Namespace() as pod:
        pod.run("ip", "address", "add", "10.0.0.5/32", "dev", "lo")
        pod.run("ip", "address", "add", "fd00::5/128", "dev", "lo")
        init(pod, *ipv4, "--backend", backend)
        first_address_decides = audit(pod, *ipv4)
        recognised = audit(pod)
        chosen = audit(pod, *ipv4, "--no-ipv6", code=0)
        init(pod, *ipv4, "--dual-stack")
        captured = audit(pod, code=0)
        init(pod, *OLD)
        old = init(pod, "audit", code=0).out

    lost = "inbound and outbound IPv6 bypasses the proxy, and the pod has fd00::5"
    assert named(first_address_decides) == [("not-intercepted", "ipv6", "", lost)]
    assert named(recognised) == [("not-intercepted", "ipv6", "", lost)]
    assert chosen == captured == []
    assert "note   ipv6: not-intercepted: outbound IPv6 bypasses the proxy, and the pod" in old


def test_traps_of_a_layout_are_notes() -> None:
    flags = ("istio-iptables", "-u", "1337,1338", "-i", "*", "--no-ipv6")
    with Namespace() as pod:
        init(pod, *flags)
        done = init(pod, "audit")

    assert "note   trap: -u lists several users" in done.out
    assert "ok: the rules are as planned" in done.out


@pytest.mark.parametrize("backend", TOOLS)
def test_rules_of_others_for_some_packets_are_notes(backend: str) -> None:
    others = (
        ("-d 10.8.0.0/16 -j RETURN", "outbound to 10.8.0.0/16 bypasses the proxy"),
        ("-d 10.8.0.1/32 -j THEIRS", "packets that it takes do not reach them"),
        (
            "-p tcp -m tcp --dport 81 -j REDIRECT --to-ports 9",
            "outbound TCP to port 81 goes elsewhere",
        ),
        ("-j LOG", ""),
    )
    with Namespace() as pod:
        tool = f"{TOOLS[backend]} -t nat"
        rules = [f"{tool} -A OUTPUT {rule}" for rule, _ in others]
        pod.run("sh", "-ec", "\n".join((f"{tool} -N THEIRS", *rules)))
        init(pod, *NEW, "--backend", backend)
        out = init(pod, "audit").out

    notes = [line for line in out.splitlines() if line.startswith("note ")]
    assert notes == [
        f"note   ipv4 nat: shadowed -A OUTPUT {rule} (rule {number}): stands above ours: {lost}"
        for number, (rule, lost) in enumerate(others, 1)
        if lost
    ]


def test_with_no_zones_after_all_the_same_flags_find_nothing() -> None:
    with Namespace() as pod:
        init(pod, *NEW, "--drop-invalid")
        init(pod, *NEW)
        less = audit(pod, *NEW, "--drop-invalid", "--on-missing", "degrade", code=0)
        whole = audit(pod, *NEW, "--drop-invalid")

    assert less == []
    assert {one["kind"] for one in whole} == {"missing"}


def test_the_layout_is_that_of_the_rules_unless_it_is_said() -> None:
    with Namespace() as pod:
        init(pod, *NEW)
        by_rules = audit(pod, *NEW[1:], code=0)
        by_word = audit(pod, *NEW, code=0)
        by_flag = audit(pod, "-u", "1337", "-i", "*", "-b", "*", "--layout", "1.0")

    assert by_rules == by_word == []
    assert any(one["rule"] == "-A OUTPUT -p tcp -j ISTIO_OUTPUT" for one in by_flag)


def test_from_the_node_by_pid() -> None:
    with Namespace() as pod, Namespace() as node, sleeper(pod) as pid:
        init(pod, *NEW)
        good = init(node, "audit", "--network-namespace", pid)
        pod.run("iptables-legacy", "-t", "nat", "-I", "OUTPUT", "-j", "RETURN")
        bad = init(node, "audit", *NEW, "--network-namespace", pid, code=DRIFT)
        gone = init(node, "audit", "--network-namespace", "4194305", code=1)
        told = init(node, "audit", "--network-namespace", "4194305", "--format", "json", code=1)

    assert "ok: the rules are as planned" in good.out
    assert "shadowed -A OUTPUT -j RETURN (rule 1): outbound TCP does not reach the proxy" in bad.out
    assert "cannot open the network namespace 4194305" in gone.err
    error = json.loads(told.out)
    assert (error["verdict"], error["code"]) == ("error", 1)
    assert error["error"]["message"] in told.err
    assert "the PID of a process in the pod" in error["error"]["remedy"]


def test_the_document_of_what_was_recognised() -> None:
    with Namespace() as pod:
        init(pod, *NEW, "-q", "9000", "--backend", "nft")
        found = json.loads(init(pod, "audit", "--format", "json").out)
        again = init(pod, *found["call"])

    assert found == {
        "version": 1,
        "verdict": "ok",
        "code": 0,
        "backend": "nft",
        "layout": "1.30",
        "mode": "REDIRECT",
        "ipv6": True,
        "inbound": "*",
        "outbound": "*",
        "recognised": True,
        "call": found["call"],
        "findings": [],
        "diff": [],
    }
    assert "already in place" in again.err


def failing(pod: Namespace) -> Iterator[Done]:
    yield init(pod, "audit", *NEW, "-p", "0", code=2)
    yield init(pod, "audit", "--format", "yaml", code=2)
    yield init(pod, "audit", "--output", "/tmp/x", code=2)
    yield init(pod, "audit", "--backend", "iptables", code=2)


def test_what_cannot_be_asked_is_refused() -> None:
    with Namespace() as pod:
        said = [done.err for done in failing(pod)]

    assert "-p --envoy-port: '0': expected a number 1-65535" in said[0]
    assert all("Traceback" not in one for one in said)


def test_who_may_not_look_is_told() -> None:
    with Namespace() as pod:
        init(pod, *NEW)
        done = pod.run(
            *("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"),
            *(PROGRAM, "audit"),
            check=False,
        )

    assert done.returncode == 1
    assert "operation not permitted" in done.stderr
    assert "NET_ADMIN" in done.stderr
