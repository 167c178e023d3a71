"""Annotations for Prometheus."""

from __future__ import annotations

import json

import pytest

from istio_init.inject.containers import annotations_of, named, variable
from istio_init.inject.metrics import merge_metrics, read_saved_metrics, restore_metrics
from tests.unit.inject.pods import PROXY, Json, container, pod

OURS = {
    "prometheus.io/path": "/stats/prometheus",
    "prometheus.io/port": "15020",
    "prometheus.io/scrape": "true",
}
VARIABLE = "ISTIO_PROMETHEUS_ANNOTATIONS"


def saved(result: Json) -> Json | None:
    proxy = named(result, "istio-proxy")
    assert proxy is not None
    text = variable(proxy, VARIABLE)
    return None if text is None else dict(json.loads(text))


def test_a_pod_without_annotations_gets_the_agents() -> None:
    result = merge_metrics(pod(container(), PROXY), 15020, enabled=True)
    assert annotations_of(result) == OURS
    assert saved(result) is None


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"prometheus.io/port": "9"}, {"scrape": "", "path": "", "port": "9"}),
        (
            {"prometheus.io/scrape": "true", "prometheus-io/port": "9", "prometheus.io.path": "/m"},
            {"scrape": "true", "path": "/m", "port": "9"},
        ),
        ({"prometheus.io/scrape": "maybe"}, {"scrape": "maybe", "path": "", "port": ""}),
    ],
)
def test_all_spellings_are_saved_and_replaced(given: dict[str, str], kept: Json) -> None:
    original = pod(container(), PROXY, annotations={**given, "other": "x"})
    result = merge_metrics(original, 15020, enabled=True)
    assert annotations_of(result) == {**OURS, "other": "x"}
    assert saved(result) == kept


@pytest.mark.parametrize(
    ("given", "enabled", "merged"),
    [
        ({}, False, False),
        ({"prometheus.istio.io/merge-metrics": "false"}, True, False),
        ({"prometheus.istio.io/merge-metrics": "true"}, False, True),
        ({"prometheus.istio.io/merge-metrics": "maybe"}, True, True),
        ({"prometheus.io/scrape": "false"}, True, False),
        ({"prometheus-io.scrape": "F"}, True, False),
        ({"prometheus.io/port": "15020"}, True, False),
    ],
)
def test_who_decides(given: dict[str, str], enabled: bool, merged: bool) -> None:  # noqa: FBT001
    original = pod(container(), PROXY, annotations=given)
    result = merge_metrics(original, 15020, enabled=enabled)
    assert (annotations_of(result).get("prometheus.io/path") == "/stats/prometheus") is merged
    assert (result is original) is not merged


def test_without_a_proxy_nothing_is_saved() -> None:
    result = merge_metrics(
        pod(container(), annotations={"prometheus.io/port": "9"}), 1, enabled=True
    )
    assert annotations_of(result)["prometheus.io/port"] == "1"
    assert "env" not in result["spec"]["containers"][0]


def test_empty_annotations_are_not_worth_saving() -> None:
    original = pod(container(), PROXY, annotations={"prometheus.io/port": ""})
    assert saved(merge_metrics(original, 1, enabled=True)) is None


@pytest.mark.parametrize(
    "given",
    [{}, {"prometheus.io/port": "9"}, {"prometheus.io/path": "/m", "prometheus.io/scrape": "true"}],
)
def test_what_was_saved_is_restored(given: dict[str, str]) -> None:
    original = pod(container(), PROXY, annotations={**given, "other": "x"})
    result = merge_metrics(original, 15020, enabled=True)
    restored = restore_metrics(result, named(result, "istio-proxy"))
    assert annotations_of(restored) == annotations_of(original)


def test_annotations_that_are_no_injectors_stay() -> None:
    original = pod(container(), annotations={"prometheus.io/port": "15020"})
    assert restore_metrics(original, PROXY) is original
    assert restore_metrics(pod(annotations=OURS), None)["metadata"] == {}


@pytest.mark.parametrize("text", ["", "{", "[]", "5", '{"port": 5}', "[" * 100_000])
def test_a_record_that_cannot_be_read_is_empty(text: str) -> None:
    assert not read_saved_metrics({"env": [{"name": VARIABLE, "value": text}]})
