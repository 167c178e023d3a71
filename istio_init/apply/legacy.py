"""The legacy tables, through libiptc."""

from __future__ import annotations

import ctypes
import struct
from errno import EAGAIN, EINVAL, ENOENT, ENOPROTOOPT, EPERM
from itertools import pairwise
from socket import AF_INET, AF_INET6, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_RAW, SOCK_RAW, socket

from istio_init import ownership
from istio_init.apply import libiptc
from istio_init.apply.base import TableChangedError
from istio_init.apply.entry import decode, encode, normalised
from istio_init.errors import ApplyError, UnsupportedError
from istio_init.model import BUILTIN_CHAINS, IPV4, TABLES, Chain, ForeignRule, Ruleset, make_table
from istio_init.render.words import rule_words, tool
from istio_init.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from istio_init.diff import Change, TableChanges
    from istio_init.model import Family, Rule, Table

_TABLE_NAMES = {
    "ipv4": "/proc/self/net/ip_tables_names",
    "ipv6": "/proc/self/net/ip6_tables_names",
}
_MODULES = {"ipv4": "ip_tables", "ipv6": "ip6_tables"}

# IPT_SO_GET_REVISION_MATCH and _TARGET, IP6T_SO_GET_REVISION_MATCH and _TARGET.
_REVISION_QUERIES = {
    "ipv4": (AF_INET, IPPROTO_IP, 66, 67),
    "ipv6": (AF_INET6, IPPROTO_IPV6, 68, 69),
}
# The revisions that istio_init.apply.entry writes, by the word after -m or -j.
_MATCH_REVISIONS = {
    "tcp": 0,
    "udp": 0,
    "multiport": 1,
    "owner": 1,
    "conntrack": 3,
    "state": 3,
    "mark": 1,
    "connmark": 1,
    "socket": 3,
}
_TARGET_REVISIONS = {"REJECT": 0, "REDIRECT": 0, "TPROXY": 1, "MARK": 2, "CONNMARK": 2, "CT": 2}
_KERNEL_NAMES = {"state": "conntrack"}


class Legacy:
    """Reads and changes the legacy tables of the current network namespace."""

    name = "legacy"

    def __init__(self) -> None:
        try:
            self._iptc = libiptc.load()
        except ImportError as error:
            raise UnsupportedError(
                f"the legacy backend needs python-iptables and the libraries of iptables: {error}"
            ) from error
        self._tables: dict[tuple[Family, str], Any] = {}

    def read(self, family: Family, needed: frozenset[str]) -> Ruleset:
        """Return the live tables, those of ``needed`` and those in use.

        A table that is neither stays unread: reading would create it.

        Raises:
            ApplyError: the kernel does not let this process read.
            UnsupportedError: the kernel has no such tables.
        """
        present = needed | self._in_use(family)
        tables = (self._read_table(family, name) for name in TABLES if name in present)
        return Ruleset(family, tuple(tables))

    def _in_use(self, family: Family) -> frozenset[str]:
        path = _TABLE_NAMES[family]
        try:
            with open(path, encoding="ascii") as names:
                return frozenset(names.read().split())
        except FileNotFoundError as error:
            raise UnsupportedError(
                f"this kernel has no legacy {family} tables ({path} is missing): load the module "
                f"{_MODULES[family]} on the node, or use --backend nft or nftables"
            ) from error
        except PermissionError as error:
            raise self._denied(family, "the tables") from error

    def _denied(self, family: Family, table: str) -> ApplyError:
        return ApplyError(
            "may not read or change iptables",
            where=f"backend legacy, {family}, {table}",
            why="the kernel says: operation not permitted",
            remedy="run as root with the capabilities NET_ADMIN and NET_RAW",
        )

    def _read_table(self, family: Family, name: str) -> Table:
        handle = self._fresh(family, name)
        chains = {}
        for found in handle.chains:
            chain = str(found.name)
            policy = handle.get_policy(chain)[0] if chain in BUILTIN_CHAINS[name] else None
            rules = self._read_rules(handle, family, chain)
            chains[chain] = Chain(chain, policy.name if policy else None, rules)
        return make_table(name, chains)

    def _fresh(self, family: Family, name: str) -> Any:
        """Return the library's handle on a table, with the kernel's present state."""
        kind = self._iptc.Table if family == IPV4 else self._iptc.Table6
        try:
            if (family, name) in self._tables:
                self._tables[family, name].refresh()
            else:
                self._tables[family, name] = kind(name, autocommit=False)
        except self._iptc.IPTCError as error:
            raise self._cannot_open(family, name, error) from error
        return self._tables[family, name]

    def _cannot_open(
        self, family: Family, name: str, error: Exception
    ) -> ApplyError | UnsupportedError:
        number = self._errno()
        if number == EPERM:
            return self._denied(family, name)
        if number in (ENOENT, ENOPROTOOPT):
            module = f"{_MODULES[family].removesuffix('_tables')}table_{name}"
            return UnsupportedError(
                f"this kernel has no table {name} (backend legacy, {family}): load the module "
                f"{module} on the node, or use --backend nft or nftables"
            )
        return ApplyError(
            "cannot read the table",
            where=f"backend legacy, {family}, {name}",
            why=_library_text(error),
        )

    def _read_rules(
        self, handle: Any, family: Family, chain: str
    ) -> tuple[Rule | ForeignRule, ...]:
        rules = []
        entry = handle.first_rule(chain)
        while entry:
            raw = ctypes.string_at(ctypes.addressof(entry), entry.next_offset)
            target = (handle.get_target(entry) or b"").decode()
            rules.append(decode(normalised(raw, family, target), family))
            entry = handle.next_rule(entry)
        return tuple(rules)

    def _errno(self) -> int:
        # The library turns errno into a sentence; the number tells more.
        return int(self._iptc.ip4tc._get_errno_loc()[0])

    wanted = staticmethod(ownership.wanted)
    restored = staticmethod(ownership.restored)

    def commit(self, changes: tuple[TableChanges, ...], _results: tuple[Ruleset, ...]) -> None:
        """Change tables, each in one kernel transaction.

        The tables have to be as they were last read.

        Raises:
            TableChangedError: it is not.
            UnsupportedError: the kernel lacks a match or target.
            ApplyError: the kernel refused.
        """
        for change in changes:
            self._commit_table(change)

    def _commit_table(self, change: TableChanges) -> None:
        handle = self._tables[change.family, change.table]
        try:
            for step in change.steps:
                self._take(handle, change.family, step)
            handle.commit()
        except self._iptc.IPTCError as error:
            number = self._errno()
            if number == EAGAIN:
                raise TableChangedError from error
            # EINVAL also comes when the rules went in and another program was
            # faster than the call that restores their counters.
            if number == EINVAL and self._read_table(change.family, change.table) == change.result:
                return
            raise self._refused(change, error, number) from error

    def _take(self, handle: Any, family: Family, step: Change) -> None:
        match step.verb:
            case "create-chain":
                handle.create_chain(step.chain)
            case "delete-chain":
                handle.delete_chain(step.chain)
            case "flush":
                handle.flush_entries(step.chain)
            case "append":
                handle.append_entry(step.chain, self._bytes(step, family))
            case "insert":
                handle.insert_entry(step.chain, self._bytes(step, family), step.index)
            case "delete":
                deleted = self._iptc_of(family).iptc_delete_num_entry(
                    step.chain.encode(), step.index, handle._handle
                )
                if deleted != 1:
                    raise self._iptc.IPTCError(handle.strerror())

    def _iptc_of(self, family: Family) -> Any:
        if family == IPV4:
            return self._iptc.ip4tc.iptc
        return self._iptc.ip6tc.ip6tc

    def _bytes(self, step: Change, family: Family) -> bytes:
        if step.rule is None:
            raise ValueError(f"{step.verb} without a rule")
        return encode(step.rule, family)

    def _refused(
        self, change: TableChanges, error: Exception, number: int
    ) -> ApplyError | UnsupportedError:
        where = f"backend legacy, {change.family}, {change.table}"
        missing = _missing_extensions(change) if number in (ENOENT, EINVAL) else ()
        if missing:
            return UnsupportedError(
                f"this kernel lacks {' and '.join(missing)} ({where}): load the module on the "
                "node, or use --backend nft or nftables"
            )
        if number == EPERM:
            return self._denied(change.family, change.table)
        remedy = ""
        if number == EINVAL:
            remedy = (
                "a uid or gid may be unknown to this user namespace; see the kernel's log for "
                f"what it did not accept, and {tool(change.family)}-legacy -t {change.table} -S "
                "for what stands there"
            )
        return ApplyError(
            "the kernel refused the rules",
            where=where,
            why=_library_text(error),
            remedy=remedy,
        )


