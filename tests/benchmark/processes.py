"""Processes whose time or memory is measured, in network namespaces of their own."""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS, _SIOCSIFADDR, _IFF_UP, _IFF_RUNNING = 0x8914, 0x8916, 0x1, 0x40
# An address as a pod has one: Istio's program ends without.
_ADDRESS = "192.0.2.1"
# The kernel counts what a child's parent had before the child's own program began, so
# the parent is small. Its own peak, 8 MB, is the least that can be measured.
_WATCH = """
import os, sys
quiet = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)
_, status, usage = os.wait4(child, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def enter_fresh_namespace() -> None:
    """Move this process into a new network namespace in which lo is up and has an address."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    address = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(_ADDRESS))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        up = struct.pack("16sH14x", b"lo", _IFF_UP | _IFF_RUNNING)
        fcntl.ioctl(handle, _SIOCSIFFLAGS, up)
        fcntl.ioctl(handle, _SIOCSIFADDR, struct.pack("16s16s", b"lo:1", address))


def run(
    command: Sequence[str], environment: Mapping[str, str], codes: Sequence[int] = (0,)
) -> float:
    """Run a command, and return how long it takes, in ms.

    Raises:
        SystemExit: it ends with a code that is none of ``codes``.
    """
    started = time.perf_counter()
    done = subprocess.run(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    took = (time.perf_counter() - started) * 1000
    if done.returncode not in codes:
        failed(command, done.returncode, done.stderr)
    return took


def peak_memory(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Return the most memory (MiB) of a command, or of one of the programs that it runs.

    Raises:
        SystemExit: it fails.
    """
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _WATCH, *command],
        env=environment,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        failed(command, done.returncode, done.stderr)
    return int(done.stdout) / 1024


def failed(command: Sequence[str], code: int, errors: bytes) -> NoReturn:
    """End because a command has failed."""
    said = errors[-2000:].decode(errors="replace")
    fail(f"{' '.join(command)[:200]} ended with {code}: {said}")


def fail(text: str) -> NoReturn:
    """End with a reason."""
    sys.stderr.write(f"bench: {text}\n")
    raise SystemExit(1)


def say(text: str = "") -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")


def progress(text: str) -> None:
    """Say how far this is, to a person."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{text:60}")


def takes_part(number: int, rounds: int, share: int) -> bool:
    """Tell whether a row that has one of ``share`` rounds runs in round ``number``.

    Its rounds, one at least, are spread evenly over all of them.
    """
    wanted = max(1, rounds // share)
    return number * wanted // rounds != (number - 1) * wanted // rounds
