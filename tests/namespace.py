"""Network namespaces of a test's own, and what stands in them."""

from __future__ import annotations

import atexit
import functools
import glob
import importlib.util
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pyroute2 import config, netns

from istio_init.rules.model import BUILTIN_CHAINS, TABLES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from istio_init.config.model import Backend

PROGRAM = str(Path(sys.executable).with_name("istio-init"))
TOOLS = {"ipv4": "iptables-legacy", "ipv6": "ip6tables-legacy"}
# Every backend that a property has to hold on.
BACKENDS: tuple[Backend, ...] = ("legacy", "nft", "nftables")
# Programs of another release of iptables and nftables, where they are to be tried: see
# scripts/debian-tools.
OTHER_TOOLS = os.environ.get("ISTIO_INIT_TOOLS", "")
# Without a locale and without any of Istio's variables.
CLEAN_ENVIRONMENT = {
    "PATH": ":".join(filter(None, (OTHER_TOOLS, "/usr/sbin:/usr/bin:/sbin:/bin"))),
    "LC_ALL": "C",
}
# By these a run of the program under test tells which of its lines it ran.
MEASURING = {name: text for name, text in os.environ.items() if name.startswith("COVERAGE_")}

# How long a busy machine may take to start the process that makes a namespace, in seconds.
config.default_communicate_timeout = 60

_numbers = itertools.count()


def public_folder() -> Path:
    """Return a new folder that every user can enter, gone when the tests end."""
    folder = Path(tempfile.mkdtemp(prefix="istio-init-"))
    atexit.register(shutil.rmtree, folder)
    folder.chmod(0o755)
    return folder


def tool(name: str) -> str:
    """Return the path of a program as commands in a namespace find it."""
    path = shutil.which(name, path=CLEAN_ENVIRONMENT["PATH"])
    assert path is not None, f"{name} is not installed"
    return path


@functools.cache
def program_for_all() -> str:
    """Return a program that every user can run, wherever the checkout lies.

    A checkout in a folder of root's own cannot even be entered by others; what
    the program consists of is copied out of it, until the tests end.
    """
    folder = public_folder()
    for name in ("istio_init", "iptc", "click"):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        shutil.copytree(Path(spec.origin).parent, folder / name)
        for wrapper in Path(spec.origin).parents[1].glob("libxtwrapper.*"):
            shutil.copy(wrapper, folder)
    program = folder / "istio-init"
    program.write_text(
        f"#!{Path(sys.executable).resolve()}\n"
        f"import sys\nsys.path.insert(0, {str(folder)!r})\n"
        "from istio_init.cli import main\nsys.exit(main())\n",
        encoding="utf-8",
    )
    program.chmod(0o755)
    return str(program)


class Namespace:
    """A fresh network namespace in which only ``lo`` is up; gone after the ``with`` block."""

    def __init__(self) -> None:
        self.name = f"istio-init-{os.getpid()}-{next(_numbers)}"
        self.path = f"/run/netns/{self.name}"
        # One lock a namespace: tests neither wait for, nor disturb, the machine's.
        self.lock_file = f"/run/netns-{self.name}.lock"

    def __enter__(self) -> Self:
        netns.create(self.name)
        self.run("ip", "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        netns.remove(self.name)
        # And those that a test put beside it.
        for lock in glob.glob(f"{self.lock_file}*"):
            os.unlink(lock)

    def command(self, argv: Sequence[str], *, uid: int = 0, gid: int | None = None) -> list[str]:
        """Return the command that runs ``argv`` in here, as another user where asked."""
        entered = ["nsenter", f"--net={self.path}"]
        if uid or gid:
            group = uid if gid is None else gid
            entered += ["setpriv", f"--reuid={uid}", f"--regid={group}", "--clear-groups"]
        return [*entered, *argv]

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment in which commands run in here."""
        return {
            **CLEAN_ENVIRONMENT,
            **MEASURING,
            "XTABLES_LOCKFILE": self.lock_file,
            **(extra or {}),
        }

    def run(
        self,
        *argv: str,
        uid: int = 0,
        gid: int | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        text: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in here to its end, with ``text`` on its standard input."""
        done = subprocess.run(
            self.command(argv, uid=uid, gid=gid),
            env=self.environment(env),
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert not check or done.returncode == 0, f"{argv}: {done.returncode}\n{done.stderr}"
        return done

    def init(
        self, *args: str, env: Mapping[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run ``istio-init`` in here."""
        return self.run(PROGRAM, *args, env=env, check=check)

    def rules(self, family: str, table: str) -> list[str]:
        """Return the lines of ``iptables-legacy -t TABLE -S``."""
        return self.run(TOOLS[family], "-t", table, "-S").stdout.splitlines()

    def state(self, route_table: str = "133") -> dict[str, Any]:
        """Return everything the program may touch, in the shape of a conformance case."""
        return {
            "iptables": {table: self.rules("ipv4", table) for table in TABLES},
            "ip6tables": {table: self.rules("ipv6", table) for table in TABLES},
            "ip_rules": self._policy_rules("-4"),
            "ip_routes": self._lines("ip", "-4", "route", "show", "table", route_table),
            "ip6_rules": self._policy_rules("-6"),
            "ip6_routes": self._lines("ip", "-6", "route", "show", "table", route_table),
            "lo_addresses": [
                address
                for address in self._lo_addresses()
                if address not in ("127.0.0.1/8", "::1/128")
            ],
        }

    def _lines(self, *argv: str) -> list[str]:
        # An empty route table does not exist, which ip calls an error.
        lines = self.run(*argv, check=False).stdout.splitlines()
        return [" ".join(line.split()) for line in lines]

    def _policy_rules(self, family: str) -> list[str]:
        own = ("0:", "32766:", "32767:")
        return [line for line in self._lines("ip", family, "rule") if not line.startswith(own)]

    def _lo_addresses(self) -> list[str]:
        return [line.split()[3] for line in self._lines("ip", "-o", "addr", "show", "dev", "lo")]


def untouched() -> dict[str, Any]:
    """Return the state of a namespace that nobody has written to."""
    empty = {table: [f"-P {chain} ACCEPT" for chain in BUILTIN_CHAINS[table]] for table in TABLES}
    return {
        "iptables": empty,
        "ip6tables": empty,
        "ip_rules": [],
        "ip_routes": [],
        "ip6_rules": [],
        "ip6_routes": [],
        "lo_addresses": [],
    }


def spelled(lines: Iterable[str]) -> str:
    """Return lines as one text, for an assertion that shows a readable difference."""
    return "".join(f"{line}\n" for line in lines)
