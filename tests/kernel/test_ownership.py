"""On the kernel: rules shaped like ours stay if they may be anybody's, and go if they cannot be."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import strategies as st

from istio_init.rules.model import TABLES
from tests.inside import Done, inside, run_program
from tests.namespace import Namespace, spelled
from tests.shapes import ANYBODYS, DEPENDING, HALVES, SIDECARS
from tests.steps import Steps, fail
from tests.strategies import drawn

if TYPE_CHECKING:
    from collections.abc import Iterable

BACKENDS = ("legacy", "nft")
FAMILIES = ("ip", "ip6")
NEW = ("istio-iptables", "-u", "1337", "-i", "*", "-b", "*", "--no-ipv6")
CALLS: dict[str, tuple[str, ...]] = {
    "REDIRECT": NEW,
    "TPROXY, a NIC": (*NEW, "-m", "TPROXY", "-t", "7", "-c", "net1"),
    "DNS": (*NEW, "--redirect-dns", "--dns-servers", "10.0.0.10"),
    "both families": (*NEW[:-1], "--ipv6", "-c", "net2"),
    "layout 1.0": ("-u", "1337", "-i", "*", "-b", "*"),
    "layout 1.0, TPROXY": ("-u", "1337", "-i", "*", "-b", "*", "-m", "TPROXY", "-t", "7"),
}
# Those of IPv4's addresses and words are for one family alone.
_ALL = (*ANYBODYS, *SIDECARS, *DEPENDING)
LINES = st.lists(
    st.one_of(
        st.tuples(st.just("ip"), st.sampled_from(_ALL)),
        st.tuples(
            st.just("ip6"),
            st.sampled_from((*(one for one in _ALL if "192.0.2.1" not in one[1]), *HALVES)),
        ),
    ),
    max_size=14,
)
EXAMPLES = 12


def tool(backend: str, family: str) -> str:
    return f"{family}tables-{backend}"


def place(pod: Namespace, backend: str, lines: Iterable[tuple[str, tuple[str, str]]]) -> None:
    """Append lines to the built-in chains, one command for each family."""
    for family in FAMILIES:
        text = ""
        for table in TABLES:
            here = [f"-A {line}" for where, (of, line) in lines if (where, of) == (family, table)]
            text += f"*{table}\n{spelled(here)}COMMIT\n" if here else ""
        if text:
            pod.run(f"{tool(backend, family)}-restore", "--noflush", text=text)


def saved(pod: Namespace, backend: str) -> list[tuple[str, tuple[str, str]]]:
    """Return each rule outside our chains, with its family and table."""
    found = []
    for family in FAMILIES:
        table = ""
        for line in pod.run(f"{tool(backend, family)}-save").stdout.splitlines():
            if line.startswith("*"):
                table = line[1:]
            elif line.startswith("-A ") and not line.startswith("-A ISTIO_"):
                found.append((family, (table, line[3:])))
    return found


def anybodys(
    rules: list[tuple[str, tuple[str, str]]], claimed: Counter[tuple[str, tuple[str, str]]]
) -> list[tuple[str, tuple[str, str]]]:
    """Return the rules that may be anybody's and that no flag claims."""
    lines = (*ANYBODYS, *HALVES)
    return [one for one in rules if one[1] in lines and one not in claimed]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CALLS)
def test_second_run_writes_nothing_and_rules_of_others_stay(name: str, backend: str) -> None:
    argv = (*CALLS[name], "--backend", backend)
    with Namespace() as empty:
        empty.init(*argv)
        claimed = Counter(saved(empty, backend))
    for lines in drawn(LINES, EXAMPLES):
        with Namespace() as pod:
            place(pod, backend, lines)
            before = saved(pod, backend)
            done = inside(pod, lambda: [run_program(*argv) for _ in range(2)])
            audit = inside(pod, lambda: run_program("audit", *argv))
            after = saved(pod, backend)
            cleaned = inside(pod, lambda: run_program("clean"))
            left = saved(pod, backend)

        assert [one.code for one in done] == [0, 0], (lines, done)
        assert "already in place" in done[1].err, (lines, done)
        assert audit.code == 0, (lines, audit)
        assert anybodys(after, claimed) == anybodys(before, claimed), lines
        assert not [one for one in after if one[1] in SIDECARS], lines
        assert cleaned.code == 0, (lines, cleaned)
        assert not [one for one in left if one[1] in SIDECARS], lines
        if not name.startswith("layout 1.0"):
            assert anybodys(left, claimed) == anybodys(before, claimed), lines


