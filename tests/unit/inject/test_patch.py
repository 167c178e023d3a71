"""The patch of a pod: exact, minimal, and bounded whatever the pod is."""

from __future__ import annotations

import copy
import json
import time
from typing import TYPE_CHECKING

import jsonpatch
import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.inject.patch import is_same, json_patch

if TYPE_CHECKING:
    from typing import Any

NAMES = st.sampled_from(["a", "b", "c", "istio-init", "x/y", "t~", "", "ü"])
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([0.0, 1.0, 1.5]), NAMES
)
NAMED = st.fixed_dictionaries(
    {"name": NAMES}, optional={"image": NAMES, "args": st.lists(NAMES, max_size=4)}
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=6),
        st.lists(NAMED, max_size=6),
        st.dictionaries(NAMES, inner, max_size=4),
    ),
    max_leaves=30,
)


def applied(operations: list[dict[str, Any]], document: Any) -> Any:  # noqa: ANN401
    """Apply a patch with the library that others use."""
    return jsonpatch.apply_patch(copy.deepcopy(document), copy.deepcopy(operations))


@given(VALUES, VALUES)
def test_the_patch_makes_the_one_of_the_other(original: Any, wanted: Any) -> None:  # noqa: ANN401
    before = copy.deepcopy(original)
    operations = json_patch(original, wanted)

    assert is_same(applied(operations, original), wanted)
    assert is_same(original, before)
    assert json.loads(json.dumps(operations)) == operations


@given(VALUES)
def test_equal_values_need_no_patch(value: Any) -> None:  # noqa: ANN401
    assert json_patch(value, copy.deepcopy(value)) == []


@given(st.lists(NAMED, max_size=5, unique_by=lambda item: str(item["name"])), NAMED, st.data())
def test_one_more_item_is_one_operation(
    items: list[dict[str, Any]], item: dict[str, Any], data: st.DataObject
) -> None:
    if any(one["name"] == item["name"] for one in items):
        return
    position = data.draw(st.integers(0, len(items)))
    wanted = [*items[:position], item, *items[position:]]

    assert json_patch(items, wanted) == [{"op": "add", "path": f"/{position}", "value": item}]
    assert json_patch(wanted, items) == [{"op": "remove", "path": f"/{position}"}]


CASES: dict[str, tuple[Any, Any, list[dict[str, Any]]]] = {
    "a map that is missing is added whole": (
        {"metadata": {}},
        {"metadata": {"annotations": {"a/b": "c"}}},
        [{"op": "add", "path": "/metadata/annotations", "value": {"a/b": "c"}}],
    ),
    "keys are escaped": (
        {"a/b": 1, "c~d": 1},
        {"a/b": 2},
        [
            {"op": "remove", "path": "/c~0d"},
            {"op": "replace", "path": "/a~1b", "value": 2},
        ],
    ),
    "an item that moved keeps the others where they are": (
        [{"name": "proxy"}, {"name": "app"}, {"name": "side"}],
        [{"name": "app"}, {"name": "side"}, {"name": "proxy"}],
        [
            {"op": "remove", "path": "/0"},
            {"op": "add", "path": "/2", "value": {"name": "proxy"}},
        ],
    ),
    "an item of the same name changes in its place": (
        {"containers": [{"name": "app", "image": "a", "env": [{"name": "x", "value": "1"}]}]},
        {
            "containers": [
                {"name": "new"},
                {"name": "app", "image": "a", "env": [{"name": "x", "value": "2"}]},
            ]
        },
        [
            {"op": "add", "path": "/containers/0", "value": {"name": "new"}},
            {"op": "replace", "path": "/containers/1/env/0/value", "value": "2"},
        ],
    ),
    "a boolean is no number": (
        [True],
        [1],
        [
            {"op": "remove", "path": "/0"},
            {"op": "add", "path": "/0", "value": 1},
        ],
    ),
    "null is not absent": (
        {"a": None},
        {"b": None},
        [{"op": "remove", "path": "/a"}, {"op": "add", "path": "/b", "value": None}],
    ),
    "another kind of value replaces": (
        {"a": {"b": 1}},
        {"a": [1]},
        [{"op": "replace", "path": "/a", "value": [1]}],
    ),
    "the whole document": (None, {}, [{"op": "replace", "path": "", "value": {}}]),
}


@pytest.mark.parametrize("name", CASES)
def test_patches(name: str) -> None:
    original, wanted, operations = CASES[name]

    assert json_patch(original, wanted) == operations


def test_long_lists_are_replaced_in_little_time() -> None:
    original = [{"name": f"a{number}"} for number in range(20_000)]
    wanted = [{"name": f"b{number}"} for number in range(20_000)]
    start = time.monotonic()

    assert json_patch(original, wanted) == [{"op": "replace", "path": "", "value": wanted}]
    assert json_patch(original, copy.deepcopy(original)) == []
    assert time.monotonic() - start < 10


def test_long_lists_with_little_news_are_patched() -> None:
    original = [{"name": f"a{number}"} for number in range(20_000)]
    wanted = [*original[:7], {"name": "b"}, *original[7:]]

    assert json_patch(original, wanted) == [{"op": "add", "path": "/7", "value": {"name": "b"}}]
