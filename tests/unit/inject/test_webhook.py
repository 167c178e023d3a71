"""Reviews: whatever is posted has an answer, and the answer is what the API server expects."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import jsonpatch
import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.inject.webhook import (
    BAD_REQUEST,
    LONGEST_MESSAGE,
    LONGEST_WARNING,
    LONGEST_WARNINGS,
    VERSIONS,
    Admission,
    AdmissionRequest,
    ObjectReference,
    Outcome,
    Reply,
    reply_to,
)

if TYPE_CHECKING:
    from collections.abc import Callable

POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "app"},
    "spec": {"containers": [{"name": "app", "image": "app"}]},
}
REQUEST: dict[str, Any] = {
    "uid": "7",
    "kind": {"group": "", "version": "v1", "kind": "Pod"},
    "operation": "CREATE",
    "namespace": "shop",
    "object": POD,
}
INIT = {"name": "istio-init", "image": "istio-init"}


def review(**changes: Any) -> bytes:  # noqa: ANN401
    document = {"apiVersion": VERSIONS[0], "kind": "AdmissionReview", "request": REQUEST}
    return json.dumps({**document, **changes}).encode()


def request(**changes: Any) -> bytes:  # noqa: ANN401
    return review(request={**REQUEST, **changes})


def inject(given: AdmissionRequest) -> Admission:
    """Put an init container into every pod."""
    pod = {**given.pod, "spec": {**given.pod["spec"], "initContainers": [INIT]}}
    return Admission(Outcome.INJECTED, "policy-enabled", "yes", pod=pod)


def response(reply: Reply) -> dict[str, Any]:
    document = json.loads(reply.body)
    assert document["kind"] == "AdmissionReview"
    found: dict[str, Any] = document["response"]
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_an_injected_pod(version: str) -> None:
    reply = reply_to(review(apiVersion=version), "/inject", inject)
    answer = response(reply)

    assert json.loads(reply.body)["apiVersion"] == version
    assert answer.keys() == {"uid", "allowed", "patchType", "patch"}
    assert (answer["uid"], answer["allowed"]) == ("7", True)
    assert answer["patchType"] == "JSONPatch"
    patch = json.loads(base64.b64decode(answer["patch"]))
    assert patch == [{"op": "add", "path": "/spec/initContainers", "value": [INIT]}]
    assert jsonpatch.apply_patch(POD, patch)["spec"]["initContainers"] == [INIT]
    assert (reply.outcome, reply.reason) == (Outcome.INJECTED, "policy-enabled")
    assert reply.about == ObjectReference(namespace="shop", name="app")


def test_a_pod_that_needs_no_change_has_no_patch() -> None:
    once = {**POD, "spec": {**POD["spec"], "initContainers": [INIT]}}

    assert response(reply_to(request(object=once), "/inject", inject)) == {
        "uid": "7",
        "allowed": True,
    }


def test_a_pod_that_is_let_through_says_why() -> None:
    def skip(_: AdmissionRequest) -> Admission:
        return Admission(Outcome.SKIPPED, "host-network", "no", warnings=("no", "no", "a\nb"))

    reply = reply_to(request(dryRun=True), "/inject", skip)

    assert response(reply) == {"uid": "7", "allowed": True, "warnings": ["no", "a\\nb"]}
    assert (reply.message, reply.dry_run) == ("no", True)


def test_a_refused_pod() -> None:
    def refuse(_: AdmissionRequest) -> Admission:
        return Admission(Outcome.REFUSED, "bad-annotation", "x" * (LONGEST_MESSAGE + 1))

    answer = response(reply_to(request(), "/inject", refuse))

    assert answer["allowed"] is False
    status = answer["status"]
    assert (status["code"], status["reason"]) == (400, "BadRequest")
    assert len(status["message"]) == LONGEST_MESSAGE + 3


def test_warnings_fit_what_the_api_server_passes_on() -> None:
    warnings = tuple(f"{number} {'x' * 300}" for number in range(40))

    def warn(_: AdmissionRequest) -> Admission:
        return Admission(Outcome.SKIPPED, "policy-disabled", warnings=warnings)

    kept = response(reply_to(request(), "/inject", warn))["warnings"]
    assert len(kept) == LONGEST_WARNINGS // LONGEST_WARNING
    assert all(len(one) == LONGEST_WARNING and one.endswith("...") for one in kept)


def test_the_variables_of_the_path_reach_the_injector() -> None:
    seen: list[AdmissionRequest] = []

    def note(given: AdmissionRequest) -> Admission:
        seen.append(given)
        return Admission(Outcome.SKIPPED, "policy-disabled")

    reply_to(request(), "/inject/cluster/a--slash--b/net/n1/other/x/odd", note)

    assert seen[0].environment == {
        "ISTIO_META_CLUSTER_ID": "a/b",
        "ISTIO_META_NETWORK": "n1",
        "OTHER": "x",
    }


def never(_: AdmissionRequest) -> Admission:
    raise AssertionError("the injector was asked")


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": {"group": "apps", "version": "v1", "kind": "Deployment"}},
        {"kind": {"group": "example.com", "version": "v1", "kind": "Pod"}},
        {"operation": "UPDATE"},
        {"operation": "DELETE", "object": None},
        {"subResource": "ephemeralcontainers"},
    ],
)
def test_what_is_no_creation_of_a_pod_is_let_through(changes: dict[str, Any]) -> None:
    reply = reply_to(request(**changes), "/inject", never)

    assert response(reply) == {"uid": "7", "allowed": True}
    assert reply.reason == ""


BAD: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "Expecting"),
    "no text": (b"\xff\xfe\xff", "decode"),
    "no number": (b'{"a": NaN}', "NaN is no JSON"),
    "too many digits": (b"9" * 5000, "digits"),
    "a list": (b"[]", "it is a list"),
    "a word": (b'"x"', 'it is "x"'),
    "deep": (b"[" * 100_000, "nested too deeply"),
    "version": (review(apiVersion="admission.k8s.io/v2"), "apiVersion"),
    "no version": (review(apiVersion=None), "apiVersion is null"),
    "version of another kind": (review(apiVersion={}), "apiVersion is an object"),
    "kind": (review(kind="Pod"), 'kind is "Pod"'),
    "no request": (review(request=None), "request is null"),
    "no uid": (request(uid=7), "request.uid is 7"),
    "no object": (request(object=None), "request.object is null"),
    "no metadata": (request(object={"spec": {}}), "no metadata"),
    "no spec": (request(object={"metadata": {}, "spec": []}), "no spec"),
    "long": (review(kind="x" * 5000), "..."),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_refused(name: str) -> None:
    body, why = BAD[name]
    reply = reply_to(body, "/inject", never)
    answer = response(reply)

    assert answer["allowed"] is False
    assert why in answer["status"]["message"]
    assert len(answer["status"]["message"]) < 500
    assert (reply.outcome, reply.reason) == (Outcome.REFUSED, BAD_REQUEST)


def test_a_pod_that_is_nested_more_deeply_than_python_goes() -> None:
    pod: dict[str, Any] = {}
    for _ in range(900):
        pod = {"a": pod}
    body = request(object={**POD, "spec": pod}).replace(b'"shop"', b'"deep"')

    def change(given: AdmissionRequest) -> Admission:
        return Admission(Outcome.INJECTED, "policy-enabled", pod=json.loads(json.dumps(given.pod)))

    reply = reply_to(body, "/inject", change)
    assert response(reply)["allowed"] in (True, False)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
)
# Values at the places where a review's are, of any kind.
REVIEWS = st.fixed_dictionaries(
    {},
    optional={
        "apiVersion": st.one_of(st.sampled_from(VERSIONS), JSON),
        "kind": st.one_of(st.just("AdmissionReview"), JSON),
        "request": st.one_of(
            JSON,
            st.fixed_dictionaries(
                {},
                optional={
                    "uid": st.one_of(st.text(), JSON),
                    "kind": JSON,
                    "operation": st.one_of(st.just("CREATE"), JSON),
                    "namespace": JSON,
                    "dryRun": JSON,
                    "object": st.one_of(
                        JSON,
                        st.fixed_dictionaries(
                            {
                                "metadata": st.dictionaries(
                                    st.sampled_from(["name", "generateName", "ownerReferences"]),
                                    JSON,
                                ),
                                "spec": st.dictionaries(st.text(), JSON),
                            }
                        ),
                    ),
                },
            ),
        ),
    },
)


@given(st.one_of(st.binary(), REVIEWS.map(lambda one: json.dumps(one).encode())), st.text())
def test_whatever_is_posted_has_an_answer(body: bytes, path: str) -> None:
    answer = response(reply_to(body, f"/inject/{path}", inject))

    assert isinstance(answer["uid"], str)
    assert isinstance(answer["allowed"], bool)
    if not answer["allowed"]:
        assert answer["status"]["message"]


OWNER = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d9", "uid": "1"}
ABOUT: dict[str, tuple[dict[str, Any], ObjectReference, str]] = {
    "a name": ({"name": "app"}, ObjectReference(namespace="shop", name="app"), "Pod shop/app"),
    "a controller": (
        {"generateName": "web-5d9-", "ownerReferences": [{**OWNER, "controller": True}]},
        ObjectReference("ReplicaSet", "shop", "web-5d9", "1", "apps/v1"),
        "ReplicaSet shop/web-5d9",
    ),
    "an owner that is no controller": (
        {"generateName": "web-", "ownerReferences": [OWNER]},
        ObjectReference(namespace="shop", name="web-*"),
        "Pod shop/web-*",
    ),
    "nothing": ({}, ObjectReference(namespace="shop"), "Pod shop/(no name yet)"),
    "hostile": ({"name": "a\n\x1b"}, ObjectReference(namespace="shop", name="a\n\x1b"), "\\n\\x1b"),
}


@pytest.mark.parametrize("name", ABOUT)
def test_who_a_pod_is(name: str) -> None:
    metadata, about, text = ABOUT[name]
    reply = reply_to(request(object={**POD, "metadata": metadata}), "/inject", inject)

    assert reply.about == about
    assert text in str(reply.about)


def test_half_a_character_goes_through() -> None:
    """JSON may hold half of a surrogate pair; UTF-8 may not."""
    pod = {**POD, "metadata": {"name": "\ud800"}}
    refuse: Callable[[AdmissionRequest], Admission] = lambda given: Admission(  # noqa: E731
        Outcome.REFUSED, "bad-pod", str(given.pod["metadata"]["name"])
    )

    assert response(reply_to(request(object=pod), "/inject", refuse))["allowed"] is False
