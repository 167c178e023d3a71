"""The command check-inject, called as its users call it."""

from __future__ import annotations

import io
import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

import pytest

from istio_init.inject import check, status_table, webhooks
from istio_init.inject.generation import GENERATIONS, NEW, OLD, Generation
from istio_init.inject.policy import InjectionPolicy
from istio_init.inject.yaml import dump, load_documents
from tests.documents import DOCS
from tests.unit.calls import Done, call

if TYPE_CHECKING:
    from pathlib import Path

DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  namespace: shop
spec:
  template:
    metadata:
      labels: {app: web}
    spec:
      containers: [{name: web, image: nginx}]
"""
JOB = """\
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec:
  template:
    metadata:
      labels: {sidecar.istio.io/inject: "false"}
    spec:
      containers: [{name: once, image: busybox}]
"""
BAD = """\
apiVersion: v1
kind: Pod
metadata:
  name: bad
  annotations: {traffic.sidecar.istio.io/includeInboundPorts: x}
spec:
  containers: [{name: bad, image: busybox}]
"""
NAMESPACE = """\
apiVersion: v1
kind: Namespace
metadata:
  name: shop
  labels: {istio-injection: enabled}
"""
ENABLED = ("--namespace-labels", "istio-injection=enabled")


def written(folder: Path, *texts: str) -> str:
    file = folder / "app.yaml"
    file.write_text("---\n".join(texts), encoding="utf-8")
    return str(file)


def checked(*arguments: str) -> Done:
    return call("check-inject", *arguments)


def test_one_line_for_each_workload(tmp_path: Path) -> None:
    done = checked("-f", written(tmp_path, DEPLOYMENT, JOB), *ENABLED)

    assert done.code == 0
    assert done.out.splitlines() == [
        "Deployment shop/web  injected      the policy is enabled",
        "Job default/once     not injected  the pod has the label sidecar.istio.io/inject=false",
    ]


def test_without_labels_nobody_is_injected_and_the_remedy_is_said(tmp_path: Path) -> None:
    done = checked("-f", written(tmp_path, DEPLOYMENT), "--explain")

    lines = done.out.splitlines()
    assert lines[0].endswith("app.yaml:1 (document 1): Deployment shop/web: not injected")
    assert len([line for line in lines if "does not match" in line]) == 4
    assert lines[-1] == (
        "  to change set the namespace label istio-injection=enabled "
        "(kubectl label namespace shop istio-injection=enabled --overwrite)"
    )


def test_explain_shows_the_injectors_rules_too(tmp_path: Path) -> None:
    done = checked("-f", written(tmp_path, DEPLOYMENT), *ENABLED, "--explain")

    for text in ("webhook", "hostNetwork: is not set", "policy: is enabled", "because"):
        assert text in done.out


@pytest.mark.parametrize(
    ("texts", "flags", "code"),
    [
        ((DEPLOYMENT,), (*ENABLED, "--require"), 0),
        ((DEPLOYMENT, JOB), ENABLED, 0),
        ((DEPLOYMENT, JOB), (*ENABLED, "--require"), 3),
        ((BAD,), ENABLED, 2),
        ((BAD,), (), 0),
        (("a: [",), (), 2),
        (("kind: ConfigMap\n",), ("--require",), 0),
        ((DEPLOYMENT.replace("spec:\n  template:", "spec: 1\nx:", 1),), (), 2),
    ],
)
def test_exit_codes(
    tmp_path: Path, texts: tuple[str, ...], flags: tuple[str, ...], code: int
) -> None:
    done = checked("-f", written(tmp_path, *texts), *flags)

    assert done.code == code, done
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--table", "-f", "x"),
        ("--table", "--context", "x"),
        ("-f", "/nonexistent"),
        ("--table", "--inject-config", "/nonexistent"),
        ("--table", "--webhook-config", "/nonexistent"),
        ("-f", "/dev/null", "--namespace-labels", "a"),
        ("-f", "/dev/null", "--namespace-labels", "a b=c"),
        ("-f", "/dev/null", "--namespace-labels", "a=\x1b"),
        ("--table", "--release", "1.1"),
    ],
)
def test_bad_input(arguments: tuple[str, ...]) -> None:
    done = checked(*arguments)

    assert done.code == 2
    assert done.err
    assert "Traceback" not in done.err


def test_a_bad_file_is_named_among_the_good(tmp_path: Path) -> None:
    written(tmp_path, DEPLOYMENT)
    (tmp_path / "bad.yml").write_text("a: b: c\n")
    (tmp_path / "notes.txt").write_text("a: b: c\n")

    done = checked("-f", str(tmp_path), "--format", "json")

    assert done.code == 2
    assert "bad.yml:1" in done.err
    assert json.loads(done.out)["verdict"] == "error"


def test_a_folder_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, DEPLOYMENT)
    stdin = io.TextIOWrapper(io.BytesIO(JOB.encode()))
    monkeypatch.setattr(sys, "stdin", stdin)

    done = checked("-f", str(tmp_path), "-f", "-", "-n", "batch")

    assert [line.split()[1] for line in done.out.splitlines()] == ["shop/web", "batch/once"]


def test_a_namespace_among_the_manifests_has_its_own_labels(tmp_path: Path) -> None:
    done = checked("-f", written(tmp_path, DEPLOYMENT, NAMESPACE))

    assert "injected      the policy" in done.out


def test_json(tmp_path: Path) -> None:
    file = written(tmp_path, DEPLOYMENT, JOB, BAD)
    done = checked("-f", file, *ENABLED, "--format", "json")

    document = json.loads(done.out)
    web, once, bad = document["workloads"]
    assert document["version"] == check.VERSION
    assert (web["result"], web["injected"], web["reason"]) == ("injected", True, "policy-enabled")
    assert web["where"]["file"] == file
    assert web["where"]["namespace"] == "shop"
    assert web["entries"] == ["namespace.sidecar-injector.istio.io"]
    assert (once["gate"], once["reason"]) == ("webhook", "label-false")
    assert once["remedy"]["edits"] == [
        {"owner": "pod label", "key": "sidecar.istio.io/inject", "value": None}
    ]
    assert bad["result"] == "refused"
    assert bad["problems"][0]["severity"] == "error"


def test_a_revision_and_its_tags(tmp_path: Path) -> None:
    file = written(tmp_path, DEPLOYMENT)
    flags = ("--revision", "canary", "--tag", "prod")

    for label, injected in (("canary", True), ("prod", True), ("default", False)):
        done = checked("-f", file, *flags, "--namespace-labels", f"istio.io/rev={label}")
        assert (" injected " in done.out.replace("not injected", "")) is injected


def test_namespaces_by_default(tmp_path: Path) -> None:
    file = written(tmp_path, DEPLOYMENT)

    assert "not injected" in checked("-f", file).out
    assert "not injected" not in checked("-f", file, "--enable-namespaces-by-default").out


def test_files_take_the_place_of_what_is_built_in(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("policy: disabled\ntemplates: {sidecar: ''}\n")
    webhook = tmp_path / "webhook"
    webhook.write_text(
        json.dumps(
            {
                "kind": "MutatingWebhookConfiguration",
                "metadata": {"name": "ours"},
                "webhooks": [
                    {
                        "name": f"all.{webhooks.SUFFIX}",
                        "rules": [
                            {
                                "operations": ["*"],
                                "apiGroups": ["*"],
                                "apiVersions": ["*"],
                                "resources": ["*"],
                            }
                        ],
                    }
                ],
            }
        )
    )
    file = written(tmp_path, DEPLOYMENT)

    done = checked("-f", file, "--inject-config", str(config), "--webhook-config", str(webhook))

    assert "the policy is disabled" in done.out


def test_a_webhook_configuration_that_is_none(tmp_path: Path) -> None:
    done = checked("--table", "--webhook-config", written(tmp_path, DEPLOYMENT))

    assert done.code == 2
    assert "app.yaml:1" in done.err
    assert "MutatingWebhookConfiguration" in done.err


CRON_JOB = """\
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec:
  jobTemplate:
    metadata:
      labels: {sidecar.istio.io/inject: "false"}
    spec:
      template:
        metadata:
          labels: {sidecar.istio.io/inject: "true"}
        spec:
          containers: [{name: nightly, image: busybox}]
