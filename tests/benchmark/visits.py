"""What is timed of the init container: every command, and what is run before it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.benchmark.processes import fail, say
from tests.namespace import BACKENDS, CLEAN_ENVIRONMENT, PROGRAM

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PYTHON = sys.executable
# Istio 1.30's own call, as its injector writes it.
DEFAULT = (
    *("-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT"),
    *("-i", "*", "-x", "", "-b", "*", "-d", "15090,15021,15020"),
    "--log_output_level=default:info",
)
# How Istio spells them: its program and ours are called with the same flags.
USE = {
    "legacy": ("--force-iptables-binary", "legacy"),
    "nft": ("--force-iptables-binary", "nft"),
    "nftables": ("--native-nftables",),
}
TPROXY = ("-m", "TPROXY", "-u", "0")
BOTH = "--dual-stack"
_SECOND_ADDRESS = ("ip", "address", "add", "2001:db8::1/128", "dev", "lo", "nodad")
SIZES = (1000, 5000, 20_000)
FOREIGN_SIZES = (10_000, 50_000)
_OURS = (PROGRAM, "istio-iptables")
# The audit says of some foreign rules that they take traffic: drift, but that is not the question.
_AUDITED = (0, 3)


@dataclass(frozen=True, slots=True)
class Step:
    """A command, the row that it is timed for (none: not timed), and the codes it may end with."""

    command: tuple[str, ...]
    row: str = ""
    codes: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True)
class Visit:
    """Commands that run one after the other in a fresh network namespace.

    It takes part in one of ``share`` rounds. ``peer``: the times are those of the program
    that ours is compared with.
    """

    steps: tuple[Step, ...]
    share: int = 1
    peer: bool = False

    @property
    def rows(self) -> list[str]:
        """The names of what it times."""
        return [step.row for step in self.steps if step.row]


@dataclass(slots=True)
class Times:
    """The times (ms) of each row: ours and the peer's."""

    ours: dict[str, list[float]] = field(default_factory=dict)
    peer: dict[str, list[float]] = field(default_factory=dict)

    def add(self, visit: Visit, row: str, took: float) -> None:
        """Keep the time of a step."""
        table = self.peer if visit.peer else self.ours
        table.setdefault(row, []).append(took)


def one(name: str, *command: str, share: int = 1) -> Visit:
    """Return a visit that times one command."""
    return Visit((Step(command, name),), share)


def ranges(number: int) -> str:
    """Return that many ranges that cannot be joined, as -x takes them."""
    return ",".join(f"10.{n >> 7}.{(n & 127) * 2}.0/24" for n in range(number))


