"""The rules in tables of our own in nf_tables, through the nft program.

nft is run, rather than a library loaded, because there is none to rely on: the
bindings of libnftables come with Debian and not from PyPI, where the only copy
follows nft 1.0.2, and pyroute2 cannot list rules as what they say.

Nobody else has business in these tables, so each is replaced as a whole, all of
them and both families in one kernel transaction. That needs nothing of what
stood there before: a table that vanished or appeared meanwhile makes no
difference.
"""

from __future__ import annotations

from istio_init.apply import nfnetlink, programs
from istio_init.apply.base import TableChangedError
from istio_init.compact import canonical, canonical_table
from istio_init.errors import ApplyError, UnsupportedError
from istio_init.model import (
    BUILTIN_CHAINS,
    IPV4,
    IPV6,
    TABLES,
    Chain,
    ForeignRule,
    Ruleset,
    make_table,
)
from istio_init.planner.shared import NATIVE_TABLES, OWN_CHAINS
from istio_init.render import nft as script
from istio_init.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from istio_init.apply.programs import Finished
    from istio_init.diff import TableChanges
    from istio_init.model import Family, Table
    from istio_init.ownership import Traces

    Both = dict[Family, Table]

_TRIES = 20
_INSTEAD = "install nftables 1.0, or use --backend nft or legacy"
_WHERE_IT_STOPPED = "/dev/stdin:"
# What a line of the script needs, by words in it: what that is called where
# features are named, and the kernel module that brings it.
_NEEDS = {
    "type nat": ("nat", "nft_chain_nat"),
    "type route": ("mangle", "nf_tables_inet"),
    "priority -300": ("raw", "nf_tables_inet"),
    "priority -150": ("mangle", "nf_tables_inet"),
    "redirect": ("REDIRECT", "nft_redir"),
    "tproxy": ("TPROXY", "nft_tproxy"),
    "socket": ("socket", "nft_socket"),
    "reject": ("REJECT", "nft_reject_inet"),
    "ct zone": ("CT", "nft_ct"),
    "ct state": ("conntrack", "nft_ct"),
    "ct mark": ("CONNMARK", "nft_ct"),
}


class Nftables:
    """Reads and replaces our tables in the current network namespace."""

    name = "nftables"

    def __init__(self) -> None:
        # What was read last, and the generation of nf_tables that it is from:
        # while that lasts, reading again would give the same.
        self._generation: int | None = None
        self._tables: dict[str, Both] = {}
        # Tables that this program did not write, as nft prints them: what they
        # were read as is not enough to write them again.
        self._listings: list[tuple[str, Both, str]] = []

    def read(self, family: Family, needed: frozenset[str]) -> Ruleset:
        """Return our live tables as one family has them; no program runs where there are none.

        Raises:
            UnsupportedError: nf_tables or a fit nft is missing.
            ApplyError: the kernel does not let this process read.
            TableChangedError: another program never leaves time for it.
        """
        self._refresh()
        found = {name: both[family] for name, both in self._tables.items()}
        for name in needed:
            found.setdefault(name, make_table(name, {}))
        return Ruleset(family, tuple(found[name] for name in TABLES if name in found))

    def _refresh(self) -> None:
        for _ in range(_TRIES):
            generation = nfnetlink.generation()
            if generation is not None and generation == self._generation:
                return
            present = nfnetlink.tables()
            if present is None:
                raise UnsupportedError(
                    "this kernel has no nf_tables: load the module nf_tables on the node, or use "
                    "--backend legacy"
                )
            names = [name for name in TABLES if ("inet", NATIVE_TABLES[name]) in present]
            try:
                self._tables = {name: self._listed(name) for name in names}
            except ApplyError:
                # Was it there to be read?
                if nfnetlink.generation() == generation:
                    raise
                continue
            if nfnetlink.generation() == generation:
                self._generation = generation
                return
        raise TableChangedError

    def _listed(self, name: str) -> Both:
        listing = ("list", "table", "inet", NATIVE_TABLES[name])
        where = f"backend nftables, {NATIVE_TABLES[name]}"
        both = _parsed(name, _run("-j", *listing, where=where))
        if both is None or not all(_is_canonical(table) for table in both.values()):
            text = _run(*listing, where=where)
            both = both or _with_flags(name, text)
            self._listings.append((name, both, text))
        return both

    def wanted(self, live: Ruleset, planned: Ruleset, _known: Traces, *, clean: bool) -> Ruleset:
        """Return the plan's tables in canonical form, and every other one of ``live`` empty."""
        return _in_place_of(live, Ruleset(planned.family, ()) if clean else canonical(planned))

    def restored(
        self, live: Ruleset, before: Ruleset, _planned: Ruleset, _known: Traces
    ) -> Ruleset:
        """Return the tables of ``before``, and every other one of ``live`` empty."""
        return _in_place_of(live, before)

    def commit(self, changes: tuple[TableChanges, ...], results: tuple[Ruleset, ...]) -> None:
        """Replace the tables that change, all in one kernel transaction.

        Raises:
            UnsupportedError: nft is missing or cannot express a rule.
            ApplyError: the kernel refused; nothing was changed.
        """
        changed = frozenset(change.table for change in changes)
        text = "".join(self._text(name, results) for name in TABLES if name in changed)
        where = ", ".join(NATIVE_TABLES[name] for name in TABLES if name in changed)
        done = _nft("-f", "-", text=text, where=f"backend nftables, {where}")
        if done.code != 0:
            raise _refused(done, text, where)

    def _text(self, name: str, results: tuple[Ruleset, ...]) -> str:
        both = {one.family: one.table(name) or make_table(name, {}) for one in results}
        for listed, tables, text in self._listings:
            if listed == name and tables == both:
                return "".join(f"{line}\n" for line in script.emptied(name)) + text
        return script.script(name, results)


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


