"""Signals, killed runs and planted files: a run is whole, or its failure is, and nothing waits."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.inside import Done, inside, run_program
from tests.namespace import BACKENDS, PROGRAM, Namespace, public_folder
from tests.steps import Steps

if TYPE_CHECKING:
    from pathlib import Path

CALL = ("istio-iptables", "-u", "1337", "--ipv6", "--backend", "nft")
OLD = (*CALL, "-i", "*", "-b", "*", "-p", "15001")
NEW = (*CALL, "-i", "10.0.0.0/8,fd00::/8", "-b", "80", "-p", "15011", "-m", "TPROXY")


def saved(pod: Namespace) -> list[str]:
    """Return rules and policy routes of both families; a table may stay behind empty."""
    lines = [
        line
        for program in ("iptables-nft-save", "ip6tables-nft-save")
        for line in pod.run(program).stdout.splitlines()
        if line.startswith("-A")
    ]
    for family in ("-4", "-6"):
        lines += pod.run("ip", family, "rule").stdout.splitlines()
    return lines


@pytest.mark.parametrize(
    "number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1]
)
def test_a_signal_in_the_middle_leaves_the_old_state(number: signal.Signals) -> None:
    with Namespace() as pod:
        pod.init(*OLD)
        before = saved(pod)
        done, taken = inside(pod, lambda: _run_with_signal(number))
        after = saved(pod)

    assert taken == ["table"]
    assert done.code == 1, done
    assert f"stopped by {number.name}" in done.err
    assert after == before


def _run_with_signal(number: signal.Signals) -> tuple[Done, list[str]]:
    # A shell that starts a job behind its back makes it ignore SIGINT and SIGQUIT.
    signal.signal(number, signal.SIG_DFL)
    steps = Steps()
    # Everything has been written by then.
    steps.arm(1, "after", lambda: os.kill(os.getpid(), number), "table")
    done = run_program(*NEW)
    return done, [*steps.taken]


def test_a_run_starts_no_program() -> None:
    folder = public_folder()
    for name in ("iptables-nft-save", "iptables-nft-restore", "ip6tables-nft-restore", "nft", "ip"):
        planted = folder / name
        planted.write_text(f"#!/bin/sh\ntouch {folder}/started\n", encoding="utf-8")
        planted.chmod(0o755)
    with Namespace() as pod:
        path = {"PATH": f"{folder}:{pod.environment()['PATH']}"}
        for backend in BACKENDS:
            for argv in (OLD, NEW):
                pod.init(*argv, "--backend", backend, env=path)
        pod.init("clean", env=path)

    assert not (folder / "started").exists()


def test_a_lock_that_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    fifo = tmp_path / "lock"
    os.mkfifo(fifo)
    with Namespace() as pod:
        done = pod.init(*OLD, "--wait", "2s", env={"XTABLES_LOCKFILE": str(fifo)}, check=False)

    assert done.returncode == 1
    assert f"cannot open the xtables lock ({fifo}): it is not a regular file" in done.stderr
    assert "XTABLES_LOCKFILE" in done.stderr


def test_an_interrupt_while_the_program_loads_leaves_no_traceback() -> None:
    """The whole time of a start is gone through, also the part before anything is ready."""
    call = [PROGRAM, "istio-iptables", "-n", "--no-ipv6", "-u", "1337"]
    began = time.monotonic()
    subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
    whole = time.monotonic() - began
    said = []
    for step in range(60):
        run = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        time.sleep(whole * (0.2 + 0.8 * step / 60))
        run.send_signal(signal.SIGINT)
        said.append(run.communicate(timeout=20)[1])

    # What the interpreter says before it came to the program is not ours.
    assert not [text for text in said if "Traceback" in text and "istio_init" in text]


def test_the_environment_leads_to_no_other_program(tmp_path: Path) -> None:
    planted = tmp_path / "istio_init"
    planted.mkdir()
    (planted / "__init__.py").write_text("raise SystemExit('planted')\n", encoding="utf-8")
    (tmp_path / "json.py").write_text("raise SystemExit('planted')\n", encoding="utf-8")

    done = subprocess.run(
        [PROGRAM, "istio-iptables", "-n", "--no-ipv6", "-u", "1337", "--format", "json"],
        env={"PATH": "/usr/sbin:/usr/bin", "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert '"layout": "1.30"' in done.stdout
