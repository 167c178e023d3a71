"""What is pure in the benchmark: its rows, goals, results, and the tables that are made of them."""

from __future__ import annotations

import json
from ipaddress import IPv4Network, collapse_addresses
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmark import fleet, injection, visits
from tests.benchmark.goals import Figures, goals
from tests.benchmark.processes import takes_part
from tests.benchmark.report import Measured, quartiles, results
from tests.benchmark.visits import SIZES, Step, Times, Visit
from tests.documents import MEASURED, ROWS, costs
from tests.namespace import BACKENDS, PROGRAM
from tests.unit.settings import tried

if TYPE_CHECKING:
    from pathlib import Path

    from tests.benchmark.report import Results

WEBHOOK = {"reviews_per_second": 300.0, "p99_ms": 25.0, "memory_mib": 120.0}


def all_visits(folder: Path, *peer: str) -> list[Visit]:
    files = injection.of_conformance(folder)
    return [*visits.visits(folder, peer), *injection.visits(folder, files, peer)]


def figures(rows: list[str]) -> Figures:
    """Return figures of every row, each of them 1."""
    memory = [*BACKENDS, *(f"{one}, {SIZES[-1]} ranges" for one in BACKENDS), *rows]
    return Figures(dict.fromkeys(rows, 1.0), dict.fromkeys(memory, 1.0), {1: 1, 1000: 1}, WEBHOOK)


def test_benchmark_has_every_row_of_the_documentation(tmp_path: Path) -> None:
    timed = {row for visit in all_visits(tmp_path) for row in visit.rows}
    # Whole containers are timed where there is an image.
    wanted = {row for row in ROWS if not row.startswith("container, ")}

    assert wanted <= timed | {fleet.ROW}


def test_peer_runs_with_the_flags_of_ours(tmp_path: Path) -> None:
    table = all_visits(tmp_path, "/opt/peer", "command")
    ours = {visit.steps[-1].row: visit for visit in table if not visit.peer}
    peers = [visit for visit in table if visit.peer]

    assert len(peers) == 8 * len(BACKENDS) + len(injection.DEPLOYMENTS)
    for visit in peers:
        for mine, theirs in zip(ours[visit.rows[-1]].steps, visit.steps, strict=True):
            if mine.command[0] == PROGRAM:
                flags = mine.command[2:]
                assert theirs.command[:2] == ("/opt/peer", "command")
                assert theirs.command[-len(flags) :] == flags