def range_flags(number: int) -> tuple[str, ...]:
    """Return flags with that many ranges.

    One argument holds 128 KiB, and so 5,000 of the ranges. Of more, half are
    captured and half are excluded, all of them as short as they can be.
    """
    if number <= SIZES[1]:
        return ("-x", ranges(number))

    def half(first: int) -> str:
        return ",".join(
            f"{first + n // 5000}.{n // 50 % 100}.{n % 50 * 2}.0/24" for n in range(number // 2)
        )

    return ("-x", half(1), "-i", half(5))


def visits(folder: Path, peer: tuple[str, ...] = ()) -> list[Visit]:
    """Return all of the init container, and the peer's where there is one."""
    found = [
        one("bare", PYTHON, "-c", "pass"),
        one("bare -I -S", PYTHON, "-I", "-S", "-c", "pass"),
        one("dry run", *_OURS, *DEFAULT, "--dry-run"),
        one("--skip-rule-apply", *_OURS, *DEFAULT, "--skip-rule-apply"),
        one("script", *script(folder, "script", "--no-ipv6")),
        one("script, both families", *script(folder, "both", "--ipv6")),
    ]
    for backend in BACKENDS:
        found += runs(backend, _OURS)
        if peer:
            found += runs(backend, peer, peer=True)
        found += [beside_foreign(folder, backend, size) for size in FOREIGN_SIZES]
    found += in_containers()
    slow = script(folder, "many", "--no-ipv6", *range_flags(SIZES[0]))
    return [*found, one(f"script, {SIZES[0]} ranges", *slow, share=8)]


def runs(backend: str, program: tuple[str, ...], *, peer: bool = False) -> Iterator[Visit]:
    """Yield the runs of a program, ours or the peer's, in one backend."""

    def command(*flags: str) -> tuple[str, ...]:
        return (*program, *DEFAULT, *USE[backend], *flags)

    def visit(*steps: Step, share: int = 1) -> Visit:
        return Visit(steps, share, peer)

    second = Step(_SECOND_ADDRESS)
    yield visit(Step(command(), backend))
    yield visit(Step(command()), Step(command(), f"{backend}, rerun"))
    yield visit(second, Step(command(BOTH), f"{backend}, both families"))
    yield visit(Step(command(*TPROXY), f"{backend}, TPROXY"))
    yield visit(second, Step(command(BOTH, *TPROXY), f"{backend}, TPROXY, both families"))
    for size, share in zip(SIZES, (3, 3, 7), strict=True):
        yield visit(Step(command(*range_flags(size)), f"{backend}, {size} ranges"), share=share)


def beside_foreign(folder: Path, backend: str, size: int) -> Visit:
    """Return the visit of a namespace in which others have that many rules in nat OUTPUT."""
    path = folder / f"foreign-{size}"
    lines = [
        f"-A OUTPUT -d 10.{n >> 16}.{n >> 8 & 255}.{n & 255}/32 -p tcp "
        f"-m tcp --dport {n % 60_000 + 1} -j RETURN\n"
        for n in range(size)
    ]
    path.write_text(f"*nat\n{''.join(lines)}COMMIT\n", encoding="ascii")
    tool = "iptables-legacy-restore" if backend == "legacy" else "iptables-nft-restore"
    apply = (*_OURS, *DEFAULT, *USE[backend])
    row = f"{backend}, {size} foreign rules"
    steps = (
        Step((tool, "--noflush", str(path))),
        Step(apply, f"{row}, first run"),
        Step(apply, f"{row}, rerun"),
        Step((PROGRAM, "audit"), f"{row}, audit", _AUDITED),
    )
    return Visit(steps, share=4 if size == FOREIGN_SIZES[0] else 10)


def in_containers() -> list[Visit]:
    """Return containers of the image under runc, with our work and without, if it is built."""
    from tests.container.runtime import ARCHIVE, Image, Runtime
    from tests.container.runtime import PYTHON as BARE

    if not ARCHIVE.exists() or not shutil.which("runc"):
        say("no containers: they take `make image`, and runc")
        return []
    runtime = Runtime(Image())
    namespaces = {"network": f"/proc/{os.getpid()}/ns/net"}

    def row(name: str, *arguments: str, program: tuple[str, ...] | None = None) -> Visit:
        _, command = runtime.prepared(*arguments, namespaces=namespaces, program=program)
        return one(f"container, {name}", *command)

    arguments = (*_OURS[1:], *DEFAULT)
    return [
        row("bare", program=(*BARE, "pass")),
        *(row(backend, *arguments, *USE[backend]) for backend in BACKENDS),
    ]


def script(folder: Path, name: str, *flags: str) -> tuple[str, ...]:
    """Return the command that runs a call's rules, one process for each."""
    path = folder / f"{name}.sh"
    call = (*_OURS, *DEFAULT, *flags, "--dry-run", "--format", "commands")
    done = subprocess.run(call, env=CLEAN_ENVIRONMENT, capture_output=True, check=False)
    if done.returncode:
        fail(f"no script: {done.stderr.decode()}")
    path.write_bytes(done.stdout.replace(b"iptables -", b"iptables-legacy -"))
    return "/bin/sh", str(path)


def memory_commands(peer: tuple[str, ...] = ()) -> Iterator[tuple[str, bool, tuple[str, ...]]]:
    """Yield the commands whose memory is measured: the row, whether it is the peer's, the call."""
    yield "bare", False, (PYTHON, "-c", "pass")
    programs = [(_OURS, False), *([(peer, True)] if peer else [])]
    for backend in BACKENDS:
        for program, of_peer in programs:
            default = (*program, *DEFAULT, *USE[backend])
            yield backend, of_peer, default
            yield f"{backend}, {SIZES[-1]} ranges", of_peer, (*default, *range_flags(SIZES[-1]))
