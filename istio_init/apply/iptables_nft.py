"""The rules of iptables in nf_tables: read, and written, over netlink.

What iptables-nft prints is not the state of nf_tables: it prints what others
wrote into a comment as if it were rules, and nothing at all of a table with a
rule that it does not know. The kernel's own messages have neither fault. What is
written is what iptables-nft would write, in one transaction for all tables and
both families; rules of others keep their place and are never written again.
"""

from __future__ import annotations

from errno import ENOENT, EPERM

from istio_init.apply.backend import TableChangedError
from istio_init.errors import ApplyError, Location, UnsupportedError
from istio_init.formats.nf_tables import iptables, messages
from istio_init.kernel import nfnetlink
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.rules import ownership
from istio_init.rules.model import (
    BUILTIN_CHAINS,
    TABLES,
    Chain,
    ForeignRule,
    Oddity,
    Rule,
    Ruleset,
    make_table,
)
from istio_init.rules.ranges import FAMILIES, IPV4, IPV6

if TYPE_CHECKING:
    from istio_init.formats.nf_tables.messages import Contents, KernelChain, Message
    from istio_init.rules.diff import Change, TableChanges
    from istio_init.rules.ranges import Family

_NFT_FAMILY = {IPV4: "ip", IPV6: "ip6"}
_MODEL_FAMILY: dict[str, Family] = {"ip": IPV4, "ip6": IPV6}
_POLICIES = ("DROP", "ACCEPT")
_TRIES = 20


class _Place(Record):
    """A chain: its family, table and name in the model."""

    family: Family
    table: str
    chain: str


class Write(Record):
    """What a message is for."""

    change: TableChanges
    step: Change | None


class IptablesNft:
    """Reads and changes the tables of iptables-nft in the current network namespace."""

    name = "nft"
    wanted = staticmethod(ownership.wanted)
    restored = staticmethod(ownership.restored)

    def as_written(self, ruleset: Ruleset) -> Ruleset:
        """Return a rule set in the form in which it is read back once it was written."""
        return ruleset

    def __init__(self) -> None:
        self._readers = {family: iptables.Reader(family) for family in FAMILIES}
        self._contents: Contents | None = None
        self._live: dict[Family, Ruleset] = {}
        # The handles of the rules of each chain, in order.
        self._handles: dict[_Place, list[int]] = {}

    @property
    def fit(self) -> bool:
        """Whether iptables-nft can list every rule that was read, and none is without effect."""
        contents = self._contents
        return not any(reader.unlisted for reader in self._readers.values()) and (
            contents is None
            or (
                all(map(_is_listed, contents.chains))
                and not any(one.flags for one in contents.tables)
            )
        )

    def read(self, family: Family, needed: frozenset[str]) -> Ruleset:
        """Return the live tables, and those of ``needed`` that are not there as empty ones.

        Nothing is read twice that nobody changed in between.

        Raises:
            UnsupportedError: the kernel has no nf_tables.
            ApplyError: the kernel does not let this process read.
            TableChangedError: others write without a pause.
        """
        self._refresh(family)
        found = {table.name: table for table in self._live[family].tables}
        for name in needed:
            found.setdefault(name, make_table(name, {}))
        return Ruleset(family, tuple(found[name] for name in TABLES if name in found))

    def _refresh(self, family: Family) -> None:
        """Read both families anew, as of one moment, unless nothing changed since."""
        before = self._contents
        for _ in range(_TRIES):
            now = nfnetlink.generation()
            if before is not None and before.generation == now is not None:
                break
            found = nfnetlink.contents(nfnetlink.IPTABLES_PLACES, now, sets=False)
            if found is None:
                raise UnsupportedError(
                    "this kernel has no nf_tables",
                    remedy="load the module nf_tables on the node, or use --backend legacy",
                ).at(Location(self.name, family))
            # Of tables of others nobody asked.
            same = before is not None and found.raw == before.raw
            if same or found.generation == nfnetlink.generation():
                self._take(found, same=same)
                break
            before = found
        else:
            raise TableChangedError

    def _take(self, found: Contents, *, same: bool) -> None:
        known = self._contents
        self._contents = found
        if same and known is not None and known.raw == found.raw:
            return
        chains: dict[_Place, list[Rule | ForeignRule]] = {}
        self._handles = {}
        for one in found.rules:
            place = _Place(_MODEL_FAMILY[one.family], one.table, one.chain)
            reader = self._readers[place.family]
            chains.setdefault(place, []).append(reader.rule(one.expressions, one.notes))
            self._handles.setdefault(place, []).append(one.handle)
        self._live = {family: _ruleset(family, found, chains) for family in FAMILIES}

    def commit(self, changes: tuple[TableChanges, ...], _results: tuple[Ruleset, ...]) -> None:
        """Change tables of both families, all in one kernel transaction.

        The tables have to be as they were last read.

        Raises:
            TableChangedError: they are not.
            ApplyError: a table does nothing, or the kernel refused.
        """
        contents = self._contents
        if contents is None:
            raise ValueError("nothing was read before it is changed")
        for change in changes:
            _refuse_idle(change)
        batch = _Batch(contents, self._handles, self._readers)
        for change in changes:
            batch.add(change)
        try:
            nfnetlink.commit(batch.messages, contents.generation)
        except nfnetlink.MovedError as error:
            raise TableChangedError from error
        except nfnetlink.RefusedError as error:
            raise _refused(error) from error


