"""Istio's own results of injection: manifests by hand, and pods by the webhook."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from istio_init.inject import policy, yaml
from istio_init.inject.kinds import PLACES, pod_carriers
from istio_init.inject.pod import inject_pod
from istio_init.inject.problems import InjectionError
from istio_init.inject.request import PodRequest, Workload, environment_of_path
from istio_init.inject.settings import SettingsFile, load_settings
from tests.injection.compare import comparable
from tests.injection.folder import conformance

if TYPE_CHECKING:
    from pathlib import Path

    from istio_init.inject.kinds import PodCarrier
    from istio_init.inject.settings import Settings

FOLDER = conformance()


def cases(kind: str) -> list[Any]:
    found = []
    for file in sorted(FOLDER.glob("*/cases/*/case.json")) if FOLDER else ():
        case = json.loads(file.read_text(encoding="utf-8"))
        if case["kind"] == kind:
            release = file.parents[2].name
            found.append(pytest.param(file.parent, case, id=f"{release}-{case['name']}"))
    return found


def test_there_are_as_many_cases_as_the_data_says() -> None:
    assert FOLDER is not None
    assert len(cases("inject")) == 37 + 107
    assert len(cases("admission")) == 22 + 15


def settings_of(folder: Path, case: dict[str, Any]) -> Settings:
    files = {
        key: SettingsFile((folder / case[key]).read_text(encoding="utf-8"), case[key])
        for key in ("inject_config", "values", "mesh_config")
        if case.get(key)
    }
    environment = case["env"]
    return load_settings(
        files["inject_config"],
        files.get("values"),
        files.get("mesh_config"),
        revision=case.get("revision") or "",
        native_sidecars=environment.get("ENABLE_NATIVE_SIDECARS") == "true",
        platform=environment.get("PLATFORM", ""),
        environment=environment,
    )


def read(folder: Path, name: str) -> str:
    return (folder / name).read_text(encoding="utf-8")


def injected_documents(text: str, settings: Settings) -> tuple[list[Any], list[str]]:
    """Return the documents of a manifest after their injection, and the warnings."""
    documents: list[Any] = []
    warnings: list[str] = []
    for document in yaml.load_documents(text, "input.yaml"):
        value = document.value
        for carrier in pod_carriers(value, PLACES[settings.generation]):
            subject = policy.subject_of(carrier.metadata, carrier.spec)
            decision = policy.decide_by_hand(subject, settings.generation)
            if decision.inject:
                injection = inject_pod(request_of(carrier), settings)
                value = carrier.replaced(value, injection.metadata, injection.spec)
                warnings += map(str, injection.warnings)
            else:
                warnings.append(f"{carrier.where.workload}: {decision.text}")
        documents.append(value)
    return documents, warnings


def request_of(carrier: PodCarrier) -> PodRequest:
    workload = Workload(
        carrier.api_version, carrier.kind, carrier.object_name, carrier.object_namespace
    )
    return PodRequest(
        carrier.metadata,
        carrier.spec,
        workload=None if carrier.is_pod else workload,
        by_hand=True,
    )


def assert_mentions(text: str, case: dict[str, Any]) -> None:
    for word in case["mentions"]:
        assert word in text


@pytest.mark.parametrize(("folder", "case"), cases("inject"))
def test_a_manifest_is_injected_as_istio_does(folder: Path, case: dict[str, Any]) -> None:
    settings = settings_of(folder, case)
    if "error" in case:
        with pytest.raises(InjectionError) as refused:
            injected_documents(read(folder, case["input"]), settings)
        assert_mentions(str(refused.value), case["error"])
        return
    documents, warnings = injected_documents(read(folder, case["input"]), settings)
    expected = yaml.load_documents(read(folder, case["expected"]))
    wanted = [one.value for one in expected if one.value]
    assert comparable([one for one in documents if one]) == comparable(wanted)
    for warning in case.get("warnings", ()):
        assert_mentions("\n".join(warnings), warning)


# The data of these two is that a second injection adds to the first: of kube-inject 1.0 by
# hand, and of a proxy that an older release injected, which counts as the user's own.
NOT_AGAIN = {"1.0-again-duplicates", "1.30-golden-merge-probers"}


def repeatable() -> list[Any]:
    return [
        one for one in cases("inject") if "error" not in one.values[1] and one.id not in NOT_AGAIN
    ]


@pytest.mark.parametrize(("folder", "case"), repeatable())
def test_a_second_injection_changes_nothing(folder: Path, case: dict[str, Any]) -> None:
    settings = settings_of(folder, case)
    once, _ = injected_documents(read(folder, case["input"]), settings)
    twice, _ = injected_documents("---\n".join(yaml.dump(one) for one in once), settings)
    assert twice == once


@pytest.mark.parametrize(
    ("folder", "case"), [one for one in repeatable() if str(one.id).startswith("1.30")]
)
def test_native_or_not_in_between_makes_no_difference(folder: Path, case: dict[str, Any]) -> None:
    settings = settings_of(folder, case)
    other = replace(settings, native_sidecars=not settings.native_sidecars, revision="other")
    text = read(folder, case["input"])
    between, _ = injected_documents(text, other)
    there_and_back, _ = injected_documents(
        "---\n".join(yaml.dump(one) for one in between), settings
    )
    assert there_and_back == injected_documents(text, settings)[0]


# Whether the mesh's values or the pod's user wrote the label of a network is not recorded.
NETWORK_IN_VALUES = {"1.30-values-misc"}


@pytest.mark.parametrize(
    ("folder", "case"),
    [
        one
        for one in repeatable()
        if str(one.id).startswith("1.30") and one.id not in NETWORK_IN_VALUES
    ],
)
def test_other_settings_in_between_make_no_difference(folder: Path, case: dict[str, Any]) -> None:
    text = read(folder, case["input"])
    between, _ = injected_documents(text, settings_of(folder, case))
    plain = default_settings()
    try:
        wanted, _ = injected_documents(text, plain)
    except InjectionError:
        # The pod asks for a template that the default settings lack.
        with pytest.raises(InjectionError):
            injected_documents("---\n".join(yaml.dump(one) for one in between), plain)
        return
    result, _ = injected_documents("---\n".join(yaml.dump(one) for one in between), plain)
    assert comparable(result) == comparable(wanted)


@cache
def default_settings() -> Settings:
    assert FOLDER is not None
    case = {
        "inject_config": "configs/default.yaml",
        "values": "values/default.json",
        "mesh_config": "mesh/default.yaml",
        "env": {"ENABLE_NATIVE_SIDECARS": "true"},
    }
    return settings_of(FOLDER / "1.30", case)


@pytest.mark.parametrize(("folder", "case"), cases("admission"))
def test_a_pod_is_admitted_as_istio_does(folder: Path, case: dict[str, Any]) -> None:
    try:
        review = json.loads(read(folder, case["request"]))
    except ValueError:
        assert case["status"] == 400 or not case["allowed"]
        return
    settings = settings_of(folder, case)
    request = review["request"]
    pod = request["object"]
    metadata, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    namespace = request.get("namespace", "")
    subject = policy.subject_of(metadata, spec, namespace=namespace)
    decision = policy.decide(subject, settings.policy)
    if case.get("expected", ...) is None:
        assert not decision.inject
        return
    assert decision.inject
    asked = PodRequest(
        metadata,
        spec,
        namespace=namespace,
        namespace_object=case.get("namespace_object"),
        environment=environment_of_path(case["path"]),
    )
    if "error" in case:
        with pytest.raises(InjectionError) as refused:
            inject_pod(asked, settings)
        assert_mentions(str(refused.value), case["error"])
        return
    injection = inject_pod(asked, settings)
    if "expected" in case:
        result = {**pod, "metadata": injection.metadata, "spec": injection.spec}
        assert comparable(result) == comparable(json.loads(read(folder, case["expected"])))
