"""What the injection of one pod takes, and what it gives."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.inject.problems import Problem

JsonMap = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Workload:
    """The object that a pod belongs to, as templates and errors name it."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class PodRequest:
    """One pod that is to be injected.

    ``metadata`` and ``spec`` are those of the pod or of a workload's pod template.
    ``workload`` is the object around a pod template, None for a pod. ``namespace`` is the
    one that the request names, ``namespace_object`` that Namespace as the API server has
    it. ``by_hand`` tells a manifest from an admission: YAML's scalars are read as the
    tools read them, and of an inject config only the template ``sidecar`` is a default.
    ``environment`` are the variables that the URL of the webhook sets.
    """

    metadata: JsonMap
    spec: JsonMap
    workload: Workload | None = None
    namespace: str = ""
    namespace_object: JsonMap | None = None
    by_hand: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Injection:
    """A pod after its injection: the new metadata and spec, and what is worth knowing."""

    metadata: JsonMap
    spec: JsonMap
    warnings: tuple[Problem, ...] = ()


_CRON_JOB = re.compile(r"(.+)-\d{8,10}", re.ASCII)


def workload_of(request: PodRequest) -> Workload:
    """Return the object that a pod belongs to.

    A pod with ``generateName`` is its controller's; what stands behind a ReplicaSet, a
    ReplicationController or a Job is read off names and labels, as Istio does.
    """
    if request.workload is not None:
        return request.workload
    metadata = request.metadata
    own = str(metadata.get("name") or "")
    namespace = str(metadata.get("namespace") or "") or request.namespace
    reference = _controller(metadata) if metadata.get("generateName") else None
    if reference is None:
        return Workload("v1", "Pod", own, namespace)
    labels = metadata.get("labels")
    version, kind, name = _behind(reference, labels if isinstance(labels, dict) else {})
    return Workload(version, kind, name or own, namespace)


def _controller(metadata: JsonMap) -> JsonMap | None:
    references = metadata.get("ownerReferences")
    for reference in references if isinstance(references, list) else ():
        if isinstance(reference, dict) and reference.get("controller") is True:
            return reference
    return None


def _behind(reference: JsonMap, labels: JsonMap) -> tuple[str, str, str]:
    version, kind, name = (str(reference.get(key) or "") for key in ("apiVersion", "kind", "name"))
    if kind == "ReplicaSet":
        for label, owner in (
            ("pod-template-hash", (version, "Deployment")),
            ("rollouts-pod-template-hash", ("v1alpha1", "Rollout")),
        ):
            digest = labels.get(label)
            if digest and name.endswith(str(digest)):
                return *owner, name.removesuffix(f"-{digest}")
    elif kind == "ReplicationController" and labels.get("deploymentconfig"):
        return version, "DeploymentConfig", str(labels["deploymentconfig"])
    elif kind == "Job" and (match := _CRON_JOB.fullmatch(name)):
        return "batch/v1", "CronJob", match[1]
    return version, kind, name


_VARIABLE_OF_PARAMETER = {"cluster": "ISTIO_META_CLUSTER_ID", "net": "ISTIO_META_NETWORK"}


def environment_of_path(path: str) -> dict[str, str]:
    """Return the variables that the path of the webhook's URL sets.

    ``/inject/cluster/c1/net/n1``: names and values in turn, ``--slash--`` in a value for a
    slash; a last name without value counts for nothing. The older form
    ``/inject/:ENV:cluster=c1`` is read too.
    """
    rest = path.removesuffix("/").split("/", 2)[2:]
    if not rest:
        return {}
    if rest[0].startswith(":ENV:"):
        pairs = [pair.split("=", 1) for pair in rest[0].split(":ENV:")[1:] if "=" in pair]
        found = [(name, value) for name, value in pairs if name]
    else:
        words = rest[0].split("/")
        found = [
            (name, value.replace("--slash--", "/"))
            for name, value in zip(words[::2], words[1::2], strict=False)
        ]
    return {_VARIABLE_OF_PARAMETER.get(name, name.upper()): value for name, value in found}
