"""AdmissionReview in, AdmissionReview out: what the API server sends, and what it is answered.

Everything here is pure. The body of a request is hostile until it is parsed.

Source: Kubernetes, admission/v1 and v1beta1.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NoReturn

from istio_init.errors import IstioInitError
from istio_init.inject.patch import json_patch
from istio_init.inject.problems import printable
from istio_init.inject.request import environment_of_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

V1 = "admission.k8s.io/v1"
VERSIONS = (V1, "admission.k8s.io/v1beta1")
KIND = "AdmissionReview"
# The path that the webhook is registered with; variables may follow it.
PATH = "/inject"
# A longer warning may be cut by the API server; so may the rest of them together.
LONGEST_WARNING = 256
LONGEST_WARNINGS = 4096
# etcd stores no object of this length; an error is read by a person.
LONGEST_MESSAGE = 16384
# The reason of a refusal whose request was no review.
BAD_REQUEST = "bad-request"


class Outcome(StrEnum):
    """What became of a request."""

    INJECTED = "injected"
    SKIPPED = "skipped"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class AdmissionRequest:
    """The part of a review that a decision needs.

    ``namespace`` is the one that the pod is created in. The pod of a controller
    has neither a name nor a namespace of its own yet.
    """

    uid: str
    pod: dict[str, Any]
    namespace: str = ""
    version: str = V1
    dry_run: bool = False
    # What the path of the webhook's URL sets.
    environment: Mapping[str, str] = field(default_factory=dict)
    # The namespace as the API server has it, where that is known.
    namespace_object: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Admission:
    """What became of a pod, and why.

    ``reason`` is one of a small closed set, for metrics. ``message`` is for a
    person. ``pod`` is the injected pod, None where the pod stays as it is.
    """

    outcome: Outcome
    reason: str
    message: str = ""
    pod: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ObjectReference:
    """An object that a log line or an Event is about, with the fields of Kubernetes' own type."""

    kind: str = "Pod"
    namespace: str = ""
    name: str = ""
    uid: str = ""
    apiVersion: str = "v1"  # noqa: N815 - as Kubernetes spells it

    def __str__(self) -> str:
        """Return kind, namespace and name as kubectl prints them."""
        return printable(f"{self.kind} {self.namespace}/{self.name or '(no name yet)'}")


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a request's body, and what there is to tell of it.

    ``reason`` is ``""`` for what was no creation of a pod and was let through.
    """

    body: bytes
    outcome: Outcome
    reason: str = ""
    message: str = ""
    about: ObjectReference = ObjectReference()
    dry_run: bool = False


class ReviewError(IstioInitError):
    """A body that is no review of a pod's creation; ``uid`` and ``version`` are as far as known."""

    def __init__(self, why: str, *, uid: str = "", version: str = V1) -> None:
        self.uid, self.version = uid, version
        super().__init__(f"the request is no {KIND} of a pod: {why}")


@dataclass(frozen=True, slots=True)
class OtherObject:
    """A review of something else than the creation of a pod, which is let through."""

    uid: str
    version: str
    what: str


def parse_review(
    body: bytes,
    environment: Mapping[str, str] | None = None,
    namespace_object: dict[str, Any] | None = None,
) -> AdmissionRequest | OtherObject:
    """Return the request of a review.

    Raises:
        ReviewError: The body is no JSON, or no review in a version that is known.
    """
    review = _json(body)
    version = review.get("apiVersion")
    if version not in VERSIONS:
        raise ReviewError(f"apiVersion is {_shown(version)}, not one of {', '.join(VERSIONS)}")
    if review.get("kind") != KIND:
        raise ReviewError(f"kind is {_shown(review.get('kind'))}", version=version)
    request = review.get("request")
    if not isinstance(request, dict):
        raise ReviewError(f"request is {_shown(request)}, not an object", version=version)
    uid = request.get("uid", "")
    if not isinstance(uid, str):
        raise ReviewError(f"request.uid is {_shown(uid)}, not a string", version=version)
    other = _other_object(request)
    if other:
        return OtherObject(uid, version, other)
    pod = request.get("object")
    if not isinstance(pod, dict):
        raise ReviewError(
            f"request.object is {_shown(pod)}, not an object", uid=uid, version=version
        )
    for key in ("metadata", "spec"):
        if not isinstance(pod.get(key), dict):
            raise ReviewError(f"the pod has no {key}", uid=uid, version=version)
    namespace = request.get("namespace")
    return AdmissionRequest(
        uid,
        pod,
        namespace if isinstance(namespace, str) else "",
        version,
        dry_run=request.get("dryRun") is True,
        environment=environment or {},
        namespace_object=namespace_object,
    )


def _json(body: bytes) -> dict[str, Any]:
    def refuse(word: str) -> NoReturn:
        raise ReviewError(f"{word} is no JSON")

    try:
        review = json.loads(body, parse_constant=refuse)
    except RecursionError:
        raise ReviewError("it is nested too deeply") from None
    except ValueError as error:
        # UnicodeDecodeError is one too.
        raise ReviewError(printable(str(error))) from None
    if not isinstance(review, dict):
        raise ReviewError(f"it is {_shown(review)}, not an object")
    return review


