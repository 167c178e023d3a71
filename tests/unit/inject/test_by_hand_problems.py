"""What inject says of manifests, beside injecting them."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from istio_init.inject import builtin, yaml
from istio_init.inject.by_hand import inject_manifest
from istio_init.inject.problems import InjectionError
from istio_init.inject.settings import SettingsFile, load_settings

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

SETTINGS = load_settings(*(SettingsFile(builtin.text(name), name) for name in builtin.FILES))
T, S = "traffic.sidecar.istio.io/", "sidecar.istio.io/"


def workload(kind: str = "Deployment", **metadata: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a workload; ``own`` is its metadata, ``pods`` that of its pods."""
    pods = {"metadata": metadata.get("pods", {}), "spec": {"containers": [{"name": "app"}]}}
    version, spec = {
        "Deployment": ("apps/v1", {"template": pods}),
        "Job": ("batch/v1", {"template": pods}),
        "CronJob": (
            "batch/v1",
            {"jobTemplate": {"metadata": metadata.get("jobs", {}), "spec": {"template": pods}}},
        ),
    }[kind]
    own = {"name": "web", **metadata.get("own", {})}
    return {"apiVersion": version, "kind": kind, "metadata": own, "spec": spec}


def reported(*workloads: dict[str, Any]) -> list[str]:
    text = "---\n".join(yaml.dump(one) for one in workloads)
    return [str(one) for one in inject_manifest(text, "app.yaml", SETTINGS).problems]


def test_a_plain_workload_has_none() -> None:
    assert reported(workload()) == []


PORTS = {"annotations": {f"{T}excludeInboundPorts": "80"}}
NO_EFFECT = f"annotation {T}excludeInboundPorts: has no effect here: only the annotations of"


def test_annotations_of_a_deployment_have_no_effect() -> None:
    (problem,) = reported(workload(own=PORTS))

    assert "Deployment web" in problem
    assert f"{NO_EFFECT} spec.template.metadata count; move it there" in problem


def test_a_label_of_a_deployment_does_not_opt_out() -> None:
    (problem,) = reported(workload(own={"labels": {f"{S}inject": "false"}}))

    assert f"label {S}inject: has no effect here" in problem


@pytest.mark.parametrize(("place", "problems"), [("own", 1), ("pods", 1), ("jobs", 0)])
def test_of_a_cron_job_the_jobs_metadata_is_read(place: str, problems: int) -> None:
    found = [one for one in reported(workload("CronJob", **{place: PORTS})) if NO_EFFECT in one]

    assert len(found) == problems
    assert all("spec.jobTemplate.metadata count; move it there" in one for one in found)


def test_a_job_that_never_ends() -> None:
    (problem,) = reported(workload("Job"))

    assert problem.startswith("app.yaml:1 (document 1): warning: Job web: the pod never completes")


def test_errors_of_every_document_and_the_line_of_each_annotation() -> None:
    bad = workload(pods={"annotations": {f"{T}includeInboundPorts": "x", f"{S}logLevel": "a\nb"}})
    text = yaml.dump(bad) + "---\n" + yaml.dump(workload("Job", own={"name": "once"}, pods=PORTS))
    worse = text.replace('"80"', '"y"').replace("'80'", "y")

    with pytest.raises(InjectionError) as refused:
        inject_manifest(worse, "app.yaml", SETTINGS)

    lines = worse.splitlines()
    for problem in refused.value.problems:
        if problem.where.annotation:
            assert problem.where.annotation in lines[problem.where.line - 1]
    assert {one.where.name for one in refused.value.problems} == {"web", "once"}
    assert len([one for one in refused.value.problems if one.where.annotation]) == 3


def test_the_rules_of_each_pod(tmp_path: Path) -> None:
    file = tmp_path / "app.yaml"
    out = {"annotations": {f"{S}interceptionMode": "NONE"}}
    both = [workload(pods=PORTS), workload("Job", pods=out)]
    file.write_text("---\n".join(yaml.dump(one) for one in both))

    command = (sys.executable, "-m", "istio_init", "inject", "-f", file, "--explain-rules")
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    lines = done.stdout.splitlines()
    assert (done.returncode, lines[0]) == (0, "# Deployment web: the rules that istio-init writes")
    assert "-A ISTIO_INBOUND -p tcp -m tcp --dport 80 -j RETURN" in lines
    assert lines[-1] == "# Job web: no init container, and so no rules"
