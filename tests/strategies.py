"""Hypothesis strategies for the typed rules of istio_init.rules.model.

What they give is canonical: iptables accepts it, and the kernel gives it back
word for word and byte for byte. Left out is what iptables takes but prints as
something else, or not at all: zone 0, all ports, ``! -i +``.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from istio_init.config.model import LAYOUT_1_30, MODES, Config
from istio_init.config.values import (
    MAX_ID,
    MAX_INTERFACE,
    MAX_PORT,
    MAX_U32,
    address,
    interface,
    network,
)
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import BUILTIN_CHAINS, TABLES, Chain, Ruleset, make_table, rule
from istio_init.rules.ranges import FAMILIES, FULL_MASK, IPV4, IPV6, IdRange, Network, PortRange

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

    from istio_init.config.model import Layout
    from istio_init.rules.model import Rule, Table
    from istio_init.rules.ranges import Family, Protocol

T = TypeVar("T")

# DNS servers of both families.
S4, S6 = address("10.96.0.10"), address("fd00::a")

# One with the longest name that the kernel takes (XT_EXTENSION_MAXNAMELEN less a zero).
CHAINS = ("ISTIO_OUTPUT", "ISTIO_REDIRECT", "other", "X" * 28)

# The only table in which the kernel, or iptables itself, takes a target.
_ONLY_TABLE: dict[type, str] = {
    t.CtZone: "raw",
    t.Redirect: "nat",
    t.Reject: "filter",
    t.Tproxy: "mangle",
}
_SLOTS = 15
_BANGS = st.booleans()
# Everything the kernel takes in a name and iptables prints as it is.
_NAME_CHARACTERS = "abcXYZ0189._-@:$%&*?=~^,#<>()[]{}|\\éß"


def drawn(strategy: SearchStrategy[T], count: int) -> list[T]:
    """Return ``count`` examples (fewer where there are fewer), the same in every run.

    For tests whose set-up is too dear to be repeated for each example.
    """
    found: list[T] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(example: T) -> None:
        found.append(example)

    collect()
    return found


families: SearchStrategy[Family] = st.sampled_from(FAMILIES)
ports = st.integers(1, MAX_PORT)
marks = st.one_of(st.sampled_from((0, 1, 1337, FULL_MASK)), st.integers(0, MAX_U32))
masks = st.one_of(st.just(FULL_MASK), marks)


@cache
def networks(family: Family, shortest: int = 0) -> SearchStrategy[Network]:
    """Address ranges with a prefix of ``shortest`` or longer, host bits cleared."""
    size = 4 if family == IPV4 else 16
    bits = size * 8

    def network(packed: bytes, prefix: int) -> Network:
        kept = int.from_bytes(packed, "big") >> (bits - prefix) << (bits - prefix)
        return Network(family, kept.to_bytes(size, "big"), prefix)

    prefixes = st.one_of(st.just(bits), st.integers(shortest, bits))
    return st.builds(network, st.binary(min_size=size, max_size=size), prefixes)


def _port_range(one: int, other: int) -> PortRange:
    return PortRange(min(one, other), max(one, other))


def _id_range(one: int, other: int) -> IdRange:
    return IdRange(min(one, other), max(one, other))


_single_ports = st.builds(lambda port: PortRange(port, port), ports)
port_ranges = st.one_of(_single_ports, st.builds(_port_range, ports, ports))
ids = st.one_of(st.sampled_from((0, 1337, MAX_ID)), st.integers(0, MAX_ID))
id_ranges = st.one_of(
    st.builds(lambda number: IdRange(number, number), ids), st.builds(_id_range, ids, ids)
)


def _is_interface(name: str) -> bool:
    try:
        return bool(interface(name)) and name != "+"
    except ValueError:
        return False


interface_names = st.one_of(
    st.sampled_from(
        ("lo", "eth0", "eth+", "0eth", "abcdefghijklmno", "abcdefghijklmn+", "a+b", "c++")
    ),
    st.builds(
        str.__add__,
        st.text(_NAME_CHARACTERS, min_size=1, max_size=MAX_INTERFACE),
        st.sampled_from(("", "+")),
    ).filter(_is_interface),
)


protocols: SearchStrategy[Protocol] = st.sampled_from(("tcp", "udp"))
_sides: SearchStrategy[m.Side] = st.sampled_from(("sport", "dport"))
_modules: SearchStrategy[m.CtModule] = st.sampled_from(("conntrack", "state"))


def _fitting(wished: list[PortRange]) -> tuple[PortRange, ...]:
    """Return the first of the ranges that fit into the match's slots; a real range takes two."""
    found: list[PortRange] = []
    free = _SLOTS
    for one in wished:
        free -= 1 if one.low == one.high else 2
        if free < 0:
            break
        found.append(one)
    return tuple(found)


