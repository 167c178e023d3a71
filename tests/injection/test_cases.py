"""Istio's own results of injection: manifests by hand, and pods by the webhook."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from istio_init.inject import policy, yaml
from istio_init.inject.pod import inject_pod
from istio_init.inject.problems import InjectionError
from istio_init.inject.request import PodRequest, environment_of_path
from istio_init.inject.settings import SettingsFile, load_settings
from tests.injection.compare import comparable
from tests.injection.folder import conformance

if TYPE_CHECKING:
    from pathlib import Path

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
