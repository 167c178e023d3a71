"""YAML means to us what it means to Kubernetes, and hostile YAML takes neither time nor memory.

The values of the tables are those of sigs.k8s.io/yaml 1.6.0, as it printed them.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import pytest
import yaml as pyyaml
from hypothesis import given
from hypothesis import strategies as st

from istio_init.inject import scalars
from istio_init.inject.composer import MAX_NODES
from istio_init.inject.problems import InjectionError
from istio_init.inject.splice import same
from istio_init.inject.yaml import MAX_BYTES, dump, load, load_documents
from tests.unit.inject.manifests import values
from tests.unit.settings import tried

if TYPE_CHECKING:
    from istio_init.inject.plain_data import PlainValue

VALUES: dict[str, PlainValue] = {
    **dict.fromkeys(
        ("y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE"), True
    ),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "off", "Off", "OFF", "false", "False"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **{word: word for word in ("yES", "oN", "nULL", "TrUe", "=", "x", "--", "+", ".", "_1")},
    "0o10": 8,
    "0O7": 7,
    "010": 8,
    "08": 8,
    "0": 0,
    "-0": 0,
    "+5": 5,
    "1_000": 1000,
    "1__0": 10,
    "0x1F": 31,
    "-0x1f": -31,
    "0X10": 16,
    "0b101": 5,
    "-0b1": -1,
    "0b-1": -1,
    "0b2": "0b2",
    "1e3": 1000,
    "1E3": 1000,
    "1.5": 1.5,
    ".5": 0.5,
    "-.5": -0.5,
    "1.": 1,
    "1.e2": 100,
    ".7_05": 0.705,
    "1_0.5_0": 10.5,
    "._5": "._5",
    ".e1": ".e1",
    "1e": "1e",
    "1e999": "1e999",
    "99999999999999999999": 1e20,
    "18446744073709551615": 18446744073709551615,
    "0x": "0x",
    "0x1p3": "0x1p3",
    "1:30": "1:30",
    "190:20:30": "190:20:30",
    "1.2.3": "1.2.3",
    "2001-01-01": "2001-01-01",
    "2001-12-14t21:59:43.10-05:00": "2001-12-14t21:59:43.10-05:00",
    "!!str 5": "5",
    "!!int '5'": 5,
    "!!float 5": 5,
    "!foo 5": "5",
    "!!null ''": None,
    "!!binary aGk=": "hi",
    "'y'": "y",
    '"1"': "1",
    "!!bool 'on'": True,
    "!!set {a}": {"a": None},
}


@pytest.mark.parametrize(("text", "value"), VALUES.items())
def test_a_scalar_means_what_it_means_to_kubernetes(text: str, value: PlainValue) -> None:
    assert same(load(f"a: {text}"), {"a": value})


KEYS = {
    "y": "true",
    "off": "false",
    "1": "1",
    "010": "8",
    "1.5": "1.5",
    "1e3": "1000",
    "1e6": "1e+06",
    "123456.5": "123456.5",
    "0.00001234": "1.234e-05",
    "16777217.5": "1.6777218e+07",
    "1e39": ".inf",
    "-1e39": "-.inf",
    ".nan": ".nan",
    "1e-50": "0",
    "-1.5": "-1.5",
    "=": "=",
    "2001-01-01": "2001-01-01",
    "'y'": "y",
    "!!str 1": "1",
    "\ufeff'a'": "a",
}


@pytest.mark.parametrize(("text", "key"), KEYS.items())
def test_a_key_becomes_the_string_that_it_is_in_json(text: str, key: str) -> None:
    assert load(f"{text}: x") == {key: "x"}


MERGES = {
    "a: 1\n<<: {a: 2}": {"a": 2},
    "<<: {a: 2}\na: 1": {"a": 1},
    "<<: [{a: 2}, {a: 3, b: 1}]": {"a": 2, "b": 1},
    "<<: {<<: {a: 1, b: 2}, b: 3}": {"a": 1, "b": 3},
    "<<: {a: 1}\n<<: {a: 2}": {"a": 2},
    "'<<': 3": {"<<": 3},
    "a: &x {b: 1}\nc: {b: 3, <<: *x}": {"a": {"b": 1}, "c": {"b": 1}},
}


@pytest.mark.parametrize(("text", "value"), MERGES.items())
def test_merge_keys_count_where_they_stand(text: str, value: PlainValue) -> None:
    assert load(text) == value


ERRORS = {
    "a: 1\nb: 2\na: 3\n": (3, 'column 1: duplicate key "a"'),
    "<<: {a: 1}\na: 1\na: 2": (3, "duplicate key"),
    "1: a\n'1': b": (2, "duplicate key"),
    "a:\n\tb: 1\n": (2, "column 1: a tab stands where only spaces may stand"),
    "a: 1\n  b: 2\n": (2, "column 4: mapping values are not allowed"),
    "a:\n  - b\n - c\n": (3, "column 2: did not find expected"),
    "a: 'x\n": (2, "while scanning a quoted scalar that begins on line 1"),
    "a: é\nb: '\0'\n": (2, "column 5: control characters are not allowed"),
    "~: 1": (1, "null is the key of a map"),
    "[a]: 1": (1, "a map or list is the key of a map"),
    "a: .inf": (1, "JSON has no such number"),
    "a: !!int x": (1, "not of the type that its tag names"),
    "a: !!binary a": (1, "holds no base64"),
    "<<: 3": (1, "<< takes a map or a list of maps"),
    "&a [*a]": (1, "an anchor contains an alias of itself"),
    "a: *b": (1, "undefined alias"),
    "a: \ud800": (1, "half of a character"),
    "a: {b: 1\n": (2, "did not find expected ',' or '}'"),
    '{"a": 1, "a": 2}': (1, 'duplicate key "a"'),
    '\n{"a": ' + "9" * 500 + "}": (2, "too large"),
}


@pytest.mark.parametrize(("text", "expected"), ERRORS.items())
def test_an_error_names_file_document_line_and_column(text: str, expected: tuple[int, str]) -> None:
    with pytest.raises(InjectionError) as caught:
        load_documents(text, "app.yaml")
    (problem,) = caught.value.problems
    assert (problem.where.file, problem.where.document) == ("app.yaml", 1)
    assert problem.where.line == expected[0]
    assert expected[1] in problem.why


def test_the_document_of_an_error_is_counted_from_one() -> None:
    with pytest.raises(InjectionError) as caught:
        load_documents("a: 1\n---\nb: 2\n--- # three\nc: [\n", "x")
    assert caught.value.problems[0].where.document == 3


BYTES = {
    b"a: \xff\n": (1, "column 4: byte 0xff"),
    b"x: 1\na: \xe9t\xe9\n": (2, "column 4: byte 0xe9"),
    b"\xff\xfea\0:\0": (0, "its byte order mark says UTF-16"),
    b"\xff\xfe\0\0a\0\0\0": (0, "its byte order mark says UTF-32"),
}


@pytest.mark.parametrize(("data", "expected"), BYTES.items())
def test_what_is_not_utf8_is_named(data: bytes, expected: tuple[int, str]) -> None:
    with pytest.raises(InjectionError) as caught:
        load_documents(data, "app.yaml")
    (problem,) = caught.value.problems
    assert (problem.where.line, problem.why) == expected


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert load(b"\xef\xbb\xbfa: 1") == {"a": 1}
    assert load('\ufeff{"a": 1}') == {"a": 1}


def test_line_ends_of_windows_are_no_part_of_a_value() -> None:
    assert load("a: 1\r\nb: |\r\n  x\r\n  y\r\n") == {"a": 1, "b": "x\ny\n"}


def test_documents_know_their_place() -> None:
    text = "# one\n---\na: 1\n---\n---\n{b: 2}\n...\n"
    first, empty, last = load_documents(text, "f")
    assert (first.line, first.number, text[first.start : first.end]) == (3, 1, "a: 1\n---\n"[:5])
    assert empty.value is None
    assert (last.line, last.number, text[last.start : last.end]) == (6, 3, "{b: 2}")


def test_json_documents_may_follow_each_other() -> None:
    first, second = load_documents('{"a": "\\ud83d\\ude00"}\n [1]\n', "f")
    assert (first.value, first.is_json, first.line) == ({"a": "😀"}, True, 1)
    assert (second.value, second.line, second.number) == ([1], 2, 2)


def test_whole_numbers_of_json_that_need_more_than_64_bits_are_floats() -> None:
    (first, second) = load_documents('{"a": 123456789012345678901, "b": 1} 5', "f")
    assert same(first.value, {"a": 123456789012345678901.0, "b": 1})
    assert (second.value, second.is_json) == (5, True)


def test_what_only_looks_like_json_is_yaml() -> None:
    assert load('{"a": NaN, "b": y}') == {"a": "NaN", "b": True}
    (document,) = load_documents("{a: y}  # c\n", "f")
    assert (document.value, document.is_json) == ({"a": True}, False)


def test_a_file_for_one_document_has_no_second() -> None:
    with pytest.raises(InjectionError, match="second document"):
        load("a: 1\n---\nb: 1")
    assert load("# nothing\n") is None


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(97 + i)}: &{chr(97 + i)} [{','.join(['*' + chr(96 + i)] * 9)}]\n" for i in range(1, 12)
)
HOSTILE = {
    "laughs": (LAUGHS, "aliases"),
    "merged laughs": ("a: &a {<<: {x: 1}}\nb: {" + "<<: *a, " * 100_000 + "}", "aliases"),
    "aliases": ("a: &a 1\nb:\n" + "- *a\n" * 1_000_000, "aliases"),
    "brackets": ("[" * 500_000, "levels deep"),
    "braces": ("a: " + "{" * 500_000, "nesting depth"),
    "maps": ("a: " + "{a: " * 200_000, "levels deep"),
    "dashes": ("- " * 500_000, "levels deep"),
    "questions": ("? " * 500_000, "levels deep"),
    "indents": ("\n".join(" " * i + "a:" for i in range(2000)), "levels deep"),
    "values": ("- a\n" * 1_000_000, f"{MAX_NODES:,} values"),
    "documents": ("--- 1\n" * 1_100_000, "20,000 documents"),
    "values of documents": (f"- [{'a, ' * 240_000}]\n---\n" * 6, "1,000,000 values"),
    "documents of JSON": ("[" + "] [" * 30_000 + "]", "20,000 documents"),
    "json": ('{"a": [' + "[]," * 1_000_000 + "1]}", "values"),
    "json depth": ('{"a":' + "[" * 200 + "1" + "]" * 200 + "}", "levels deep"),
    "json deeper": ('{"a":' + "[" * 5000 + "1" + "]" * 5000 + "}", "levels deep"),
    "bytes": ("#" * (MAX_BYTES + 1), "bytes"),
    "anchored depth": (
        "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 200)),
        "levels deep",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_refused_soon(name: str) -> None:
    text, why = HOSTILE[name]
    began = time.process_time()
    with pytest.raises(InjectionError) as caught:
        load_documents(text, "app.yaml")
    assert why in str(caught.value)
    assert time.process_time() - began < 20


LONG = {
    "string": 'a: "' + "x" * 4_000_000 + '"',
    "literal": "a: |\n" + "  x\n" * 1_000_000,
    "comments": "#\n" * 2_000_000 + "a: 1",
    "digits": "a: " + "9" * 2_000_000,
    "keys": "\n".join(f"a{i}: 1" for i in range(50_000)),
}


@pytest.mark.parametrize("name", LONG)
def test_long_text_is_read(name: str) -> None:
    assert load(LONG[name])


def test_nothing_shares_what_an_alias_stands_for() -> None:
    value = load("a: &a {b: [1]}\nc: *a\n")
    value["a"]["b"].append(2)
    assert value["c"] == {"b": [1]}


AGAIN = """\
first: 1
---
a: &x 1
b: *x
c: &x [2, &y {d: ! 'e', f: !!str 5}, "g"]
h: *x
<<: *y
---
i: |
  j