@given(st.integers(1, 60), st.integers(1, 30))
@tried
def test_rounds_of_a_row_are_its_share(rounds: int, share: int) -> None:
    taken = sum(takes_part(number, rounds, share) for number in range(rounds))

    assert taken == max(1, rounds // share)


@pytest.mark.parametrize("size", SIZES)
def test_ranges_cannot_be_joined_and_fit_into_arguments(size: int) -> None:
    lists = visits.range_flags(size)[1::2]
    networks = [[IPv4Network(one) for one in words.split(",")] for words in lists]

    assert sum(map(len, networks)) == size
    assert all(len(list(collapse_addresses(one))) == len(one) for one in networks)
    # Of the kernel: what one argument may hold, with its end.
    assert all(len(words) < 128 << 10 for words in lists)


@pytest.mark.parametrize("number", injection.DEPLOYMENTS)
def test_manifest_has_that_many_deployments(number: int) -> None:
    documents = list(yaml.safe_load_all(injection.manifest(number)))

    assert len({one["metadata"]["name"] for one in documents}) == number
    assert {one["kind"] for one in documents} == {"Deployment"}


def test_goals_of_everything_that_is_measured(tmp_path: Path) -> None:
    rows = [row for visit in all_visits(tmp_path) for row in visit.rows]
    found = {one["what"]: one for one in goals(figures([*rows, fleet.ROW]))}

    limits = {what: one["limit"] for what, one in found.items()}
    assert [limits[f"{one} / bare"] for one in BACKENDS] == [2.0, 1.9, 1.8]
    assert [limits[f"{one}: 1000 ranges / none"] for one in BACKENDS] == [1.3, 1.6, 1.4]
    assert [limits[f"{one}: 5000 ranges / none"] for one in BACKENDS] == [2.5, 4.0, 3.0]
    assert limits["nft, 10000 foreign rules, audit: ms"] == 250
    assert limits["nft, 50000 foreign rules, audit / 10000"] == 5
    assert limits["audit --all, 1000 namespaces: ms"] == 5000
    assert limits["inject, 500 Deployments, Istio's configuration: ms"] == 1500
    # A script that takes no longer than a run is what no goal allows.
    missed = {what for what, one in found.items() if not one["met"]}
    assert missed == {
        what
        for backend in BACKENDS
        for what in (f"{backend} / script", f"{backend}: 1000 ranges / script")
    }


def test_goal_is_met_at_its_limit_and_missed_beyond() -> None:
    def met(**webhook: float) -> list[bool]:
        return [one["met"] for one in goals(Figures({}, webhook=webhook))]

    assert met(**WEBHOOK) == [True, True, True]
    assert met(reviews_per_second=299, p99_ms=25.1, memory_mib=121) == [False, False, False]


def test_goals_of_what_is_not_measured_are_left_out() -> None:
    assert [one["what"] for one in goals(Figures({"bare": 10.0, "nft": 19.0}))] == ["nft / bare"]
    assert goals(Figures({})) == []


@pytest.mark.parametrize(
    ("times", "expected"), [([3.0], (3, 3)), ([5.0, 3.0], (3, 5)), ([4.0, 1, 2, 3, 5], (1.5, 4.5))]
)
def test_quartiles(times: list[float], expected: tuple[float, float]) -> None:
    assert quartiles(times) == expected


def measured() -> Measured:
    times = Times()
    for peer, took in ((False, 20.0), (True, 30.0)):
        times.add(Visit((Step(("a",), "nft"),), peer=peer), "nft", took)
    times.add(Visit(()), "bare", 10.0)
    return Measured(times, {"nft": 11.0}, {"nft": 33.0}, webhook={**WEBHOOK, "template": "a"})


def test_results_name_the_peer_and_what_rows_are_compared_with() -> None:
    found = results(measured(), "Istio 1.30")

    assert found["peer"] == "Istio 1.30"
    assert found["rows"]["nft"] == {
        "median_ms": 20.0,
        "quartiles_ms": [20.0, 20.0],
        "runs": 1,
        "times_bare": 2.0,
        "peer_ms": 30.0,
    }
    assert "peer_ms" not in found["rows"]["bare"]
    assert found.get("peer_peak_memory_mb") == {"nft": 33.0}
    assert found.get("webhook") == {**WEBHOOK, "template": "a"}
    # Without script there are no goals of it.
    assert [one["what"] for one in found["goals"] if one["what"].startswith("nft")] == [
        *("nft / bare", "nft: peak memory, MB"),
    ]


def test_results_without_a_peer() -> None:
    alone = measured()
    alone.times.peer.clear()
    alone.peer_memory.clear()

    found = results(alone)

    assert not {"peer", "peer_peak_memory_mb"} & found.keys()
    assert "peer_ms" not in found["rows"]["nft"]


def test_costs_have_the_peer_beside_ours() -> None:
    lines = costs(results(measured(), "Istio 1.30")).splitlines()

    assert lines[0].endswith("| x script | Istio 1.30, ms |")
    assert "| nft | 20.0 | 20.0-20.0 | 2.0 |  | 30.0 |" in lines
    assert "| nft | 11.0 | 33.0 |" in lines
    assert "| webhook: reviews/s | at least 300.0 | 300.0 | met |" in lines


def test_costs_of_a_former_release() -> None:
    row = {"median_ms": 20.0, "quartiles_ms": [19.0, 21.0], "times_bare": 2.0, "times_script": 0.5}
    goal = {"what": "nft / bare", "limit": 1.9, "measured": 2.0, "met": False}
    former: dict[str, Any] = {
        "rows": {"nft": row},
        "goals": [goal],
        "peak_memory_mb": {"nft": 11.0},
    }
    lines = costs(json.loads(json.dumps(former))).splitlines()

    assert "| nft | 20.0 | 19.0-21.0 | 2.0 | 0.5 |  |" in lines
    assert "| nft, rerun | not measured |  |  |  |  |" in lines
    assert "| nft / bare | 1.9 | 2.0 | missed |" in lines


def test_costs_say_of_every_row_what_it_took_or_that_it_was_not_measured() -> None:
    stored: Results = json.loads(MEASURED.read_text(encoding="utf-8"))
    named = [line.split(" | ")[0].removeprefix("| ") for line in costs(stored).splitlines()]

    assert [*ROWS] == named[2 : 2 + len(ROWS)]