@pytest.mark.parametrize("backend", BACKENDS)
def test_pair_of_others_is_said_with_what_would_remove_it(backend: str) -> None:
    pair = [
        ("ip", ("nat", "PREROUTING -i net1 -j RETURN")),
        ("ip", ("nat", "OUTPUT -o net1 -j RETURN")),
    ]
    argv = (*NEW, "--backend", backend)
    words = "`istio-init clean -c net1`"
    with Namespace() as pod:
        place(pod, backend, pair)
        runs = [pod.init(*argv) for _ in range(2)]
        audit = pod.init("audit", *argv)
        recognised = pod.init("audit")
        plain = pod.init("clean")
        left = saved(pod, backend)
        pod.init(*argv)
        claimed = pod.init("clean", "-c", "net1")
        gone = saved(pod, backend)

    for done in (*runs, plain):
        (warning,) = [line for line in done.stderr.splitlines() if words in line]
        assert "\twarn\t" in warning
    assert "note   unclaimed: " in audit.stdout
    assert words in audit.stdout
    # What stands may be what -c had built.
    assert "-c net1" in recognised.stdout
    assert words not in recognised.stdout
    assert left == pair
    assert words not in claimed.stderr
    assert gone == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_run_that_fails_leaves_the_pair_of_others(backend: str) -> None:
    pair = [
        ("ip", ("nat", "PREROUTING -i net1 -j RETURN")),
        ("ip", ("nat", "OUTPUT -o net1 -j RETURN")),
    ]
    to = ("--backend", backend)
    with Namespace() as pod:
        place(pod, backend, pair)
        pod.init(*NEW, *to)
        other = BACKENDS[1 - BACKENDS.index(backend)]
        pod.init(*NEW, "--backend", other)
        moved = saved(pod, backend)
        failed = inside(pod, lambda: fail_after_a_table((*NEW, "-m", "TPROXY", *to)))
        after = saved(pod, backend)

    assert moved == pair
    assert failed.code == 1
    assert "rolled back to the state before this run" in failed.err
    assert after == pair


def fail_after_a_table(argv: tuple[str, ...]) -> Done:
    steps = Steps()
    steps.arm(1, "after", fail, "table")
    return run_program(*argv)


AMBIENT = """\
*{table}
:ISTIO_PRERT - [0:0]
:ISTIO_OUTPUT - [0:0]
-A PREROUTING -j ISTIO_PRERT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -p tcp -m mark --mark 0x539/0xfff -j ACCEPT
COMMIT
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_rules_of_ambient_mode_are_left_alone(backend: str) -> None:
    with Namespace() as pod:
        for table in ("nat", "mangle"):
            text = AMBIENT.format(table=table)
            pod.run(f"{tool(backend, 'ip')}-restore", "--noflush", text=text)
        before = pod.run(tool(backend, "ip"), "-t", "nat", "-S").stdout
        run = pod.init(*NEW, "--backend", backend, check=False)
        audit = pod.init("audit", *NEW, "--backend", backend, check=False)
        cleaned = pod.init("clean")
        after = pod.run(tool(backend, "ip"), "-t", "nat", "-S").stdout

    assert run.returncode == 1
    assert "ambient mode" in run.stderr
    assert "nat" in run.stderr
    assert audit.returncode == 3
    assert "ambient mode" in audit.stdout
    assert "nothing of ours" in cleaned.stderr
    assert after == before
