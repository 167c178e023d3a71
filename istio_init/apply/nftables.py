"""The rules in tables of our own in nf_tables, over netlink and without a program.

Nobody else has business in these tables. Tables and base chains stay; rules are
exchanged in place, those of all tables and both families in one transaction of
the kernel. Sets never change: what rules look up is there before they are, in a
transaction of its own, because Linux shows packets the elements of a new set of
ranges only a moment after the rules that were made with it. What is used no
more goes last.
"""

from __future__ import annotations

from errno import E2BIG, EBUSY, EEXIST, EMSGSIZE, ENOBUFS, ENOENT, EPERM

from istio_init.apply.backend import TableChangedError
from istio_init.errors import ApplyError, Location, UnsupportedError
from istio_init.formats.nf_tables import expressions, iptables, messages, native
from istio_init.formats.nf_tables.own_tables import CHAIN_NAMES, SOCKET_CHAIN, native_table
from istio_init.kernel import nfnetlink
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import TABLES, ForeignRule, Ruleset, make_table
from istio_init.rules.names import NATIVE_TABLES
from istio_init.rules.ranges import FAMILIES
from istio_init.rules.sets import canonical

if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.formats.nf_tables.messages import Contents, Hooked, KernelChain, Message
    from istio_init.formats.nf_tables.own_tables import Line, NamedSet
    from istio_init.rules.diff import TableChanges
    from istio_init.rules.model import Plan, Table
    from istio_init.rules.ownership import OwnershipEvidence
    from istio_init.rules.ranges import Family

    Both = dict[Family, Table]

_TRIES = 20
_INET = "inet"
_MAKING = (messages.NEW_SET, messages.NEW_OBJECT, messages.NEW_FLOWTABLE)
# A batch of elements is sent in parts of this size: a socket takes as much
# without rights over the whole machine.
_PART = 1 << 16
# What a line needs of the kernel: what that is called where features are named,
# and the module that brings it.
_OF_TARGETS: dict[type, tuple[str, str]] = {
    t.Redirect: ("REDIRECT", "nft_redir"),
    t.Tproxy: ("TPROXY", "nft_tproxy"),
    t.Reject: ("REJECT", "nft_reject_inet"),
    t.CtZone: ("CT", "nft_ct"),
    t.SaveMark: ("CONNMARK", "nft_ct"),
    t.RestoreMark: ("CONNMARK", "nft_ct"),
}
_OF_CONDITIONS: dict[type, tuple[str, str]] = {
    m.CtState: ("conntrack", "nft_ct"),
    m.ConnMark: ("CONNMARK", "nft_ct"),
    m.Socket: ("socket", "nft_socket"),
}
_OF_HOOKS = {
    "nat": ("nat", "nft_chain_nat"),
    "mangle": ("mangle", "nf_tables_inet"),
    "raw": ("raw", "nf_tables_inet"),
}
SOCKET = ("socket", "nft_socket")


class _Image(Record):
    """A table as it is to be: by name its chains, their rules, and its sets.

    A rule is its expressions and nft's notes beside it, with the line that it is
    written for. ``others`` are messages that make what else is in it. One that
    ``stood`` is a live table again, whatever was in it; any other without chains
    is to be gone.
    """

    name: str
    flags: int
    chains: dict[str, Hooked | None]
    rules: dict[str, tuple[tuple[bytes, bytes, object], ...]]
    sets: dict[str, tuple[Message, ...]]
    others: tuple[tuple[int, bytes], ...] = ()
    stood: bool = False

    @property
    def gone(self) -> bool:
        """Whether there is to be no such table."""
        return not (self.chains or self.stood)


class About(Record):
    """What a message is for: a table, and a line or the place of a base chain in it."""

    table: str
    part: object


