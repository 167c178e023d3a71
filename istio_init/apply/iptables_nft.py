"""The rules of iptables in nf_tables, through iptables-nft-save and -restore."""

from __future__ import annotations

from istio_init.errors import ApplyError, Location, UnsupportedError
from istio_init.formats.iptables import restore_words, rule_words, tool
from istio_init.formats.save_reader import parse_save
from istio_init.kernel import nfnetlink, process
from istio_init.lean import TYPE_CHECKING
from istio_init.rules import ownership
from istio_init.rules.model import BUILTIN_CHAINS, TABLES, Ruleset, jump_of, make_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.kernel.process import Finished
    from istio_init.rules.diff import Change, TableChanges
    from istio_init.rules.model import ForeignRule, Rule
    from istio_init.rules.ranges import Family

_NFT_FAMILY = {"ipv4": "ip", "ipv6": "ip6"}
_SAVE = {"ipv4": "iptables-nft-save", "ipv6": "ip6tables-nft-save"}
_RESTORE = {"ipv4": "iptables-nft-restore", "ipv6": "ip6tables-nft-restore"}


class ProgramError(ApplyError):
    """A program of iptables-nft ended with an error."""


class IptablesNft:
    """Reads and changes the tables of iptables-nft in the current network namespace."""

    name = "nft"
    wanted = staticmethod(ownership.wanted)
    restored = staticmethod(ownership.restored)

    def __init__(self) -> None:
        # What was written last, and the generation of nf_tables that it made; and
        # the one in which each family was last read.
        self._written: dict[Family, Ruleset] = {}
        self._generation: int | None = None
        self._read_in: dict[Family, int | None] = {}

    def read(self, family: Family, needed: frozenset[str]) -> Ruleset:
        """Return the live tables; no program runs where there are none.

        None runs either for what this object wrote and nobody touched since: the
        kernel took it in whole, and was asked for the rules of each chain.

        Raises:
            UnsupportedError: nf_tables or the programs of iptables-nft are
                missing, or a table holds what they cannot show.
            ApplyError: the kernel does not let this process read.
        """
        generation = nfnetlink.generation()
        if family in self._written and generation == self._generation:
            return self._written[family]
        self._read_in[family] = generation
        chains = nfnetlink.chains()
        if chains is None:
            raise UnsupportedError(
                "this kernel has no nf_tables",
                remedy="load the module nf_tables on the node, or use --backend legacy",
            ).at(Location(self.name, family))
        tables = {
            chain.table
            for chain in chains
            if chain.family == _NFT_FAMILY[family] and chain.table in BUILTIN_CHAINS
        }
        live = Ruleset(family, ())
        if tables:
            text = _execute(_SAVE[family], "", where=f"backend nft, {family}")
            if "is incompatible" in text:
                raise UnsupportedError(
                    f"a table of {tool(family)} holds rules that iptables-nft cannot show "
                    f"(backend nft, {family})",
                    remedy="look at it with nft list ruleset, or use --backend nftables",
                ).at(Location(self.name, family))
            live = parse_save(text, family)
        found = {table.name: table for table in live.tables}
        for name in needed:
            found.setdefault(name, make_table(name, {}))
        return Ruleset(family, tuple(found[name] for name in TABLES if name in found))

    def commit(self, changes: tuple[TableChanges, ...], results: tuple[Ruleset, ...]) -> None:
        """Change tables: one run of iptables-nft-restore a family, one transaction a table.

        Raises:
            ApplyError: the program or the kernel refused.
        """
        self._written.clear()
        before = nfnetlink.generation()
        for family in dict.fromkeys(change.family for change in changes):
            of_family = tuple(change for change in changes if change.family == family)
            lines = [line for change in of_family for line in _lines(change)]
            tables = ", ".join(change.table for change in of_family)
            try:
                _execute(
                    _RESTORE[family],
                    "".join(f"{text}\n" for text, _ in lines),
                    where=f"backend nft, {family}, {tables}",
                )
            except ProgramError as error:
                raise _refused(error, lines, of_family) from error
        if before is not None and set(self._read_in.values()) == {before}:
            self._note(results, before + len(changes))

    def _note(self, results: tuple[Ruleset, ...], generation: int) -> None:
        """Take what was written for what would be read, if nobody else wrote since the last read.

        Each table's commit makes one generation. Rules are counted, not read:
        there is no telling what a rule says without running a program.
        """
        counted = nfnetlink.uses()
        self._generation = generation
        if nfnetlink.generation() != generation:
            return
        for result in results:
            expected = _uses(result)
            if all(counted.get(place, 0) == number for place, number in expected.items()):
                self._written[result.family] = result


