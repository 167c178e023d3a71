"""The rules in tables of our own in nf_tables, through the nft program.

nft is run, rather than a library loaded, because there is none to rely on: the
bindings of libnftables come with Debian and not from PyPI, where the only copy
follows nft 1.0.2, and pyroute2 cannot list rules as what they say.

Nobody else has business in these tables, so each is replaced as a whole, all of
them and both families in one kernel transaction. That needs nothing of what
stood there before: a table that vanished meanwhile makes no difference, and
where one appeared that was not there, nothing is written and the run starts over.
"""

from __future__ import annotations

from istio_init.apply.backend import TableChangedError
from istio_init.errors import ApplyError, Location, ParseError, UnsupportedError
from istio_init.formats import nft_script as script
from istio_init.kernel import nfnetlink, process
from istio_init.lean import TYPE_CHECKING
from istio_init.rules.model import BUILTIN_CHAINS, TABLES, Chain, ForeignRule, Ruleset, make_table
from istio_init.rules.names import NATIVE_TABLES, OWN_CHAINS
from istio_init.rules.ranges import FAMILIES
from istio_init.rules.sets import canonical, canonical_table

if TYPE_CHECKING:
    from istio_init.kernel.process import Finished
    from istio_init.rules.diff import TableChanges
    from istio_init.rules.model import Table
    from istio_init.rules.ownership import OwnershipEvidence
    from istio_init.rules.ranges import Family

    Both = dict[Family, Table]

_TRIES = 20
_OURS = frozenset(NATIVE_TABLES.values())
_INSTEAD = "install nftables 1.0, or use --backend nft or legacy"
# Stands for what was given to a table beside chains: mostly that it is asleep.
FLAGS = "flags"
# Of a longer script the echo, one object for each element of a set, takes longer
# than a listing.
_LONGEST_ECHOED = 1 << 14
_WHERE_IT_STOPPED = "/dev/stdin:"
# What a line of the script needs, by words in it: what that is called where
# features are named, and the kernel module that brings it.
_NEEDS = {
    "type nat": ("nat", "nft_chain_nat"),
    "type route": ("mangle", "nf_tables_inet"),
    "priority -300": ("raw", "nf_tables_inet"),
    "priority -150": ("mangle", "nf_tables_inet"),
    "redirect to": ("REDIRECT", "nft_redir"),
    "tproxy ip": ("TPROXY", "nft_tproxy"),
    "socket wildcard": ("socket", "nft_socket"),
    "reject with": ("REJECT", "nft_reject_inet"),
    "ct zone": ("CT", "nft_ct"),
    "ct state": ("conntrack", "nft_ct"),
    "ct mark": ("CONNMARK", "nft_ct"),
}


