"""What tests do with the legacy tables of a namespace, in a process there: see tests/inside.py."""

from __future__ import annotations

import struct
import subprocess
from socket import (
    AF_INET,
    AF_INET6,
    AF_NETLINK,
    IPPROTO_IP,
    IPPROTO_IPV6,
    IPPROTO_RAW,
    SOCK_RAW,
    socket,
)
from typing import TYPE_CHECKING

from istio_init import planner
from istio_init.apply.backend import BackendChanges, Transaction
from istio_init.apply.legacy import Legacy
from istio_init.config.model import ISTIO_IPTABLES, Facts
from istio_init.config.resolve import resolve
from istio_init.errors import ApplyError, IstioInitError
from istio_init.kernel.host import HostFiles
from istio_init.log import Log
from istio_init.rules.diff import Change, TableChanges
from istio_init.rules.model import make_table

if TYPE_CHECKING:
    from istio_init.rules.model import Chain, ForeignRule, Rule, Ruleset
    from istio_init.rules.ranges import Family

# IPT_SO_GET_INFO and _ENTRIES, IP6T_SO_GET_INFO and _ENTRIES: the same numbers.
_GET_INFO, _GET_ENTRIES = 64, 65
_SOCKETS = {"ipv4": (AF_INET, IPPROTO_IP), "ipv6": (AF_INET6, IPPROTO_IPV6)}
# struct ipt_getinfo: name, valid hooks, hook entries, underflows, number, size.
_INFO = struct.Struct("=32sI5I5III")
# struct ipt_get_entries before its entries: name, size, padding.
_ENTRIES = struct.Struct("=32sI4x")
# Where an entry says how long it is: behind ipt_ip or ip6t_ip6, nfcache and the
# target's offset.
_NEXT_OFFSET = {"ipv4": 84 + 4 + 2, "ipv6": 136 + 4 + 2}
# RTNLGRP_IPV4_IFADDR, _ROUTE, _RULE and the same of IPv6.
_ANNOUNCED = sum(1 << group - 1 for group in (5, 7, 8, 9, 11, 19))


def entries(family: Family, table: str) -> list[str]:
    """Return the kernel's entries of a table, each in hexadecimal, as it gives them out.

    Asks the kernel itself, past libiptc and past everything under test.
    """
    kind, level = _SOCKETS[family]
    with socket(kind, SOCK_RAW, IPPROTO_RAW) as handle:
        asked = _INFO.pack(table.encode(), *[0] * 13)
        size = _INFO.unpack(_getsockopt(handle, level, _GET_INFO, asked))[-1]
        asked = _ENTRIES.pack(table.encode(), size) + bytes(size)
        data = _getsockopt(handle, level, _GET_ENTRIES, asked)[_ENTRIES.size :]
    found = []
    while data:
        (length,) = struct.unpack_from("=H", data, _NEXT_OFFSET[family])
        found.append(data[:length].hex())
        data = data[length:]
    return found


def _getsockopt(handle: socket, level: int, option: int, request: bytes) -> bytes:
    # Python's own getsockopt hands the kernel an empty buffer; these calls read it.
    import ctypes

    buffer = ctypes.create_string_buffer(request, len(request))
    size = ctypes.c_uint32(len(request))
    library = ctypes.CDLL(None, use_errno=True)
    if library.getsockopt(handle.fileno(), level, option, buffer, ctypes.byref(size)):
        raise OSError(ctypes.get_errno(), "getsockopt")
    return buffer.raw


def read(family: Family, *tables: str) -> Ruleset:
    """Return tables as the program reads them."""
    return Legacy().read(family, frozenset(tables))


def write(family: Family, tables: dict[str, list[Chain]]) -> None:
    """Put chains of one's own into each table by the program's own means."""
    applier = Legacy()
    applier.read(family, frozenset(tables))
    for name, chains in tables.items():
        created = [Change("create-chain", chain.name) for chain in chains]
        appended = [
            Change("append", chain.name, rule=rule) for chain in chains for rule in chain.rules
        ]
        result = make_table(name, {chain.name: chain for chain in chains})
        applier.commit((TableChanges(family, name, (*created, *appended), result),), ())


def rewrite(family: Family, table: str, chain: str) -> tuple[Rule | ForeignRule, ...]:
    """Take every rule out of a chain and put it back, in two commits; return the rules."""
    applier = Legacy()
    before = applier.read(family, frozenset({table})).table(table)
    assert before is not None
    found = before.chain(chain)
    assert found is not None
    emptied = make_table(
        table,
        {one.name: one.replace(rules=()) if one is found else one for one in before.chains},
    )
    applier.commit((TableChanges(family, table, (Change("flush", chain),), emptied),), ())
    applier.read(family, frozenset({table}))
    added = tuple(Change("append", chain, rule=rule) for rule in found.rules)
    applier.commit((TableChanges(family, table, added, before),), ())
    return found.rules


def announced(*command: str) -> list[int]:
    """Run a program; return the kinds of netlink messages on addresses, routes and rules.

    The kernel announces a change before the call that makes it returns, so that
    nothing can come after the program's end.
    """
    with socket(AF_NETLINK, SOCK_RAW, 0) as handle:
        handle.bind((0, _ANNOUNCED))
        subprocess.run(command, check=True, capture_output=True)
        handle.setblocking(False)  # noqa: FBT003
        found = []
        while True:
            try:
                found.append(struct.unpack_from("=IH", handle.recv(65536))[1])
            except BlockingIOError:
                return found


class Disturbed(Legacy):
    """The legacy backend on a bad day: at its ``number``-th commit ``event`` happens.

    ``event`` is a command to run just before the commit, or empty to fail there.
    """

    def __init__(self, number: int, event: tuple[str, ...]) -> None:
        super().__init__()
        self._left = number
        self._event = event

    def _commit_table(self, change: TableChanges) -> None:
        self._left -= 1
        if self._left == 0:
            if not self._event:
                raise ApplyError("injected", where="the test", why="to see it rolled back")
            subprocess.run(self._event, check=True)
        super()._commit_table(change)


def apply_disturbed(number: int, event: tuple[str, ...], flags: dict[str, str]) -> str:
    """Apply layout 1.30 with these flags, by their long names; return the error or ``""``."""
    resolved = resolve(ISTIO_IPTABLES, flags, {}, HostFiles())
    plan = planner.plan(resolved.config, Facts())
    try:
        log = Log("none")
        Transaction(
            (BackendChanges(Disturbed(number, event), plan, log),), plan, log, clean=False
        ).run()
    except IstioInitError as error:
        return str(error)
    return ""
