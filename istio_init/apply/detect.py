"""Which backend to use, decided without changing, or creating, anything.

Where rules of ours stand already decides; then where rules of others stand;
then what the kernel offers. A table that nobody has used is not looked at:
reading it would create it, and the next run would take it for used.
"""

from __future__ import annotations

from istio_init.config.model import BACKENDS
from istio_init.errors import UnsupportedError
from istio_init.kernel import nfnetlink
from istio_init.kernel.host import legacy_tables, may_open_legacy_tables
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.rules.ownership import has_ours, own_chains
from istio_init.rules.ranges import FAMILIES

if TYPE_CHECKING:
    from istio_init.apply.backend import Applier
    from istio_init.config.model import Backend, BackendChoice
    from istio_init.kernel.nfnetlink import TablePlace


class Evidence(Record):
    """What was found in the kernel: which backends it has, and whose rules are in each.

    Of those that are ``unseen`` nobody may know without creating what is not there;
    those that are ``denied`` this process may not use. Where others made one
    ``unfit``, rules of ours would have no effect or could not be listed.
    """

    available: frozenset[Backend]
    ours: frozenset[Backend]
    others: frozenset[Backend]
    unseen: frozenset[Backend] = frozenset()
    denied: frozenset[Backend] = frozenset()
    unfit: frozenset[Backend] = frozenset()


def choose(evidence: Evidence) -> Backend:
    """Return the backend for a run.

    The same evidence always gives the same backend, and a run leaves evidence
    for the one it used.

    Raises:
        UnsupportedError: the kernel has none.
    """
    allowed = evidence.available - evidence.denied
    fit = evidence.available - evidence.unfit
    # Who keeps nf_tables for himself is best left alone in tables of our own.
    instead = frozenset({"nftables"} if "nft" in evidence.unfit else ())
    # What is denied, where there is nothing else, says best itself what it lacks.
    wished = (evidence.ours & evidence.available, evidence.others & fit, instead & fit)
    for found in (*wished, allowed & fit, allowed, evidence.available):
        for kind in BACKENDS:
            if kind in found:
                return kind
    raise UnsupportedError(
        "this kernel has neither ip_tables nor nf_tables",
        remedy="load one of these modules on the node",
    )


def look(made: dict[BackendChoice, Applier] | None = None) -> Evidence:
    """Return the evidence of this network namespace.

    A backend whose rules had to be read goes into ``made``, so that ``applier``
    need not read them again.

    Raises:
        ApplyError: the kernel does not let this process look.
    """
    available: set[Backend] = set()
    ours: set[Backend] = set()
    others: set[Backend] = set()
    unseen: set[Backend] = set()
    try:
        used = [legacy_tables(family) for family in FAMILIES]
    except PermissionError:
        available.add("legacy")
        unseen.add("legacy")
    else:
        # IPv4 decides: a kernel without ip_tables has no use for ip6_tables.
        if used[0] is not None:
            available.add("legacy")
        if any(used):
            _look_at_legacy(ours, others, {} if made is None else made)
    unfit: set[Backend] = set()
    tables = nfnetlink.tables()
    if tables is not None:
        available |= {"nft", "nftables"}
        places = {(one.family, one.name) for one in tables}
        unfit = _look_at_nf_tables(places, ours, others, {} if made is None else made)
    # What may stand in tables that nobody may see has to be known first.
    denied: set[Backend] = set() if unseen or may_open_legacy_tables() else {"legacy"}
    return Evidence(*map(frozenset, (available, ours, others, unseen, denied, unfit)))


def _look_at_nf_tables(
    tables: set[TablePlace],
    ours: set[Backend],
    others: set[Backend],
    made: dict[BackendChoice, Applier],
) -> set[Backend]:
    """Note whose rules are in nf_tables; return the backends that others made unfit."""
    # Names of tables, not of chains: one that was left empty is to go too.
    if not nfnetlink.NATIVE_PLACES.isdisjoint(tables):
        ours.add("nftables")
    if nfnetlink.IPTABLES_PLACES.isdisjoint(tables):
        return set()
    from istio_init.apply.iptables_nft import IptablesNft

    made["nft"] = backend = IptablesNft()
    live = [backend.read(family, frozenset()) for family in FAMILIES]
    if any(map(has_ours, live)):
        ours.add("nft")
    elif any(chain.rules for one in live for table in one.tables for chain in table.chains):
        others.add("nft")
    return set() if backend.fit else {"nft"}


def _look_at_legacy(
    ours: set[Backend], others: set[Backend], made: dict[BackendChoice, Applier]
) -> None:
    from istio_init.apply.legacy import Legacy

    made["legacy"] = legacy = Legacy()
    for family in FAMILIES:
        try:
            live = legacy.look(family)
        except UnsupportedError:
            continue
        for table in live.tables:
            own = own_chains(table)
            for chain in table.chains:
                if chain.name in own:
                    ours.add("legacy")
                elif chain.rules or chain.policy is None:
                    others.add("legacy")


def applier(kind: BackendChoice, made: dict[BackendChoice, Applier] | None = None) -> Applier:
    """Return the applier of a backend, the one in ``made`` if it is there.

    Raises:
        UnsupportedError: what it stands on is not installed.
    """
    if made and kind in made:
        return made[kind]
    match kind:
        case "legacy":
            from istio_init.apply.legacy import Legacy

            return Legacy()
        case "nft":
            from istio_init.apply.iptables_nft import IptablesNft

            return IptablesNft()
        case _:
            from istio_init.apply.nftables import Nftables

            return Nftables()
