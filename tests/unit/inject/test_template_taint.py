"""No string of a pod changes the structure of the YAML that a template prints."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from istio_init.inject.template import TemplateError
from istio_init.inject.template.taint import (
    SAFE_JSON,
    Tainted,
    harmless,
    hidden_origin,
    is_safe,
    marked_origin,
    taint,
)
from istio_init.inject.template.values import StringMap
from tests.unit.inject.templates import SPEC, Json, render

if TYPE_CHECKING:
    from typing import Any

X = "(index .ObjectMeta.Annotations `x`)"
# Where a value can stand; %s is an expression.
PLACES = [
    "a: {{ %s }}\nb: c\n",
    "args:\n- --log={{ %s }}\n- --other\n",
    'a: "{{ %s }}"\nb: c\n',
    'args:\n  - "{{ %s }}"\n  - b\n',
    "a: '{{ %s }}'\nb: c\n",
    "a: [ {{ %s }}, b ]\nb: c\n",
    "a: {k: {{ %s }}, l: m}\nb: c\n",
    "a: |\n  {{ %s }}\nb: c\n",
    "a: >-\n  one\n  {{ %s }}\nb: c\n",
    "# {{ %s }}\na: b\n",
    'args:\n- --x="{{ %s }}"\n- b\n',
    "a: one\n  {{ %s }}\nb: c\n",
    "a: 'one\n  \"{{ %s }}\"'\nb: c\n",
    "{{ %s }}: v\nb: c\n",
    "a:\n  k: {{ %s }}\n  l: m\nb: c\n",
    "- {{ %s }}\n- b\n",
    "a: one {{ %s }} two\nb: c\n",
    "a: x{{ %s }}\nb: c\n",
    "a: {{ %s }}{{ %s }}\nb: c\n",
]
# What a template can make of a value that stays one value.
FORMS = [
    "%s",
    "%s | quote",
    "%s | squote",
    "%s | upper",
    "%s | trunc 3",
    "%s | trimSuffix `-`",
    "%s | default `d`",
    "printf `%%s` %s",
    "printf `-%%v-` %s",
    "%s | replace `a` `bb`",
    "%s | nospace",
    "%s | toString",
    "toYaml %s | trimSuffix `\n`",
    "toJson %s",
    "%s | b64enc",
    "%s | sha256sum",
    "%s | regexReplaceAll `a` `b` | html",
    "annotation .ObjectMeta `x` 5",
    "valueOrDefault %s `d`",
    "or %s `d`",
    "index (splitList `,` %s) 0",
    "first (splitList `,` %s)",
    "join `,` (list %s `y`)",
    "(dict `k` %s).k",
    "get (dict `k` %s) `k`",
    "index (strdict `k` %s) `k`",
    "ternary %s `y` true",
    "coalesce `` %s",
    "list `y` %s",
    "dict `y` %s",
    "(fromJSON (toJson %s))",
    "env `NO_SUCH` %s",
    "indent 2 %s",
]
LETTERS = "ab1 \n\r\t:#-{}[],&*!|>'\"%@`\\?=~<$._/\x85\u2028é\x00\x1b"
VALUES = st.one_of(
    st.text(LETTERS, max_size=8),
    st.text(max_size=6),
    st.sampled_from(
        [
            "warning\n- --evil",
            "warning\n    - --evil",
            "a: b",
            "a #b",
            "x\nevil: 1",
            "'",
            '"',
            '", evil: "',
            "' evil: '",
            "*a",
            "&a b",
            "!!map",
            "|",
            ">",
            "- a",
            "? a",
            "{a: b}",
            "[a, b]",
            "\\",
            "\\n",
            "a\\",
            "---",
            "...",
            "%TAG",
            "a:",
            ":",
            "-",
            "a\rb: c",
            "a\x85b: c",
            "a\u2028b: c",
            "\ta: b",
            " a: b",
            "true",
            "1",
            "~",
            "a,b",
            "10.0.0.0/8,172.16.0.0/12",
            "x\n  l: evil\n  q: |",
            "1\n  evil: |",
            "a\"\nb: 'c",
            "x' #",
            "harm",
            "harmlessword",
        ]
    ),
)


def shape(text: str) -> Json:
    """Return the keys and the lengths of lists of a YAML text, or ``None`` if it is none."""
    try:
        return _shape(yaml.load(text, yaml.CBaseLoader))
    except (yaml.YAMLError, ValueError, RecursionError):
        return None


def _shape(value: Json) -> Json:
    if isinstance(value, dict):
        return {key if isinstance(key, str) else "": _shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shape(item) for item in value]
    return ""


def outcome(template: str, value: str) -> tuple[str, str]:
    """Return what a template prints for an annotation, or its error."""
    try:
        return render(template, metadata={"annotations": {"x": value}}), ""
    except TemplateError as error:
        return "", str(error)


def check(template: str, value: str, *, is_key: bool = False) -> None:
    """Render with a value: either an error names it, or the shape is that of a harmless one."""
    expected = shape(render(template, metadata={"annotations": {"x": "harmless1"}}))
    text, error = outcome(template, value)
    if error:
        assert any(word in error for word in ("the annotation x", "UTF-8", "YAML"))
        return
    if expected is None:
        return
    found = shape(text)
    if is_key:
        # A key that stands there already, or none at all, is refused by the reader.
        assert found is None or len(found) == len(expected) or text.startswith("b: v")
        return
    assert found == expected, text


@pytest.mark.parametrize("place", PLACES)
@given(form=st.sampled_from(FORMS), value=VALUES)
@settings(max_examples=60, deadline=None)
def test_no_annotation_adds_a_key_or_an_argument(place: str, form: str, value: str) -> None:
    expression = (
        form.replace("%%", "%").replace("%s", X)
        if "printf" not in form
        else (
            form.replace("%%s", "\0")
            .replace("%%v", "\1")
            .replace("%s", X)
            .replace("\0", "%s")
            .replace("\1", "%v")
        )
    )
    is_list = value == "" or form.startswith(("list", "dict", "toYaml", "(fromJSON"))
    template = place.replace("%s", expression)
    if is_list and ("[" in place or not value):
        return
    check(template, value, is_key=place.startswith("{{"))


@pytest.mark.parametrize("place", PLACES)
@given(value=VALUES)
@settings(max_examples=60, deadline=None)
@example(value="warning\n- --evil")
def test_a_bare_annotation_adds_nothing(place: str, value: str) -> None:
    if value:
        check(place.replace("%s", X), value, is_key=place.startswith("{{"))


MAPS = [
    "a: '{{ toJSON .ObjectMeta.Annotations }}'\nb: c\n",
    "a: |\n  {{ toJSON .ObjectMeta.Annotations }}\nb: c\n",
    "a: {{ toJSON .ObjectMeta.Annotations | quote }}\nb: c\n",
    "a: {{ .ObjectMeta.Annotations }}\nb: c\n",
    'a: "{{ join `,` (list .ObjectMeta.Annotations) }}"\nb: c\n',
    "a:\n  {{ toYaml .ObjectMeta.Annotations | indent 2 }}b: c\n",
    "a:{{ toYaml .ObjectMeta.Annotations | nindent 2 }}b: c\n",
    "a: '{{ structToJSON .ObjectMeta }}'\nb: c\n",
    "a:\n{{ range $k, $v := .ObjectMeta.Annotations }}- {{ $k }}\n- {{ $v }}\n{{ end }}b: c\n",
    "a:\n{{ range $v := fromJSON (toJSON .ObjectMeta.Annotations) }}- {{ $v }}\n{{ end }}b: c\n",
    "{{ $d := dict }}{{ $_ := set $d `k` (index .ObjectMeta.Annotations `x`) }}a: {{ $d }}\nb: c\n",
    (
        "{{ $d := dict }}{{ $o := dict `d` $d }}"
        "{{ $_ := set $d `k` (index .ObjectMeta.Annotations `x`) }}a: {{ printf `%v` $o }}\nb: c\n"
    ),
    "{{ $d := merge (dict) (dict `k` (index .ObjectMeta.Annotations `x`)) }}a: {{ $d }}\nb: c\n",
    (
        "{{ $l := list }}{{ $l = append $l (index .ObjectMeta.Annotations `x`) }}"
        "a: {{ $l | join `;` }}\nb: c\n"
    ),
]


@pytest.mark.parametrize("template", MAPS)
@given(value=VALUES)
@settings(max_examples=60, deadline=None)
def test_a_map_of_annotations_adds_nothing(template: str, value: str) -> None:
    if value:
        check(template, value)


FIELDS = [
    ("{{ .ObjectMeta.Name }}", {"metadata": {"name": "x\nevil: 1"}}, "metadata.name"),
    ("{{ .ObjectMeta.Labels.l }}", {"metadata": {"labels": {"l": "x\nevil: 1"}}}, "the label l"),
    ("{{ .DeploymentMeta.Name }}", {"deployment_name": "x\nevil: 1"}, "the owner"),
    ("{{ .TypeMeta.Kind }}", {"kind": "x\nevil: 1"}, "the owner"),
    ("{{ .ProxyImage }}", {"proxy_image": "x\nevil: 1"}, "proxyImageType"),
    (
        "{{ .ProxyConfig.ConfigPath }}",
        {"proxy_config": {"configPath": "x\nevil: 1"}},
        "proxy.istio",
    ),
    (
        "{{ .Spec.ServiceAccountName }}",
        {"spec": {**SPEC, "serviceAccountName": "x\nevil: 1"}},
        "spec.serviceAccountName",
    ),
    (
        "{{ (index .Spec.Containers 0).Name }}",
        {"spec": {"containers": [{"name": "x\nevil: 1"}]}},
        "spec.containers[0].name",
    ),
    (
        "{{ range $k, $v := .ProxyConfig.ProxyMetadata }}{{ $v }}{{ end }}",
        {"proxy_config": {"proxyMetadata": {"A": "x\nevil: 1"}}},
        "proxyMetadata.A",
    ),
]


@pytest.mark.parametrize(("expression", "changes", "origin"), FIELDS)
def test_the_error_names_what_did_it(expression: str, changes: dict[str, Any], origin: str) -> None:
    with pytest.raises(TemplateError, match="would change the structure of the YAML") as caught:
        render(f"a: {expression}\nb: c\n", **changes)
    assert origin in str(caught.value)


def test_only_the_guilty_annotation_is_named() -> None:
    annotations = {"good": "a b", "bad": "x\nevil: 1"}
    template = "a: {{ .ObjectMeta.Annotations.good }}\nb: {{ .ObjectMeta.Annotations.bad }}\n"
    with pytest.raises(TemplateError) as caught:
        render(template, metadata={"annotations": annotations})
    assert "the annotation bad" in str(caught.value)
    assert "the annotation good" not in str(caught.value)


def test_two_that_do_it_together_are_both_named() -> None:
    annotations = {"one": "'", "two": "', evil: '"}
    template = (
        "a: {k: '{{ .ObjectMeta.Annotations.one }}', l: '{{ .ObjectMeta.Annotations.two }}'}\n"
    )
    with pytest.raises(TemplateError) as caught:
        render(template, metadata={"annotations": annotations})
    assert "the annotation one" in str(caught.value) or "the annotation two" in str(caught.value)


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("a: {{ %s }}\n", "a b c"),
        ("a: {{ %s }}\n", "true"),
        ("a: {{ %s }}\n", ""),
        ("a: [{{ %s }}]\n", ""),
        ("a: '{{ %s }}'\n", "10.0.0.0/8,172.16.0.0/12"),
        ('args:\n- "{{ %s }}"\n', "10.0.0.0/8,172.16.0.0/12"),
        ("args:\n- --x={{ %s }}\n", "misc:error"),
        ("a: {{ %s | quote }}\n", "x\nevil: 1"),
        ("a: {{ toYaml %s | indent 2 }}\n", "x\nevil: 1"),
        ("a: |\n  {{ %s }}\n", "key: value # comment"),
        ("a:\n  {{ toYaml (fromJSON %s) | indent 2 }}\n", '{"k":["x\\nevil: 1",{"l":"m"}]}'),
    ],
)
def test_what_is_harmless_is_printed(template: str, value: str) -> None:
    text = render(template.replace("%s", X), metadata={"annotations": {"x": value}})
    assert shape(text) is not None


def test_the_settings_of_the_installation_may_print_what_they_like() -> None:
    values = {"global": {"extra": "x\nadded: 1"}}
    assert render("a: {{ .Values.global.extra }}\n", values=values) == "a: x\nadded: 1\n"


def test_an_output_that_is_no_yaml_anyway_is_left_to_its_reader() -> None:
    assert render(f"a: [{{{{ {X} }}}}\n", metadata={"annotations": {"x": "a,b"}}) == "a: [a,b\n"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda children: (
            st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3)
        ),
        max_leaves=10,
    )
)
def test_taint_keeps_the_value_and_harmless_its_shape(value: Json) -> None:
    tainted = taint(value, "x")
    assert tainted == value
    plain = harmless(tainted)
    assert _shape(json.loads(json.dumps(plain))).__class__ is _shape(value).__class__
    if isinstance(value, str | list | dict) and value and _has_text(value):
        assert hidden_origin(tainted) == "x"
        assert marked_origin(tainted)


def _has_text(value: Json) -> bool:
    if isinstance(value, dict):
        return bool(value)
    if isinstance(value, list):
        return any(_has_text(item) for item in value)
    return isinstance(value, str)


def test_maps_of_strings_are_tainted_key_by_key() -> None:
    tainted = taint(StringMap({"a": "b"}), "x")
    assert isinstance(tainted, StringMap)
    assert [type(part) for pair in tainted.items() for part in pair] == [Tainted, Tainted]
    assert harmless(tainted) == {"harmlessword0000": "harmlessword"}


@given(st.text(LETTERS + '{}[]:,"0', max_size=12))
def test_safe_json_reads_like_its_harmless_version(text: str) -> None:
    tainted = Tainted.of(text, "x", json=True)
    if SAFE_JSON.fullmatch(text) and is_safe(tainted, in_quotes=False):
        for place in ("a: '%s'\n", "a: %s\n", "- --x=%s\n", "a: |\n  %s\n"):
            assert (
                shape(place % text) == shape(place % tainted.harmless()) or _is_json(text) is False
            )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
