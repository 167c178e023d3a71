"""Kubernetes' strategic merge patch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.inject.merge import strategic_merge
from istio_init.inject.pod_fields import MERGE_KEYS, Shape, fields_of
from istio_init.inject.problems import InjectionError
from tests.unit.settings import tried

Json = dict[str, Any]


def spec(**fields: object) -> Json:
    return {"spec": fields}


def test_every_list_with_a_key_holds_structs_that_have_it() -> None:
    for name, keys in MERGE_KEYS.items():
        for field, key in keys.items():
            kind = fields_of(name)[field].type
            assert kind.shape is Shape.LIST
            assert kind.element is not None
            if key:
                assert kind.element.shape is Shape.STRUCT
                assert key in fields_of(kind.element.struct)
            else:
                assert kind.element.shape is Shape.TEXT


@pytest.mark.parametrize(
    ("old", "patch", "merged"),
    [
        pytest.param(
            spec(hostname="a", subdomain="b"),
            spec(hostname="c"),
            spec(hostname="c", subdomain="b"),
            id="a scalar replaces",
        ),
        pytest.param(
            spec(nodeSelector={"a": "1", "gone": "x"}),
            spec(nodeSelector={"b": "2", "gone": None}),
            spec(nodeSelector={"a": "1", "b": "2"}),
            id="a map is merged and null deletes",
        ),
        pytest.param(
            spec(securityContext={"fsGroup": 5}, hostname="x"),
            spec(securityContext=None, subdomain=None),
            spec(hostname="x"),
            id="null deletes a struct, and what is not there",
        ),
        pytest.param(
            spec(tolerations=[{"key": "old"}]),
            spec(tolerations=[{"key": "new"}]),
            spec(tolerations=[{"key": "new"}]),
            id="a list without key replaces",
        ),
        pytest.param(
            spec(containers=[{"name": "a", "image": "1", "args": ["x"]}]),
            spec(containers=[{"name": "a", "args": ["y", "z"]}]),
            spec(containers=[{"name": "a", "image": "1", "args": ["y", "z"]}]),
            id="a container of the name is merged",
        ),
        pytest.param(
            spec(containers=[{"name": "a", "ports": [{"containerPort": 1, "name": "n"}]}]),
            spec(containers=[{"name": "a", "ports": [{"containerPort": 1, "name": "m"}]}]),
            spec(containers=[{"name": "a", "ports": [{"containerPort": 1, "name": "m"}]}]),
            id="a port by its number",
        ),
        pytest.param(
            spec(volumes=[{"name": "v", "hostPath": {"path": "/"}}]),
            spec(volumes=[{"name": "v", "$retainKeys": ["name", "emptyDir"], "emptyDir": {}}]),
            spec(volumes=[{"name": "v", "emptyDir": {}}]),
            id="retainKeys",
        ),
        pytest.param(
            spec(volumes=[{"name": "v"}, {"name": "w"}]),
            spec(volumes=[{"name": "v", "$patch": "delete"}]),
            spec(volumes=[{"name": "w"}]),
            id="an item is deleted",
        ),
        pytest.param(
            spec(volumes=[{"name": "v"}, {"name": "w"}]),
            spec(volumes=[{"$patch": "replace"}, {"name": "x", "emptyDir": None}]),
            spec(volumes=[{"name": "x"}]),
            id="a list is replaced",
        ),
        pytest.param(
            {"metadata": {"labels": {"a": "1"}}},
            {"metadata": {"labels": {"$patch": "replace", "b": "2"}}},
            {"metadata": {"labels": {"b": "2"}}},
            id="a map is replaced",
        ),
        pytest.param(
            {"metadata": {"labels": {"a": "1"}}},
            {"metadata": {"labels": {"$patch": "delete"}}},
            {"metadata": {"labels": {}}},
            id="a map is emptied",
        ),
        pytest.param(
            spec(),
            spec(volumes=[{"name": "v", "emptyDir": None, "secret": {"secretName": None}}]),
            spec(volumes=[{"name": "v", "secret": {}}]),
            id="a new part has no nulls",
        ),
        pytest.param(
            spec(containers=[{"name": "a", "image": "1"}, {"name": "a", "image": "2"}]),
            spec(containers=[{"name": "a", "image": "3"}]),
            spec(containers=[{"name": "a", "image": "3"}, {"name": "a", "image": "2"}]),
            id="of two of a name the first takes all",
        ),
        pytest.param(
            {"metadata": {"finalizers": ["a", "b"]}},
            {"metadata": {"finalizers": ["b", "c"]}},
            {"metadata": {"finalizers": ["a", "b", "c"]}},
            id="a set has nothing twice",
        ),
        pytest.param(
            spec(hostname="a"),
            spec(hostname={"what": 1}),
            spec(hostname={"what": 1}),
            id="another type replaces",
        ),
        pytest.param(
            {"spec": {"x-own": {"deep": {"a": 1}}}},
            {"spec": {"x-own": {"deep": {"b": 2}}}},
            {"spec": {"x-own": {"deep": {"a": 1, "b": 2}}}},
            id="unknown maps are merged too",
        ),
        pytest.param(
            spec(),
            {"spec": {"nodeSelector": {"$patch": "delete"}, "volumes": [{"$patch": "replace"}]}},
            {"spec": {"volumes": []}},
            id="what only deletes adds nothing",
        ),
        pytest.param(
            spec(),
            spec(affinity={"nodeAffinity": {"$patch": "delete"}}),
            spec(affinity={}),
            id="also inside of what is new",
        ),
        pytest.param(
            spec(containers=["odd", {"name": "a"}]),
            spec(containers=[{"name": "a", "image": "1"}]),
            spec(containers=["odd", {"name": "a", "image": "1"}]),
            id="an old item that is no map stays",
        ),
    ],
)
def test_a_patch(old: Json, patch: Json, merged: Json) -> None:
    before = copy.deepcopy((old, patch))
    assert strategic_merge(old, patch) == merged
    assert (old, patch) == before


@pytest.mark.parametrize(
    ("old", "patch", "merged"),
    [
        ("a b", "x", "x a b"),
        ("a b", "b x", "a b x"),
        ("a b", "x b", "x a b"),
        ("a b", "b a", "b a"),
        ("a b c", "c x", "a b c x"),
        ("a b c", "b", "a b c"),
        ("", "x y", "x y"),
        ("a b", "", "a b"),
        ("a b c d", "x d b", "x a c d b"),
    ],
)
def test_the_order_of_a_merged_list(old: str, patch: str, merged: str) -> None:
    result = strategic_merge(named(old), named(patch))
    assert [one["name"] for one in result["spec"]["containers"]] == merged.split()


def named(names: str) -> Json:
    return spec(containers=[{"name": name} for name in names.split()])


@pytest.mark.parametrize(
    ("patch", "path"),
    [
        (spec(containers=[{"image": "x"}]), "spec.containers[0]"),
        (spec(containers=["x"]), "spec.containers[0]"),
        (spec(containers=[{"name": "a", "$patch": "merge"}]), "spec.containers[0]"),
        (spec(containers=[{"$patch": "delete"}]), "spec.containers[0]"),
        ({"metadata": {"$patch": "maybe"}}, "metadata"),
        ({"metadata": {"$retainKeys": "labels"}}, "metadata"),
        ({"metadata": {"$retainKeys": ["labels"], "name": "x"}}, "metadata"),
        ({"spec": {"$setElementOrder/containers": []}}, "spec.$setElementOrder/containers"),
    ],
)
def test_a_patch_that_kubernetes_refuses_is_named_with_its_path(patch: Json, path: str) -> None:
    with pytest.raises(InjectionError) as refused:
        strategic_merge({"metadata": {}, "spec": {"containers": [{"name": "a"}]}}, patch)
    assert [problem.where.path for problem in refused.value.problems] == [path]


names = st.lists(st.sampled_from("abcdefg"), unique=True, max_size=7)
scalars = st.one_of(st.text(max_size=3), st.integers(), st.booleans())


@st.composite
def pods(draw: st.DrawFn) -> Json:
    containers = [
        {
            "name": name,
            "image": draw(st.sampled_from(["i", "j"])),
            "env": [{"name": one, "value": draw(st.text(max_size=2))} for one in draw(names)],
            "args": draw(st.lists(st.sampled_from(["x", "y"]), max_size=2)),
        }
        for name in draw(names)
    ]
    return {
        "metadata": {"labels": draw(st.dictionaries(st.sampled_from("xyz"), st.text(max_size=2)))},
        "spec": {"containers": containers, "hostname": draw(st.text(max_size=2))},
    }


@tried
@given(pods(), pods())
def test_a_patch_laid_over_twice_is_laid_over_once(old: Json, patch: Json) -> None:
    once = strategic_merge(old, patch)
    assert strategic_merge(once, patch) == once


@tried
@given(pods())
def test_an_empty_patch_changes_nothing(old: Json) -> None:
    assert strategic_merge(old, {}) == old
    assert strategic_merge(old, {"spec": {}, "metadata": {}}) == old


@tried
@given(pods(), pods())
def test_a_merge_changes_nothing_that_it_is_given(old: Json, patch: Json) -> None:
    before = copy.deepcopy((old, patch))
    strategic_merge(old, patch)
    assert (old, patch) == before


@tried
@given(pods(), pods())
def test_nothing_of_the_patch_is_lost_and_nothing_else_is_added(old: Json, patch: Json) -> None:
    merged = strategic_merge(old, patch)
    mine = {one["name"]: one for one in old["spec"]["containers"]}
    theirs = {one["name"]: one for one in patch["spec"]["containers"]}
    result = {one["name"]: one for one in merged["spec"]["containers"]}
    assert result.keys() == mine.keys() | theirs.keys()
    assert len(result) == len(merged["spec"]["containers"])
    for name, container in theirs.items():
        assert result[name]["image"] == container["image"]
        assert result[name]["args"] == container["args"]
    for name in mine.keys() - theirs.keys():
        assert result[name] == mine[name]


@tried
@given(names, names)
def test_both_lists_keep_their_order_in_the_merged_one(old: list[str], patch: list[str]) -> None:
    merged = strategic_merge(named(" ".join(old)), named(" ".join(patch)))
    result = [one["name"] for one in merged["spec"]["containers"]]
    assert [name for name in result if name in patch] == patch
    rest = [name for name in old if name not in patch]
    assert [name for name in result if name in rest] == rest
