"""What the kernel holds for a family now, in every backend; read, and nothing else."""

from __future__ import annotations

from istio_init.apply import detect
from istio_init.config.model import BACKENDS
from istio_init.diagnose.trace import NATIVE, Rules, UnreadChain
from istio_init.errors import UnsupportedError
from istio_init.kernel import nfnetlink
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.rules.model import BUILTIN_CHAINS
from istio_init.rules.names import NATIVE_TABLES, OWN_CHAINS
from istio_init.rules.ranges import IPV4

if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.apply.backend import Applier
    from istio_init.config.model import BackendChoice
    from istio_init.rules.model import Ruleset
    from istio_init.rules.ranges import Family

_NFT_FAMILY = {"ipv4": "ip", "ipv6": "ip6"}
_READ_INET = frozenset(("inet", name) for name in NATIVE_TABLES.values())
# Of the nat tables of every backend, where destinations are chosen.
_NAT_PRIORITY = -100


class LiveRules(Record):
    """The rules of a family, backend by backend, and sentences on what was not read.

    ``unread`` are the chains of others that may translate packets.
    """

    rules: tuple[Rules, ...]
    notes: tuple[str, ...]
    unread: tuple[UnreadChain, ...] = ()


def read(family: Family) -> LiveRules:
    """Return the rules of every backend that has any.

    A table that nobody uses is not looked at: reading it would create it.

    Raises:
        ApplyError: the kernel does not let this process look.
    """
    made: dict[BackendChoice, Applier] = {}
    evidence = detect.look(made)
    present: list[Rules] = []
    notes: list[str] = []
    for kind in BACKENDS:
        if kind in evidence.ours | evidence.others:
            try:
                ruleset = detect.applier(kind, made).read(family, frozenset())
            except UnsupportedError as error:
                notes.append(f"not looked at: {error}")
                continue
            if ruleset.tables:
                present.append(Rules(ruleset, kind))
            if kind == NATIVE:
                notes += _strange(ruleset)
        elif kind in evidence.unseen:
            notes.append(f"not looked at: reading the tables of backend {kind} would create them")
    if sum(rules.ruleset.table("nat") is not None for rules in present) > 1:
        notes.append(
            "several backends have a nat table: the one that was registered last is asked first"
        )
    return LiveRules(tuple(present), (*notes, *_of_others(family)), tuple(unread_chains(family)))


def unread_chains(family: Family) -> Iterator[UnreadChain]:
    """Yield the chains in which tables of others, which nobody reads, may translate packets.

    Raises:
        ApplyError: the kernel does not let this process look.
    """
    for one in nfnetlink.nat_chains():
        known = ("inet", one.table) in _READ_INET or (
            one.family == _NFT_FAMILY[family] and one.table in BUILTIN_CHAINS
        )
        if not known and one.family in ("inet", _NFT_FAMILY[family]):
            name = f"{one.family} {one.table}"
            first = one.priority <= _NAT_PRIORITY
            yield UnreadChain(one.hook, name, one.chain, first)


def _strange(ruleset: Ruleset) -> Iterator[str]:
    """Yield a sentence for each thing in our own tables that cannot be followed."""
    for table in ruleset.tables:
        for chain in table.chains:
            if chain.name not in OWN_CHAINS and chain.name not in BUILTIN_CHAINS[table.name]:
                yield f"not understood: {chain.name} in the table inet {NATIVE_TABLES[table.name]}"


def _of_others(family: Family) -> Iterator[str]:
    """Yield a sentence for each table of nft's that no backend of ours reads."""
    read_by_us = _READ_INET | {(_NFT_FAMILY[family], name) for name in BUILTIN_CHAINS}
    other = "ip6" if family == IPV4 else "ip"
    for where, name in sorted(nfnetlink.tables() or ()):
        if (where, name) not in read_by_us and where != other:
            yield f"not looked at: the table {where} {name} of nft"
