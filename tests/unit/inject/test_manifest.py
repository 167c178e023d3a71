"""Text stays as it was but for what an injection adds."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from istio_init.inject.manifest import rewrite
from istio_init.inject.problems import InjectionError, error
from istio_init.inject.record import record_of
from istio_init.inject.splice import Edit, equivalent, same
from istio_init.inject.yaml import load, load_documents
from tests.unit.inject.manifests import Layout, changed, documents, layouts
from tests.unit.settings import tried

if TYPE_CHECKING:
    from collections.abc import Callable

    from istio_init.inject.manifest import ManifestDocument
    from istio_init.inject.plain_data import PlainValue

_OTHER = "# an other one\napiVersion: v1 # c\nkind:   ConfigMap\ndata: {  a: y}\n"
_slow = settings(tried, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def to(value: PlainValue) -> Callable[[ManifestDocument], PlainValue]:
    """Return a change that makes ``value`` of the first document."""
    return lambda document: value if document.where.document == 1 else document.value


def kept(document: ManifestDocument) -> PlainValue:
    return document.value


@_slow
@given(st.data(), documents, layouts(), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_the_text_means_the_new_value_and_the_old_text_can_be_had_back(
    data: st.DataObject,
    value: PlainValue,
    layout: Layout,
    newline: str,
    at_end: bool,  # noqa: FBT001 - hypothesis passes it so
) -> None:
    text = layout.write({"kind": "Test"} | value)
    text = text.removesuffix("\n") if at_end else f"{text}---\n{_OTHER}"
    text = text.replace("\n", newline)
    old = load_documents(text)[0].value
    new = {"kind": "Test"} | data.draw(changed(old))
    result = rewrite(text, "app.yaml", to(new), record=True)
    after = load_documents(result.text)
    assert equivalent(after[0].value, new), (text, result.text)
    if not at_end:
        assert result.text.endswith(f"---\n{_OTHER}".replace("\n", newline))
    assert rewrite(result.text, "app.yaml", kept).text == text, result.text
    assert rewrite(result.text, "app.yaml", to(new), record=True).text == result.text


def like_kubernetes(value: PlainValue) -> bool:
    """Whether lists hold scalars, or maps that each have a name."""
    if isinstance(value, dict):
        return all(map(like_kubernetes, value.values()))
    if isinstance(value, list):
        return all(
            like_kubernetes(one) and "name" in one if isinstance(one, dict) else
            not isinstance(one, list)
            for one in value
        )  # fmt: skip
    return True


@_slow
@given(st.data(), documents.filter(like_kubernetes), layouts())
def test_lines_are_only_added_to_block_style(
    data: st.DataObject, value: PlainValue, layout: Layout
) -> None:
    layout.flow_share = 0
    text = layout.write({"kind": "Test"} | value)
    if "*" in text or "\n\n\n" in text:
        # Aliases are written out, and blank lines of a text are its own.
        return
    old = load(text)
    new = data.draw(changed(old, only_added=True))
    result = rewrite(text, "app.yaml", to(new))
    assert equivalent(load(result.text), new)
    if result.notes or "[]" in text or "{}" in text or "[ ]" in text or "{ }" in text:
        return
    lines = iter(result.text.splitlines())
    assert all(line in lines for line in text.splitlines()), (text, result.text)


BEFORE = """\
# top
kind: Deployment   # the kind
spec:
    replicas: 1

    template:
        metadata:
            labels: {app: web}
            annotations:
        spec:
            # all of them
            containers:
              # first
              - name: web
                image: "web:1" # img
                args: [a, "b"]

              - name: other
                image: x
            volumes: []
"""
AFTER = """\
# top
kind: Deployment   # the kind
spec:
    replicas: 1

    template:
        metadata:
            labels: {app: web, tls: "on"}
            annotations:
                status: '{"a":1}'
        spec:
            # all of them
            containers:
              - name: init
                image: i
              # first
              - name: web
                image: "web:2" # img
                args: [a, "b", "c,d"]

              - name: other
                image: x
              - name: proxy
                env:
                  - name: A
                    value: "0123"
                command:
                  - |
                      two
                      lines
            volumes: [{name: v, emptyDir: {}}]
            initContainers:
              - name: first
