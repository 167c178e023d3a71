"""Rules, chains and tables as typed data, the same for both families and every backend.

A rule is spelled, encoded, compared and explained from these values only.
"""

from __future__ import annotations

from istio_init.lean import TYPE_CHECKING, Record
from istio_init.rules import matches as m
from istio_init.rules import targets as t

if TYPE_CHECKING:
    from typing import Literal

    from istio_init.rules.ranges import Family, IdRange, Network, PortRange

    ChainEnd = Literal["head", "tail"]

    # What a rule does for the pod's traffic. What its absence means is told from
    # this alone, in ``diagnose.effects``.
    Effect = Literal[
        "captures inbound",
        "captures outbound",
        "captures a virtual machine",
        "captures DNS",
        "self-call through the proxy",
        "the proxy's own traffic",
        "delivers to the application",
        "left alone",
        "finds the proxy's socket",
        "carries marks",
        "keeps zones",
        "drops invalid",
        "shuts IPv6",
        "admits answers",
        "ends the chain",
        "not known",
    ]
    # A flag's value as it was parsed; ``str`` of it is how a user would write it.
    Value = str | int | IdRange | Network | PortRange

HEAD: ChainEnd = "head"
TAIL: ChainEnd = "tail"


# In the order in which a packet meets the tables, with the built-in chains in
# the order in which the kernel keeps (and iptables -S prints) them.
BUILTIN_CHAINS: dict[str, tuple[str, ...]] = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}


TABLES = tuple(BUILTIN_CHAINS)


class Reason(Record):
    """Why a planned rule is there.

    ``flag`` put it there (LAYOUT where no other flag can take it away). ``value`` is
    the part of the flag's value that it comes from, ``""`` where it comes from the
    whole or the flag is a switch. ``effect`` is what the rule does, ``text`` one
    sentence that says why it has to be there, ``source`` the release and the
    function that it was taken from.
    """

    flag: str = ""
    value: Value = ""
    effect: Effect = "not known"
    text: str = ""
    source: str = ""

    def of(self, value: Value) -> Reason:
        """Return this reason for one value of its flag."""
        return Reason(self.flag, value, self.effect, self.text, self.source)


# The flag of rules that every plan of a layout has.
LAYOUT = "--layout"
# The reason of a rule that no plan has made.
UNKNOWN = Reason()


class Rule(Record):
    """A rule of ours: what it matches, in printing order, and what it does.

    ``place`` says at which end of a chain shared with others it stands, ``reason``
    why the planner put it there. The kernel cannot give these two back, so two
    rules are equal without them.
    """

    matches: tuple[m.Match, ...]
    target: t.Target
    place: ChainEnd = TAIL
    reason: Reason = UNKNOWN

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Rule)
            and self.matches == other.matches
            and self.target == other.target
        )

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((self.matches, self.target))


class ForeignRule(Record):
    """A live rule with parts this program never writes, kept as it was read.

    ``raw`` is the text (after ``-A CHAIN``) or the entry's bytes with counters
    cleared; ``jump`` is the chain it goes to, ``""`` when it goes to none.
    ``text`` stands for bytes as far as they are understood.
    """

    raw: str | bytes
    jump: str = ""
    text: str = ""

    @property
    def spelled(self) -> str:
        """The words that follow ``-A CHAIN``; of bytes, those that are understood."""
        return self.raw if isinstance(self.raw, str) else self.text


def words_of(text: str) -> list[str]:
    """Return the words of a rule as it is printed; what stands in quotes is one of them."""
    if '"' in text:
        import shlex

        try:
            return shlex.split(text)
        except ValueError:
            # Quotes without an end are not iptables' own.
            pass
    return text.split()


def jump_of(one: Rule | ForeignRule) -> str:
    """Return the chain that a rule jumps to, or ``""``."""
    if isinstance(one, ForeignRule):
        return one.jump
    return one.target.chain if isinstance(one.target, t.Jump) else ""


def reason_of(one: Rule | ForeignRule | None) -> Reason:
    """Return why a rule is there; that of a rule of others is not known."""
    return one.reason if isinstance(one, Rule) else UNKNOWN


def rule(
    *matches: m.Match, target: t.Target, place: ChainEnd = TAIL, reason: Reason = UNKNOWN
) -> Rule:
    """Return a rule with its matches brought into the order in which they print.

    A match on the whole address space or on every interface (``+``) does not
    exist for the kernel, and is left out.
    """
    kept = [match for match in matches if not m.matches_everything(match)]
    if len(kept) > 1:
        kept.sort(key=m.print_rank)
    return Rule(tuple(kept), target, place, reason)


class Chain(Record):
    """A chain; ``policy`` is None for a user-defined one."""

    name: str
    policy: str | None
    rules: tuple[Rule | ForeignRule, ...] = ()


class Oddity(Record):
    """Something about a live table, beside its rules, that no run of this program makes so.

    ``consequence`` says what comes of it; with ``idle`` it is that no rule of the
    table, or none of a built-in chain of it, has any effect.
    """

    name: str
    consequence: str
    idle: bool = False


class Table(Record):
    """A table: its built-in chains in kernel order, then the others by name."""

    name: str
    chains: tuple[Chain, ...]
    oddities: tuple[Oddity, ...] = ()

    def chain(self, name: str) -> Chain | None:
        """Return the chain called ``name``, or None."""
        for chain in self.chains:
            if chain.name == name:
                return chain
        return None


def make_table(name: str, chains: dict[str, Chain], oddities: tuple[Oddity, ...] = ()) -> Table:
    """Return the table with its chains in the kernel's order.

    Built-in chains that ``chains`` lacks are empty and accept.
    """
    builtin = BUILTIN_CHAINS[name]
    shared = [chains.get(chain, Chain(chain, "ACCEPT")) for chain in builtin]
    own = [chains[chain] for chain in sorted(chains) if chain not in builtin]
    return Table(name, (*shared, *own), oddities)


class Ruleset(Record):
    """The tables of one family, in TABLES order; untouched tables are absent."""

    family: Family
    tables: tuple[Table, ...]

    def table(self, name: str) -> Table | None:
        """Return the table called ``name``, or None."""
        for table in self.tables:
            if table.name == name:
                return table
        return None


class PolicyRoute(Record):
    """Packets with ``mark`` are looked up in route table ``table``, where all is local."""

    family: Family
    mark: int
    table: int


class Plan(Record):
    """Everything one run puts in place.

    ``rulesets`` holds IPv4 first, then IPv6; a family without rules has a
    ruleset without tables. ``addresses`` go on ``lo``. ``warnings`` are
    sentences for the operator, not errors.
    """

    layout: str
    rulesets: tuple[Ruleset, ...]
    routes: tuple[PolicyRoute, ...] = ()
    addresses: tuple[Network, ...] = ()
    warnings: tuple[str, ...] = ()

    def ruleset(self, family: Family) -> Ruleset:
        """Return the rules of one family."""
        for ruleset in self.rulesets:
            if ruleset.family == family:
                return ruleset
        return Ruleset(family, ())