def _uses(ruleset: Ruleset) -> dict[nfnetlink.Place, int]:
    """Return how many rules are to stand in each chain or lead to it."""
    found = {}
    for table in ruleset.tables:
        leading = [jump_of(rule) for chain in table.chains for rule in chain.rules]
        for chain in table.chains:
            place = nfnetlink.Place(_NFT_FAMILY[ruleset.family], table.name, chain.name)
            found[place] = len(chain.rules) + leading.count(chain.name)
    return found


def _lines(change: TableChanges) -> Iterator[tuple[str, Change | None]]:
    """Yield the lines of iptables-restore, each with the step it stands for."""
    yield f"*{change.table}", None
    for step in change.steps:
        yield _line(step, change.family), step
    yield "COMMIT", None


def _line(step: Change, family: Family) -> str:
    """Return a step as iptables-restore takes it.

    A rule is deleted by what it says, not by its number: a number would name
    another rule if somebody else's went meanwhile.
    """
    match step.verb:
        case "create-chain":
            return f":{step.chain} - [0:0]"
        case "delete-chain":
            return f"-X {step.chain}"
        case "flush":
            return f"-F {step.chain}"
        case "append":
            return f"-A {step.chain} {_spelled(step.rule, family)}"
        case "insert":
            return f"-I {step.chain} {step.index + 1} {_spelled(step.rule, family)}"
        case "delete":
            return f"-D {step.chain} {_spelled(step.rule, family)}"


def _spelled(rule: Rule | ForeignRule | None, family: Family) -> str:
    if rule is None:
        raise ValueError("a step without its rule")
    return " ".join(restore_words(rule_words(rule, family)))


def _execute(program: str, text: str, *, where: str) -> str:
    """Run a program of iptables-nft; return what it printed.

    Raises:
        UnsupportedError: it is not installed.
        ProgramError: it failed.
        ApplyError: it did not come to an end.
    """
    done = process.execute(
        [program, "--noflush"] if text else [program],
        text,
        where=where,
        instead="install iptables 1.8, or use --backend nftables or legacy",
    )
    if done.code != 0:
        raise _failed(program, done, where)
    return done.output


def _failed(program: str, done: Finished, where: str) -> ProgramError:
    lines = [line.strip() for line in done.complaints.splitlines() if line.strip()]
    # The first complaint is the cause; a rule that failed fails those behind it too.
    said = [line for line in lines if "arning" not in line and not line.endswith("(nf_tables):")]
    return ProgramError(
        f"{program} failed",
        where=where,
        why=said[0] if said else "it does not say why",
        remedy="run as root with the capability NET_ADMIN" if done.denied else "",
    )


def _refused(
    error: ProgramError,
    lines: list[tuple[str, Change | None]],
    changes: tuple[TableChanges, ...],
) -> ProgramError:
    """Return the error with the rule that the program stumbled over, and what that needs."""
    family = changes[0].family
    number = _line_number(error.why)
    if not 0 < number <= len(lines):
        return error.at(Location(IptablesNft.name, family))
    from istio_init.kernel import modules

    text, step = lines[number - 1]
    error.why += f" at: {text}"
    if step:
        (table,) = [one.table for one in changes if any(step is other for other in one.steps)]
        error.at(modules.location(IptablesNft.name, family, table, step))
    needed = modules.needed((step,), family) if step else ()
    if needed and not error.remedy:
        names = ", ".join(feature.module for feature in needed)
        error.missing = frozenset(feature.name for feature in needed)
        error.remedy = f"see that the kernel has the modules nft_compat, {names}"
        if any(feature.name == "owner" for feature in needed):
            error.remedy += ", and that this user namespace knows the uid or gid"
    return error


def _line_number(message: str) -> int:
    """Return the number of the input line that a message names, 0 where it names none."""
    _, found, rest = message.partition("line")
    digits = rest.lstrip(": ").partition(" ")[0].rstrip(":.")
    return int(digits) if found and digits.isdigit() else 0
