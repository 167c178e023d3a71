"""From whatever stands there, one run leads to the plan, and ``clean`` to nothing of ours."""

from __future__ import annotations

import subprocess
from itertools import permutations
from typing import TYPE_CHECKING

import pytest

from tests.expected import expected, planted
from tests.foreign import plant
from tests.inside import init, inside, run_program
from tests.namespace import BACKENDS, Namespace
from tests.snapshot import snapshot, snapshot_here

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.snapshot import State

NEW = (
    *("istio-iptables", "-i", "10.0.0.0/8,fd00::/8", "-b", "80,443", "-m", "TPROXY", "--ipv6"),
    *("--redirect-dns", "--capture-all-dns", "--drop-invalid", "-o", "7777", "-x", "10.1.0.0/16"),
)
INTERFACES = ("-c", "net1,net2", "-k", "dind0,kubevirt0")
OLD = ("-i", "*", "-b", "*", "-d", "9999", "-m", "TPROXY", "-u", "1337", "-t", "1400", "-r", "140")
LAYOUTS = {"1.0": OLD, "1.30": NEW}
ESTABLISHED = "--state ESTABLISHED -j ACCEPT"
TOOLS = {"legacy": "legacy", "nft": "nft"}


def prefixes(backend: str, argv: tuple[str, ...]) -> Iterator[str]:
    """Yield scripts that build less and less of a call's rules, as if a run had died there.

    One stops behind each group of commands alike, and one in the middle of it.
    """
    if backend in TOOLS:
        lines = run_program(*argv, "--dry-run", "--format", "commands").out.splitlines()
        kinds = [line.split(" -t ")[-1].split()[:2] for line in lines]
    else:
        lines = run_program(*argv, "--dry-run", "--format", "nft").out.splitlines()
        kinds = [[line] if _is_structure(line) else ["rule"] for line in lines]
    ends = [number for number in range(1, len(lines)) if kinds[number] != kinds[number - 1]]
    if backend not in TOOLS:
        # What ends with a line of structure ends with the rule before it as well.
        ends = [number for number in ends if kinds[number - 1] == ["rule"]]
    middles = [
        (one + other) // 2 for one, other in zip([0, *ends], ends, strict=False) if other - one > 4
    ]
    for number in sorted({*ends, *middles, len(lines)}, reverse=True):
        yield (_commands(backend, lines[:number]) if backend in TOOLS else _script(lines, number))


def _is_structure(line: str) -> bool:
    """Whether a line of an nft script is none that adds a rule."""
    return " counter" not in line


def _script(lines: list[str], number: int) -> str:
    kept = [line for at, line in enumerate(lines) if at < number or _is_structure(line)]
    return "nft -f - <<'END'\n" + "\n".join(kept) + "\nEND\n"


def _commands(backend: str, lines: list[str]) -> str:
    script = ["set -e"]
    place: list[str] = []
    for line in lines:
        program, *words = line.split()
        if program == "ip":
            script += [*_end(place), line]
            place = []
            continue
        if [program, words[1]] != place:
            script += _end(place)
            place = [program, words[1]]
            script += [f"{program}-{TOOLS[backend]}-restore --noflush <<'END'", f"*{words[1]}"]
        script.append(" ".join(words[2:]))
    return "\n".join([*script, *_end(place)]) + "\n"


def _end(place: list[str]) -> list[str]:
    return ["COMMIT", "END"] if place else []


def build(script: str) -> None:
    subprocess.run(["sh", "-c", script], check=True, timeout=60)


def start_from_each(
    scripts: list[str], states: list[tuple[tuple[str, ...], State]], *claim: str
) -> None:
    """Start from what each script builds; go to one state after the other, and back.

    ``claim`` are the flags by which ``clean`` knows what anybody could have written.
    """
    before = snapshot_here()
    for number, script in enumerate(scripts):
        argv, state = states[number % len(states)]
        if argv[0] == "istio-iptables" and ESTABLISHED in script and "REJECT" not in script:
            # Alone, this half of layout 1.0's pair may be anybody's, and stays.
            continue
        build(script)
        done = run_program(*argv)
        assert done.code == 0, (script, argv, done)
        assert snapshot_here() == state, (script, argv)
        clean(before, script, *claim)
        if number % 4 == 0:
            build(script)
            clean(before, script, *claim)


