"""Which backend a run uses, from what was found."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest

from istio_init.apply.detect import Evidence, choose
from istio_init.config.model import BACKENDS
from istio_init.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.config.model import Backend

NONE: frozenset[Backend] = frozenset()
LEGACY: frozenset[Backend] = frozenset({"legacy"})
NFT: frozenset[Backend] = frozenset({"nft"})
NATIVE: frozenset[Backend] = frozenset({"nftables"})
NF_TABLES = NFT | NATIVE
ALL = LEGACY | NF_TABLES

TABLE = [
    # What the kernel has, where ours are, where others' are: what is used.
    ("nothing used yet", ALL, NONE, NONE, "legacy"),
    ("no ip_tables", NF_TABLES, NONE, NONE, "nft"),
    ("no nf_tables", LEGACY, NONE, NONE, "legacy"),
    ("others in legacy", ALL, NONE, LEGACY, "legacy"),
    ("others in nft", ALL, NONE, NFT, "nft"),
    ("others in both", ALL, NONE, LEGACY | NFT, "legacy"),
    ("others where nothing is any more", NF_TABLES, NONE, LEGACY, "nft"),
    ("ours in legacy", ALL, LEGACY, NONE, "legacy"),
    ("ours in nft", ALL, NFT, NONE, "nft"),
    ("ours in native tables", ALL, NATIVE, NONE, "nftables"),
    ("ours before others", ALL, NFT, LEGACY, "nft"),
    ("ours in native tables before others", ALL, NATIVE, LEGACY | NFT, "nftables"),
    ("ours in two", ALL, LEGACY | NFT, NONE, "legacy"),
    ("ours in two of nf_tables", ALL, NF_TABLES, LEGACY, "nft"),
]


@pytest.mark.parametrize(
    ("available", "ours", "others", "kind"),
    [row[1:] for row in TABLE],
    ids=[row[0] for row in TABLE],
)
def test_ours_decide_then_others_then_the_kernel(
    available: frozenset[Backend],
    ours: frozenset[Backend],
    others: frozenset[Backend],
    kind: Backend,
) -> None:
    assert choose(Evidence(available, ours, others)) == kind


def test_a_kernel_without_any_is_told_what_it_lacks() -> None:
    for ours, others in product((NONE, ALL), repeat=2):
        with pytest.raises(UnsupportedError, match=r"neither ip_tables nor nf_tables.*load"):
            choose(Evidence(NONE, ours, others))


def test_what_is_denied_is_the_last_choice_of_what_nobody_uses() -> None:
    assert choose(Evidence(ALL, NONE, NONE, denied=LEGACY)) == "nft"
    assert choose(Evidence(LEGACY, NONE, NONE, denied=LEGACY)) == "legacy"
    # Their rules, or ours, are there: it has to be told that it may not.
    assert choose(Evidence(ALL, NONE, LEGACY, denied=LEGACY)) == "legacy"
    assert choose(Evidence(ALL, LEGACY, NONE, denied=LEGACY)) == "legacy"


def subsets() -> Iterator[frozenset[Backend]]:
    for chosen in product((False, True), repeat=len(BACKENDS)):
        yield frozenset(kind for kind, taken in zip(BACKENDS, chosen, strict=True) if taken)


def test_a_run_leaves_evidence_for_the_backend_that_it_used() -> None:
    for available, ours, others in product(subsets(), repeat=3):
        if not available:
            continue
        kind = choose(Evidence(available, ours & available, others))
        assert kind in available
        # After it, ours stand there alone, whatever others have done meanwhile.
        for later in subsets():
            assert choose(Evidence(available, frozenset({kind}), later)) == kind


def test_what_others_made_unfit_is_passed_over_unless_ours_stand_there() -> None:
    assert choose(Evidence(ALL, NONE, NFT, unfit=NFT)) == "nftables"
    assert choose(Evidence(ALL, NFT, NFT, unfit=NFT)) == "nft"
    assert choose(Evidence(ALL, NONE, LEGACY | NFT, unfit=NFT)) == "legacy"
    assert choose(Evidence(NFT, NONE, NFT, unfit=NFT)) == "nft"
