"""``audit`` says drift where most connections do not reach the proxy, and ok where they do."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest

from istio_init.operate.audit import DRIFT
from tests.inside import inside, run_program
from tests.pod import APP, CLIENT, OUTSIDE, POD, PROXY, Call, Pod, captured, layout_1_30

if TYPE_CHECKING:
    from collections.abc import Iterator

OUT, IN, SELF = Call(APP, OUTSIDE, 80), Call(CLIENT, POD, 8080), Call(PROXY, POD, 8080)

# Rules of others, as a shell reads them behind ``iptables``, and the call that they are about.
OTHERS = [
    ("-t nat -I OUTPUT -m conntrack --ctstate NEW -j RETURN", OUT),
    ("-t nat -I OUTPUT -p tcp -m state --state NEW,RELATED -j ACCEPT", OUT),
    ("-t nat -I OUTPUT -d 0.0.0.0/1 -j RETURN; -t nat -I OUTPUT -d 128.0.0.0/1 -j RETURN", OUT),
    ("-t nat -I OUTPUT ! -o lo -j RETURN", OUT),
    ("-t nat -I OUTPUT -o lo -j RETURN", SELF),
    ("-t nat -I OUTPUT -m owner ! --uid-owner 1337 -j RETURN", OUT),
    ("-t nat -I OUTPUT -m owner --uid-owner 7 -j RETURN", OUT),
    ("-t nat -N A; -t nat -N B; -t nat -A A -p tcp -g B; -t nat -I OUTPUT -j A", OUT),
    ("-t nat -N B; -t nat -I OUTPUT -p tcp -g B", OUT),
    ("-t nat -I OUTPUT -p tcp -j REDIRECT --to-ports 9", OUT),
    ("-t nat -I OUTPUT -p tcp -j DNAT --to-destination 192.0.2.7:9", OUT),
    ("-t nat -I OUTPUT -d 192.0.2.0/24 -j RETURN", OUT),
    ("-t nat -A OUTPUT -p tcp -j RETURN", OUT),
    ("-t filter -P OUTPUT DROP", OUT),
    ("-t filter -P OUTPUT DROP; -t filter -A OUTPUT -j ACCEPT", OUT),
    ("-t filter -A OUTPUT -p tcp -j REJECT", OUT),
    ("-t filter -A INPUT -p tcp -m tcp --dport 25 -j DROP", IN),
    ("-t mangle -A OUTPUT -p tcp -j ACCEPT", OUT),
    ("-t nat -I PREROUTING -m conntrack --ctstate NEW -j RETURN", IN),
    ("-t nat -I PREROUTING -i lo -j RETURN", IN),
    ("-t nat -I PREROUTING ! -i lo -j ACCEPT", IN),
    ("-t filter -P INPUT DROP", IN),
    ("-t raw -I PREROUTING -p tcp -j NOTRACK", IN),
]


@pytest.fixture(scope="module", params=["legacy", "nft"])
def pod(request: pytest.FixtureRequest) -> Iterator[tuple[Pod, str]]:
    setup = layout_1_30("-i", "*", "-b", "*", "--backend", request.param)
    with Pod(setup) as pod:
        yield pod, request.param


def cleared(tool: str) -> list[str]:
    return [
        *(f"{tool} -t filter -P {chain} ACCEPT" for chain in ("INPUT", "OUTPUT")),
        *(f"{tool} -t {table} -F" for table in ("filter", "mangle", "nat", "raw")),
        *(f"{tool} -t {table} -X" for table in ("filter", "mangle", "nat", "raw")),
    ]


@pytest.mark.parametrize(("others", "call"), OTHERS, ids=[one for one, _ in OTHERS])
def test_audit_says_who_answers(pod: tuple[Pod, str], others: str, call: Call) -> None:
    live, backend = pod
    assert live.setup
    tool = f"iptables-{backend}"
    port = 15001 if call is OUT else 15006
    flags = live.setup.argv
    try:
        script = [f"{tool} {one}" for one in others.split("; ")]
        live.namespace.run("sh", "-ec", "\n".join(script))
        landed = live.call(call, "ipv4")
        audit = inside(live.namespace, lambda: run_program("audit", *flags))
    finally:
        live.namespace.run("sh", "-ec", "\n".join(cleared(tool)))
        inside(live.namespace, lambda: run_program(*flags))

    reached = landed == captured(call, "ipv4", port)
    assert audit.code == (0 if reached else DRIFT), (landed, audit)
    assert "missing" not in audit.out


# Rules of others in one backend, ours in another, and which comes into being first.
BESIDE = [
    (theirs, ours, first)
    for theirs in ("legacy", "nft")
    for ours in ("legacy", "nft", "nftables")
    for first in ("theirs", "ours")
    if theirs != ours
]


@pytest.mark.parametrize(("theirs", "ours", "first"), BESIDE)
def test_what_another_backend_takes_is_never_passed_over(
    theirs: str, ours: str, first: str
) -> None:
    flags = layout_1_30("-i", "*", "--backend", ours).argv
    rule = shlex.split(f"iptables-{theirs} -t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 9999")
    with Pod() as pod:
        if first == "theirs":
            pod.namespace.run(*rule)
        applied = inside(pod.namespace, lambda: run_program(*flags))
        if first == "ours":
            pod.namespace.run(*rule)
            applied = inside(pod.namespace, lambda: run_program(*flags))
        audit = inside(pod.namespace, lambda: run_program("audit", *flags))
        said = inside(
            pod.namespace,
            lambda: run_program(
                *("explain", "outbound", "--live", "--uid", "1000", "--to", "10.9.9.9:80")
            ),
        )

    place = f"backend {theirs}: the rule -A OUTPUT -p tcp -j REDIRECT --to-ports 9999"
    assert place in applied.err
    assert audit.code == DRIFT
    assert "drift  ipv4 nat: diverted -A OUTPUT -p tcp -j REDIRECT --to-ports 9999" in audit.out
    verdict = said.out.splitlines()
    assert any(line.startswith("not certain: redirected to ") for line in verdict)
    assert any(line.startswith("  unless the kernel asks backend ") for line in verdict)
