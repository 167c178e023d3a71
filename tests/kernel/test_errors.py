"""When a run fails, it says why, and the pod is as it was before."""

from __future__ import annotations

import fcntl
import os
import subprocess
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.inside import inside
from tests.kernel import legacy_tables
from tests.namespace import CLEAN_ENVIRONMENT, PROGRAM, Namespace, program_for_all
from tests.snapshot import counted, tables_in_use

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from subprocess import CompletedProcess

APPLY = ("istio-iptables", "-i", "*", "-b", "*", "--no-ipv6")
BAD_FLAGS = {
    "--envoy-port": "70000",
    "--inbound-capture-port": "0",
    "--istio-inbound-ports": "80,nosuchservice",
    "--istio-local-exclude-ports": "9000:8000",
    "--istio-service-cidr": "10.0.0.0/33",
    "--istio-service-exclude-cidr": "*",
    "--istio-outbound-ports": "-x",
    "--istio-exclude-interfaces": "eth0 -d 10.0.0.1",
    "--proxy-uid": "nosuchuser",
    "--istio-inbound-interception-mode": "NONE",
    "--istio-inbound-tproxy-mark": "0",
    "--istio-inbound-tproxy-route-table": "254",
    "--dns-servers": "dns.example",
    "--outbound-owner-groups": ",".join(str(group) for group in range(65)),
    "--redirect-dns=perhaps": "",
    "--wait": "soon",
}