def _library_text(error: Exception) -> str:
    """Return the library's sentence; it puts the C library's part in as bytes."""
    return str(error).replace(": b'", ": ").removeprefix("b'").rstrip("'")


def _missing_extensions(change: TableChanges) -> tuple[str, ...]:
    """Return the matches and targets of a change that the kernel does not have."""
    wanted: dict[tuple[str, int, bool], None] = {}
    for step in change.steps:
        if step.rule is None or isinstance(step.rule, ForeignRule):
            continue
        words = rule_words(step.rule, change.family)
        for option, word in pairwise(words):
            if option == "-m" and word in _MATCH_REVISIONS:
                wanted[_KERNEL_NAMES.get(word, word), _MATCH_REVISIONS[word], False] = None
            elif option == "-j" and word in _TARGET_REVISIONS:
                wanted[word, _TARGET_REVISIONS[word], True] = None
    return tuple(
        f"{'target' if is_target else 'match'} {name} revision {revision} (module xt_{name})"
        for name, revision, is_target in wanted
        if not _has_revision(change.family, name, revision, is_target=is_target)
    )


def _has_revision(family: Family, name: str, revision: int, *, is_target: bool) -> bool:
    """Whether the kernel knows an extension in this revision; it loads the module to tell."""
    address_family, level, match_query, target_query = _REVISION_QUERIES[family]
    query = target_query if is_target else match_query
    request = struct.pack("=29sB", name.encode(), revision)
    with socket(address_family, SOCK_RAW, IPPROTO_RAW) as handle:
        try:
            # The length goes in with the buffer: the kernel reads it before it answers.
            _getsockopt(handle.fileno(), level, query, request)
        except OSError:
            return False
    return True


def _getsockopt(handle: int, level: int, query: int, request: bytes) -> None:
    buffer = ctypes.create_string_buffer(request, len(request))
    size = ctypes.c_uint32(len(request))
    library = ctypes.CDLL(None, use_errno=True)
    if library.getsockopt(handle, level, query, buffer, ctypes.byref(size)) != 0:
        raise OSError(ctypes.get_errno(), "getsockopt")