class Nftables:
    """Reads and changes our tables in the current network namespace."""

    name = "nftables"

    def __init__(self) -> None:
        self._reader = expressions.Reader()
        self._contents: Contents | None = None
        self._tables: dict[str, Both] = {}
        # What stood there before this object wrote: where it is not what this
        # program writes, it goes back as the kernel told it.
        self._first: tuple[Contents, dict[str, Both]] | None = None

    def read(self, family: Family, needed: frozenset[str]) -> Ruleset:
        """Return our live tables as one family has them.

        Raises:
            UnsupportedError: the kernel has no nf_tables.
            ApplyError: the kernel does not let this process read.
            TableChangedError: others write without a pause.
        """
        self._refresh()
        found = {name: both[family] for name, both in self._tables.items()}
        for name in needed:
            found.setdefault(name, make_table(name, {}))
        return Ruleset(family, tuple(found[name] for name in TABLES if name in found))

    def _refresh(self) -> Contents:
        """Read our tables anew, as of one moment, unless nothing changed since."""
        before = self._contents
        for _ in range(_TRIES):
            now = nfnetlink.generation()
            if before is not None and before.generation == now is not None:
                return before
            found = nfnetlink.contents(nfnetlink.NATIVE_PLACES, now, sets=True)
            if found is None:
                raise UnsupportedError(
                    "this kernel has no nf_tables",
                    remedy="load the module nf_tables on the node, or use --backend legacy",
                ).at(Location(self.name))
            # Of tables of others nobody asked.
            same = before is not None and found.raw == before.raw
            if same or found.generation == nfnetlink.generation():
                if before is None or not same or before is not self._contents:
                    self._tables = dict(self._read(found))
                self._contents = found
                return found
            before = found
        raise TableChangedError

    def _read(self, contents: Contents) -> Iterator[tuple[str, Both]]:
        for name in TABLES:
            both = native.read_table(name, contents, self._reader)
            if both is not None:
                yield name, both

    def wanted(
        self, live: Ruleset, planned: Ruleset, _known: OwnershipEvidence, *, clean: bool
    ) -> Ruleset:
        """Return the plan's tables in canonical form, and every other one of ``live`` empty."""
        return _in_place_of(live, Ruleset(planned.family, ()) if clean else canonical(planned))

    def restored(
        self, live: Ruleset, before: Ruleset, _planned: Ruleset, _known: OwnershipEvidence
    ) -> Ruleset:
        """Return the tables of ``before``, and every other one of ``live`` empty."""
        return _in_place_of(live, before)

    def as_written(self, ruleset: Ruleset) -> Ruleset:
        """Return a rule set in the form in which it is read back once it was written."""
        return canonical(ruleset)

    def commit(self, changes: tuple[TableChanges, ...], results: tuple[Ruleset, ...]) -> None:
        """Exchange the rules of the tables that change, all in one kernel transaction.

        Raises:
            UnsupportedError: nf_tables cannot express a rule.
            ApplyError: the kernel refused; nothing was changed but sets that no
                rule uses.
            TableChangedError: another program changed one of the tables.
        """
        contents = self._refresh()
        if self._first is None:
            self._first = contents, dict(self._tables)
        names = [name for name in TABLES if any(change.table == name for change in changes)]
        images = [self._image(name, results) for name in names]
        exchange = _Exchange(contents, images)
        where = f"backend nftables, {', '.join(NATIVE_TABLES[name] for name in names)}"
        try:
            for batch in exchange.before:
                nfnetlink.commit(batch)
            nfnetlink.commit(exchange.rules)
        except (nfnetlink.RefusedError, nfnetlink.MovedError) as error:
            exchange.take_back()
            raise _refused(error, where) from error
        try:
            nfnetlink.commit(exchange.after)
        except (nfnetlink.RefusedError, nfnetlink.MovedError) as error:
            raise _refused(error, where) from error

    def _image(self, name: str, results: tuple[Ruleset, ...]) -> _Image:
        both = {one.family: one.table(name) or make_table(name, {}) for one in results}
        if self._first is not None:
            contents, tables = self._first
            stood = tables.get(name)
            if stood == {family: both.get(family) for family in FAMILIES}:
                return _as_it_stood(name, contents)
        return _as_planned(name, results)


def _in_place_of(live: Ruleset, after: Ruleset) -> Ruleset:
    return live.replace(
        tables=tuple(after.table(table.name) or make_table(table.name, {}) for table in live.tables)
    )