def fails(done: CompletedProcess[str], *words: str, code: int = 1) -> None:
    """Assert that a run failed as a program should: with a sentence, not with a traceback."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize("command", [("istio-iptables",), ("--layout", "1.30")])
def test_bad_input_changes_nothing(command: tuple[str, ...]) -> None:
    flags = [word for pair in BAD_FLAGS.items() for word in pair if word]
    with Namespace() as pod:
        done = pod.init(*command, *flags, check=False)
        tables = tables_in_use(pod)
        clean = pod.init("clean", *flags, check=False)

    fails(done, *(flag.partition("=")[0] for flag in BAD_FLAGS), "nothing was changed", code=2)
    fails(clean, code=2)
    assert tables == ""


def test_a_dry_run_touches_nothing() -> None:
    with Namespace() as pod:
        for form in ("rules", "save", "json", "commands"):
            pod.init(*APPLY, "--dry-run", "--format", form)
        pod.init(*APPLY, "--skip-rule-apply")
        tables = tables_in_use(pod)

    assert tables == ""


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("--dry-run >/dev/full", 1, "istio-init: No space left on device\n"),
        ("--help >/dev/full", 1, "istio-init: No space left on device\n"),
        ("--dry-run >&-", 0, ""),
        ("-p x 2>&-", 2, ""),
        ("-b 80 >&- 2>&-", 0, ""),
    ],
)
def test_output_that_nobody_takes_is_no_reason_for_a_traceback(
    command: str, code: int, said: str
) -> None:
    with Namespace() as pod:
        done = pod.run("sh", "-c", f"{PROGRAM} {command}", check=False)

    assert (done.returncode, done.stderr) == (code, said)


def test_a_dry_run_of_clean_touches_nothing() -> None:
    with Namespace() as pod:
        never = pod.init("clean", "--dry-run")
        tables = tables_in_use(pod)
        pod.init("istio-iptables", "-m", "TPROXY", "-b", "*", "--ipv6")
        before = counted(pod)
        done = pod.init("clean", "--dry-run")
        other = pod.init("istio-iptables", "--cleanup-only", "--dry-run")
        after = counted(pod)

    assert tables == ""
    assert "nothing of ours" in never.stderr
    for one in (done, other):
        assert "would remove" in one.stderr
        for table in ("ipv4 mangle", "ipv4 nat", "ipv6 mangle", "ipv6 nat", "5 route steps"):
            assert table in one.stderr
    assert after == before


def capabilities(*kept: str, uid: int = 0) -> tuple[str, ...]:
    """Return the command that leaves a program, run as ``uid``, only these capabilities."""
    some = ",".join(("-all", *(f"+{name}" for name in kept)))
    limits = (f"--bounding-set={some}", f"--inh-caps={some}", f"--ambient-caps={some}")
    return ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *limits)


@pytest.mark.parametrize("uid", [0, 1337])
@pytest.mark.parametrize(
    ("kept", "missing"),
    [((), "NET_ADMIN"), (("net_admin",), "NET_RAW"), (("net_raw",), "NET_ADMIN")],
)
def test_a_missing_capability_is_named(kept: tuple[str, ...], missing: str, uid: int) -> None:
    with Namespace() as pod:
        pod.init("-b", "80")
        before = counted(pod)
        for command in (APPLY, ("clean",)):
            done = pod.run(*capabilities(*kept, uid=uid), program_for_all(), *command, check=False)
            fails(done, missing, "nothing was changed")
        after = counted(pod)

    assert after == before


@pytest.mark.parametrize("uid", [0, 1337])
def test_two_capabilities_are_enough(uid: int) -> None:
    kept = capabilities("net_admin", "net_raw", uid=uid)
    with Namespace() as pod, Namespace() as other:
        before = counted(pod)
        flags = ("istio-iptables", "-m", "TPROXY", "-b", "*", "--redirect-dns", "--ipv6")
        dns = ("--dns-servers", "10.0.0.10")
        pod.run(*kept, program_for_all(), *flags, *dns)
        other.init(*flags, *dns)
        assert counted(pod) == counted(other)
        pod.run(*kept, program_for_all(), "clean")
        after = counted(pod)

    assert after == before


@contextmanager
def locked(path: str) -> Iterator[int]:
    """Hold the lock on a file as iptables does; yields the handle."""
    handle = os.open(path, os.O_RDONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


def test_a_held_lock_is_waited_for_and_its_holder_named() -> None:
    with Namespace() as pod, locked(pod.lock_file) as lock:
        done = pod.init(*APPLY, "--wait", "300ms", check=False)
        untouched = tables_in_use(pod)
        waiting = subprocess.Popen(
            pod.command((PROGRAM, *APPLY, "--wait", "60s")),
            env=pod.environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        # Long enough for most machines to get to the lock; on others the test
        # proves less, and passes.
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.5)
        fcntl.flock(lock, fcntl.LOCK_UN)
        _, written = waiting.communicate(timeout=60)
        applied = tables_in_use(pod)

    fails(done, f"pid {os.getpid()}", pod.lock_file, "--wait", "nothing was changed")
    assert untouched == ""
    assert waiting.returncode == 0, written
    assert applied == "nat\n"


def test_iptables_waits_for_us_and_we_for_it() -> None:
    # Both sides take the same lock: without it one would undo the other's change.
    with Namespace() as pod:
        command = (
            "for one in $(seq 20); do iptables-legacy -w -t nat -A OUTPUT -d 10.0.0.$one; done"
        )
        writer = subprocess.Popen(pod.command(("sh", "-e", "-c", command)), env=pod.environment())
        for port in ("15001", "15101", "15201"):
            pod.init(*APPLY, "-p", port)
        assert writer.wait(60) == 0
        rules = pod.rules("ipv4", "nat")

    assert sum("-d 10.0.0." in line for line in rules) == 20
    assert "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15201" in rules


# Nothing can be written, as in a container with a read-only root.
READ_ONLY = 'mount -t tmpfs -o ro none /run && exec env --unset=XTABLES_LOCKFILE "$0" "$@"'


def test_a_read_only_root_has_a_lock_all_the_same() -> None:
    read_only = ("unshare", "--mount", "sh", "-c", READ_ONLY, PROGRAM)
    with Namespace() as pod:
        with locked(pod.path):
            done = pod.run(*read_only, *APPLY, "--wait", "100ms", check=False)
        pod.run(*read_only, *APPLY)
        rules = pod.rules("ipv4", "nat")

    # The namespace's own inode stands in: the same for every mount namespace.
    fails(done, "/proc/self/ns/net", f"pid {os.getpid()}")
    assert "-A OUTPUT -j ISTIO_OUTPUT" in rules


OTHERS = """\
iptables-legacy -t nat -A OUTPUT -m comment --comment theirs -j ACCEPT
iptables-legacy -t mangle -A PREROUTING -m comment --comment theirs -j ACCEPT
ip6tables-legacy -t nat -P OUTPUT ACCEPT
ip rule add fwmark 7 lookup 77
"""
EVERYWHERE = {
    "istio-inbound-interception-mode": "TPROXY",
    "istio-inbound-ports": "*",
    "istio-service-cidr": "*",
    "redirect-dns": "true",
    "capture-all-dns": "true",
    "drop-invalid": "true",
    "ipv6": "true",
}
# raw, mangle and nat of both families.
COMMITS = 6


def as_flags(settings: dict[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, value in settings.items()]


# What may have been applied before: nothing, and two other configurations.
EARLIER = (
    (),
    ("-m", "TPROXY", "-b", "80", "-t", "7", "-r", "70"),
    ("istio-iptables", "-m", "TPROXY", "-b", "80", "-c", "eth9", "-t", "7", "--ipv6"),
)


@pytest.mark.parametrize("earlier", EARLIER)
def test_a_failure_anywhere_puts_everything_back(earlier: tuple[str, ...]) -> None:
    with Namespace() as pod:
        pod.run("sh", "-e", "-c", OTHERS)
        if earlier:
            pod.init(*earlier)
        before = counted(pod)
        for number in range(1, COMMITS + 1):
            error = inside(pod, partial(legacy_tables.apply_disturbed, number, (), EVERYWHERE))
            assert "injected" in error
            assert "rolled back" in error
            assert counted(pod) == before, number
        assert (
            inside(pod, partial(legacy_tables.apply_disturbed, COMMITS + 3, (), EVERYWHERE)) == ""
        )
        assert counted(pod) != before


@pytest.mark.parametrize("number", range(1, COMMITS + 1))
def test_what_others_write_meanwhile_stays(number: int) -> None:
    # They take another lock, or none: the kernel notices, and so do we.
    tool = "iptables-legacy" if number <= COMMITS // 2 else "ip6tables-legacy"
    table = ("raw", "mangle", "nat")[(number - 1) % 3]
    rule = ("OUTPUT", "-m", "comment", "--comment", "theirs", "-j", "ACCEPT")
    with Namespace() as pod, Namespace() as calm:
        event = (tool, "-t", table, "-A", *rule)
        error = inside(pod, partial(legacy_tables.apply_disturbed, number, event, EVERYWHERE))
        found = counted(pod)
        again = pod.init("istio-iptables", *as_flags(EVERYWHERE))
        calm.init("istio-iptables", *as_flags(EVERYWHERE))
        expected = counted(calm)
        pod.run(tool, "-t", table, "-D", *rule)
        without = counted(pod)

    assert error == ""
    assert "already in place" in again.stderr
    section = f"{tool} {table}"
    assert [line for line in found[section] if "theirs" in line] == [f"[0:0] -A {' '.join(rule)}"]
    assert without == expected


def test_ipv6_switched_off_on_lo() -> None:
    switch = "echo {} >/proc/sys/net/ipv6/conf/lo/disable_ipv6"
    with Namespace() as pod:
        pod.run("sh", "-e", "-c", OTHERS + switch.format(1))
        before = counted(pod)
        done = pod.init("istio-iptables", *as_flags(EVERYWHERE), check=False)
        after = counted(pod)
        pod.run("sh", "-e", "-c", switch.format(0))
        pod.init("istio-iptables", *as_flags(EVERYWHERE))

    fails(done, "::6", "net.ipv6.conf.lo.disable_ipv6=0", "--no-ipv6")
    assert after == before


# A user namespace that knows uid 0 alone; its network namespace is as new.
UNMAPPED = r"""
show() { for tool in iptables ip6tables; do for table in raw mangle nat filter; do
    $tool-legacy-save -c -t $table | grep -v '^#'; done; done; ip rule; ip address show dev lo; }
ip link set lo up
OTHERS
show >"$1.before"
"$0" istio-iptables --drop-invalid -b '*' -i '*' --ipv6 -u 1337 2>"$1.error"
echo $? >"$1.code"
show >"$1.after"
"$0" istio-iptables --drop-invalid -b '*' -i '*' --ipv6 -u 0
"""


def test_a_refused_table_takes_the_others_back(tmp_path: Path) -> None:
    # mangle is written before nat, and only nat asks for a user who is not there.
    private = ("unshare", "--user", "--map-root-user", "--net")
    done = subprocess.run(
        (*private, "sh", "-c", UNMAPPED.replace("OTHERS", OTHERS), PROGRAM, f"{tmp_path}/state"),
        env=CLEAN_ENVIRONMENT | {"XTABLES_LOCKFILE": f"{tmp_path}/lock"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    parts = ("before", "after", "code", "error")
    before, after, code, error = ((tmp_path / f"state.{part}").read_text() for part in parts)

    assert code == "1\n"
    assert after == before
    assert "theirs" in before
    assert "::1/128" in before
    assert "nat" in error
    assert "user namespace" in error
    assert "rolled back" in error
    # With a user whom this namespace knows the same call works.
    assert done.returncode == 0, done.stderr
