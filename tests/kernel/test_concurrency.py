"""Many writers at once: one configuration stands in the end, and nobody else's rule is lost."""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import subprocess
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.inside import Done, Process, init, inside, run_program
from tests.namespace import BACKENDS, PROGRAM, Namespace
from tests.snapshot import State, snapshot
from tests.steps import Steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONFIGURATIONS = (
    ("istio-iptables", "-i", "*", "-b", "*", "--ipv6"),
    ("istio-iptables", "-i", "*", "-b", "*", "-m", "TPROXY", "--drop-invalid", "--no-ipv6"),
    ("-i", "10.0.0.0/8", "-b", "80,443", "-u", "1337"),
)
PROCESSES = 20
# What writes a rule of others beside each backend.
WRITERS = {"legacy": "iptables-legacy", "nft": "iptables-nft", "nftables": "iptables-nft"}
FIRST_PORT = 20000


def foreign(port: int) -> str:
    return f"-p tcp -m tcp --dport {port} -j RETURN"


def without_foreign(state: State) -> tuple[State, list[str]]:
    """Return a state without the rules that were written beside the runs, and those."""
    found: list[str] = []
    kept = State()
    for name, text in state.items():
        theirs = [line for line in text.splitlines() if f"--dport {FIRST_PORT // 1000}" in line]
        found += [line.removeprefix("-A OUTPUT ") for line in theirs]
        left = [line for line in text.splitlines() if line not in theirs]
        # Their table holds nothing without them.
        if not theirs or any(line.startswith(("-A", ":ISTIO")) for line in left):
            kept[name] = "\n".join(left)
    return kept, found


def write_beside(
    tool: str, over: mmap.mmap, ready: Callable[[], None], environment: dict[str, str]
) -> list[str]:
    """Append and delete rules until it is over; return those that have to stand."""
    standing: list[str] = []
    for port in count(FIRST_PORT):
        if over[0]:
            return standing
        _change(tool, "-A", foreign(port), environment)
        standing.append(foreign(port))
        if len(standing) > 3:
            _change(tool, "-D", standing.pop(1), environment)
        ready()
    raise AssertionError("there is an end to the ports")


def _change(tool: str, verb: str, rule: str, environment: dict[str, str]) -> None:
    words = [tool, "-w", "-t", "nat", verb, "OUTPUT", *rule.split()]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stderr)


@pytest.mark.parametrize("backend", BACKENDS)
def test_twenty_at_once_beside_a_foreign_writer(backend: str) -> None:
    calls = [(*argv, "--backend", backend) for argv in CONFIGURATIONS]
    expected = []
    for call in calls:
        with Namespace() as pod:
            init(pod, *call)
            expected.append(without_foreign(snapshot(pod))[0])

    over = mmap.mmap(-1, 1)
    with Namespace() as pod:
        write = partial(write_beside, WRITERS[backend], over)
        action = lambda ready: write(ready, pod.environment())  # noqa: E731
        with Process(pod, action) as writer:
            writer.wait_until_ready()
            runs = [
                subprocess.Popen(
                    pod.command([PROGRAM, *calls[number % len(calls)]]),
                    env=pod.environment(),
                    stderr=subprocess.PIPE,
                    text=True,
                )
                for number in range(PROCESSES)
            ]
            complaints = [run.communicate()[1] for run in runs]
            over[0] = 1
            standing = writer.result()
        after, theirs = without_foreign(snapshot(pod))

    assert [run.returncode for run in runs] == [0] * PROCESSES, complaints
    assert theirs == standing
    assert after in expected


def meddle(steps: Steps, changes: list[list[str]], *, again: bool = False) -> None:
    """Let others change a table, without a lock, right before a run commits one."""
    environment = {**os.environ, "XTABLES_LOCKFILE": f"{os.environ['XTABLES_LOCKFILE']}.other"}
    steps.arm(1, "before", lambda: _meddle(steps, changes, environment, again=again), "table")


def _meddle(
    steps: Steps, changes: list[list[str]], environment: dict[str, str], *, again: bool
) -> None:
    for change in changes:
        subprocess.run(change, env=environment, check=True, timeout=60)
    if again:
        meddle(steps, changes, again=True)