def _as_planned(name: str, results: tuple[Ruleset, ...]) -> _Image:
    """Return what canonical rule sets make of a table."""
    table = native_table(name, results)
    chains: dict[str, Hooked | None] = {}
    rules: dict[str, tuple[tuple[bytes, bytes, object], ...]] = {}
    for chain in table.chains:
        chains[chain.name] = chain.hooked
        rules[chain.name] = tuple(one for line in chain.lines for one in _rules_of(line))
    if table.divert:
        chains[SOCKET_CHAIN] = None
        written = native.socket_rules(table.divert)
        rules[SOCKET_CHAIN] = tuple((one, b"", SOCKET) for one in written)
    sets = {one.name: tuple(_set_messages(name, one)) for one in table.sets}
    return _Image(name, 0, chains, rules, sets)


def _rules_of(line: Line | ForeignRule) -> Iterator[tuple[bytes, bytes, object]]:
    if isinstance(line, ForeignRule):
        yield (*iptables.kept(line), line)
    else:
        for one in native.encode(line):
            yield one, b"", line


def _set_messages(name: str, one: NamedSet) -> Iterator[Message]:
    """Yield what makes a set, and what fills it."""
    table = NATIVE_TABLES[name]
    yield messages.new_set(
        _INET,
        table,
        one.name,
        flags=messages.CONSTANT | (messages.INTERVAL if one.intervals else 0),
        key=(one.type.number, one.type.size),
        size=len(one.elements),
        order=messages.HOST_ORDER if one.type.host_order else messages.NETWORK_ORDER,
    )
    yield from messages.new_elements(_INET, table, one.name, one.elements)


def _as_it_stood(name: str, contents: Contents) -> _Image:
    """Return a table as the kernel told of it, whatever is in it."""
    native_name = NATIVE_TABLES[name]
    chains = {one.name: one.hooked for one in contents.chains if one.table == native_name}
    rules: dict[str, tuple[tuple[bytes, bytes, object], ...]] = {}
    numbers = {
        one.name: number
        for number, (one, _) in enumerate(contents.sets, 1)
        if one.table == native_name and one.flags & messages.ANONYMOUS
    }
    for one in contents.rules:
        if one.table == native_name:
            bare = expressions.without_counts(one.expressions)
            found = expressions.with_set_numbers(bare, numbers)
            rules[one.chain] = (*rules.get(one.chain, ()), (found, one.notes, None))
    sets = {
        one.name: tuple(messages.set_again(one, elements, number))
        for number, (one, elements) in enumerate(contents.sets, 1)
        if one.table == native_name
    }
    others = tuple(
        (kind, body)
        for kind, body in contents.others
        if messages.read_table(body).name == native_name
    )
    (flags,) = [one.flags for one in contents.tables if one.name == native_name]
    return _Image(name, flags, chains, rules, sets, others, stood=True)