multi_ports = st.builds(
    m.MultiPorts,
    _sides,
    st.lists(port_ranges, min_size=1, max_size=_SLOTS).map(_fitting),
    _BANGS,
)
ct_states = st.builds(
    m.CtState,
    st.sets(st.sampled_from(tuple(m.CT_STATES)), min_size=1).map(
        lambda chosen: tuple(state for state in m.CT_STATES if state in chosen)
    ),
    _modules,
    _BANGS,
)
owners = st.builds(m.Owner, st.sampled_from(("uid", "gid")), id_ranges, _BANGS)


@cache
def extensions(protocol: Protocol | None) -> SearchStrategy[m.Match]:
    """The matches that follow a rule's header; those on ports need a protocol."""
    free: list[SearchStrategy[m.Match]] = [
        owners,
        ct_states,
        st.builds(m.Mark, marks, masks, _BANGS),
        st.builds(m.ConnMark, marks, masks, _BANGS),
        st.just(m.Socket()),
    ]
    if protocol is not None:
        free.append(st.builds(m.Ports, st.just(protocol), _sides, port_ranges, _BANGS))
        free.append(multi_ports)
    return st.one_of(free)


@cache
def headers(family: Family, protocol: Protocol | None) -> SearchStrategy[tuple[m.Match, ...]]:
    """The matches of a rule's header.

    With ``protocol`` None the rule has no protocol, or one that it excludes.
    """
    last: SearchStrategy[m.Match | None] = (
        st.one_of(st.none(), st.builds(m.Proto, protocols, st.just(value=True)))
        if protocol is None
        else st.just(m.Proto(protocol))
    )
    parts: tuple[SearchStrategy[m.Match | None], ...] = (
        st.one_of(st.none(), st.builds(m.Source, networks(family), _BANGS)),
        st.one_of(st.none(), st.builds(m.Destination, networks(family), _BANGS)),
        st.one_of(st.none(), st.builds(m.InInterface, interface_names, _BANGS)),
        st.one_of(st.none(), st.builds(m.OutInterface, interface_names, _BANGS)),
        last,
    )
    return st.tuples(*parts).map(lambda found: tuple(one for one in found if one is not None))


@cache
def targets(
    protocol: Protocol | None, chains: tuple[str, ...] = CHAINS, table: str | None = None
) -> SearchStrategy[t.Target]:
    """Every target, or those for one table; those that rewrite ports need a protocol.

    Jumps lead to ``chains``.
    """
    plain: tuple[t.Target, ...] = (
        t.Return(),
        t.Accept(),
        t.Drop(),
        t.Reject(),
        t.SaveMark(),
        t.RestoreMark(),
    )
    free: list[SearchStrategy[t.Target]] = [
        st.sampled_from([one for one in plain if table is None or table in tables_of(one)]),
        st.builds(t.SetMark, marks, masks),
    ]
    if chains:
        free.append(st.builds(t.Jump, st.sampled_from(chains)))
    if table in (None, "raw"):
        free.append(st.builds(t.CtZone, st.integers(1, 0xFFFF)))
    if table in (None, "nat") and protocol is not None:
        free.append(st.builds(t.Redirect, ports))
    if table in (None, "mangle") and protocol is not None:
        free.append(st.builds(t.Tproxy, ports, marks, masks))
    return st.one_of(free)


def _unmixed(matches: list[m.Match]) -> bool:
    """Whether iptables reads these: it mixes up --mark of a match with that of the one before."""
    kinds = [type(one) for one in matches if isinstance(one, m.Mark | m.ConnMark)]
    return sum(one is not other for one, other in pairwise(kinds)) < 2


