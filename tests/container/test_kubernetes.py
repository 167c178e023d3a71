"""The manifests: valid for every Kubernetes that is still looked after, and doing what they say."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml

from istio_init import __version__
from tests.container.envoy import Answer, EnvoyPod
from tests.container.runtime import PYTHON, Context
from tests.namespace import BACKENDS, Namespace
from tests.pod import APP, CLIENT, OUTSIDE, PASSTHROUGH, POD, PROXY, Call, Setup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.container.runtime import Runtime

    Manifest = dict[str, Any]

FOLDER = Path(__file__).parents[2] / "container" / "kubernetes"
# Kustomize's and Helm's files are not resources of a cluster.
OTHERS = {"kustomization.yaml", "istio.yaml"}
# Each is listed twice, for the two kinds of schemas.
VERSIONS = list(dict.fromkeys(kubernetes_validate.utils.all_versions()))[-6:]


def documents(name: str) -> list[Manifest]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


def manifests() -> Iterator[tuple[str, Manifest]]:
    for path in sorted(FOLDER.rglob("*.yaml")):
        if path.name not in OTHERS:
            name = str(path.relative_to(FOLDER))
            for document in documents(name):
                yield f"{name} {document['kind']}", document


def invalid(document: Manifest, version: str) -> str:
    """Return what is wrong with a manifest, properties that nobody knows included."""
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return str(error.message)
    return ""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", [pytest.param(one, id=name) for name, one in manifests()])
def test_manifests_are_valid(document: Manifest, version: str) -> None:
    assert invalid(document, version) == ""


def test_the_validation_finds_mistakes() -> None:
    _, pod = documents("pod.yaml")
    pod["spec"]["initContainers"][0]["securityContext"]["readOnlyRootFileSystem"] = True

    assert "readOnlyRootFileSystem" in invalid(pod, VERSIONS[-1])


TEMPLATE: Manifest = {
    "metadata": {"labels": {"app": "app"}},
    "spec": {"containers": [{"name": "app", "image": "app"}], "restartPolicy": "Always"},
}
ONCE: Manifest = {"spec": {**TEMPLATE["spec"], "restartPolicy": "Never"}}
SELECTED: Manifest = {"selector": {"matchLabels": {"app": "app"}}, "template": TEMPLATE}
WORKLOADS: dict[str, tuple[str, Manifest]] = {
    "Deployment": ("apps/v1", SELECTED),
    "StatefulSet": ("apps/v1", {**SELECTED, "serviceName": "app"}),
    "DaemonSet": ("apps/v1", SELECTED),
    "Job": ("batch/v1", {"template": ONCE}),
    "CronJob": (
        "batch/v1",
        {"schedule": "0 0 * * *", "jobTemplate": {"spec": {"template": ONCE}}},
    ),
    "Pod": ("v1", TEMPLATE["spec"]),
}


def workload(kind: str) -> Manifest:
    version, spec = WORKLOADS[kind]
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": "app"},
        "spec": deepcopy(spec),
    }


def with_value(document: Manifest, path: str, value: str) -> Manifest:
    """Return a document with ``value`` at a field path of kustomize, where there is nothing yet."""
    head, _, rest = path.partition(".")
    if head.startswith("["):
        raise AssertionError(f"{head} is of a list that is there")
    if rest.startswith("["):
        entry, _, below = rest.partition(".")
        key, name = entry.strip("[]").split("=")
        return {**document, head: [with_value({key: name}, below, value)]}
    inner = with_value(document.get(head, {}), rest, value) if rest else value
    return {**document, head: inner}


@pytest.mark.parametrize("kind", WORKLOADS)
def test_the_component_names_fields_that_there_are(kind: str) -> None:
    (component,) = documents("injected/kustomization.yaml")
    (image,) = documents("injected/image.yaml")
    (replacement,) = component["replacements"]
    source = replacement["source"]
    targets = {one["select"]["kind"]: one for one in replacement["targets"]}
    (path,) = targets[kind]["fieldPaths"]
    document = workload(kind)

    assert targets.keys() == WORKLOADS.keys()
    assert (source["kind"], source["name"]) == (image["kind"], image["metadata"]["name"])
    assert source["fieldPath"] == "data.image"
    assert image["data"]["image"] == "istio-init"
    assert path.endswith("spec.initContainers.[name=istio-init].image")
    assert invalid(document, VERSIONS[-1]) == ""
    assert invalid(with_value(document, path, "istio-init"), VERSIONS[-1]) == ""
    mistaken = with_value(document, path.replace("spec.initC", "initC"), "istio-init")
    assert "initContainers" in invalid(mistaken, VERSIONS[-1])


def test_the_image_is_named_as_it_is_built() -> None:
    _, pod = documents("pod.yaml")
    (audit,) = documents("audit.yaml")
    (values,) = documents("istio.yaml")
    own = f"istio-init:{__version__}"

    assert pod["spec"]["initContainers"][0]["image"] == own
    assert audit["spec"]["template"]["spec"]["containers"][0]["image"] == own
    assert values["global"]["proxy_init"]["image"].endswith(f"/{own}")


def context_of(container: Manifest) -> Context:
    """Return what a runtime is asked for, by the kubelet, for a container of a pod."""
    security = container["securityContext"]
    assert security["capabilities"]["drop"] == ["ALL"]
    # What holds for every container of these tests.
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    memory = container["resources"]["limits"]["memory"]
    return Context(
        tuple(security["capabilities"].get("add", ())),
        security["runAsUser"],
        memory=int(memory.removesuffix("Mi")) << 20,
    )


def test_the_pod_does_what_it_says(runtime: Runtime) -> None:
    settings, pod = documents("pod.yaml")
    (init,) = pod["spec"]["initContainers"]
    app, proxy = pod["spec"]["containers"]
    config = yaml.safe_load(settings["data"]["envoy.yaml"])
    users = [one["securityContext"]["runAsUser"] for one in (app, proxy)]
    assert users == [APP.uid, PROXY.uid]
    inward, outward = Call(CLIENT, POD, 8080), Call(APP, OUTSIDE, 80)

    with EnvoyPod(Setup(tuple(init["args"])), runtime, config) as envoy_pod:
        done = runtime.run(*init["args"], pod=envoy_pod.namespace, context=context_of(init))
        assert done.returncode == 0, done.stderr

        # Envoy says nothing here of the way; its address does, and that nothing goes without it.
        envoy_pod.expect_answer(inward, "ipv4", Answer("app:8080", PASSTHROUGH.ipv4))
        envoy_pod.expect_answer(outward, "ipv4", Answer("outside:80", POD.ipv4))
        envoy_pod.envoy.close()
        for call in (inward, outward):
            with pytest.raises(AssertionError, match="ConnectionRefusedError"):
                envoy_pod.get(call, "ipv4")


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_pod_is_modest(runtime: Runtime, backend: str) -> None:
    """Half of the memory that it may take is enough."""
    _, pod = documents("pod.yaml")
    (init,) = pod["spec"]["initContainers"]
    context = context_of(init)
    half = replace(context, memory=context.memory // 2)
    with Namespace() as namespace:
        done = runtime.run(*init["args"], "--backend", backend, pod=namespace, context=half)
        glutton = runtime.run(f"b'x' * {half.memory}", pod=namespace, context=half, program=PYTHON)

    assert done.returncode == 0, done.stderr
    # As a shell says that a signal, SIGKILL, has ended a program.
    assert glutton.returncode == 128 + 9
