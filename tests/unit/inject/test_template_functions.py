"""Istio's functions, and regular expressions that Python's engine could not bear."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from istio_init.inject.template.durations import duration_text, parse_duration
from istio_init.inject.template.regex import Search, compiled
from tests.unit.inject.templates import SPEC, render

CASES = [
    ("{{ annotation .ObjectMeta `a` `d` }} {{ annotation .ObjectMeta `x` `d` }}", "one d"),
    ("{{ annotation .ObjectMeta `x` 5.0 }} {{ annotation .ObjectMeta `x` nil }}", "5 <nil>"),
    ("{{ annotation .ObjectMeta `x` .Values.global.big }}", "1e+06"),
    (
        (
            "{{ isset .ObjectMeta.Labels `empty` }} {{ isset .ObjectMeta.Labels `x` }} "
            "{{ isset nil `x` }}"
        ),
        "true false false",
    ),
    ("{{ valueOrDefault `` 1 }} {{ valueOrDefault nil 1 }} {{ valueOrDefault 0 1 }}", "1 1 0"),
    ("{{ excludeInboundPort 15020 `` }}|{{ excludeInboundPort 1 ` 2 ,, 3` }}", "15020|2,3,1"),
    ("{{ excludeInboundPort `0` `1, 2` }}|{{ excludeInboundPort ` 2 ` `1,2` }}", "1, 2|1,2"),
    (
        "{{ includeInboundPorts .Spec.Containers }}|{{ applicationPorts .Spec.Containers }}",
        "80,15090|80",
    ),
    ("{{ includeInboundPorts nil }}|", "|"),
    ("{{ directory `/a/b` }}|{{ directory `b` }}", "/a/|"),
    ("{{ contains `b` `abc` }} {{ contains `abc` `b` }}", "true false"),
    ("{{ toLower `ÄB` }} {{ kubevirtInterfaces `x` }} {{ excludeInterfaces `y` }}", "äb x y"),
    ("{{ toJSON nil }} {{ toJSON (strdict `b` `<` `a` `1`) }}", '{} {"a":"1","b":"\\u003c"}'),
    (
        "{{ toJsonMap (strdict `a` `1`) (strdict `a` `2` `b` `3`) }} {{ toJsonMap }}",
        '{"a":"2","b":"3"} {}',
    ),
    ("{{ mergeMaps (strdict `a` `1`) nil (strdict `b` `2`) }}", "map[a:1 b:2]"),
    (
        "{{ omit .ObjectMeta.Labels `app` }}|{{ strdict }}|{{ strdict `a` }}",
        "map[empty:]|map[]|map[a:]",
    ),
    (
        (
            '{{ fromJSON `[1,{"a":null}]` }} {{ fromJSON `x` }} '
            "{{ fromJSON `1e999` }} {{ fromJSON `NaN` }}"
        ),
        "[1 map[a:<nil>]] {} {} {}",
    ),
    (
        (
            "{{ omitNil (dict `a` nil `b` (dict `c` nil) `d` (list nil 1) `e` (dict) "
            "`f` (list nil)) }}"
        ),
        "map[d:[1] e:map[]]",
    ),
    ("{{ indent 2 `a\nb\n` }}|{{ nindent 1 `a` }}", "a\n  b\n  |\n a"),
    (
        (
            "{{ appendMultusNetwork `` `n` }} {{ appendMultusNetwork `a` `n` }} "
            "{{ appendMultusNetwork `a, n` `n` }}"
        ),
        "n a, n a, n",
    ),
    ('{{ appendMultusNetwork `[{"name":"a"}]` `n` }}', '[{"name":"a"}, {"name": "n"}]'),
    (
        (
            '{{ appendMultusNetwork `[{"name":"n"}]` `n` }} {{ appendMultusNetwork `[x]` `n` }} '
            "{{ appendMultusNetwork `[1]` `n` }}"
        ),
        '[{"name":"n"}] [x] [1]',
    ),
]


@pytest.mark.parametrize(("template", "expected"), CASES)
def test_istios_functions(template: str, expected: str) -> None:
    assert render(template) == expected


def otel(annotations: dict[str, str], labels: dict[str, str], images: list[str]) -> str:
    provider = {"opentelemetry": {"serviceAttributeEnrichment": "OTEL_SEMANTIC_CONVENTIONS"}}
    containers = [{"name": f"c{number}", "image": image} for number, image in enumerate(images)]
    return render(
        "{{ otelResourceAttributes .MeshConfig .ObjectMeta.Annotations .ObjectMeta.Labels `ns`"
        " .Spec.Containers }}",
        mesh={
            "extensionProviders": [{"name": "plain", "prometheus": {}}, {"name": "o", **provider}]
        },
        metadata={"annotations": annotations, "labels": labels},
        spec={**SPEC, "containers": containers},
    )


def test_opentelemetrys_attributes() -> None:
    assert otel({}, {}, ["r:5000/i:1.2"]) == (
        "service.namespace=ns,service.version=1.2,service.instance.id=ns.$(POD_NAME).c0"
    )
    assert "service.version=1.2@sha256:ab," in otel({}, {}, ["i:1.2@sha256:ab"])
    assert "service.version=sha256:ab," in otel({}, {}, ["i@sha256:ab"])
    assert "version" not in otel({}, {}, ["i"])
    assert "version" not in otel({}, {}, ["i:1", "j:2"])
    assert "service.version=v3," in otel({}, {"app.kubernetes.io/version": "v3"}, ["i:1"])
    given = {f"resource.opentelemetry.io/service.{key}": key for key in ("namespace", "version")}
    given["resource.opentelemetry.io/service.instance.id"] = "me"
    assert otel(given, {}, []) == (
        "service.namespace=namespace,service.version=version,service.instance.id=me"
    )


@given(st.integers(-(2**62), 2**62))
def test_a_duration_is_read_as_what_it_was(nanoseconds: int) -> None:
    assert parse_duration(duration_text(nanoseconds)) == nanoseconds


@pytest.mark.parametrize(
    "text", ["", "1", "x", "1x", ".s", "1s2", "-", "9" * 70 + "s", "999999999h"]
)
def test_what_is_no_duration(text: str) -> None:
    assert parse_duration(text) is None


PIECES = st.sampled_from(
    [
        "a",
        "b",
        ".",
        "[ab]",
        "[^a]",
        "\\d",
        "\\w",
        "(a|b)",
        "(?:ab)",
        "(a)",
        "^",
        "$",
        "\\b",
        "a|b",
        "",
    ]
)
REPEATS = st.sampled_from(["", "", "*", "+", "?", "*?", "+?", "??", "{2}", "{1,2}"])


@settings(deadline=None)
@given(st.lists(st.tuples(PIECES, REPEATS), max_size=5), st.text("ab1 ", max_size=8))
def test_matches_are_those_of_a_backtracking_search(
    parts: list[tuple[str, str]], text: str
) -> None:
    # Python repeats no assertion, and Go takes $ for the very end.
    pattern = "".join(
        piece + (repeat if piece and piece not in {"^", "$", "\\b", "a|b"} else "")
        for piece, repeat in parts
    )
    expected = re.search(pattern.replace("$", "\\Z"), text, re.ASCII)
    found = Search(compiled(pattern), text).first(0)
    assert (expected is None) == (found is None)
    if expected and found:
        assert (found[0], found[1]) == expected.span()


@pytest.mark.parametrize(
    "pattern", ["(a*)*b", "(a|aa)+b", "(a|a?)+b", "(.*)(.*)(.*)b", "(((a*)*)*)*b"]
)
def test_a_catastrophe_ends_soon(pattern: str) -> None:
    assert Search(compiled(pattern), "a" * 300).first(0) is None