class Nftables:
    """Reads and replaces our tables in the current network namespace."""

    name = "nftables"

    def __init__(self) -> None:
        # What was read last, the generation of nf_tables that it is from and
        # what the kernel told of it: while either lasts, reading again would
        # give the same.
        self._generation: int | None = None
        self._contents: tuple[bytes, ...] | None = None
        self._tables: dict[str, Both] = {}
        # Tables that this program did not write, as nft prints them: what they
        # were read as is not enough to write them again.
        self._listings: list[tuple[str, Both, str]] = []

    def read(self, family: Family, needed: frozenset[str]) -> Ruleset:
        """Return our live tables as one family has them; no program runs where there are none.

        Raises:
            UnsupportedError: nf_tables or a fit nft is missing.
            ApplyError: the kernel does not let this process read.
        """
        for left in reversed(range(_TRIES)):
            if self._is_fresh() or self._refresh(may_fail=bool(left)):
                break
        found = {name: both[family] for name, both in self._tables.items()}
        for name in needed:
            found.setdefault(name, make_table(name, {}))
        return Ruleset(family, tuple(found[name] for name in TABLES if name in found))

    def _is_fresh(self) -> bool:
        """Whether our tables are as they were read, whatever became of those of others."""
        if self._generation is None and self._contents is None:
            return False
        generation = nfnetlink.generation()
        if generation is None or generation != self._generation:
            if self._contents is None or nfnetlink.contents(_OURS) != self._contents:
                return False
            self._generation = generation
        return True

    def _refresh(self, *, may_fail: bool) -> bool:
        """Read our tables; return whether nothing changed in them meanwhile."""
        self._generation = nfnetlink.generation()
        present = nfnetlink.tables()
        if present is None:
            raise UnsupportedError(
                "this kernel has no nf_tables",
                remedy="load the module nf_tables on the node, or use --backend legacy",
            ).at(Location(self.name))
        names = [name for name in TABLES if ("inet", NATIVE_TABLES[name]) in present]
        others = any(family == "inet" and name not in _OURS for family, name in present)
        self._contents = nfnetlink.contents(_OURS) if names else ()
        try:
            self._tables = self._listed(names, others=others)
        except ApplyError:
            # A table that went before it was read is no error.
            if not may_fail or self._is_fresh():
                raise
        return self._is_fresh()

    def _listed(self, names: list[str], *, others: bool) -> dict[str, Both]:
        """Return our tables of these names, in one run of nft if there is no other table."""
        from istio_init.formats.nft_json import parse_tables

        if len(names) > 1 and not others:
            try:
                return parse_tables(_list("ruleset", "inet", options=("-j",)))
            except ParseError:
                # One of them is asleep.
                pass
        return {name: self._one_listed(name) for name in names}

    def _one_listed(self, name: str) -> Both:
        from istio_init.formats.nft_json import parse_tables

        table = ("table", "inet", NATIVE_TABLES[name])
        try:
            return parse_tables(_list(*table, options=("-j",)))[name]
        except ParseError:
            # nft 1.0 breaks off where a table has flags.
            text = _list(*table)
            if "\n\tflags " not in text:
                raise
        both = dict.fromkeys(FAMILIES, make_table(name, {FLAGS: Chain(FLAGS, None)}))
        self._listings.append((name, both, text))
        return both

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

    def commit(self, changes: tuple[TableChanges, ...], results: tuple[Ruleset, ...]) -> None:
        """Replace the tables that change, all in one kernel transaction.

        Raises:
            UnsupportedError: nft is missing or cannot express a rule.
            ApplyError: the kernel refused; nothing was changed.
            TableChangedError: another program changes what is to be put back
                if this run fails.
        """
        names = [name for name in TABLES if any(change.table == name for change in changes)]
        self._keep_listings(names)
        text = "".join(self._text(name, results) for name in names)
        where = f"backend nftables, {', '.join(NATIVE_TABLES[name] for name in names)}"
        before = nfnetlink.generation()
        # Of a set of ranges nft 1.0 prints the wrong ones in an echo.
        may_echo = len(text) < _LONGEST_ECHOED and script.SET_OF_RANGES not in text
        echo = ("-j", "-e") if may_echo else ()
        done = _nft(*echo, "-f", "-", text=text, where=where)
        if done.code != 0:
            raise _refused(done, text, where, results)
        if echo and before is not None:
            self._note(names, results, done.output, before + 1)

    def _note(
        self, names: list[str], results: tuple[Ruleset, ...], echo: str, generation: int
    ) -> None:
        """Take what the kernel says that it did for what would be read, if nobody else wrote.

        An nft that has no echo in JSON prints something else, and is asked again;
        so it is when the echo is not what was meant.
        """
        from istio_init.formats.nft_json import parse_tables

        try:
            written = parse_tables(echo)
        except ParseError:
            return
        present = nfnetlink.tables() or ()
        as_meant = all(
            (one.table(name) or make_table(name, {})) == both[one.family]
            for name, both in written.items()
            for one in results
        )
        if as_meant and nfnetlink.generation() == generation:
            known = {name: both for name, both in self._tables.items() if name not in names}
            known |= written
            # One that was added to be deleted is in the echo too.
            self._tables = {
                name: both
                for name, both in known.items()
                if ("inet", NATIVE_TABLES[name]) in present
            }
            self._contents = None
            self._generation = generation

    def _keep_listings(self, names: list[str]) -> None:
        """Keep what is going to be replaced and could not be written again otherwise."""
        for name in names:
            both = self._tables.get(name, {})
            known = any(listed == name and tables == both for listed, tables, _ in self._listings)
            if not known and not all(_is_canonical(table) for table in both.values()):
                listing = _list("table", "inet", NATIVE_TABLES[name])
                self._listings.append((name, both, listing))
                if not self._is_fresh():
                    raise TableChangedError

    def _text(self, name: str, results: tuple[Ruleset, ...]) -> str:
        both = {one.family: one.table(name) or make_table(name, {}) for one in results}
        for listed, tables, text in self._listings:
            if listed == name and tables == both:
                return "".join(f"{line}\n" for line in script.emptied(name)) + text
        return script.script(name, results, absent=name not in self._tables)