def _ruleset(
    family: Family, found: Contents, rules: dict[_Place, list[Rule | ForeignRule]]
) -> Ruleset:
    tables = []
    for name in TABLES:
        (table,) = [
            one for one in found.tables if (one.family, one.name) == (_NFT_FAMILY[family], name)
        ] or (None,)
        of_table = [
            one for one in found.chains if (one.family, one.table) == (_NFT_FAMILY[family], name)
        ]
        # A table without chains is what a program left behind, or none yet.
        if table is None or not (of_table or table.flags):
            continue
        chains = {}
        oddities = list(_oddities_of(table, of_table))
        for one in of_table:
            policy = None
            if one.name in BUILTIN_CHAINS[name]:
                policy = _POLICIES[one.hooked.policy] if one.hooked else "ACCEPT"
            place = _Place(family, name, one.name)
            chains[one.name] = Chain(one.name, policy, tuple(rules.get(place, ())))
        tables.append(make_table(name, chains, tuple(oddities)))
    return Ruleset(family, tuple(tables))


def _is_listed(chain: KernelChain) -> bool:
    """Whether iptables-nft takes a chain for one of its own."""
    if chain.name in BUILTIN_CHAINS[chain.table]:
        hook = messages.hook_of(chain.table, chain.name)
        return chain.hooked is not None and chain.hooked.replace(policy=hook.policy) == hook
    return chain.hooked is None


def _oddities_of(table: messages.KernelTable, chains: list[KernelChain]) -> tuple[Oddity, ...]:
    """Return what keeps the rules of a table from having an effect."""
    found = []
    if table.flags & messages.DORMANT:
        text = "a table that is dormant sees no packet: no rule in it has an effect"
        found.append(Oddity("flags dormant", text, idle=True))
    for chain in chains:
        if chain.name not in BUILTIN_CHAINS[table.name]:
            continue
        if not _is_listed(chain):
            text = "the chain does not stand where iptables puts it: not every packet gets there"
            found.append(Oddity(f"chain {chain.name}", text, idle=True))
    return tuple(found)


def _refuse_idle(change: TableChanges) -> None:
    """Fail where new rules would do nothing."""
    idle = [one for one in change.result.oddities if one.idle]
    if idle and any(step.verb in ("append", "insert") for step in change.steps):
        family, name = _NFT_FAMILY[change.family], change.table
        wake = f"nft add table {family} {name} '{{ }}'"
        raise ApplyError(
            "rules in this table would have no effect",
            where=f"backend nft, {change.family}, {name}",
            why=f"{idle[0].name}: {idle[0].consequence}",
            remedy=f"find out who made it so ({wake} wakes a dormant one), or use --backend "
            "nftables or legacy",
        ).at(Location(IptablesNft.name, change.family, name))


