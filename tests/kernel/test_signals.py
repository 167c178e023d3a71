"""Signals, killed runs and planted files: a run is whole, or its failure is, and nothing waits."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.namespace import PROGRAM, Namespace, public_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RESTORE = "iptables-nft-restore"
CALL = ("istio-iptables", "-u", "1337", "--ipv6", "--backend", "nft")
OLD = (*CALL, "-i", "*", "-b", "*", "-p", "15001")
NEW = (*CALL, "-i", "10.0.0.0/8,fd00::/8", "-b", "80", "-p", "15011", "-m", "TPROXY")
LAST = (*CALL, "-i", "*", "-b", "8080", "-p", "15021")


@contextmanager
def slow_restore(seconds: float) -> Iterator[tuple[Path, Path]]:
    """Yield a folder for PATH whose restore ends late, and a file that is there once it began."""
    folder = public_folder()
    began = folder / "began"
    real = shutil.which(RESTORE)
    assert real
    program = folder / RESTORE
    program.write_text(
        f'#!/bin/sh\ntouch {began}\n{real} "$@"\ncode=$?\nsleep {seconds}\nexit $code\n',
        encoding="utf-8",
    )
    program.chmod(0o755)
    yield folder, began


def started(pod: Namespace, folder: Path, *argv: str) -> subprocess.Popen[str]:
    environment = pod.environment()
    environment["PATH"] = f"{folder}:{environment['PATH']}"
    return subprocess.Popen(
        pod.command([PROGRAM, *argv]), env=environment, stderr=subprocess.PIPE, text=True
    )


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.01)


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
    with Namespace() as pod, slow_restore(0.4) as (folder, began):
        pod.init(*OLD)
        before = saved(pod)

        run = started(pod, folder, *NEW)
        wait_for(began)
        run.send_signal(number)
        _, said = run.communicate(timeout=60)

        assert run.returncode == 1, said
        assert f"stopped by {number.name}" in said
        assert saved(pod) == before


def test_a_terminal_s_signals_do_not_reach_the_programs_of_a_run() -> None:
    with Namespace() as pod, slow_restore(0.4) as (folder, began):
        environment = pod.environment()
        environment["PATH"] = f"{folder}:{environment['PATH']}"
        run = subprocess.Popen(
            pod.command([PROGRAM, *OLD]),
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        wait_for(began)
        os.killpg(run.pid, signal.SIGINT)
        _, said = run.communicate(timeout=60)

        assert run.returncode == 1
        assert "stopped by SIGINT" in said
        assert not [line for line in saved(pod) if "ISTIO" in line]


def test_what_a_killed_run_had_started_writes_before_the_next_run() -> None:
    with Namespace() as pod, slow_restore(0) as (folder, began):
        # The program waits before it writes, as on a busy node.
        program = folder / RESTORE
        text = program.read_text(encoding="utf-8")
        program.write_text(text.replace(f"touch {began}\n", f"touch {began}\nsleep 1\n"))
        pod.init(*OLD)

        run = started(pod, folder, *NEW)
        wait_for(began)
        run.kill()
        run.communicate(timeout=60)
        pod.init(*LAST)
        after = saved(pod)
        # Time enough for what might still be running.
        time.sleep(1.5)

        assert saved(pod) == after
        assert pod.init("audit", *LAST, check=False).returncode == 0


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


def test_nothing_is_run_by_a_relative_path(tmp_path: Path) -> None:
    planted = tmp_path / RESTORE
    planted.write_text("#!/bin/sh\ntouch planted\nexit 0\n", encoding="utf-8")
    planted.chmod(0o755)
    with Namespace() as pod:
        done = subprocess.run(
            pod.command([PROGRAM, *OLD]),
            env={**pod.environment(), "PATH": f".::{pod.environment()['PATH']}"},
            cwd=tmp_path,
            check=False,
        )

        assert done.returncode == 0
        assert not (tmp_path / "planted").exists()
        assert any("ISTIO" in line for line in saved(pod))