def _in_place_of(live: Ruleset, after: Ruleset) -> Ruleset:
    return live.replace(
        tables=tuple(after.table(table.name) or make_table(table.name, {}) for table in live.tables)
    )


def _is_canonical(table: Table) -> bool:
    """Whether the script of a table leads to that table again."""
    return all(
        (chain.name in OWN_CHAINS or chain.name in BUILTIN_CHAINS[table.name])
        and not any(isinstance(rule, ForeignRule) for rule in chain.rules)
        for chain in table.chains
    ) and (canonical_table(table) == table)


def _nft(*arguments: str, text: str = "", where: str) -> Finished:
    return process.execute(["nft", *arguments], text, where=where, instead=_INSTEAD)


def _list(*what: str, options: tuple[str, ...] = ()) -> str:
    """Return what nft prints of our tables.

    Raises:
        UnsupportedError: nft cannot print JSON.
        ApplyError: it failed.
    """
    where = f"backend nftables, {what[-1]}"
    done = _nft(*options, "list", *what, where=where)
    if done.code == 0:
        return done.output
    if "JSON support not compiled-in" in done.complaints:
        raise UnsupportedError(
            f"the installed nft was built without JSON, in which rules are read back ({where})",
            remedy=_INSTEAD,
        ).at(Location(Nftables.name))
    raise ApplyError(
        "nft cannot read the rules",
        where=where,
        why=_first_line(done.complaints),
        remedy="run as root with the capability NET_ADMIN" if done.denied else "",
    ).at(Location(Nftables.name))


def _first_line(complaints: str) -> str:
    lines = [line.strip() for line in complaints.splitlines() if line.strip()]
    return lines[0] if lines else "it does not say why"


def needs(text: str) -> list[tuple[str, str]]:
    """Return what lines of a script need: as features are named, and the kernel module."""
    return [found for words, found in _NEEDS.items() if words in text]


def _refused(done: Finished, text: str, where: str, results: tuple[Ruleset, ...]) -> ApplyError:
    """Return the error with the line that the kernel stumbled over, and what that needs."""
    why = _first_line(done.complaints)
    failing, table = _failing_line(text, why)
    needed = needs(failing)
    remedy = ""
    if done.denied:
        remedy = "run as root with the capability NET_ADMIN"
    elif needed:
        modules = ", ".join(dict.fromkeys(module for _, module in needed))
        remedy = (
            f"see that the kernel is 5.10 or newer and has {modules}, or use --backend nft or "
            "legacy"
        )
    error = ApplyError(
        "the kernel refused the rules",
        where=f"backend nftables, {table}" if table else where,
        why=f"{why.partition('Error: ')[2] or why}{failing and f' at: {failing}'}",
        remedy=remedy,
    )
    if not done.denied:
        error.missing = frozenset(name for name, _ in needed)
    for name, native in NATIVE_TABLES.items():
        if native == table:
            flag = script.flag_of(failing, name, results)
            return error.at(Location(Nftables.name, table=name, rule=failing, flag=flag))
    return error.at(Location(Nftables.name))


def _failing_line(text: str, complaint: str) -> tuple[str, str]:
    """Return the line of the script that a complaint names, and its table."""
    _, found, rest = complaint.partition(_WHERE_IT_STOPPED)
    digits = rest.partition(":")[0]
    lines = text.splitlines()
    number = int(digits) if found and digits.isdigit() else 0
    if not 0 < number <= len(lines):
        return "", ""
    line = lines[number - 1].strip()
    if line.startswith("chain "):
        # What is wrong with a chain stands in its first line.
        line += f" {lines[number].strip()}"
    heads = [one for one in lines[:number] if "table inet " in one]
    return line, heads[-1].partition("table inet ")[2].split()[0] if heads else ""