def _parsed(name: str, text: str) -> Both | None:
    """Return the tables of a listing in JSON, or None for one that is not whole."""
    from istio_init.errors import ParseError
    from istio_init.parse.nft import parse_table

    try:
        return parse_table(text, name)
    except ParseError:
        return None


def _with_flags(name: str, text: str) -> Both:
    """Return the table whose listing in JSON nft 1.0 breaks off at its flags.

    Raises:
        ApplyError: it has none.
    """
    from istio_init.parse.nft import FLAGS

    if "\n\tflags " not in text:
        raise ApplyError(
            "nft does not list the rules as it should",
            where=f"backend nftables, {NATIVE_TABLES[name]}",
            why="what it prints with -j is not the JSON of libnftables",
            remedy=_INSTEAD,
        )
    table = make_table(name, {FLAGS: Chain(FLAGS, None)})
    return {IPV4: table, IPV6: table}


def _nft(*arguments: str, text: str = "", where: str) -> Finished:
    return programs.execute(["nft", *arguments], text, where=where, instead=_INSTEAD)


def _run(*arguments: str, where: str) -> str:
    """Return what nft prints.

    Raises:
        UnsupportedError: nft cannot print JSON.
        ApplyError: it failed.
    """
    done = _nft(*arguments, where=where)
    if done.code == 0:
        return done.output
    if "JSON support not compiled-in" in done.complaints:
        raise UnsupportedError(
            f"the installed nft was built without JSON, in which rules are read back ({where}): "
            f"{_INSTEAD}"
        )
    raise ApplyError(
        "nft cannot read the rules",
        where=where,
        why=_first_line(done.complaints),
        remedy="run as root with the capability NET_ADMIN" if done.denied else "",
    )


def _first_line(complaints: str) -> str:
    lines = [line.strip() for line in complaints.splitlines() if line.strip()]
    return lines[0] if lines else "it does not say why"


def _refused(done: Finished, text: str, where: str) -> ApplyError:
    """Return the error with the line that the kernel stumbled over, and what that needs."""
    why = _first_line(done.complaints)
    failing, table = _failing_line(text, why)
    needs = [found for words, found in _NEEDS.items() if words in failing]
    remedy = ""
    if done.denied:
        remedy = "run as root with the capability NET_ADMIN"
    elif needs:
        modules = ", ".join(dict.fromkeys(module for _, module in needs))
        remedy = (
            f"see that the kernel is 5.10 or newer and has {modules}, or use --backend nft or "
            "legacy"
        )
    error = ApplyError(
        "the kernel refused the rules",
        where=f"backend nftables, {table or where}",
        why=f"{why.partition('Error: ')[2] or why}{failing and f' at: {failing}'}",
        remedy=remedy,
    )
    if not done.denied:
        error.missing = frozenset(name for name, _ in needs)
    return error


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