def clean(before: State, script: str, *claim: str) -> None:
    done = run_program("clean", *claim)
    assert done.code == 0, (script, done)
    assert snapshot_here() == before, script


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_from_each_prefix_of_the_rules(backend: str, layout: str) -> None:
    scripts = list(prefixes(backend, LAYOUTS[layout]))
    # Half of the runs want the same again, half the other layout.
    states = [
        ((*argv, "--backend", backend), expected(argv, backend, backend))
        for argv in LAYOUTS.values()
    ]
    with Namespace() as pod:
        plant(pod, backend)
        inside(pod, lambda: start_from_each(scripts, states))

    assert len(scripts) > 8


@pytest.mark.parametrize("backend", TOOLS)
def test_from_each_prefix_with_interfaces(backend: str) -> None:
    shared = ("istio-iptables", "-i", "10.0.0.0/8", "-m", "TPROXY", "-b", "*", "--no-ipv6")
    argv = (*shared, *INTERFACES)
    scripts = list(prefixes(backend, argv))
    call: tuple[str, ...] = (*argv, "--backend", backend)
    with Namespace() as pod:
        plant(pod, backend)
        states: list[tuple[tuple[str, ...], State]] = [(call, expected(argv, backend, backend))]
        inside(pod, lambda: start_from_each(scripts, states, *INTERFACES[:2]))


@pytest.mark.parametrize(("first", "second"), tuple(permutations(BACKENDS, 2)))
def test_moves_from_one_backend_to_another(first: str, second: str) -> None:
    with Namespace() as pod:
        plant(pod, first, second)
        init(pod, *OLD, "--backend", first)
        done = init(pod, *NEW, "--backend", second)
        moved = snapshot(pod)
        init(pod, *OLD, "--backend", first)
        back = snapshot(pod)

    assert f"removed the rules from backend {first}" in done.err
    assert moved == expected(NEW, second, first, second)
    assert back == expected(OLD, first, first, second)


JUNK = {
    "rules in our chains": """
        {ip4} -t nat -I ISTIO_OUTPUT -p tcp --dport 7 -j RETURN
        {ip4} -t nat -A ISTIO_REDIRECT -m comment --comment junk -j ACCEPT
        {ip6} -t mangle -A ISTIO_INBOUND -j DROP
        """,
    "rules missing": """
        {ip4} -t nat -F ISTIO_OUTPUT
        {ip6} -t nat -D ISTIO_REDIRECT 1
        {ip4} -t mangle -F PREROUTING
        {ip4} -t mangle -F ISTIO_TPROXY
        """,
    "rules out of order": """
        {ip4} -t nat -D ISTIO_OUTPUT 1
        {ip4} -t nat -A ISTIO_OUTPUT -p udp --dport 7777 -j RETURN
        """,
    "jumps doubled": """
        {ip4} -t nat -A OUTPUT -j ISTIO_OUTPUT
        {ip4} -t nat -A OUTPUT -p tcp -j ISTIO_OUTPUT
        {ip6} -t mangle -I PREROUTING 1 -p tcp -j ISTIO_INBOUND
        """,
    "jumps out of order": """
        {ip4} -t mangle -D PREROUTING -p tcp -j ISTIO_INBOUND
        {ip4} -t mangle -A PREROUTING -p tcp -j ISTIO_INBOUND
        """,
    "chains of ours that are not planned": """
        {ip4} -t nat -N ISTIO_DROP
        {ip4} -t nat -A ISTIO_DROP -j ACCEPT
        {ip4} -t nat -A OUTPUT -p udp -j ISTIO_DROP
        {ip6} -t filter -N ISTIO_OUTPUT
        """,
}


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("backend", TOOLS)
def test_from_junk_in_our_chains(backend: str, junk: str) -> None:
    tools = {"ip4": f"iptables-{backend}", "ip6": f"ip6tables-{backend}"}
    with Namespace() as pod:
        plant(pod, backend)
        init(pod, *NEW, "--backend", backend)
        pod.run("sh", "-ec", JUNK[junk].format(**tools))
        changed = snapshot(pod)
        init(pod, *NEW, "--backend", backend)
        after = snapshot(pod)
        pod.run("sh", "-ec", JUNK[junk].format(**tools))
        init(pod, "clean")
        cleaned = snapshot(pod)

    assert changed != after
    assert after == expected(NEW, backend, backend)
    assert cleaned == planted(backend)


