"""The program called inside this process, on a host that the tests make up.

Nothing here can reach the kernel: a call that gets as far as a transaction
fails the test, and no namespace is entered.
"""

from __future__ import annotations

import io
import os
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from istio_init.apply import converge
from istio_init.cli import apply, main
from istio_init.config.model import Facts
from istio_init.kernel import host, netns
from istio_init.operate import audit, doctor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.config.resolve import Resolved
    from istio_init.log import Log

ETC = Path(__file__).parent / "etc"

# So that no file of the machine's takes part.
NO_FILES = {"ISTIO_CLUSTER_CONFIG": "/nonexistent", "ISTIO_SIDECAR_CONFIG": "/nonexistent"}
NO_FACTS = Facts()


@dataclass(frozen=True)
class Done:
    """What a call left behind, and the network namespaces that it would have entered."""

    code: int
    out: str
    err: str
    entered: tuple[str, ...] = ()


def call(
    *argv: str,
    env: Mapping[str, str] | None = None,
    facts: Facts = NO_FACTS,
    etc: Path = ETC,
) -> Done:
    """Run ``istio-init`` with these arguments and nothing else in its environment."""
    files = host.HostFiles(str(etc))

    def no_kernel(*_: object, **__: object) -> None:
        raise AssertionError("a unit test reached the kernel")

    with ExitStack() as stack:
        enter = stack.enter_context
        enter(mock.patch.dict(os.environ, {**NO_FILES, **(env or {})}, clear=True))
        enter(mock.patch.object(host, "HostFiles", return_value=files))
        enter(mock.patch.object(host, "usable_addresses", return_value=facts.addresses))
        enter(mock.patch.object(host, "resolvers", return_value=(facts.nameservers, ())))
        entered = enter(mock.patch.object(netns, "enter"))
        enter(mock.patch.object(converge, "converge", no_kernel))
        enter(mock.patch.object(converge, "clean", no_kernel))
        enter(mock.patch.object(audit, "look", no_kernel))
        enter(mock.patch.object(doctor, "checks", no_kernel))
        out, err = enter(redirect_stdout(io.StringIO())), enter(redirect_stderr(io.StringIO()))
        code = main(argv)
    namespaces = tuple(one.args[0] for one in entered.call_args_list)
    return Done(code, out.getvalue(), err.getvalue(), namespaces)


def asked(*argv: str, env: Mapping[str, str] | None = None, etc: Path = ETC) -> Resolved:
    """Return what a call resolves to; nothing is planned or printed."""
    found: list[Resolved] = []

    def act(resolved: Resolved, _: Log) -> int:
        found.append(resolved)
        return 0

    with mock.patch.object(apply, "_act", act):
        done = call(*argv, env=env, etc=etc)
    assert done.code == 0, done.err
    return found[0]


def refused(*argv: str, env: Mapping[str, str] | None = None, etc: Path = ETC) -> str:
    """Return what a call with bad input says; it plans and prints nothing."""

    def act(resolved: Resolved, _: Log) -> int:
        raise AssertionError(f"bad input was accepted: {resolved}")

    with mock.patch.object(apply, "_act", act):
        done = call(*argv, env=env, etc=etc)
    assert done.code == 2, done.err
    assert not done.out
    return done.err