CHANGES = {
    "one more": ["-A OUTPUT {rule}"],
    "one more at the head": ["-I OUTPUT {rule}"],
    "all gone": ["-F OUTPUT"],
    "a chain more": ["-N THEIRS", "-A OUTPUT -o eth7 -j THEIRS"],
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_writer_without_a_lock_loses_nothing(backend: str, change: str) -> None:
    tool = [WRITERS[backend], "-t", "nat"]
    before = [[*tool, *f"-A OUTPUT {foreign(FIRST_PORT + number)}".split()] for number in range(3)]
    changes = [
        [*tool, *line.format(rule=foreign(FIRST_PORT + 9)).split()] for line in CHANGES[change]
    ]
    call = (*CONFIGURATIONS[0], "-o", "7777", "--backend", backend)

    def disturbed() -> Done:
        steps = Steps()
        meddle(steps, changes)
        done = run_program(*call, "--log_output_level", "debug")
        assert steps.reached
        return done

    def prepare(pod: Namespace) -> None:
        for line in before:
            pod.run(*line)
        init(pod, *CONFIGURATIONS[0], "--backend", backend)

    with Namespace() as pod:
        prepare(pod)
        done = inside(pod, disturbed)
        after = snapshot(pod)
    with Namespace() as pod:
        prepare(pod)
        for line in changes:
            pod.run(*line)
        init(pod, *call)
        expected = snapshot(pod)

    assert done.code == 0, done
    assert after == expected
    # nftables has its tables to itself.
    assert ("starting again" in done.err) == (backend != "nftables")


def test_a_table_that_never_stands_still_is_left_to_others() -> None:
    more = ["iptables-legacy", "-t", "nat", "-A", "OUTPUT", *foreign(FIRST_PORT).split()]

    def disturbed() -> Done:
        steps = Steps()
        meddle(steps, [more], again=True)
        return run_program(*CONFIGURATIONS[2], "--backend", "legacy")

    with Namespace() as pod:
        init(pod, *CONFIGURATIONS[0], "--backend", "legacy")
        before = snapshot(pod)
        done = inside(pod, disturbed)
        after, theirs = without_foreign(snapshot(pod))

    assert done.code == 1
    assert "kept changing while they were read" in done.err
    assert "rolled back" in done.err
    assert after == without_foreign(before)[0]
    # Twenty tries at the table, behind the two of IPv6, which go first here.
    assert len(theirs) == 2 + 20


@contextmanager
def held(path: str) -> Iterator[None]:
    """Hold the lock of a file, in this process."""
    with Path(path).open("a+" if not path.startswith("/run/netns/") else "r") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_lock_is_waited_for_and_its_holder_named() -> None:
    with Namespace() as pod:
        with held(pod.lock_file):
            done = pod.init(*CONFIGURATIONS[0], "--wait", "200ms", check=False)
        again = pod.init(*CONFIGURATIONS[0], "--wait", "200ms", check=False)

    assert done.returncode == 1
    assert f"{pod.lock_file}): still held by pid {os.getpid()} after 0.2 s" in done.stderr
    assert "nothing was changed" in done.stderr
    assert again.returncode == 0


def waiting(pod: Namespace) -> subprocess.Popen[str]:
    """Start the program, and return it when it waits for the lock."""
    run = subprocess.Popen(
        pod.command([PROGRAM, *CONFIGURATIONS[0], "--wait", "60s"]),
        env=pod.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    lock = os.stat(pod.lock_file)
    for _ in count():
        assert run.poll() is None
        for handle in Path(f"/proc/{run.pid}/fd").iterdir():
            # Handles come and go while they are looked at.
            try:
                if os.path.samestat(handle.stat(), lock):
                    return run
            except OSError:
                continue
    raise AssertionError("it never opens the lock")


def test_lock_that_becomes_free_is_taken() -> None:
    with Namespace() as pod:
        with held(pod.lock_file):
            run = waiting(pod)
        complaints = run.communicate()[1]

    assert run.returncode == 0, complaints


def test_sigterm_ends_the_wait_for_the_lock() -> None:
    with Namespace() as pod, held(pod.lock_file):
        run = waiting(pod)
        run.send_signal(signal.SIGTERM)
        complaints = run.communicate()[1]

    assert run.returncode == 1
    assert "stopped by SIGTERM" in complaints
    assert "nothing was changed" in complaints


def test_iptables_finds_the_lock_taken() -> None:
    rule = ["iptables-legacy", "-w", "1", "-t", "nat", "-A", "OUTPUT", "-j", "RETURN"]

    def run() -> list[int]:
        codes: list[int] = []

        def ask() -> None:
            # The run holds signals back; iptables ends its own wait by one.
            done = subprocess.run(
                rule,
                capture_output=True,
                check=False,
                timeout=60,
                preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, ()) and None,
            )
            codes.append(done.returncode)

        Steps().arm(1, "before", ask, "table")
        assert run_program(*CONFIGURATIONS[0], "--backend", "legacy").code == 0
        return codes

    with Namespace() as pod:
        codes = inside(pod, run)

    # "Another app is currently holding the xtables lock".
    assert codes == [4]


def test_read_only_root_locks_the_namespace_itself() -> None:
    script = 'mount -t tmpfs -o ro none /run && exec "$0" "$@"'
    call = ("unshare", "--mount", "sh", "-c", script, PROGRAM, *CONFIGURATIONS[0])
    none = {"XTABLES_LOCKFILE": ""}
    with Namespace() as pod:
        with held(pod.path):
            waited = pod.run(*call, "--wait", "200ms", env=none, check=False)
        done = pod.run(*call, env=none)
        expected = snapshot(pod)

    assert waited.returncode == 1
    assert f"(/proc/self/ns/net): still held by pid {os.getpid()}" in waited.stderr
    assert "in place" in done.stderr
    assert expected
