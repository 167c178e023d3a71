"""What templates render, read as a whole and read again by what differs."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.inject import yaml
from istio_init.inject.overlay import OverlayReader, read_overlay
from istio_init.inject.problems import InjectionError
from tests.unit.settings import tried_more

BASE = """\
metadata:
  annotations: {
    istio.io/rev: "default",
    a: plain, b: 'single',
  }
  labels:
    name: "web"
    version: v1   # a comment
spec:
  priority: 5
  hostNetwork: false
  unknown: x
  containers:
  - name: istio-proxy
    args: [proxy, "--domain"]
    command:
    - one
    - 'two'
    env:
    - name: CONFIG
      value: |
             {"a": 1}
    - name: PORTS
      value: |-
        [
            {"containerPort": 80}
        ]
    - name: FOLDED
      value: >
        folded
        text
    ports:
    - containerPort: 15090
  volumes:
  - emptyDir:
    name: data
"""


def outcome(read: object, text: str) -> object:
    assert callable(read)
    try:
        return read(text)
    except InjectionError as refused:
        return str(refused)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"web"', '"shop"'),
        ('"default"', '"canary"'),
        ("plain", "other"),
        ("'single'", "'other'"),
        ("- one", "- three"),
        ("'two'", "'on'"),
        ("priority: 5", "priority: 7"),
        ('{"a": 1}', '{"b": 2}'),
        ('{"containerPort": 80}', '{"containerPort": 81}'),
        ("15090", "15091"),
        ('        [\n            {"', '        {\n            ["'),
        ("name: data", "name: more"),
        ("hostNetwork: false", "hostNetwork: true"),
        ("unknown: x", "unknown: y"),
    ],
)
def test_a_scalar_that_differs_is_read_again(old: str, new: str) -> None:
    reader = OverlayReader()
    first = reader.read(BASE)
    before = copy.deepcopy(first)
    text = BASE.replace(old, new, 1)
    assert reader.read(text) == read_overlay(text)
    assert first == before == read_overlay(BASE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"web"', '"a\\nb"'),
        ('"web"', "web"),
        ('"web"', '"a", "b"'),
        ('"web"', "[a]"),
        ("- one", "- on"),
        ("- one", "- one: two"),
        ("- one", "- 5"),
        ("priority: 5", "priority: five"),
        ("priority: 5", "priority: 5.5"),
        ("priority: 5", "weight: 5"),
        ('{"a": 1}', " deeper"),
        ("             {", "     {"),
        ("[\n", "\n"),
        ("name: data", "name: *x"),
        ("    - one", "   - one"),
        ("value: |-", "value: |"),
    ],
)
def test_what_is_more_than_a_scalar_is_read_as_a_whole(old: str, new: str) -> None:
    reader = OverlayReader()
    reader.read(BASE)
    text = BASE.replace(old, new, 1)
    assert text != BASE
    assert outcome(reader.read, text) == outcome(read_overlay, text)


def test_texts_that_differ_in_scalars_are_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = OverlayReader()
    reader.read(BASE)

    def parse(*_: object) -> None:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(yaml, "load_documents", parse)
    text = BASE.replace('"web"', '"shop"').replace('{"a": 1}', "{}").replace("15090", "1")
    result = reader.read(text)
    assert result["metadata"]["labels"]["name"] == "shop"
    assert result["spec"]["containers"][0]["env"][0]["value"] == "{}\n"
    assert result["spec"]["containers"][0]["ports"] == [{"containerPort": 1}]


lines = st.integers(0, BASE.count("\n") - 1)
pieces = st.text(st.sampled_from("ab5 :-#\"'{}[],|>&*!%@\\\t\u00e9"), max_size=6)


@tried_more
@given(
    st.lists(st.lists(st.tuples(lines, st.integers(0, 30), st.integers(0, 3), pieces), max_size=3))
)
def test_a_text_is_read_as_it_would_be_alone(edits: list[list[tuple[int, int, int, str]]]) -> None:
    reader = OverlayReader()
    for changes in [[], *edits]:
        text = BASE.split("\n")
        for number, column, cut, piece in changes:
            line = text[number]
            text[number] = line[:column] + piece + line[column + cut :]
        joined = "\n".join(text)
        assert outcome(reader.read, joined) == outcome(read_overlay, joined)


@pytest.mark.parametrize("text", ["", "# nothing", "a: b", "metadata:\n"])
def test_a_text_may_patch_nothing(text: str) -> None:
    assert not any(OverlayReader().read(text).values())


@pytest.mark.parametrize("text", ["- a", "text", "a: [", "metadata: 5", "a: b\n---\nc: d"])
def test_what_is_no_patch_is_refused(text: str) -> None:
    reader = OverlayReader()
    for _ in range(2):
        with pytest.raises(InjectionError):
            reader.read(text)


def test_only_so_many_texts_are_kept() -> None:
    reader = OverlayReader()
    for number in range(100):
        text = "metadata:\n  labels:\n" + "".join(
            f"    l{one}: x\n" for one in range(number % 50 + 1)
        )
        assert reader.read(text) == read_overlay(text)
    assert sum(map(len, reader._shapes.values())) <= 32


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        ("metadata:\n  labels:\n    a: &x one\n    b: *x\n", "one", "two"),
        ("metadata:\n  labels: &x\n    a: one\n  annotations:\n    <<: *x\n", "one", "two"),
        ("metadata:\n  labels:\n    on: one\n", "one", "two"),
        ("metadata:\n  labels:\n    a: !!str one\n", "one", "two"),
        ("metadata:\n  name: |\n  namespace: b\n", "b", "c"),
        ("metadata:\n  name: |\n    a\n\n    b\n  namespace: b\n", "    a", "    c"),
    ],
)
def test_yaml_that_templates_seldom_use(text: str, old: str, new: str) -> None:
    reader = OverlayReader()
    for one in (text, text.replace(old, new, 1), text):
        assert reader.read(one) == read_overlay(one)
