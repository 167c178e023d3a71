"""The codec of iptables-nft against iptables-nft itself, whatever its version is.

The same rules go into one namespace by iptables-nft and into another by this
program: iptables-nft prints, finds and deletes both alike, and this program reads
both alike.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from istio_init.apply.iptables_nft import IptablesNft
from istio_init.formats.iptables import rule_words
from istio_init.rules import matches as m
from istio_init.rules.diff import changes
from istio_init.rules.model import Chain, Ruleset, jump_of, make_table
from istio_init.rules.ranges import FAMILIES
from tests.inside import inside
from tests.kernel.test_encoder import SIEVE, lines, sample
from tests.namespace import Namespace, spelled
from tests.strategies import CHAINS

if TYPE_CHECKING:
    from istio_init.rules.model import Rule
    from istio_init.rules.ranges import Family

TOOLS = {"ipv4": "iptables-nft", "ipv6": "ip6tables-nft"}


def writable(kind: str, family: Family) -> dict[str, list[Rule]]:
    """Return the rules that iptables-nft can write: all but those for no address at all."""
    return {
        table: [one for one in some if not any(map(_matches_no_address, one.matches))]
        for table, some in sample(kind, family).items()
    }


def _matches_no_address(match: m.Match) -> bool:
    return (
        isinstance(match, m.Source | m.Destination) and match.negated and match.network.everything
    )


samples = pytest.mark.parametrize("kind", ["hand-picked", "random"])
families = pytest.mark.parametrize("family", FAMILIES)


def restore(pod: Namespace, family: Family, commands: dict[str, list[str]]) -> None:
    text = "".join(f"*{table}\n{spelled(some)}COMMIT\n" for table, some in commands.items())
    pod.run(f"{TOOLS[family]}-restore", "--noflush", text=text)


def write_by_iptables(pod: Namespace, family: Family, wished: dict[str, list[Rule]]) -> None:
    made = [f":{chain} - [0:0]" for chain in (SIEVE, *CHAINS)]
    restore(pod, family, {table: made + lines(some, family) for table, some in wished.items()})


def write(family: Family, wished: dict[str, list[Rule]]) -> None:
    backend = IptablesNft()
    live = backend.read(family, frozenset(wished))
    tables = []
    for table in live.tables:
        chains = {chain.name: chain for chain in table.chains}
        chains |= {name: Chain(name, None) for name in CHAINS}
        chains[SIEVE] = Chain(SIEVE, None, tuple(wished[table.name]))
        tables.append(make_table(table.name, chains))
    result = Ruleset(family, tuple(tables))
    backend.commit(changes(live, result), (result,))
    assert backend.read(family, frozenset()) == result


def rules_of(pod: Namespace, family: Family, table: str) -> list[str]:
    printed = pod.run(TOOLS[family], "-t", table, "-S", SIEVE).stdout.splitlines()
    return [line for line in printed if line.startswith("-A")]


@samples
@families
def test_iptables_cannot_tell_who_wrote_a_rule(kind: str, family: Family) -> None:
    wished = writable(kind, family)
    with Namespace() as theirs, Namespace() as ours:
        write_by_iptables(theirs, family, wished)
        inside(ours, partial(write, family, wished))
        for table, some in wished.items():
            printed = rules_of(theirs, family, table)
            assert len(printed) == len(some)
            assert rules_of(ours, family, table) == lines(some, family)


@samples
@families
def test_rules_of_iptables_are_read_as_they_were_meant(kind: str, family: Family) -> None:
    wished = writable(kind, family)
    with Namespace() as theirs:
        write_by_iptables(theirs, family, wished)
        live = inside(theirs, lambda: IptablesNft().read(family, frozenset()))

    assert [table.name for table in live.tables] == list(wished)
    for table in live.tables:
        sieve = table.chain(SIEVE)
        assert sieve is not None
        assert sieve.rules == tuple(wished[table.name])
        assert {jump_of(one) for one in sieve.rules} <= {"", *CHAINS}


@samples
@families
def test_iptables_finds_and_deletes_our_rules(kind: str, family: Family) -> None:
    # From 1.8.8 on iptables-nft takes two matches on ports for one with both.
    wished = {
        table: [one for one in some if sum(isinstance(two, m.Ports) for two in one.matches) < 2]
        for table, some in sample(kind, family).items()
    }
    with Namespace() as ours:
        inside(ours, partial(write, family, wished))
        for table, some in wished.items():
            for one in some[::40]:
                ours.run(TOOLS[family], "-t", table, "-C", SIEVE, *rule_words(one, family))
            restore(ours, family, {table: lines(some, family, "-D")})
            assert rules_of(ours, family, table) == []
