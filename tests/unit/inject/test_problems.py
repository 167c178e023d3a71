"""Problems as lines and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.errors import IstioInitError
from istio_init.inject import problems
from istio_init.inject.problems import InjectionError, Where, error, note, warning

PLACE = Where("app.yaml", 2, 12, "Deployment", "shop", "web", annotation="a.io/ports")


@pytest.mark.parametrize(
    ("where", "line"),
    [
        (Where(), "error: no: because; do"),
        (Where("app.yaml"), "app.yaml: error: no: because; do"),
        (Where(line=3), "line 3: error: no: because; do"),
        (Where(document=2), "document 2: error: no: because; do"),
        (Where(kind="Pod", name="web"), "error: Pod web: no: because; do"),
        (Where(path="spec.replicas"), "error: spec.replicas: no: because; do"),
        (
            PLACE,
            (
                "app.yaml:12 (document 2): error: Deployment shop/web: annotation a.io/ports: "
                "no: because; do"
            ),
        ),
    ],
)
def test_line(where: Where, line: str) -> None:
    assert str(error("no", where, why="because", remedy="do")) == line


def test_what_alone() -> None:
    assert str(note("nothing to do")) == "note: nothing to do"


@given(st.text(), st.text(), st.text())
def test_a_line_does_nothing_to_a_terminal(what: str, why: str, name: str) -> None:
    assert str(warning(what, Where(name=name), why=why)).isprintable()


@given(st.text() | st.integers() | st.lists(st.text()))
def test_quoted_values_are_one_short_line(value: object) -> None:
    assert problems.quoted(value).isprintable()


def test_long_values_are_cut() -> None:
    text = problems.quoted("x" * 10_000)

    assert len(text) < 500
    assert "10002 characters" in text


def test_the_caller_adds_what_only_it_knows() -> None:
    inner = error("no", Where(kind="Pod", annotation="a.io/ports"))

    placed = inner.within(Where("app.yaml", 1, kind="Deployment", name="web"))

    assert placed.where == Where("app.yaml", 1, kind="Pod", name="web", annotation="a.io/ports")


def test_json_holds_everything() -> None:
    document = json.loads(problems.as_json([error("no", PLACE, why="because", remedy="do")]))

    assert document == [
        {
            "severity": "error",
            "what": "no",
            "where": asdict(PLACE),
            "why": "because",
            "remedy": "do",
        }
    ]


def test_errors_come_first() -> None:
    mixed = [note("a"), warning("b"), error("c"), warning("d"), error("e")]

    assert [one.what for one in problems.by_severity(mixed)] == ["c", "e", "b", "d", "a"]


def test_only_errors_stop_an_injection() -> None:
    assert problems.has_errors([note("a"), error("b")])
    assert not problems.has_errors([note("a"), warning("b")])


def test_the_error_carries_all_problems_to_the_exit() -> None:
    raised = InjectionError([error("a"), error("b", Where(line=4))]).within(Where("app.yaml"))

    assert isinstance(raised, IstioInitError)
    assert raised.exit_code == 2
    assert str(raised) == problems.as_text(raised.problems).rstrip("\n")
    assert str(raised) == "app.yaml: error: a\napp.yaml:4: error: b"
