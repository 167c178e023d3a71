"""The table of annotations and its checks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.config.options import OPTIONS
from istio_init.inject import annotations as table
from istio_init.inject.annotations import TABLE, misplaced, problems
from istio_init.inject.generation import GENERATIONS, NEW, OLD, Generation
from istio_init.inject.problems import Severity, Where

T, S = "traffic.sidecar.istio.io/", "sidecar.istio.io/"
PORT_LISTS = (f"{T}excludeInboundPorts", f"{T}includeInboundPorts")
NEW_PORT_LISTS = (f"{T}excludeOutboundPorts", f"{T}includeOutboundPorts")
INTERFACES = (
    f"{T}excludeInterfaces",
    f"{T}kubevirtInterfaces",
    "istio.io/reroute-virtual-interfaces",
)
SECONDS = tuple(
    f"readiness.status.{S}{name}"
    for name in ("initialDelaySeconds", "periodSeconds", "failureThreshold")
)
QUANTITIES = tuple(
    f"{S}{name}" for name in ("proxyCPU", "proxyMemory", "proxyCPULimit", "proxyMemoryLimit")
)


def severities(key: str, value: object, generation: Generation) -> list[Severity]:
    return [one.severity for one in problems({"annotations": {key: value}}, generation)]


GOOD: list[tuple[Generation, tuple[str, ...], tuple[object, ...]]] = [
    (OLD, (f"{S}interceptionMode",), ("REDIRECT", "TPROXY")),
    (NEW, (f"{S}interceptionMode",), ("REDIRECT", "TPROXY", "NONE")),
    (OLD, PORT_LISTS, ("", "80", "80,443", "0", "32767", "-5", "+5", "-32768", 80)),
    (NEW, PORT_LISTS, ("", " ", "80", "80, 443", " 80 ,443", "0", "65535", 80)),
    (OLD, PORT_LISTS[1:], ("*",)),
    (NEW, PORT_LISTS[1:], ("*",)),
    (NEW, NEW_PORT_LISTS, ("", "80", "80, 443")),
    *(
        (generation, (f"{T}{name}OutboundIPRanges",), ranges)
        for generation in GENERATIONS
        for name, ranges in (
            ("include", ("", "*", "10.0.0.0/8", "10.1.2.3/8,fd00::1/64")),
            ("exclude", ("", "10.0.0.0/8", "0.0.0.0/0,::/0")),
        )
    ),
    (NEW, INTERFACES, ("", "eth0", "eth0,net1", "eth0, net1", "a" * 15)),
    (NEW, (f"status.{S}port",), ("0", "15020", "65535", 15020)),
    (NEW, SECONDS, ("0", "1", "4294967295", 7)),
    (OLD, QUANTITIES[:2], ("100m", "128Mi", "1", "0.5", ".5", "1e3", "2E", 2)),
    (NEW, QUANTITIES, ("100m", "128Mi", "1", "0.5", "5.", "1E-3", "0", 2)),
    (NEW, ("prometheus.istio.io/merge-metrics",), ("true", "F", "1", True)),
    (NEW, ("proxy.istio.io/config",), ("concurrency: 2\nproxyMetadata: {}\n", "")),
    (NEW, (f"{S}userVolume",), ('{"a":\n{}}', "")),
    (NEW, (f"{S}logLevel",), ("debug", "")),
    (NEW, (f"{S}proxyImage",), ("docker.io/istio/proxyv2@sha256:00", "a/b")),
    (OLD, (f"{S}proxyImage",), ("proxyv2",)),
    (NEW, (f"{S}rewriteAppHTTPProbers",), ("maybe",)),
]

BAD: list[tuple[Generation, tuple[str, ...], tuple[object, ...]]] = [
    (OLD, (f"{S}interceptionMode",), ("NONE", "redirect", "", " TPROXY")),
    (NEW, (f"{S}interceptionMode",), ("redirect", "", "TPROXY ")),
    (OLD, PORT_LISTS, ("32768", "65535", "-32769", "80, 443", "80,", "a", "1_0", "٣", "80,*")),
    (NEW, PORT_LISTS, ("65536", "-5", "+5", "80,,443", "80,", "http", "80,*", "8" * 30)),
    (OLD, PORT_LISTS[:1], ("*",)),
    (NEW, PORT_LISTS[:1], ("*",)),
    (NEW, NEW_PORT_LISTS, ("*", "a", '1", "x": "', "80\n")),
    *(
        (generation, (f"{T}includeOutboundIPRanges",), ("10.0.0.0/8, 10.1.0.0/16", "*,10.0.0.0/8"))
        for generation in GENERATIONS
    ),
    *(
        (generation, (f"{T}excludeOutboundIPRanges",), (
            "*", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/255.0.0.0", "fd00::/129", "x/8", "/8", ",",
            "10.0.0.0/08",
        ))
        for generation in GENERATIONS
    ),
    (NEW, INTERFACES, ("a,,b", "a" * 16, "eth 0", "-x", "!x", "a/b", ",")),
    (NEW, (f"status.{S}port",), ("", "65536", "-1", "http")),
    (NEW, SECONDS, ("", "-1", "x", "1.5", "4294967296", "1" * 50)),
    (OLD, QUANTITIES[:2], ("", "1 Gi", "1gi", "x")),
    (NEW, QUANTITIES, ("", "1 Gi", "1GiB", "Mi", "1\n")),
    (NEW, ("prometheus.istio.io/merge-metrics",), ("yes", "", "tRUE")),
    (NEW, (f"{S}userVolume", f"{S}userVolumeMount"), ("{", "[" * 100_000)),
    (NEW, (f"{S}logLevel", f"{S}proxyImage"), ("a\n- b", 'a"', "a b", "a\x00", "{a}")),
    (NEW, ("proxy.istio.io/config",), ("a: \x1b[31m", {"concurrency": 2})),
]  # fmt: skip


def rows(
    table: list[tuple[Generation, tuple[str, ...], tuple[object, ...]]],
) -> list[tuple[Generation, str, object]]:
    return [
        (generation, key, value)
        for generation, keys, values in table
        for key in keys
        for value in values
    ]


@pytest.mark.parametrize(("generation", "key", "value"), rows(GOOD))
def test_good_values(generation: Generation, key: str, value: object) -> None:
    assert severities(key, value, generation) == []


@pytest.mark.parametrize(("generation", "key", "value"), rows(BAD))
def test_bad_values(generation: Generation, key: str, value: object) -> None:
    (problem,) = problems({"annotations": {key: value}}, generation)

    assert problem.severity is Severity.ERROR
    assert key in str(problem)
    assert problem.remedy.startswith("expected ")
    assert str(problem).isprintable()


def test_every_check_is_held_to_good_and_bad_values() -> None:
    checked = {row.key for row in TABLE if not row.label and row.check is not table._anything}
    tried = {key for _, key, _ in rows(BAD)}
    words = {row.key for row in TABLE if row.check in (table._word, table._words)}

    assert checked - words <= tried


@pytest.mark.parametrize("generation", GENERATIONS)
def test_all_bad_values_at_once(generation: Generation) -> None:
    metadata = {
        "labels": {"app": "a b"},
        "annotations": {
            f"{S}interceptionMode": "x",
            f"{T}includeInboundPorts": "x",
            f"{T}excludeOutboundIPRanges": "x",
        },
    }
    outer = Where("app.yaml", 1, kind="Pod", name="web")

    reported = problems(metadata, generation, outer)

    assert [one.where.annotation or one.where.path for one in reported] == [
        *metadata["annotations"],
        "label app",
    ]
    assert {one.where.file for one in reported} == {"app.yaml"}


@pytest.mark.parametrize(
    "data", [None, {}, {"annotations": None}, {"annotations": [], "labels": 1}]
)
def test_nothing_to_check(data: dict[str, object] | None) -> None:
    assert problems(data or {}, NEW) == ()


def test_the_flag_stands_once() -> None:
    """Most flags are those that the table of flags names an annotation for."""
    fed = {row.key: row.flag for row in TABLE if row.flag}

    assert fed == {
        f"{S}interceptionMode": "-m",
        f"{T}includeOutboundIPRanges": "-i",
        f"{T}excludeOutboundIPRanges": "-x",
        f"{T}includeInboundPorts": "-b",
        f"{T}excludeInboundPorts": "-d",
        f"{T}includeOutboundPorts": "-q",
        f"{T}excludeOutboundPorts": "-o",
        f"{T}excludeInterfaces": "-c",
        f"{T}kubevirtInterfaces": "-k",
        "istio.io/reroute-virtual-interfaces": "-k",
        f"status.{S}port": "-d",
        f"{S}agentLogLevel": "--log_output_level",
        "proxy.istio.io/config": "--redirect-dns",
    }
    known = {row.key for row in TABLE}
    assert {option.annotation for option in OPTIONS if option.annotation} <= known


def test_the_error_names_the_flag() -> None:
    (problem,) = problems({"annotations": {f"{T}includeInboundPorts": "x"}}, NEW)

    assert "it ends in the init container's flag -b" in str(problem)


def test_what_the_release_does_not_read_is_named() -> None:
    metadata = {"annotations": {f"{T}excludeOutboundPorts": "80"}, "labels": {"version": "1"}}

    (problem,) = problems(metadata, OLD)

    assert problem.severity is Severity.WARNING
    assert "release 1.0 does not read it" in str(problem)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        (f"{T}excludeOutboundPort", f"{T}excludeOutboundPorts"),
        (f"{T}includeInboundports", f"{T}includeInboundPorts"),
        ("sidecar.istio.io/Inject", f"{S}inject"),
        (f"{S}status", ""),
        ("prometheus.io/port", ""),
        ("example.com/includeInboundPorts", ""),
        ("istio.io/rev", ""),
    ],
)
def test_slips_of_the_pen(key: str, meant: str) -> None:
    reported = problems({"annotations": {key: "x"}}, NEW)

    assert [one.severity for one in reported] == ([Severity.WARNING] if meant else [])
    assert not meant or f"did you mean {meant}?" in str(reported[0])


def test_an_image_without_a_registry_has_no_effect() -> None:
    assert severities(f"{S}proxyImage", "proxyv2", NEW) == [Severity.WARNING]


@given(
    st.dictionaries(
        st.sampled_from([row.key for row in TABLE]) | st.text(),
        st.text() | st.integers() | st.booleans() | st.none() | st.lists(st.text()),
    ),
    st.sampled_from(GENERATIONS),
)
def test_any_values_give_printable_problems(
    values: dict[str, object], generation: Generation
) -> None:
    metadata = {"annotations": values, "labels": values}

    assert all(str(problem).isprintable() for problem in problems(metadata, generation))


ONE_LINE = [row for row in TABLE if not row.lines]


@given(st.sampled_from(ONE_LINE), st.text(), st.sampled_from("\n\r\x00\x1b\x85\u2028"), st.text())
def test_no_value_holds_control_characters(
    row: table.Annotation, before: str, control: str, after: str
) -> None:
    assert row.expected(before + control + after, row.generations[0])


def test_keys_are_unique() -> None:
    assert len({(row.key, row.label) for row in TABLE}) == len(TABLE)


def test_what_only_the_pod_can_use_has_no_effect_on_the_workload() -> None:
    outer = {
        "annotations": {f"{T}includeInboundPorts": "80", "x": "y", 1: 2},
        "labels": {f"{S}inject": "true", "istio.io/rev": "canary", "app": "web"},
    }
    inner = {"labels": {"istio.io/rev": "canary"}}

    ports, label = misplaced(outer, inner, Where(kind="Deployment", name="web"))

    assert str(ports).startswith(
        "warning: Deployment web: annotation traffic.sidecar.istio.io/includeInboundPorts: "
        "has no effect here"
    )
    assert str(label).startswith(
        "warning: Deployment web: label sidecar.istio.io/inject: has no effect here"
    )


@pytest.mark.parametrize("outer", [None, {}, {"annotations": None, "labels": []}])
def test_a_workload_without_labels_has_none_misplaced(outer: object) -> None:
    assert misplaced(outer, {}) == ()
