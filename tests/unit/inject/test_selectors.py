"""Label selectors, as Kubernetes has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.inject.selectors import (
    Operator,
    Requirement,
    is_label_key,
    is_label_value,
    parse_selector,
)


def expression(operator: str, *values: str, key: str = "team") -> dict[str, object]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("data", "text", "matching", "others"),
    [
        (None, "everything", [{}, {"team": "a"}], []),
        ({}, "everything", [{}, {"team": "a"}], []),
        ({"matchLabels": None, "matchExpressions": None}, "everything", [{}], []),
        ({"matchLabels": {"team": "a"}}, "team=a", [{"team": "a"}], [{}, {"team": "b"}]),
        (expression("In", "a", "b"), "team in (a, b)", [{"team": "b"}], [{}, {"team": "c"}]),
        (expression("NotIn", "a"), "team!=a", [{}, {"team": "b"}], [{"team": "a"}]),
        (expression("NotIn", "a", "b"), "team notin (a, b)", [{}], [{"team": "b"}]),
        (expression("Exists"), "team", [{"team": ""}], [{}]),
        (expression("DoesNotExist"), "!team", [{}], [{"team": ""}]),
        (
            {"matchLabels": {"b": "", "a": "x"}, **expression("Exists")},
            "a=x,b=,team",
            [{"a": "x", "b": "", "team": "1"}],
            [{"a": "x", "b": ""}, {"a": "x", "team": "1"}],
        ),
    ],
)
def test_selector(
    data: object, text: str, matching: list[dict[str, str]], others: list[dict[str, str]]
) -> None:
    selector = parse_selector(data)

    assert str(selector) == text
    assert all(selector.matches(labels) for labels in matching)
    assert not any(selector.matches(labels) for labels in others)
    assert all(bool(selector.unmet(labels)) is (labels in others) for labels in matching + others)


@pytest.mark.parametrize(
    ("data", "mentions"),
    [
        ([], "mapping"),
        ({"matchLabel": {}}, "matchLabel"),
        ({"matchLabels": []}, "matchLabels"),
        ({"matchLabels": {"a b": "x"}}, "a b"),
        ({"matchLabels": {"a": 1}}, "1"),
        ({"matchLabels": {"a": "x\n"}}, "x"),
        ({"matchExpressions": {}}, "list"),
        ({"matchExpressions": ["team"]}, "mapping"),
        ({"matchExpressions": [{"operator": "Exists"}]}, "null"),
        (expression("exists"), "In, NotIn, Exists, DoesNotExist"),
        (expression("In"), "needs values"),
        (expression("NotIn"), "needs values"),
        (expression("Exists", "a"), "takes no values"),
        (expression("DoesNotExist", "a"), "takes no values"),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": "a"}]}, "list"),
    ],
)
def test_what_kubernetes_refuses(data: object, mentions: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        parse_selector(data)

    assert mentions in str(refused.value)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("", False, True),
        ("a", True, True),
        ("A.b_c-9", True, True),
        ("-a", False, False),
        ("a.", False, False),
        ("a" * 63, True, True),
        ("a" * 64, False, False),
        ("istio.io/rev", True, False),
        ("/rev", False, False),
        ("a/b/c", False, False),
        ("Istio.io/rev", False, False),
        (f"{'a' * 254}/b", False, False),
        ("a\n", False, False),
    ],
)
def test_label_syntax(text: str, *, key: bool, value: bool) -> None:
    assert is_label_key(text) is key
    assert is_label_value(text) is value


@given(st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz")), st.sampled_from("abc"))
def test_every_operator_has_its_opposite(labels: dict[str, str], key: str) -> None:
    for one, other, values in (
        (Operator.IN, Operator.NOT_IN, ("x", "y")),
        (Operator.EXISTS, Operator.DOES_NOT_EXIST, ()),
    ):
        assert Requirement(key, one, values).matches(labels) is not (
            Requirement(key, other, values).matches(labels)
        )
