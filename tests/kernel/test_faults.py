"""A step fails, or the run is stopped there: all is as it was before."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shlex
import signal
import subprocess
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from istio_init.kernel import libiptc, modules
from tests.foreign import plant
from tests.inside import Done, KilledError, init, inside, run_program
from tests.namespace import BACKENDS, PROGRAM, Namespace
from tests.snapshot import State, snapshot, snapshot_here, without_sets
from tests.steps import Steps, fail, refuse_lines

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.steps import Kind, Moment

# Touches three tables of both families, the policy routes and lo.
WANTED = (
    *("istio-iptables", "-i", "*", "-b", "*", "-m", "TPROXY", "--ipv6"),
    *("--redirect-dns", "--capture-all-dns", "--drop-invalid", "-d", "9999"),
)
FEWER = WANTED[:9]
IPV4_ONLY = tuple("--no-ipv6" if word == "--ipv6" else word for word in WANTED)
# Shares no route and few rules with it.
OTHER = (
    *("istio-iptables", "-i", "10.0.0.0/8", "-b", "80,443", "-m", "TPROXY", "--ipv6"),
    *("-t", "1500", "-r", "150", "-c", "net1"),
)
OLD_LAYOUT = ("-i", "*", "-b", "*", "-u", "1337", "-m", "TPROXY", "-t", "1400", "-r", "140")
OLD_DEFAULT = OLD_LAYOUT[:-4]

BOTH: tuple[Moment, ...] = ("before", "after")
STARTS = ("empty", "old layout and foreign rules", "another backend")


def prepare(pod: Namespace, start: str, backend: str) -> None:
    """Bring a namespace into one of STARTS."""
    if start == "old layout and foreign rules":
        plant(pod, backend)
        init(pod, *OLD_LAYOUT, "--backend", backend)
    elif start == "another backend":
        other = BACKENDS[(BACKENDS.index(backend) + 1) % len(BACKENDS)]
        plant(pod, other)
        init(pod, *OTHER, "--backend", other)


@cache
def expected(argv: tuple[str, ...], backend: str, start: str = "empty") -> State:
    """Return what stands after a run where nothing of ours, but rules of others, had stood."""
    with Namespace() as pod:
        prepare(pod, start, backend)
        init(pod, "clean")
        init(pod, *argv, "--backend", backend)
        return snapshot(pod)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def try_every_step(
    argv: tuple[str, ...], event: Callable[[], None], moments: tuple[Moment, ...]
) -> State:
    """Let the event happen at each step of a run, one after the other.

    Returns the state after a run that the event did not reach any more.
    """
    before = snapshot_here()
    steps = Steps()
    for number in itertools.count(1):
        for moment in moments:
            steps.arm(number, moment, event)
            done = run_program(*argv)
            if done.code == 0 and moment == "before":
                assert not steps.reached, steps.taken
                assert {"read", "table"} <= set(steps.taken)
                return snapshot_here()
            assert_undone(done, steps.taken, f"{moment} step {number} of {steps.taken}")
            assert snapshot_here() == before, (moment, number, steps.taken, done)
            if steps.taken[-1] == "read":
                # It changed nothing: after it is before the next.
                break
    raise AssertionError("there is an end to the numbers")


def assert_undone(done: Done, taken: list[Kind], place: str) -> None:
    assert done.code == 1, (place, done)
    changes = [kind for kind in taken if kind != "read"]
    if not changes:
        assert "nothing was changed" in done.err, (place, done)
    elif taken[-1] == "read" or len(changes) > 1:
        assert "rolled back to the state before this run" in done.err, (place, done)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_that_fails_is_rolled_back_with_all_before_it(backend: str, start: str) -> None:
    wanted = WANTED if start == "empty" else FEWER
    with Namespace() as pod:
        prepare(pod, start, backend)
        after = inside(pod, lambda: try_every_step((*wanted, "--backend", backend), fail, BOTH))

    assert after == expected(wanted, backend, start)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sigterm_in_the_middle_is_a_failure(backend: str) -> None:
    with Namespace() as pod:
        prepare(pod, "another backend", backend)
        # A signal waits for the end of a step, and after it is before the next.
        argv = (*FEWER, "--backend", backend)
        after = inside(pod, lambda: try_every_step(argv, stop, BOTH[:1]))

    assert after == expected(FEWER, backend, "another backend")


def test_clean_is_rolled_back_too() -> None:
    with Namespace() as pod:
        plant(pod, *BACKENDS)
        before = snapshot(pod)
        init(pod, *OLD_LAYOUT, "--backend", BACKENDS[0])
        # Nothing but a person, or a run that was killed, leaves two sets of rules.
        commands = init(pod, *OTHER, "--dry-run", "--format", "commands").out
        pod.run("sh", "-ec", commands.replace("tables -t", "tables-nft -t"))
        inside(pod, lambda: try_every_step(("clean", "-c", "net1"), fail, BOTH))
        after = snapshot(pod)

    assert after == before


def die_at(argv: tuple[str, ...], number: int) -> bool:
    """Run the program; end the process before a step, or return False where it has fewer."""
    steps = Steps()
    steps.arm(number, "before", die)
    assert run_program(*argv).code == 0
    return False


def _is_bare(table: str) -> bool:
    """Whether a native table has no chain."""
    return table.startswith("table inet ") and "\tchain " not in table


@pytest.mark.parametrize("backend", BACKENDS)
def test_sigkill_leaves_whole_tables_and_the_next_run_converges(backend: str) -> None:
    new, old = (*WANTED, "--backend", backend), (*OLD_DEFAULT, "--backend", backend)
    with Namespace() as pod:
        plant(pod, backend)
        init(pod, *new)
        wanted = snapshot(pod)
        init(pod, *old)
        before = snapshot(pod)
        for number in itertools.count(1):
            try:
                inside(pod, partial(die_at, new, number))
                break
            except KilledError:
                now = snapshot(pod)
            whole = [
                {name: without_sets(text) for name, text in one.items()} for one in (before, wanted)
            ]
            for table in {table for table in now if not table.startswith("routing")}:
                # Sets are there before the rules that use them, and stay until these are gone.
                found = without_sets(now[table])
                assert found in [one.get(table) for one in whole] or _is_bare(found), (
                    number,
                    table,
                )
            # Back to what was, or on to what was wanted: both have to work.
            init(pod, *(new if number % 2 else old))
            assert snapshot(pod) == (wanted if number % 2 else before), number
            init(pod, *old)

    assert number > 5


@pytest.mark.parametrize("backend", BACKENDS)
def test_lo_without_ipv6_is_a_failure_that_says_so(backend: str) -> None:
    with Namespace() as pod:
        plant(pod, backend)
        init(pod, *OLD_LAYOUT, "--backend", backend)
        pod.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6")
        before = snapshot(pod)
        done = init(pod, *WANTED, "--backend", backend, code=1)
        after = snapshot(pod)
        # Where IPv6 is off for good nothing needs the address.
        init(pod, *IPV4_ONLY, "--backend", backend)

    assert "cannot add the address ::6/128 on lo" in done.err
    assert "net.ipv6.conf.lo.disable_ipv6" in done.err
    assert "rolled back to the state before this run" in done.err
    assert after == before


# nftables takes a uid that the namespace does not know; it never comes up.
@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_unknown_uid_of_a_user_namespace_is_a_failure_that_says_so(backend: str) -> None:
    script = """
        {program} -i 10.0.0.0/8 -u 0 --backend {backend}
        iptables-{backend}-save | grep -v '^[#:]' > $1
        {program} {wanted} --backend {backend} && exit 9
        iptables-{backend}-save | grep -v '^[#:]' > $2
        ip rule; ip route show table all
        """
    text = script.format(
        program=PROGRAM, backend=backend, wanted=" ".join(map(shlex.quote, IPV4_ONLY))
    )
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/before", f"{folder}/after"]
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", text, "sh", *files],
            env={**os.environ, "XTABLES_LOCKFILE": f"{folder}/lock"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        before, after = (Path(file).read_text(encoding="ascii") for file in files)

    assert "this user namespace" in done.stderr
    assert "uid or gid" in done.stderr
    assert "rolled back to the state before this run" in done.stderr
    assert "ISTIO_OUTPUT" in before
    # The tables that were used for a moment are left, with nothing in them.
    assert re.sub(r"\*\w+\nCOMMIT\n", "", after) == before
    assert "fwmark" not in done.stdout
    assert "table 133" not in done.stdout


def without_zones(backend: str) -> None:
    """Let this process take its kernel for one without conntrack zones."""
    if backend == "legacy":
        iptc = libiptc.load()
        commit, known = iptc.Table.commit, modules.in_legacy

        def refuse(table: Any) -> None:
            if table.name == "raw":
                iptc._get_errno_loc()[0] = errno.EINVAL
                raise iptc.IPTCError("can't commit: Invalid argument")
            commit(table)

        iptc.Table.commit = refuse
        modules.in_legacy = lambda feature: feature.name != "CT" and known(feature)
        return
    refuse_lines(lambda line: "-j CT" in line or "ct zone" in line)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_kernel_without_zones(backend: str) -> None:
    def run(*argv: str) -> Done:
        without_zones(backend)
        return run_program(*WANTED, "--backend", backend, *argv)

    with Namespace() as pod:
        init(pod, *OLD_LAYOUT, "--backend", backend)
        before = snapshot(pod)
        failed = inside(pod, run)
        after_failure = snapshot(pod)
        degraded = inside(pod, lambda: run("--on-missing", "degrade"))
        after = snapshot(pod)

    assert failed.code == 1
    assert {"legacy": "xt_CT", "nft": "xt_CT", "nftables": "nft_ct"}[backend] in failed.err
    assert "rolled back to the state before this run" in failed.err
    assert after_failure == before
    assert degraded.code == 0, degraded
    assert "--on-missing degrade: this kernel cannot keep DNS connections" in degraded.err
    whole = expected(WANTED, backend)
    assert after == {name: text for name, text in whole.items() if "raw" not in name}
