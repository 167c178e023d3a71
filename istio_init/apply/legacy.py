"""The legacy tables, through libiptc."""

from __future__ import annotations

import ctypes
from errno import EAGAIN, EINVAL, ENOENT, ENOPROTOOPT, EPERM

from istio_init.apply.backend import TableChangedError
from istio_init.errors import ApplyError, Location, UnsupportedError
from istio_init.formats.iptables import tool
from istio_init.formats.xt_entry import decode, encode, normalised, without_counts
from istio_init.kernel import libiptc, modules
from istio_init.kernel.host import LEGACY_TABLES, legacy_tables
from istio_init.lean import TYPE_CHECKING
from istio_init.rules import ownership
from istio_init.rules.model import BUILTIN_CHAINS, TABLES, Chain, ForeignRule, Ruleset, make_table
from istio_init.rules.ranges import IPV4

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, ClassVar

    from istio_init.rules.diff import Change, TableChanges
    from istio_init.rules.model import Rule, Table
    from istio_init.rules.ranges import Family

_INSTEAD = "use --backend nft or nftables"
# Rules of others that an error names, when one of them may be to blame.
_MOST_NAMED = 3
_MODULES = {"ipv4": "ip_tables", "ipv6": "ip6_tables"}


class Legacy:
    """Reads and changes the legacy tables of the current network namespace."""

    name = "legacy"
    # The library keeps one handle a table for the whole process, with what was
    # read by it, or prepared and never committed: a new object gets it as it is.
    _tables: ClassVar[dict[tuple[Family, str], Any]] = {}

    def __init__(self) -> None:
        self._looked_at: dict[Family, Ruleset] = {}
        # What this object wrote, by its bytes: read back, it need not be taken apart.
        self._written: dict[tuple[Family, bytes], Rule | ForeignRule] = {}
        # What was read before need not be taken apart again either.
        self._known: dict[tuple[Family, str, bytes], Rule | ForeignRule] = {}
        try:
            self._iptc = libiptc.load()
        except ImportError as error:
            raise UnsupportedError(
                f"the legacy backend needs python-iptables and the libraries of iptables: {error}"
            ) from error

    def look(self, family: Family) -> Ruleset:
        """Return the tables in use, which the next ``read`` does not read again.

        Raises:
            As ``read``.
        """
        live = self.read(family, frozenset())
        self._looked_at[family] = live
        return live

    def read(self, family: Family, needed: frozenset[str]) -> Ruleset:
        """Return the live tables, those of ``needed`` and those in use.

        A table that is neither stays unread: reading would create it. Where the
        kernel does not say which are in use, all are read.

        Raises:
            ApplyError: the kernel does not let this process read.
            UnsupportedError: the kernel has no such tables.
        """
        try:
            used = legacy_tables(family)
        except PermissionError:
            used = frozenset(TABLES)
        if used is None:
            raise UnsupportedError(
                f"this kernel has no legacy {family} tables ({LEGACY_TABLES[family]} is missing)",
                remedy=f"load the module {_MODULES[family]} on the node, or {_INSTEAD}",
            ).at(Location(self.name, family))
        present = needed | used
        looked_at = self._looked_at.pop(family, None)
        tables = (
            (looked_at and looked_at.table(name)) or self._read_table(family, name)
            for name in TABLES
            if name in present
        )
        return Ruleset(family, tuple(tables))

    def _denied(self, family: Family, table: str) -> ApplyError:
        return ApplyError(
            "may not read or change iptables",
            where=f"backend legacy, {family}, {table}",
            why="the kernel says: operation not permitted",
            remedy="run as root with the capabilities NET_ADMIN and NET_RAW, or where no legacy "
            "table is in use with --backend nft, which takes NET_ADMIN alone",
        ).at(Location(self.name, family, table))

    def _read_table(self, family: Family, name: str) -> Table:
        handle = self._fresh(family, name)
        chains = {}
        for chain in self._chain_names(handle, family):
            policy = handle.get_policy(chain)[0] if chain in BUILTIN_CHAINS[name] else None
            rules = self._read_rules(handle, family, chain)
            chains[chain] = Chain(chain, policy.name if policy else None, rules)
        return make_table(name, chains)

    def _chain_names(self, handle: Any, family: Family) -> list[str]:
        """Return the names of a table's chains; bytes that are no UTF-8 are kept as surrogates.

        The library's own list would fail on such a name.
        """
        library = self._iptc_of(family)
        names = []
        name = library.iptc_first_chain(handle._handle)
        while name:
            names.append(name.decode(errors="surrogateescape"))
            name = library.iptc_next_chain(handle._handle)
        return names

    def _fresh(self, family: Family, name: str) -> Any:
        """Return the library's handle on a table, with the kernel's present state."""
        module = libiptc.load(family)
        kind = module.Table if family == IPV4 else module.Table6
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
                f"this kernel has no table {name} (backend legacy, {family})",
                remedy=f"load the module {module} on the node, or {_INSTEAD}",
                missing=frozenset({name}),
            ).at(Location(self.name, family, name))
        return ApplyError(
            "cannot read the table",
            where=f"backend legacy, {family}, {name}",
            why=_library_text(error),
        ).at(Location(self.name, family, name))

    def _read_rules(
        self, handle: Any, family: Family, chain: str
    ) -> tuple[Rule | ForeignRule, ...]:
        rules = []
        entry = handle.first_rule(_for_library(chain))
        while entry:
            raw = ctypes.string_at(ctypes.addressof(entry), entry.next_offset)
            target = (handle.get_target(entry) or b"").decode(errors="surrogateescape")
            key = family, target, without_counts(raw, family)
            rule = self._known.get(key)
            if rule is None:
                normal = normalised(raw, family, target)
                rule = self._written.get((family, normal)) or decode(normal, family)
                self._known[key] = rule
            rules.append(rule)
            entry = handle.next_rule(entry)
        return tuple(rules)

    def _errno(self) -> int:
        # The library turns errno into a sentence; the number tells more.
        return int(self._iptc._get_errno_loc()[0])

    wanted = staticmethod(ownership.wanted)
    restored = staticmethod(ownership.restored)

    def as_written(self, ruleset: Ruleset) -> Ruleset:
        """Return a rule set in the form in which it is read back once it was written."""
        return ruleset

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
        chain = _for_library(step.chain)
        match step.verb:
            case "create-chain":
                handle.create_chain(chain)
            case "delete-chain":
                handle.delete_chain(chain)
            case "flush":
                handle.flush_entries(chain)
            case "append":
                handle.append_entry(chain, self._bytes(step, family))
            case "insert":
                handle.insert_entry(chain, self._bytes(step, family), step.index)
            case "delete":
                deleted = self._iptc_of(family).iptc_delete_num_entry(
                    chain.encode(), step.index, handle._handle
                )
                if deleted != 1:
                    raise self._iptc.IPTCError(handle.strerror())

    def _iptc_of(self, family: Family) -> Any:
        module = libiptc.load(family)
        return module.iptc if family == IPV4 else module.ip6tc

    def _bytes(self, step: Change, family: Family) -> bytes:
        if step.rule is None:
            raise ValueError(f"{step.verb} without a rule")
        data = encode(step.rule, family)
        self._written[family, data] = step.rule
        return data

    def _refused(
        self, change: TableChanges, error: Exception, number: int
    ) -> ApplyError | UnsupportedError:
        where = f"backend legacy, {change.family}, {change.table}"
        missing: list[modules.Feature] = []
        if number in (ENOENT, EINVAL):
            needed = modules.needed(change.steps, change.family)
            missing = [feature for feature in needed if not modules.in_legacy(feature)]
        if missing:
            return UnsupportedError(
                f"this kernel lacks {' and '.join(str(feature) for feature in missing)} ({where})",
                remedy=f"load the module on the node, or {_INSTEAD}",
                missing=frozenset(feature.name for feature in missing),
            ).at(self._first_needing(change, missing))
        if number == EPERM:
            return self._denied(change.family, change.table)
        remedy = ""
        if number == EINVAL:
            remedy = (
                "a uid or gid may be unknown to this user namespace; see the kernel's log for "
                f"what it did not accept, and {tool(change.family)}-legacy -t {change.table} -S "
                "for what stands there"
            )
        why = _library_text(error)
        suspects = list(_not_understood(change.result))
        if suspects:
            named = " or ".join(suspects[:_MOST_NAMED])
            more = f" (and {len(suspects) - _MOST_NAMED} more)" if suspects[_MOST_NAMED:] else ""
            why += (
                "; it checks the rules of other programs again too, and may refuse "
                f"{named}{more}, which it took before"
            )
            remedy = f"bring back what that rule refers to, or {_INSTEAD}" + (
                f"; {remedy}" if remedy else ""
            )
        return ApplyError("the kernel refused the rules", where=where, why=why, remedy=remedy).at(
            Location(self.name, change.family, change.table)
        )

    def _first_needing(self, change: TableChanges, missing: list[modules.Feature]) -> Location:
        for step in change.steps:
            if not set(missing).isdisjoint(modules.needed((step,), change.family)):
                return modules.location(self.name, change.family, change.table, step)
        return Location(self.name, change.family, change.table)


class _BytesName(str):
    """A chain's name that is no text; the library gets the bytes that the kernel has."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "surrogateescape") -> bytes:
        """Return the bytes of the name."""
        return super().encode(encoding, errors)


def _for_library(chain: str) -> str:
    return chain if chain.isascii() else _BytesName(chain)


def _not_understood(table: Table) -> Iterator[str]:
    """Yield each rule that is not understood, with its place: it may refer to anything."""
    for chain in table.chains:
        for number, rule in enumerate(chain.rules, 1):
            if isinstance(rule, ForeignRule):
                yield f"rule {number} of {chain.name} ({rule.spelled})"


def _library_text(error: Exception) -> str:
    """Return the library's sentence; it puts the C library's part in as bytes."""
    return str(error).replace(": b'", ": ").removeprefix("b'").rstrip("'")
