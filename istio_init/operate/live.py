"""What the kernel holds for a family now, in every backend; read, and nothing else."""

from __future__ import annotations

from istio_init.apply import detect
from istio_init.config.model import BACKENDS
from istio_init.diagnose.trace import NATIVE, Rules, UnreadChain
from istio_init.errors import UnsupportedError
from istio_init.kernel import nfnetlink
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.rules.names import NAT, NATIVE_TABLES
from istio_init.rules.ranges import IPV4

if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.apply.backend import Applier
    from istio_init.config.model import Backend, BackendChoice
    from istio_init.diagnose.packet import Hook
    from istio_init.rules.model import Ruleset
    from istio_init.rules.ranges import Family

_NFT_FAMILY = {"ipv4": "ip", "ipv6": "ip6"}
_READ = nfnetlink.IPTABLES_PLACES | nfnetlink.NATIVE_PLACES
_HOOKS: dict[str, Hook] = {"prerouting": "PREROUTING", "output": "OUTPUT"}
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
            notes += _strange(ruleset, kind)
            working = awake(ruleset)
            if working.tables:
                present.append(Rules(working, kind))
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
    for one in nfnetlink.chains() or ():
        place = one.family, one.table
        hook = _HOOKS.get(one.hooked.hook) if one.hooked and one.hooked.type == NAT else None
        if hook is None or one.hooked is None or place in _READ:
            continue
        if one.family in ("inet", _NFT_FAMILY[family]) and nfnetlink.has_rules(place):
            first = one.hooked.priority <= _NAT_PRIORITY
            yield UnreadChain(hook, " ".join(place), one.name, first)


def awake(ruleset: Ruleset) -> Ruleset:
    """Return the rules without the tables that have no effect."""
    tables = (one for one in ruleset.tables if not any(odd.idle for odd in one.oddities))
    return ruleset.replace(tables=tuple(tables))


def _strange(ruleset: Ruleset, kind: Backend) -> Iterator[str]:
    """Yield a sentence for each thing in tables that cannot be followed."""
    for table in ruleset.tables:
        name = f"inet {NATIVE_TABLES[table.name]}"
        if kind != NATIVE:
            name = f"{_NFT_FAMILY[ruleset.family]} {table.name}"
        for odd in table.oddities:
            if odd.idle:
                yield f"without effect: the table {name}: {odd.name}: {odd.consequence}"
            else:
                yield f"not understood: {odd.name} in the table {name}"


def _of_others(family: Family) -> Iterator[str]:
    """Yield a sentence for each table of nft's that no backend of ours reads."""
    other = "ip6" if family == IPV4 else "ip"
    for where, name in sorted((one.family, one.name) for one in nfnetlink.tables() or ()):
        if (where, name) not in _READ and where != other:
            yield f"not looked at: the table {where} {name} of nft"
