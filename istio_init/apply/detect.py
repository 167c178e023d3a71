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
from istio_init.rules.model import BUILTIN_CHAINS
from istio_init.rules.names import ISTIO_OUTPUT, ISTIO_PRERT, NATIVE_TABLES, OWN_CHAINS
from istio_init.rules.ownership import own_chains
from istio_init.rules.ranges import FAMILIES

if TYPE_CHECKING:
    from istio_init.apply.backend import Applier
    from istio_init.config.model import Backend, BackendChoice

_NFT_FAMILIES = ("ip", "ip6")
_NATIVE_TABLES = frozenset(("inet", name) for name in NATIVE_TABLES.values())


class Evidence(Record):
    """What was found in the kernel: which backends it has, and whose rules are in each.

    Of those that are ``unseen`` nobody may know without creating what is not there;
    those that are ``denied`` this process may not use.
    """

    available: frozenset[Backend]
    ours: frozenset[Backend]
    others: frozenset[Backend]
    unseen: frozenset[Backend] = frozenset()
    denied: frozenset[Backend] = frozenset()


def choose(evidence: Evidence) -> Backend:
    """Return the backend for a run.

    The same evidence always gives the same backend, and a run leaves evidence
    for the one it used.

    Raises:
        UnsupportedError: the kernel has none.
    """
    allowed = evidence.available - evidence.denied
    # What is denied, where there is nothing else, says best itself what it lacks.
    for found in (evidence.ours, evidence.others, allowed, evidence.available):
        for kind in BACKENDS:
            if kind in found & evidence.available:
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
    chains = nfnetlink.chains()
    if chains is not None:
        available |= {"nft", "nftables"}
        iptables = [
            place
            for place in chains
            if place.family in _NFT_FAMILIES and place.table in BUILTIN_CHAINS
        ]
        ambient = {(one.family, one.table) for one in iptables if one.chain == ISTIO_PRERT}
        if any(
            place.chain in OWN_CHAINS
            and (place.chain != ISTIO_OUTPUT or (place.family, place.table) not in ambient)
            for place in iptables
        ):
            ours.add("nft")
        elif iptables and _has_rules():
            others.add("nft")
        # Names of tables, not of chains: one that was left empty is to go too.
        if not _NATIVE_TABLES.isdisjoint(nfnetlink.tables() or ()):
            ours.add("nftables")
    # What may stand in tables that nobody may see has to be known first.
    denied: set[Backend] = set() if unseen or may_open_legacy_tables() else {"legacy"}
    return Evidence(*map(frozenset, (available, ours, others, unseen, denied)))


def _has_rules() -> bool:
    return any(
        place.family in _NFT_FAMILIES and place.table in BUILTIN_CHAINS
        for place in nfnetlink.rules() or ()
    )


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