NATIVE_JUNK = """
nft add rule inet istio-proxy-nat istio-output tcp dport 7 return
nft insert rule inet istio-proxy-nat output counter accept
nft add chain inet istio-proxy-nat theirs
nft add set inet istio-proxy-mangle theirs '{ type inet_service; }'
nft flush chain inet istio-proxy-mangle istio-inbound
nft delete table inet istio-proxy-raw
nft add table inet istio-proxy-filter
nft add chain inet istio-proxy-filter input '{ type filter hook input priority 0; policy drop; }'
"""


def test_from_junk_in_our_native_tables() -> None:
    with Namespace() as pod:
        init(pod, *NEW, "--backend", "nftables")
        pod.run("sh", "-ec", NATIVE_JUNK)
        init(pod, *NEW, "--backend", "nftables")
        after = snapshot(pod)
        pod.run("sh", "-ec", NATIVE_JUNK)
        init(pod, "clean")
        cleaned = snapshot(pod)

    assert after == expected(NEW, "nftables")
    assert "nftables inet istio-proxy-nat" not in cleaned
    assert not any(name.startswith("nftables inet istio-proxy") for name in cleaned)


# As ip and as pyroute2 write them; and some too often.
ROUTES = """
ip rule add fwmark 1337 lookup 133
ip rule add fwmark 1337 lookup 133
ip rule add fwmark 1337 lookup 133 priority 500
ip -6 rule add fwmark 1337 lookup 133 priority 500
ip route add local default dev lo table 133 proto {protocol}
ip route append local default dev lo table 133 proto {protocol} metric 7
ip -6 route add local default dev lo table 133 metric 5 proto {protocol}
"""


@pytest.mark.parametrize("protocol", ["boot", "static"])
def test_from_routes_of_other_tools(protocol: str) -> None:
    script = ROUTES.format(protocol=protocol)
    with Namespace() as pod:
        empty = snapshot(pod)
        pod.run("sh", "-ec", script)
        init(pod, *NEW)
        rules = [pod.run("ip", family, "rule").stdout for family in ("-4", "-6")]
        again = init(pod, *NEW)
        init(pod, "clean")
        pod.run("sh", "-ec", script)
        init(pod, "clean")
        cleaned = snapshot(pod)

    assert [one.count("fwmark") for one in rules] == [1, 1]
    assert "already in place" in again.err
    assert cleaned == empty


def test_clean_finds_everything_without_flags() -> None:
    everything = tuple(BACKENDS)
    with Namespace() as pod:
        plant(pod, *everything)
        for backend, argv in zip(everything, (OLD, NEW, (*NEW, *INTERFACES)), strict=True):
            # Each alone first, for no run leaves two.
            script = next(prefixes(backend, argv))
            pod.run("sh", "-c", script)
        pod.run("sh", "-ec", "ip rule add fwmark 1337 lookup 133")
        dry = init(pod, "clean", "--backend", "nft")
        after = snapshot(pod)
        again = init(pod, "clean")

    assert "removed ours from" in dry.err
    assert after == planted(*everything)
    assert "nothing of ours to remove" in again.err