class _Batch:
    """The messages that take the steps of all tables."""

    def __init__(
        self,
        contents: Contents,
        handles: dict[_Place, list[int]],
        readers: dict[Family, iptables.Reader],
    ) -> None:
        self.messages: list[Message] = []
        self._tables = {(one.family, one.name) for one in contents.tables}
        self._chains = {(one.family, one.table, one.name) for one in contents.chains}
        # 0 stands for a rule that the batch itself makes.
        self._handles: dict[_Place, list[int]] = {
            place: list(found) for place, found in handles.items()
        }
        self._readers = readers

    def add(self, change: TableChanges) -> None:
        """Add the steps of one table."""
        family, table = _NFT_FAMILY[change.family], change.table
        if (family, table) not in self._tables:
            about = Write(change, None)
            self.messages.append(messages.new_table(family, table, about=about))
            self._tables.add((family, table))
        for step in change.steps:
            self._take(change, step, family)

    def _take(self, change: TableChanges, step: Change, family: str) -> None:
        table, chain = change.table, step.chain
        about = Write(change, step)
        handles = self._handles.setdefault(_Place(change.family, table, chain), [])
        match step.verb:
            case "create-chain":
                self._make_chain(family, about)
            case "delete-chain":
                self.messages.append(messages.delete_chain(family, table, chain))
            case "flush":
                self.messages.append(messages.flush_chain(family, table, chain))
                handles.clear()
            case "delete":
                handle = handles.pop(step.index)
                self.messages.append(messages.delete_rule(family, table, chain, handle))
            case "append" | "insert":
                if (family, table, chain) not in self._chains:
                    self._make_chain(family, about)
                index = len(handles) if step.verb == "append" else step.index
                # Insertions ascend: what stands there now was there before.
                before = handles[index] if index < len(handles) else 0
                self.messages.append(self._rule(family, about, before))
                handles.insert(index, 0)

    def _make_chain(self, family: str, about: Write) -> None:
        table, chain = about.change.table, about.step.chain if about.step else ""
        hooked = messages.hook_of(table, chain) if chain in BUILTIN_CHAINS[table] else None
        self._chains.add((family, table, chain))
        self.messages.append(messages.new_chain(family, table, chain, hooked, about))

    def _rule(self, family: str, about: Write, before: int) -> Message:
        step, of_family = about.step, about.change.family
        if step is None or step.rule is None:
            raise ValueError("a step without its rule")
        if isinstance(step.rule, Rule):
            expressions, notes = self._readers[of_family].expect(step.rule), b""
        else:
            expressions, notes = iptables.kept(step.rule)
        return messages.new_rule(
            family,
            about.change.table,
            step.chain,
            expressions,
            notes=notes,
            before=before,
            protocol=iptables.protocol_of(step.rule),
            about=about,
        )


def _refused(error: nfnetlink.RefusedError) -> ApplyError | TableChangedError:
    """Return the error with the rule that the kernel stumbled over, and what that needs."""
    about = error.message.about if error.message else None
    if not isinstance(about, Write):
        if error.number == ENOENT:
            # What was to be deleted is gone.
            return TableChangedError()
        return ApplyError(
            "the kernel refused the rules",
            where="backend nft",
            why=str(error),
            remedy="use --backend nftables, which takes fewer rules for long lists",
        ).at(Location(IptablesNft.name))
    change, step = about.change, about.step
    failure = ApplyError(
        "the kernel refused the rules",
        where=f"backend nft, {change.family}, {change.table}",
        why=str(error),
    ).at(Location(IptablesNft.name, change.family, change.table))
    if error.number == EPERM:
        failure.remedy = "another process owns the table; use --backend nftables or legacy"
        return failure
    if step is None or step.rule is None:
        failure.remedy = "see that the kernel has nf_tables, nft_chain_nat and nft_compat"
        return failure
    from istio_init.kernel import modules

    failure.at(modules.location(IptablesNft.name, change.family, change.table, step))
    failure.why += f" at: {failure.location.rule}"
    needed = modules.needed((step,), change.family)
    if needed:
        names = ", ".join(feature.module for feature in needed)
        failure.missing = frozenset(feature.name for feature in needed)
        failure.remedy = f"see that the kernel has the modules nft_compat, {names}"
        if any(feature.name == "owner" for feature in needed):
            failure.remedy += ", and that this user namespace knows the uid or gid"
    return failure
