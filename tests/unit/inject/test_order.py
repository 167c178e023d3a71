"""The order of an injected pod's containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.inject.order import ordered

if TYPE_CHECKING:
    from tests.unit.inject.pods import Json


def pod(containers: str, init: str) -> Json:
    fields = {"containers": containers, "initContainers": init}
    spec = {field: [{"name": one} for one in text.split()] for field, text in fields.items()}
    return {"metadata": {}, "spec": spec}


def names(pod: Json, field: str) -> str:
    return " ".join(one["name"] for one in pod["spec"][field])


@pytest.mark.parametrize(
    ("before", "hold", "after"),
    [
        ("istio-proxy a b", False, "a b istio-proxy"),
        ("a istio-proxy b", True, "istio-proxy a b"),
        ("b a", True, "b a"),
    ],
)
def test_the_proxy_is_last_or_first(before: str, hold: bool, after: str) -> None:  # noqa: FBT001
    assert names(ordered(pod(before, ""), hold=hold), "containers") == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("istio-init a b", "a b istio-init"),
        ("enable-core-dump istio-init a", "a istio-init enable-core-dump"),
        ("a istio-validation", "istio-validation a"),
        ("a istio-proxy istio-init b", "istio-init istio-proxy a b"),
        (
            "enable-core-dump a istio-validation istio-proxy",
            "istio-validation istio-proxy enable-core-dump a",
        ),
    ],
)
def test_init_containers(before: str, after: str) -> None:
    assert names(ordered(pod("a", before), hold=False), "initContainers") == after


@given(
    st.permutations(
        ["a", "b", "istio-init", "istio-proxy", "istio-validation", "enable-core-dump"]
    ),
    st.booleans(),
)
def test_the_order_is_final_and_the_users_containers_keep_theirs(
    init: list[str],
    hold: bool,  # noqa: FBT001
) -> None:
    original = pod("x istio-proxy y", " ".join(init))
    once = ordered(original, hold=hold)
    assert ordered(once, hold=hold) == once
    own = [name for name in names(once, "initContainers").split() if name in ("a", "b")]
    assert own == [name for name in init if name in ("a", "b")]


def test_lists_that_are_empty_or_absent_stay() -> None:
    empty: Json = {"metadata": {}, "spec": {"containers": []}}
    assert ordered(empty, hold=True) == empty