"""


def test_what_is_added_has_the_style_of_the_file() -> None:
    new = load(AFTER)
    assert rewrite(BEFORE, "f", to(new)).text == AFTER
    windows = rewrite(BEFORE.replace("\n", "\r\n"), "f", to(new)).text
    assert windows == AFTER.replace("\n", "\r\n")


SPLICES = {
    "a: 1\n": ({"a": 1, "b": {"c": [1]}}, "a: 1\nb:\n  c:\n  - 1\n"),
    "a: 'x' # c\n": ({"a": "it's"}, "a: 'it''s' # c\n"),
    'a: "x"\n': ({"a": "y"}, 'a: "y"\n'),
    "a: x\n": ({"a": "y"}, 'a: "y"\n'),
    "a: &k x\n": ({"a": 2}, "a: &k 2\n"),
    "a: |\n  x\n  y\nb: 1\n": ({"a": "z", "b": 1}, "a: z\nb: 1\n"),
    "a: # c\nb: 1\n": ({"a": {"x": 1}, "b": 1}, "a: # c\n  x: 1\nb: 1\n"),
    "a: ~ # c\n": ({"a": [1]}, "a: # c\n- 1\n"),
    "a: {}\n": ({"a": {"x": 1}}, "a: {x: 1}\n"),
    "a: {x: 1,}\n": ({"a": {"x": 1, "y": 2}}, 'a: {x: 1, "y": 2,}\n'),
    "a: {b: }\n": ({"a": {"b": None, "c": 1}}, "a: {b: , c: 1}\n"),
    "a: [1, 2, 3]\n": ({"a": [2]}, "a: [2]\n"),
    "a:\n- 1\n- 2 # two\n- 3\n": ({"a": [2]}, "a:\n- 2 # two\n"),
    "a:\n  b: 1\n": ({"a": {}}, "a: {}\n"),
    "a:\n- tcp: 1\n  s: 3\n": ({"a": [{"http": 2, "s": 3}]}, None),
    "p:\n  tcp:\n    x: 1\n  s: 3\n": ({"p": {"http": 2, "s": 3}}, "p:\n  http: 2\n  s: 3\n"),
    "a: &x {b: 1}\nc: *x # z\n": ({"a": {"b": 1}, "c": {"b": 2}}, "a: &x {b: 1}\nc: # z\n  b: 2\n"),
    "x: &x {b: 1}\nc:\n  <<: *x\n": (
        {"x": {"b": 1}, "c": {"b": 2}},
        "x: &x {b: 1}\nc:\n  <<: *x\n  b: 2\n",
    ),
    "- a: 1\n  b: 2\n": ([{"b": 2}], "- b: 2\n"),
    "? a\n: b\n": ({"a": "b", "c": 1}, "? a\n: b\nc: 1\n"),
    "a: |\n  x\n   \nb: 1\n": ({"a": "x\n \n", "b": 1, "c": 1}, "a: |\n  x\n   \nb: 1\nc: 1\n"),
    "b:\n  a: |\n    x\n     \n": (
        {"b": {"a": "x\n \n", "c": 1}},
        "b:\n  a: |\n    x\n     \n  c: 1\n",
    ),
    "b:\n  a: |+\n    x\n\n": ({"b": {"a": "x\n\n", "c": 1}}, "b:\n  a: |+\n    x\n\n  c: 1\n"),
    "b:\n  a: |\n    x\n\n": ({"b": {"a": "x\n", "c": 1}}, "b:\n  a: |\n    x\n  c: 1\n\n"),
    "a : # - b: *x\n  - # c: 'd\n    1\n": (
        {"a": [1, 2]},
        "a : # - b: *x\n  - # c: 'd\n    1\n  - 2\n",
    ),
    "x: {a: 1}\n": ({"x": {"b": 2}}, "x: {b: 2}\n"),
    "- 1\n": ([0, 1], "- 0\n- 1\n"),
    "a: 1\nb:\n": ({"a": 1}, "a: 1\nb:\n"),
    "--- {a: 1}\n": ({"a": 1, "b": 2}, "--- {a: 1, b: 2}\n"),
    "a: null\nb: 1\n": ({"b": 1}, "a: null\nb: 1\n"),
}


@pytest.mark.parametrize(("before", "expected"), SPLICES.items())
def test_little_of_the_text_changes(before: str, expected: tuple[PlainValue, str | None]) -> None:
    new, text = expected
    result = rewrite(before, "f", to(new))
    if text is not None:
        assert (result.text, result.notes) == (text, ())
    assert equivalent(load(result.text), new)


ANEW = {
    "a: &x {b: 1} # c\nd: *x\n": ({"a": {"b": 2}, "d": {"b": 1}}, "an alias elsewhere uses"),
    "a: &x 1\nb: [*x]\n": ({"b": [1]}, "an alias elsewhere uses what goes"),
    "x: &x {b: 1}\nc:\n  b: 3\n  <<: *x\n": ({"x": {"b": 1}, "c": {"b": 2}}, "merge key"),
    "x: &x {b: 1}\nc:\n  <<: *x\n  d: 1\n": ({"x": {"b": 1}, "c": {"d": 1}}, "merge key"),
    "a:\n  b: 1\n": ({"a": [1]}, "a map takes the place of a list"),
    "- - 1\n  - 2\n": ([[3, 1, 2]], None),
    "- - 1\n  - 2\n- 5": ([[2], 5], "line of another"),
    "&x a: b\nc: {*x : d}\n": ({"a": "b", "c": {"a": "e"}}, "a key is an alias"),
    "- a: 1\n": ([{"b": 2}], "the first entries of an item go"),
    "a: |\n  x": ({"a": "x", "b": 1}, "without a line break"),
}


@pytest.mark.parametrize(("before", "expected"), ANEW.items())
def test_what_cannot_be_spliced_is_written_anew_and_a_note_says_so(
    before: str, expected: tuple[PlainValue, str | None]
) -> None:
    new, why = expected
    result = rewrite(before, "f.yaml", to(new), record=True)
    assert same(load(result.text), new)
    if why is not None:
        (note,) = result.notes
        assert note.where.file == "f.yaml"
        assert "written anew" in note.what
        assert why in note.why
    assert rewrite(result.text, "f.yaml", kept).text == before


JSON_STYLES = (
    '{"a": 1, "b": [1, 2]}',
    '{"a":1,"b":[1,2]}\n',
    '{\n  "a": 1,\n  "b": [\n    1,\n    2\n  ]\n}\n',
    '{\n\t"a": 1,\n\t"b": [\n\t\t1,\n\t\t2\n\t]\n}\n',
    '{\r\n    "a": 1,\r\n    "b": [\r\n        1,\r\n        2\r\n    ]\r\n}',
    '{"a":1,"b":["\\u003c"]}',
)


@pytest.mark.parametrize("text", JSON_STYLES)
def test_json_stays_json_in_its_own_layout(text: str) -> None:
    old = json.loads(text)
    new = old | {"c": "\u00e4<"}
    result = rewrite(text, "f.json", to(new), record=True)
    assert json.loads(result.text) == new
    assert result.notes == ()
    assert rewrite(result.text, "f.json", to(old)).text == text


def test_json_of_no_layout_is_written_anew_and_a_note_says_so() -> None:
    result = rewrite('{"a" :1,   "b": 2}', "f.json", to({"a": 1}))
    assert json.loads(result.text) == {"a": 1}
    assert "JSON was written anew" in str(result.notes[0])


def test_json_among_documents_in_yaml_stays_json() -> None:
    result = rewrite('{"a": 1}\n---\nb: 1\n', "f", to({"a": 2}), record=True)
    assert result.text == '{"a": 2}\n---\nb: 1\n'


def test_nothing_changes_where_nothing_is_to_change() -> None:
    text = "\ufeff# c\n\n---\na: y   # yes\n---\n...\n"
    result = rewrite(text.encode(), "f", kept, record=True)
    assert (result.text, result.changed) == (text, 0)


def test_the_errors_of_all_documents_come_together() -> None:
    def refuse(document: ManifestDocument) -> PlainValue:
        if document.where.document != 2:
            raise InjectionError([error(f"no {document.where.document}")])
        return document.value

    with pytest.raises(InjectionError) as caught:
        rewrite("a: 1\n---\nb: 1\n---\nc: 1\n---\nd: [\n", "f.yaml", refuse)
    lines = str(caught.value).splitlines()
    assert [line.split(" error")[0] for line in lines] == [
        "f.yaml:1 (document 1):",
        "f.yaml:5 (document 3):",
        "f.yaml:8 (document 4):",
    ]


RECORDED = rewrite("a: 1\nb: x\n", "f", to({"a": 1, "b": "x", "c": 2}), record=True).text
DAMAGED = (
    RECORDED.replace("c: 2", "c: 3, 4, 5, 6"),
    RECORDED.replace("b: x", "b: z"),
    *(f"a: 1\n# istio-init uninject: {data}\n" for data in ("[]", "[1", "[1,[0,1]]", "[[]]")),
    *(f"a: 1\n# istio-init uninject: {data}\n" for data in ('["x",3]', '["x",[9,9]]', "[" * 9999)),
    'a: 1\n# istio-init uninject: ["x",[0,1,2]]\n',
    'a: 1\n# istio-init uninject: ["x",[true,false]]\n',
)


@pytest.mark.parametrize("text", DAMAGED)
def test_a_record_that_does_not_fit_is_left_alone(text: str) -> None:
    assert rewrite(text, "f", kept).text in (text, text.partition("# istio")[0])


def test_a_record_counts_only_if_it_is_trusted() -> None:
    seen: list[ManifestDocument] = []

    def trust(document: ManifestDocument) -> bool:
        seen.append(document)
        return False

    new = {"a": 1, "b": "x", "c": 2}
    result = rewrite(RECORDED, "f", to(new | {"d": 1}), trust=trust)
    assert result.text == "a: 1\nb: x\nc: 2\nd: 1\n"
    assert (seen[0].value, seen[0].live) == ({"a": 1, "b": "x"}, new)


HOSTILE = {
    "a long list": ("a:\n" + "- {name: x}\n" * 30_000, {"a": [{"name": "y"}] * 30_000}),
    "a long flow list": ("a: [" + "1, " * 50_000 + "]\n", {"a": [2] * 40_000}),
    "sets": ("a:\n" + "".join(f"  ? k{i}\n" for i in range(20_000)), {"a": {"k1": 1}}),
    "comments": (f"a: {'# ' * 50_000}\n  b: 1\n", {"a": {"b": 1, "c": 2}}),
    "an alias behind comments": (f"x: &x 1\na: {'# ' * 50_000}\n  *x\n", {"x": 1, "a": 2}),
    "depth": (
        "".join("  " * depth + "a:\n" for depth in range(90))
        + "".join("  " * 90 + f"k{i}: 1\n" for i in range(2000)),
        None,
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_changed_soon(name: str) -> None:
    text, new = HOSTILE[name]
    if new is None:
        new = load(text.replace("k1: 1", "k1: 2"))
    began = time.process_time()
    result = rewrite(text, "f", to(new), record=True)
    assert equivalent(load(result.text), new)
    assert rewrite(result.text, "f", kept).text == text
    assert time.process_time() - began < 20


def test_a_record_of_a_text_that_cannot_be_read_is_left_alone() -> None:
    for before in ("b: [\n", "b: 1\n---\nc: 1\n", "# nothing\n", '{"b": 1}\n'):
        text = "a: 1\n" + record_of(before, [Edit(0, len(before), "a: 1\n")]) + "\n"
        assert rewrite(text, "f", kept).text == "a: 1\n"


def test_a_document_that_is_one_value_is_written_anew() -> None:
    result = rewrite("--- x\n", "f", to({"a": 1}))
    assert load(result.text) == {"a": 1}
    assert "the whole document changes" in result.notes[0].why


def test_a_change_begins_with_what_is_recovered() -> None:
    def recover(document: ManifestDocument) -> PlainValue:
        return {key: value for key, value in document.value.items() if key != "old"}

    seen: list[PlainValue] = []

    def change(document: ManifestDocument) -> PlainValue:
        seen.append(document.value)
        return document.value | {"new": 2}

    text = "a: 1 # c\nold: 1\nb: 1\n"
    result = rewrite(text, "f", change, recover=recover, record=True)
    assert seen == [{"a": 1, "b": 1}]
    assert result.text.startswith("a: 1 # c\nb: 1\nnew: 2\n# istio-init uninject: ")
    assert rewrite(result.text, "f", kept).text == "a: 1 # c\nb: 1\n"
    assert rewrite(text, "f", kept, recover=recover).text == "a: 1 # c\nb: 1\n"


def test_lines_are_those_of_what_is_nearest() -> None:
    lines: list[int] = []

    def change(document: ManifestDocument) -> PlainValue:
        paths = ((), ("a",), ("a", "b"), ("a", "b", 1, "c"), ("a", "x", "y"), ("a", "b", 9))
        lines.extend(document.line_of(path) for path in paths)
        return document.value

    rewrite("# top\na:\n  b:\n  - 1\n  - d: 2\n    c: 3\n", "f", change)
    assert lines == [2, 2, 3, 6, 2, 3]