class _Exchange:
    """The batches that make tables what they are to be.

    ``before`` makes sets, ``rules`` exchanges rules, ``after`` deletes what is
    used no more.
    """

    def __init__(self, contents: Contents, images: list[_Image]) -> None:
        self._contents = contents
        self._made: list[Message] = []
        self.rules: list[Message] = []
        self.after: list[Message] = []
        for image in images:
            self._add(image)
        # Tables are there in the same order, whether they have sets or not.
        present = {one.name for one in contents.tables}
        tables = [NATIVE_TABLES[one.name] for one in images if self._made and not one.gone]
        first = [messages.new_table(_INET, one) for one in tables if one not in present]
        self.before = tuple(_parts([*first, *self._made]))
        self._absent = frozenset(tables) - present

    def take_back(self) -> None:
        """Delete the sets that were made before; nothing uses them."""
        back = [messages.delete_table(_INET, one) for one in sorted(self._absent)]
        back += (
            messages.deleted(one.kind, one.body)
            for one in self._made
            if one.kind in _MAKING and messages.read_table(one.body).name not in self._absent
        )
        for one in back:
            # One that was not made yet keeps no other.
            try:
                nfnetlink.commit([one])
            except (nfnetlink.RefusedError, nfnetlink.MovedError):
                continue

    def _add(self, image: _Image) -> None:
        """Add what one table takes."""
        table = NATIVE_TABLES[image.name]
        present = [one for one in self._contents.tables if one.name == table]
        if image.gone:
            if present:
                self.rules.append(messages.delete_table(_INET, table))
            return
        about = About(image.name, None)
        if present and present[0].flags != image.flags:
            # A table that falls asleep, or wakes, cannot get chains meanwhile.
            self.rules.append(messages.delete_table(_INET, table))
            self.rules.append(messages.new_table(_INET, table, image.flags, about))
            objects = (messages.replayed(kind, body) for kind, body in image.others)
            sets = (one for how in image.sets.values() for one in how)
            self._chains(image, table, {}, {}, (*objects, *sets))
            return
        if not present:
            self.rules.append(messages.new_table(_INET, table, image.flags, about))
        made = tuple(self._missing(image, table))
        if not image.stood:
            self._made += made
        there = {one.name: one for one in self._contents.chains if one.table == table}
        rules = _rules_by_chain(self._contents, table)
        # What others made may need chains, and be needed by rules.
        self._chains(image, table, there, rules, made if image.stood else ())
        self._leftovers(image, table)

    def _missing(self, image: _Image, table: str) -> Iterator[Message]:
        """Yield what makes the objects and sets that are not there."""
        objects = {
            (kind, messages.name_in(body))
            for kind, body in self._contents.others
            if messages.read_table(body).name == table
        }
        for kind, body in image.others:
            if (kind, messages.name_in(body)) not in objects:
                yield messages.replayed(kind, body)
        there = {one.name: (one, body) for one, body in self._contents.sets if one.table == table}
        for name, how in image.sets.items():
            if name in there:
                if _holds(there[name], how):
                    continue
                # Nobody but a run that died leaves half a set.
                yield messages.delete_set(_INET, table, name)
            yield from how

    def _chains(
        self,
        image: _Image,
        table: str,
        there: dict[str, KernelChain],
        rules: dict[str, list[tuple[bytes, bytes]]],
        needed: tuple[Message, ...],
    ) -> None:
        """Add what exchanges chains and rules, and ``needed`` before the new rules."""
        gone = [name for name, one in there.items() if not _can_stay(one, image)]
        changed = [
            name
            for name, wanted in image.rules.items()
            if name in gone or rules.get(name, []) != [one[:2] for one in wanted]
        ]
        changed += [name for name in image.chains if name not in image.rules and rules.get(name)]
        # All rules go before any chain that they lead to.
        self.rules += (
            messages.flush_chain(_INET, table, name)
            for name in there
            if (name in gone or name in changed) and rules.get(name)
        )
        self.rules += (messages.delete_chain(_INET, table, name) for name in gone)
        for name, hooked in image.chains.items():
            old = there.get(name)
            if old is None or name in gone or old.hooked != hooked:
                about = About(image.name, hooked)
                self.rules.append(messages.new_chain(_INET, table, name, hooked, about))
        self.rules += needed
        for name in changed:
            for found, notes, line in image.rules.get(name, ()):
                about = About(image.name, line)
                self.rules.append(
                    messages.new_rule(_INET, table, name, found, notes=notes, about=about)
                )

    def _leftovers(self, image: _Image, table: str) -> None:
        wanted = {(kind, messages.name_in(body)) for kind, body in image.others}
        for one, _ in self._contents.sets:
            # A set without a name goes with its rule.
            named = one.table == table and not one.flags & messages.ANONYMOUS
            if named and one.name not in image.sets:
                self.after.append(messages.delete_set(_INET, table, one.name))
        for kind, body in self._contents.others:
            name = messages.name_in(body)
            if messages.read_table(body).name == table and (kind, name) not in wanted:
                self.after.append(messages.deleted(kind, body))


def _holds(there: tuple[messages.KernelSet, tuple[bytes, ...]], made: tuple[Message, ...]) -> bool:
    """Whether a set has all that the messages which make it put into it."""
    wanted = {one for message in made[1:] for one in messages.read_elements(message.body)}
    found = {one for body in there[1] for one in messages.read_elements(body)}
    return wanted == found


def _rules_by_chain(contents: Contents, table: str) -> dict[str, list[tuple[bytes, bytes]]]:
    found: dict[str, list[tuple[bytes, bytes]]] = {}
    for one in contents.rules:
        if one.table == table:
            bare = expressions.without_counts(one.expressions)
            found.setdefault(one.chain, []).append((bare, one.notes))
    return found