def _other_object(request: dict[str, Any]) -> str:
    """Return what a request is about, or ``""`` when that is the creation of a pod.

    Fields that are missing are taken for those of a pod's creation.
    """
    kind, operation = request.get("kind"), request.get("operation", "CREATE")
    if request.get("subResource"):
        return f"subresource {_shown(request['subResource'])}"
    if isinstance(kind, dict) and (kind.get("group", ""), kind.get("kind")) != ("", "Pod"):
        return f"kind {_shown(kind.get('kind'))}"
    return "" if operation == "CREATE" else f"operation {_shown(operation)}"


def _shown(value: object) -> str:
    """Return a value of a request for an error's text; its size is that of a word."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'}"
    text = printable(json.dumps(value))
    return text if len(text) <= 100 else f"{text[:100]}..."


def answer(request: AdmissionRequest, admission: Admission) -> dict[str, Any]:
    """Return the review that answers a request; without a patch where nothing changes."""
    response: dict[str, Any] = {"uid": request.uid, "allowed": True}
    if admission.outcome is Outcome.REFUSED:
        response |= _refusal(admission.message)
    elif admission.pod is not None:
        operations = json_patch(request.pod, admission.pod)
        if operations:
            patch = json.dumps(operations, separators=(",", ":")).encode()
            response["patchType"] = "JSONPatch"
            response["patch"] = base64.b64encode(patch).decode()
    warnings = _fitting(admission.warnings)
    if warnings:
        response["warnings"] = warnings
    return _review(request.version, response)


def answer_other(other: OtherObject) -> dict[str, Any]:
    """Return the review that lets through what is no creation of a pod."""
    return _review(other.version, {"uid": other.uid, "allowed": True})


def answer_error(error: ReviewError) -> dict[str, Any]:
    """Return the review that refuses what is no review."""
    return _review(error.version, {"uid": error.uid} | _refusal(str(error)))


def reply_to(
    body: bytes,
    path: str,
    admit: Callable[[AdmissionRequest], Admission],
    namespace_object: dict[str, Any] | None = None,
) -> Reply:
    """Return the reply to a body that was posted to a path; whatever it holds, there is one."""
    try:
        request = parse_review(body, environment_of_path(path), namespace_object)
        if isinstance(request, OtherObject):
            return Reply(_bytes(answer_other(request)), Outcome.SKIPPED)
        admission = admit(request)
        return Reply(
            _bytes(answer(request, admission)),
            admission.outcome,
            admission.reason,
            admission.message,
            reference(request),
            request.dry_run,
        )
    except ReviewError as failure:
        error = failure
    except RecursionError:
        # The parser goes deeper than those who read what it returns.
        error = ReviewError("it is nested too deeply")
    return Reply(_bytes(answer_error(error)), Outcome.REFUSED, BAD_REQUEST, str(error))


def namespace_of(body: bytes) -> str:
    """Return the namespace that a review is about, or ``""`` where it names none."""
    try:
        request = parse_review(body)
    except ReviewError:
        return ""
    return request.namespace if isinstance(request, AdmissionRequest) else ""


def reference(request: AdmissionRequest) -> ObjectReference:
    """Return the object by which people know a pod: itself, or who creates it.

    The pod of a controller has no name before it is stored.
    """
    metadata = request.pod["metadata"]
    name, owners = metadata.get("name"), metadata.get("ownerReferences")
    if isinstance(name, str) and name:
        return ObjectReference(namespace=request.namespace, name=name)
    for owner in owners if isinstance(owners, list) else ():
        if isinstance(owner, dict) and owner.get("controller") is True:
            fields = [owner.get(key) for key in ("kind", "name", "uid", "apiVersion")]
            kind, name, uid, version = (one if isinstance(one, str) else "" for one in fields)
            return ObjectReference(kind, request.namespace, name, uid, version)
    generated = metadata.get("generateName")
    name = f"{generated}*" if isinstance(generated, str) else ""
    return ObjectReference(namespace=request.namespace, name=name)


def _bytes(review: dict[str, Any]) -> bytes:
    # Whatever a pod holds is ASCII in the end, half of a surrogate pair too.
    return json.dumps(review, separators=(",", ":")).encode("ascii")


def _refusal(message: str) -> dict[str, Any]:
    text = message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]}..."
    status = {"status": "Failure", "message": text, "reason": "BadRequest", "code": 400}
    return {"allowed": False, "status": status}


def _fitting(warnings: tuple[str, ...]) -> list[str]:
    """Return warnings as the API server passes them on: printable, and not too long."""
    kept: list[str] = []
    left = LONGEST_WARNINGS
    for warning in dict.fromkeys(map(printable, warnings)):
        text = warning
        if len(text) > LONGEST_WARNING:
            text = f"{text[: LONGEST_WARNING - 3]}..."
        left -= len(text)
        if left < 0:
            break
        kept.append(text)
    return kept


def _review(version: str, response: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": version, "kind": KIND, "response": response}
