"""What a start of the program costs, told without a clock: what it imports, runs, writes and reads.

The kernel's side is what strace saw, the rest what the process says of itself.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.namespace import MEASURING, Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_DEFAULT = ("istio-iptables", "-u", "1337", "-g", "1337", "-b", "*", "-d", "15090,15021,15020")
_IPV4, _BOTH = "--no-ipv6", "--ipv6"
_TPROXY = ("-m", "TPROXY", "-u", "0")


class Start(NamedTuple):
    """A call, and whether the same call was made before it."""

    argv: tuple[str, ...]
    again: bool = False


def _starts() -> Iterator[tuple[str, Start]]:
    yield "dry-run", Start((*_DEFAULT, _IPV4, "--dry-run"))
    yield "skip-rule-apply", Start((*_DEFAULT, _IPV4, "--skip-rule-apply"))
    for backend in ("legacy", "nft", "nftables"):
        use = (*_DEFAULT, "--backend", backend)
        yield backend, Start((*use, _IPV4))
        yield f"{backend}-rerun", Start((*use, _IPV4), again=True)
        yield f"{backend}-tproxy-both-families", Start((*use, *_TPROXY, _BOTH))
    # Without a flag, and with nothing that speaks for another, it is legacy.
    yield "auto", Start((*_DEFAULT, _IPV4))


STARTS = dict(_starts())

# The kernel names who wrote last: by one name, whoever started these tests.
_PYTHON = str(Path(sys.executable).with_name("python"))
# What a bare Python 3.13 has loaded, and 3.11 has not.
_BARE_SOMEWHERE = ("errno",)
_RUN = """
import sys
from istio_init.cli import main
code = main(sys.argv[2:])
with open(sys.argv[1], "w", encoding="utf-8") as file:
    print(*sorted(sys.modules), file=file)
sys.exit(code)
"""
_CALLS = "execve,read,recvfrom,recvmsg,sendto,sendmsg,setsockopt,getsockopt"
_TRACE = ("strace", "-ff", "-qq", "-y", "-s", "16", "-e", f"trace={_CALLS}", "-e", "signal=none")
# A line of strace: the call, its first argument (with the file behind a number),
# the others, and what it returned.
_LINE = re.compile(r"(\w+)\((?:\d+<([^>]*)>|([^,]*)), (.*)\) += (-?\d+)")
# What is read of modules changes with each line of them, and is told by their names;
# what libffi asks of the machine is the machine's.
_STATE = re.compile(r"/proc/\d+/net/|/etc/resolv.conf|pipe:|socket:")
# Of a socket without a number of its own strace does not know what its messages mean.
_BATCH = re.compile(r"nlmsg_type=(NFNL_MSG_BATCH_BEGIN|0x10) ")
_LEGACY_WRITE = re.compile(r"IP6?T_SO_SET_REPLACE")
_LEGACY_READ = re.compile(r"IP6?T_SO_GET_ENTRIES, .*\[(\d+)\]")


def told(start: Start) -> str:
    """Return what a start costs, one thing a line."""
    with Namespace() as pod, tempfile.TemporaryDirectory() as folder:
        if start.again:
            pod.init(*start.argv)
        modules = Path(folder, "modules")
        command = [_PYTHON, "-c", _RUN, str(modules), *start.argv]
        traced = [*_TRACE, "-o", f"{folder}/trace", *command]
        # Without a home, Python would look for one in the list of users.
        environment = pod.environment({"HOME": "/root"})
        # What measures the tests is not part of a start.
        for name in MEASURING:
            del environment[name]
        subprocess.run(
            pod.command(traced), env=environment, cwd="/", check=True, capture_output=True
        )
        bare = _bare_modules(environment)
        imported = set(modules.read_text(encoding="utf-8").split()) - bare
        traces = [
            path.read_text(encoding="utf-8", errors="replace").splitlines()
            for path in sorted(Path(folder).glob("trace.*"), key=_number)
        ]
    ran = [line for lines in traces[1:] for line in _programs(lines)]
    counts = Counter(_what_kernel_did(traces))
    lines = [
        f"programs: {', '.join(ran) or 'none'}",
        *(f"{what}: {number}" for what, number in sorted(counts.items())),
        *(f"import {name}" for name in sorted(imported)),
    ]
    return "".join(f"{line}\n" for line in lines)


def _number(path: Path) -> int:
    return int(path.suffix[1:])


def _bare_modules(environment: dict[str, str]) -> set[str]:
    done = subprocess.run(
        [_PYTHON, "-c", "import sys; print(*sys.modules)"],
        env=environment,
        cwd="/",
        check=True,
        capture_output=True,
        text=True,
    )
    return {*done.stdout.split(), *_BARE_SOMEWHERE}


def _programs(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        found = _LINE.match(line)
        if found and found[1] == "execve":
            yield Path(found[3].strip('"')).name if found[5] == "0" else "one that is not there"


def _what_kernel_did(traces: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield each transaction and each byte of state that was read, by name."""
    for number, lines in enumerate(traces):
        for line in lines:
            found = _LINE.match(line)
            if not found:
                continue
            call, file, _, arguments, returned = found.groups()
            if call == "setsockopt" and _LEGACY_WRITE.search(arguments):
                yield "transactions of legacy tables"
            elif call in ("sendto", "sendmsg") and _BATCH.search(arguments):
                yield "transactions of nf_tables"
            elif number == 0 and call == "getsockopt" and (read := _LEGACY_READ.search(arguments)):
                yield from ["bytes of legacy tables read"] * int(read[1])
            elif number == 0 and call == "sendto":
                yield "netlink messages sent"
            elif number == 0 and call in ("read", "recvfrom") and _STATE.match(file or ""):
                yield from [f"bytes read from {_source(file)}"] * max(0, int(returned))


def _source(file: str) -> str:
    if file.startswith("/proc/"):
        return re.sub(r"^/proc/\d+/", "/proc/self/", file)
    return file if file.startswith("/") else f"a {file.partition(':')[0]}"