k: &k
"""


def test_an_anchor_may_be_defined_again() -> None:
    first, second, third = load_documents(AGAIN)
    inner = {"d": "e", "f": "5"}
    listed = [2, inner, "g"]
    assert (first.value, third.value) == ({"first": 1}, {"i": "j\n", "k": None})
    assert second.value == {"a": 1, "b": 1, "c": listed, "h": listed, **inner}
    assert AGAIN[second.start : second.end].endswith("<<: *y\n")
    assert (second.line, third.line) == (3, 9)


AGAIN_AND_WRONG = {
    "a: &x 1\nb: &x 2\nc: *y": "undefined alias",
    "a: &x 1\nb: &x [2\n": "did not find expected",
    "a: &x 1\nb: &x [*x]": "contains an alias of itself",
    "a: &x 1\nb: &x " + "{a: " * 200: "levels deep",
    "a: &x 1\nb: &x\n" + "- a\n" * MAX_NODES: "values",
}


@pytest.mark.parametrize(("text", "why"), AGAIN_AND_WRONG.items())
def test_an_anchor_that_is_defined_again_changes_no_error(text: str, why: str) -> None:
    with pytest.raises(InjectionError, match=why):
        load_documents(text)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
plain_data = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | texts
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def as_kubernetes_has_it(value: PlainValue) -> PlainValue:
    """Return data with its whole numbers as integers."""
    if isinstance(value, dict):
        return {key: as_kubernetes_has_it(one) for key, one in value.items()}
    if isinstance(value, list):
        return [as_kubernetes_has_it(one) for one in value]
    return scalars.json_number(value) if isinstance(value, float) else value


@tried
@given(plain_data | values)
def test_what_is_written_reads_as_it_was(value: PlainValue) -> None:
    text = dump(value, sort_keys=False)
    assert same(load(text), as_kubernetes_has_it(value))


@tried
@given(st.one_of(texts, st.sampled_from([*map(str, VALUES), *map(str, KEYS)])))
def test_a_string_that_is_written_is_one_to_every_reader(text: str) -> None:
    line = scalars.written(text)
    assert pyyaml.safe_load(f"a: {line}") == {"a": text}
    assert load(f"a: {line}") == {"a": text}


QUOTED = (
    *("y", "on", "0123", "1e3", "1_000", "0x1", "~", "=", ".inf", "1:30", "2024-01-01", "0o7"),
    *("", " x", "x ", "a: b", "a #b", "- x", "*a", "&a", "null", "12:30:45.5", "<<", "---", "a:"),
    *("0b-1", "[x", "{", "%x", "@x", "`x", "!x", "|", ">", "'x", '"x', "?", "-", "a\tb", "\u2028"),
)


@pytest.mark.parametrize("text", QUOTED)
def test_what_would_be_read_otherwise_is_quoted(text: str) -> None:
    assert scalars.written(text)[0] in "'\""


def test_infinity_is_written_as_yaml_has_it() -> None:
    assert [scalars.written(one) for one in (math.inf, -math.inf, math.nan, 1e21)] == [
        *(".inf", "-.inf", ".nan", "1e+21"),
    ]


PLAIN = (
    "web",
    "nginx:1.27",
    "-p",
    "--flag=x",
    "/healthz",
    "a b",
    "1.2.3",
    "10.0.0.1/8",
    "ä",
    "a#b",
)


@pytest.mark.parametrize("text", PLAIN)
def test_what_needs_no_quotes_has_none(text: str) -> None:
    assert scalars.written(text) == text


def test_keys_are_sorted_if_that_is_asked_for() -> None:
    assert dump({"b": 1, "a": {"d": [], "c": {}}}) == "a:\n  c: {}\n  d: []\nb: 1\n"
    assert dump({"b": 1, "a": 2}, sort_keys=False) == "b: 1\na: 2\n"
    assert dump([["x"], {"a": 1, "b": "two\nlines\n"}]) == (
        "- - x\n- a: 1\n  b: |\n    two\n    lines\n"
    )


def test_a_key_longer_than_libyaml_takes_is_written_with_a_question_mark() -> None:
    assert load(dump({"x" * 2000: {"a": 1}})) == {"x" * 2000: {"a": 1}}