@cache
def rules(
    family: Family, chains: tuple[str, ...] = CHAINS, table: str | None = None
) -> SearchStrategy[Rule]:
    """Rules of every match and target, for ``table`` or for any."""

    def of(protocol: Protocol | None) -> SearchStrategy[Rule]:
        return st.builds(
            lambda header, more, target: rule(*header, *more, target=target),
            headers(family, protocol),
            st.lists(extensions(protocol), max_size=4).filter(_unmixed),
            targets(protocol, chains, table),
        )

    return st.one_of(of(None), of("tcp"), of("udp"))


def tables_of(target: t.Target) -> tuple[str, ...]:
    """Return the tables in which a target may stand."""
    if isinstance(target, t.Drop):
        # iptables refuses to filter in nat.
        return tuple(table for table in TABLES if table != "nat")
    only = _ONLY_TABLE.get(type(target))
    return TABLES if only is None else (only,)


@st.composite
def tables(draw: DrawFn, family: Family, name: str) -> Table:
    """Tables with rules in some built-in chains and in chains of their own."""
    own = tuple(sorted(draw(st.sets(st.sampled_from(CHAINS)))))
    found = {}
    for chain in (*BUILTIN_CHAINS[name], *own):
        policy = None if chain in own else "ACCEPT"
        if policy and name != "nat":
            policy = draw(st.sampled_from(("ACCEPT", "DROP")))
        held = draw(st.lists(rules(family, own, name), max_size=3))
        found[chain] = Chain(chain, policy, tuple(held))
    return make_table(name, found)


@st.composite
def rulesets(draw: DrawFn, family: Family) -> Ruleset:
    """Rule sets of any of the tables, in the kernel's order."""
    names = draw(st.sets(st.sampled_from(TABLES)))
    return Ruleset(family, tuple(draw(tables(family, name)) for name in TABLES if name in names))


def configs(layout: Layout) -> st.SearchStrategy[Config]:
    """Wishes of every kind at once."""
    port_lists = st.lists(port_ranges, max_size=3).map(tuple)
    id_lists = st.lists(id_ranges, min_size=1, max_size=3).map(tuple)
    any_network = st.one_of(networks(IPV4), networks(IPV6))
    cidrs = st.lists(any_network, max_size=3).map(tuple)
    nics = st.lists(interface_names, max_size=2).map(tuple)
    servers = st.lists(st.sampled_from((S4, S6)), max_size=2).map(tuple)
    more: dict[str, Any] = {}
    if layout == LAYOUT_1_30:
        more = {
            "tunnel_port": ports,
            "outbound_ports": port_lists,
            "outbound_exclude_ports": port_lists,
            "exclude_interfaces": nics,
            "virtual_interfaces": nics,
            "redirect_dns": st.booleans(),
            "capture_all_dns": st.booleans(),
            "dns_servers": st.one_of(st.none(), servers),
            "dns_zones": st.booleans(),
            "dual_stack": st.booleans(),
            "drop_invalid": st.booleans(),
            "owner_groups": st.one_of(st.none(), st.just(()), id_lists),
            "owner_groups_exclude": st.one_of(st.just(()), id_lists),
            "loopback": networks(IPV4, 8).map(
                lambda one: network(f"127{one.address[one.address.index('.') :]}/{one.prefix}")[0]
            ),
        }
    return st.builds(
        Config,
        st.just(layout),
        mode=st.sampled_from(MODES),
        outbound_port=ports,
        inbound_port=ports,
        proxy_uids=id_lists,
        proxy_gids=id_lists,
        inbound_all=st.booleans(),
        inbound_ports=port_lists,
        inbound_exclude_ports=port_lists,
        outbound_all=st.booleans(),
        outbound_cidrs=cidrs,
        outbound_exclude_cidrs=cidrs,
        tproxy_mark=st.integers(1, 0xFFFFFFFF),
        tproxy_table=st.integers(256, 0xFFFFFFFF),
        ipv6=st.booleans(),
        **more,
    )
