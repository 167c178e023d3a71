"""Records: what every value of the program is made of."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING

import pytest

from istio_init import lean
from istio_init.config.model import Config
from istio_init.lean import Record, assert_never
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import HEAD, Chain, ForeignRule, Reason, Rule, rule
from istio_init.rules.ranges import PortRange

if TYPE_CHECKING:
    from typing import Any


class Point(Record):
    x: int
    y: int = 0
    name: str = ""

    @property
    def far(self) -> bool:
        return self.x + self.y > 10


class OtherPoint(Record):
    x: int
    y: int = 0
    name: str = ""


class Empty(Record):
    """A record that says nothing but its kind."""


# Calls that the type checker would refuse, which is what these tests are about.
UNTYPED: Any = Point


def test_fields_are_given_by_position_or_by_name_and_have_defaults() -> None:
    assert Point(1) == Point(x=1) == Point(1, 0) == Point(1, y=0, name="") == Point(1, 0, "")
    assert (Point(1, 2).x, Point(1, 2).y, Point(1, 2).name) == (1, 2, "")


def test_methods_and_properties_are_kept() -> None:
    assert Point(5, 6).far
    assert not Point(5).far


@pytest.mark.parametrize(
    ("values", "named", "text"),
    [
        ((), {}, "Point: missing x"),
        ((), {"y": 1}, "Point: missing x"),
        ((1, 2, "a", 4), {}, "Point: fields are x, y, name"),
        ((1,), {"x": 1}, "Point: fields are x, y, name"),
        ((1,), {"z": 1}, "Point: fields are x, y, name"),
    ],
)
def test_wrong_fields_are_refused(
    values: tuple[object, ...], named: dict[str, object], text: str
) -> None:
    with pytest.raises(TypeError) as caught:
        UNTYPED(*values, **named)

    assert str(caught.value) == text


def test_kind_without_fields_takes_none() -> None:
    untyped: Any = Empty

    with pytest.raises(TypeError):
        untyped(1)


def test_nothing_can_be_changed_or_added() -> None:
    point: Any = Point(1)

    with pytest.raises(AttributeError):
        point.x = 2
    with pytest.raises(AttributeError):
        del point.x
    with pytest.raises(AttributeError):
        point.colour = "red"
    with pytest.raises(TypeError):
        point[1] = 2
    assert point == Point(1)


def test_kinds_with_equal_fields_differ() -> None:
    kinds: list[Record] = [t.Return(), t.Accept(), t.Drop(), Empty()]
    points: list[Record] = [Point(1, 2), OtherPoint(1, 2), PortRange(1, 2)]

    for found in (kinds, points):
        for one in found:
            assert [other for other in found if other == one] == [one]
        assert len(set(found)) == len(found)


def test_equal_values_hash_alike() -> None:
    assert hash(Point(1, 2)) == hash(Point(x=1, y=2))
    assert {Point(1, 2): "here"}[Point(1, 2)] == "here"


def test_rules_are_equal_without_what_the_kernel_cannot_give_back() -> None:
    planned = rule(m.Mark(1), target=t.Jump("X"), place=HEAD, reason=Reason("-t", 1))
    found = Rule((m.Mark(1),), t.Jump("X"))

    assert planned == found
    assert not planned != found  # noqa: SIM202 - both operators are the record's own
    assert hash(planned) == hash(found)
    assert planned != Rule((m.Mark(1),), t.Jump("Y"))
    assert planned != Rule((m.Mark(2),), t.Jump("X"))
    assert planned != ForeignRule("-j X", "X")
    assert ForeignRule("-j X", "X") != planned
    assert planned != "-j X"


def test_replace_changes_named_fields_and_leaves_the_original() -> None:
    point = Point(1, 2, "a")

    assert point.replace(y=3) == Point(1, 3, "a")
    assert point.replace() == point
    assert point == Point(1, 2, "a")
    with pytest.raises(TypeError):
        point.replace(z=3)


def test_repr_is_the_call_that_makes_the_value() -> None:
    assert repr(Point(1, 2, "a")) == "Point(x=1, y=2, name='a')"
    assert repr(Empty()) == "Empty()"
    assert eval(repr(Point(1, 2, "a"))) == Point(1, 2, "a")


def test_patterns_match_by_kind_position_and_name() -> None:
    def described(value: object) -> str:
        match value:
            case Point(1, y):
                return f"point 1, {y}"
            case OtherPoint(x=x):
                return f"other {x}"
            case Empty():
                return "empty"
            case _:
                return "none"

    assert described(Point(1, 7)) == "point 1, 7"
    assert described(Point(2, 7)) == "none"
    assert described(OtherPoint(3)) == "other 3"
    assert described(Empty()) == "empty"
    assert Point.__match_args__ == ("x", "y", "name")


@pytest.mark.parametrize(
    "value",
    [
        Point(1, 2, "a"),
        Empty(),
        Chain("INPUT", None, (rule(m.Mark(1), target=t.Jump("X")), ForeignRule(b"\0", "Y"))),
        Config("1.30"),
    ],
)
def test_values_survive_pickling_and_copying(value: Record) -> None:
    assert pickle.loads(pickle.dumps(value)) == value
    assert copy.deepcopy(value) == value
    assert type(copy.copy(value)) is type(value)


def test_what_cannot_be_fails_when_it_is() -> None:
    untyped: Any = assert_never

    with pytest.raises(AssertionError, match="unexpected 5"):
        untyped(5)


def test_types_are_for_the_checker_alone() -> None:
    assert lean.TYPE_CHECKING is False
