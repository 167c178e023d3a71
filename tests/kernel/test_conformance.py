"""Every conformance case through the kernel."""

from __future__ import annotations

import pytest

from istio_init.rules.model import TABLES
from tests.cases import CASES, Case
from tests.namespace import Namespace, untouched


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernel_holds_what_the_original_left(case: Case) -> None:
    with Namespace() as pod:
        pod.init(*case.argv, env=case.env)
        first = pod.state(case.route_table)
        again = pod.init(*case.argv, env=case.env)
        second = pod.state(case.route_table)

    assert first == case.expected
    assert second == case.expected
    assert "already in place" in again.stderr


@pytest.mark.parametrize("case", CASES, ids=str)
def test_nft_tables_hold_the_same(case: Case) -> None:
    with Namespace() as pod:
        pod.init(*case.argv, "--backend", "nft", env=case.env)
        first = {
            program: {
                table: pod.run(f"{program}-nft", "-t", table, "-S").stdout.splitlines()
                for table in TABLES
            }
            for program in ("iptables", "ip6tables")
        }
        # Nobody says which backend this time: it is the one that holds ours.
        again = pod.init(*case.argv, env=case.env)

    assert first == {program: case.expected[program] for program in first}
    assert "through backend nft: already in place" in again.stderr


@pytest.mark.parametrize("case", CASES, ids=str)
def test_clean_without_flags_leaves_nothing(case: Case) -> None:
    with Namespace() as pod:
        pod.init(*case.argv, env=case.env)
        # What anybody could have written goes only where a flag names it.
        pod.init("clean", *case.claim)
        after = pod.state(case.route_table)
        again = pod.init("clean")

    assert after == untouched()
    assert "nothing of ours" in again.stderr