"""


def test_the_webhook_sees_the_pods_of_a_cron_job() -> None:
    installation = check.Installation(
        InjectionPolicy(NEW), webhooks.installation(NEW), "default", lambda _: {}
    )

    (one,) = check.check_documents(load_documents(CRON_JOB), installation)

    assert one.result is check.CheckResult.INJECTED


def test_pods_of_a_list_and_of_every_version() -> None:
    items = [
        {
            "apiVersion": version,
            "kind": "Deployment",
            "metadata": {"name": f"web{number}", "labels": {"sidecar.istio.io/inject": "true"}},
            "spec": {"template": {"spec": {"containers": []}}},
        }
        for number, version in enumerate(("apps/v1", "extensions/v1beta1"))
    ]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    installation = check.Installation(
        InjectionPolicy(NEW), webhooks.installation(NEW), "default", lambda _: {}
    )

    both = list(check.check_documents(load_documents(text), installation))

    assert [one.where.name for one in both] == ["web0", "web1"]
    # The label stands on the workload, where it has no effect.
    assert all(one.result is check.CheckResult.NOT_INJECTED for one in both)
    assert all("has no effect here" in one.problems[0].what for one in both)


def table(*arguments: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(checked("--table", "--format", "json", *arguments).out)[
        "rows"
    ]
    return rows


def test_the_table_of_1_0() -> None:
    rows = table("--release", "1.0")

    assert len(rows) == 18
    assert [(row["policy"], row["pod"].rpartition("=")[2]) for row in rows if row["injected"]] == [
        ("enabled", ""),
        ("enabled", "true"),
        ("disabled", "true"),
    ]
    assert {row["namespace"] for row in rows if row["injected"]} == {"istio-injection=enabled"}


def test_the_table_of_1_30() -> None:
    rows = table()

    assert len(rows) == 40
    injected = {(row["namespace"], row["policy"], row["pod"]) for row in rows if row["injected"]}
    label, annotation = "label sidecar.istio.io/inject", "annotation sidecar.istio.io/inject"
    for namespace in ("istio-injection=enabled", "istio.io/rev=default"):
        assert (namespace, "enabled", "") in injected
        assert (namespace, "disabled", f"{annotation}=true") in injected
        assert (namespace, "enabled", f"{label}=false") not in injected
    assert ("", "disabled", f"{label}=true") in injected
    assert ("", "enabled", f"{annotation}=true") not in injected


def test_the_table_as_text_has_the_same_rows() -> None:
    lines = checked("--table").out.splitlines()

    assert lines[0].split() == ["NAMESPACE", "LABEL", "POLICY", "POD", "INJECTED", "DECIDED", "BY"]
    assert len(lines) == 41
    assert len([line for line in lines if " yes " in line]) == sum(
        row["injected"] for row in table()
    )


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_table_as_markdown(generation: Generation) -> None:
    rows = status_table.status_table(generation, webhooks.installation(generation))

    lines = status_table.markdown(rows).splitlines()

    namespaces, pods = (3, 3) if generation == OLD else (4, 5)
    assert len(lines) == 2 + namespaces * 2
    assert {line.count("|") for line in lines} == {3 + pods}
    assert sum(line.count(" yes ") for line in lines) == sum(row.decision.inject for row in rows)


APP = [
    ("apps/v1", "Deployment", "web", {}, {}),
    ("apps/v1", "DaemonSet", "agent", {}, {"hostNetwork": True}),
    ("batch/v1", "Job", "report", {"sidecar.istio.io/inject": "false"}, {}),
]


@pytest.mark.parametrize("file", ["app.yaml", "web.yaml"])
def test_the_page_shows_what_is_printed(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = [
        {
            "apiVersion": version,
            "kind": kind,
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"template": {"metadata": {"labels": labels}, "spec": spec}},
        }
        for version, kind, name, labels, spec in APP[: 1 if file == "web.yaml" else None]
    ]
    (tmp_path / file).write_text("---\n".join(dump(one) for one in objects))
    page = (DOCS / "injection.md").read_text(encoding="utf-8")
    example = page.split(f"```console\n$ istio-init check-inject -f {file} ", 1)[1]
    flags, _, rest = example.partition("\n")
    monkeypatch.chdir(tmp_path)

    assert checked("-f", file, *shlex.split(flags)).out == rest.partition("```")[0]