def _can_stay(chain: KernelChain, image: _Image) -> bool:
    """Whether a live chain is one of those wanted; of a base chain the policy can change."""
    if chain.name not in image.chains:
        return False
    wanted = image.chains[chain.name]
    if chain.hooked is None or wanted is None:
        return chain.hooked is wanted
    return chain.hooked.replace(policy=wanted.policy) == wanted


def _parts(batch: list[Message]) -> Iterator[list[Message]]:
    """Yield a batch in parts that a socket takes; nothing uses what they make yet."""
    part: list[Message] = []
    size = 0
    for one in batch:
        if part and size + len(one.body) > _PART:
            yield part
            part, size = [], 0
        part.append(one)
        size += len(one.body)
    if part:
        yield part


def needs(plan: Plan) -> list[tuple[str, str]]:
    """Return what a plan needs of the kernel: as features are named, and the kernel module."""
    found: dict[tuple[str, str], None] = {}
    rulesets = tuple(canonical(one) for one in plan.rulesets)
    for name in TABLES:
        for chain in native_table(name, rulesets).chains:
            if chain.hooked is not None:
                found |= dict.fromkeys(_needs_of_part(name, chain.hooked))
            for line in chain.lines:
                found |= dict.fromkeys(_needs_of_part(name, line))
    return list(found)


def _needs_of_part(table: str, part: object) -> list[tuple[str, str]]:
    from istio_init.formats.nf_tables.own_tables import Line

    if isinstance(part, Line):
        found = [_OF_TARGETS[kind] for kind in (type(part.group.target),) if kind in _OF_TARGETS]
        conditions = (type(one) for one in part.group.conditions)
        return found + [_OF_CONDITIONS[kind] for kind in conditions if kind in _OF_CONDITIONS]
    if isinstance(part, messages.Hooked):
        return [_OF_HOOKS[table]] if table in _OF_HOOKS else []
    return [SOCKET] if part == SOCKET else []


def _refused(
    error: nfnetlink.RefusedError | nfnetlink.MovedError, where: str
) -> ApplyError | TableChangedError:
    """Return the error with the line that the kernel stumbled over, and what that needs."""
    if isinstance(error, nfnetlink.MovedError):
        return TableChangedError()
    message = error.message
    about = message.about if message else None
    if isinstance(about, About) and about.part is not None:
        return _refused_part(error, about)
    if error.number in (ENOENT, EEXIST, EBUSY):
        # What was to be changed is gone, or what was to be made is there.
        return TableChangedError()
    failure = ApplyError("the kernel refused the rules", where=where, why=str(error))
    if error.number == EPERM:
        failure.remedy = "another process owns the table; use --backend nft or legacy"
    elif error.number in (EMSGSIZE, ENOBUFS, E2BIG):
        failure.remedy = "run with NET_ADMIN outside of a user namespace, or use --backend legacy"
    return failure.at(Location(Nftables.name))


def _refused_part(error: nfnetlink.RefusedError, about: About) -> ApplyError:
    from istio_init.formats import nft_script
    from istio_init.formats.nf_tables.own_tables import Line

    part, table = about.part, about.table
    text, flag = "", ""
    if isinstance(part, Line):
        text, flag = next(nft_script.rule_lines(part)), part.group.reason.flag
    elif isinstance(part, messages.Hooked):
        text = nft_script.hook_line(part)
    elif part == SOCKET:
        text = next(nft_script.socket_lines(CHAIN_NAMES["ISTIO_DIVERT"]))
    needed = _needs_of_part(table, part)
    remedy = ""
    if needed:
        modules = ", ".join(dict.fromkeys(module for _, module in needed))
        remedy = (
            f"see that the kernel is 5.10 or newer and has {modules}, or use --backend nft or "
            "legacy"
        )
    failure = ApplyError(
        "the kernel refused the rules",
        where=f"backend nftables, {NATIVE_TABLES[table]}",
        why=f"{error} at: {text}" if text else str(error),
        remedy=remedy,
    )
    failure.missing = frozenset(name for name, _ in needed)
    return failure.at(Location(Nftables.name, table=table, rule=text, flag=flag))
