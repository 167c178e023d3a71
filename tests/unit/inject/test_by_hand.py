"""Whole manifests, injected with the built-in configuration and freed again."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from istio_init.inject import builtin
from istio_init.inject.by_hand import inject_manifest
from istio_init.inject.manifest import ManifestDocument, rewrite
from istio_init.inject.problems import InjectionError, Severity, Where
from istio_init.inject.settings import Settings, SettingsFile, load_settings
from istio_init.inject.uninject import belong_together, uninject
from istio_init.inject.yaml import load, load_documents

if TYPE_CHECKING:
    from istio_init.inject.plain_data import PlainValue

RECORD = "# istio-init uninject: "


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings(*(SettingsFile(builtin.text(name), name) for name in builtin.FILES))


DEPLOYMENT = """\
# The shop's front.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web     # its name
  namespace: shop
spec:
  selector:
    matchLabels: &labels {app: web}

  template:
    metadata:
      creationTimestamp: null
      labels: *labels
      annotations:
        note: 'keep "this"'
    spec:
      containers:
      - name: web
        image: "nginx:1.27"
        resources: {}
        args: [ "-c", 'x' ]   # odd blanks
        env:
          - {name: A, value: "on"}
        command:
          - sh
          - -c
          - |
            echo 1

            echo 2
"""
OTHERS = """\
---
apiVersion: v1
kind: ConfigMap
data: {a:   y}
---
# nothing but a comment
---
apiVersion: example.com/v1
kind: Widget
spec: {template: {spec: {containers: []}}}
"""
JOB = """\
apiVersion: batch/v1
kind: CronJob
metadata:
    name: nightly
spec:
    schedule: '0 1 * * *'
    jobTemplate:
        spec:
            template:
                spec:
                    restartPolicy: Never
                    containers:
                        - name: job
                          image: job
"""
LIST = """\
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: a}
  spec: {containers: [{name: a, image: a}]}
- apiVersion: v1
  kind: Pod
  metadata:
    name: b
  spec:
    containers:
    - {name: b, image: b}
"""
MANIFESTS = {
    "deployment": DEPLOYMENT,
    "documents": DEPLOYMENT + OTHERS,
    "without a last line break": DEPLOYMENT.removesuffix("\n") + "\n" + OTHERS.removesuffix("\n"),
    "from Windows": DEPLOYMENT.replace("\n", "\r\n"),
    "byte order mark": "\ufeff" + DEPLOYMENT,
    "cron job": JOB,
    "list": LIST,
    "no newline": LIST.removesuffix("\n"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_uninject_gives_the_input_back_byte_for_byte(settings: Settings, name: str) -> None:
    text = MANIFESTS[name]
    injected = inject_manifest(text.encode(), f"{name}.yaml", settings)
    assert "istio-proxy" in injected.text
    assert uninject(injected.text.encode()).text == text
    assert inject_manifest(injected.text, f"{name}.yaml", settings).text == injected.text


def test_lines_are_only_added(settings: Settings) -> None:
    text = DEPLOYMENT.replace("*labels", "{app: web}") + OTHERS
    lines = iter(inject_manifest(text, "f", settings).text.splitlines())
    assert all(line in lines for line in text.splitlines())


def test_an_injection_with_other_settings_in_between_makes_no_difference(
    settings: Settings,
) -> None:
    other = replace(settings, native_sidecars=True, revision="canary")
    for text in MANIFESTS.values():
        between = inject_manifest(text, "f", other).text
        once = inject_manifest(text, "f", settings).text
        assert between != once
        assert inject_manifest(between, "f", settings).text == once


def test_without_its_record_a_document_comes_back_by_its_values(settings: Settings) -> None:
    injected = inject_manifest(DEPLOYMENT, "f", settings).text
    bare = "".join(line for line in injected.splitlines(keepends=True) if RECORD not in line)
    assert bare != injected
    once = uninject(bare).text
    assert load(once) == load(DEPLOYMENT)
    assert "# The shop's front." in once
    assert "sidecar.istio.io/status" not in once
    assert load(inject_manifest(bare, "f", settings).text) == load(injected)


def test_a_record_brings_nothing_in(settings: Settings) -> None:
    evil = DEPLOYMENT.replace("image: ", "image: evil.example/") + "      hostNetwork: false\n"
    injected = inject_manifest(evil, "f", settings).text
    record = next(line for line in injected.splitlines() if RECORD in line)
    # The document that people read is another one than the record gives back.
    shown = injected.replace("evil.example/", "")
    data = json.loads(record.removeprefix(RECORD))
    start = shown.index('"nginx:1.27"') - shown.index("apiVersion")
    first, *rest = data[1:]
    moved = [[entry[0] - len("evil.example/") * 1, *entry[1:]] for entry in rest]
    forged = [data[0], first, [start, 12, 'evil.example/"nginx:1.27"'], *moved]
    text = shown.replace(record, RECORD + json.dumps(forged))
    again = inject_manifest(text, "f", settings)
    assert "evil.example" not in again.text
    assert "evil.example" not in str(load_documents(again.text)[0].value)


def test_a_record_that_brings_back_what_is_not_there_is_warned_about() -> None:
    before = "apiVersion: v1\nkind: Pod\nmetadata: {}\nspec:\n  hostPID: true\n  a: 1\n"
    after = {"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {"a": 1}}
    text = rewrite(before, "f", lambda _: after, record=True).text
    assert "hostPID: true\n  a" not in text
    result = uninject(text, "f.yaml")
    assert result.text == before
    (warning,) = result.notes
    assert (warning.severity, warning.where.file) == (Severity.WARNING, "f.yaml")


def test_json_stays_json(settings: Settings) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "p", "image": "p"}]},
    }
    for indent in (None, 2, 4):
        text = json.dumps(pod, indent=indent) + "\n"
        injected = inject_manifest(text, "pod.json", settings)
        assert json.loads(injected.text)["spec"]["initContainers"][0]["name"] == "istio-init"
        assert uninject(injected.text).text == text


SKIPPED = DEPLOYMENT.replace(
    "        note:", "        sidecar.istio.io/inject: 'false'\n        note:"
)


def test_what_is_not_injected_is_a_warning_and_stays(settings: Settings) -> None:
    result = inject_manifest(SKIPPED, "app.yaml", settings)
    assert (result.text, result.skipped, result.pods) == (SKIPPED, 1, ())
    (warning,) = result.problems
    assert "app.yaml:2 (document 1): warning: Deployment shop/web: it is not injected" in str(
        warning
    )


BAD = """\
apiVersion: v1
kind: Pod
metadata:
  name: bad
  annotations:
    traffic.sidecar.istio.io/includeInboundPorts: x
    traffic.sidecar.istio.io/excludeOutboundIPRanges: y
spec:
  containers:
  - {name: c, image: i}
"""


def test_all_problems_come_at_once_with_the_line_of_the_annotation(settings: Settings) -> None:
    text = f"{BAD}---\n{SKIPPED}---\n{BAD}"
    with pytest.raises(InjectionError) as caught:
        inject_manifest(text, "app.yaml", settings)
    lines = {
        (one.where.line, one.where.document, one.where.annotation.rpartition("/")[2])
        for one in caught.value.problems
    }
    second = text.count("\n") - BAD.count("\n")
    assert lines == {
        (6, 1, "includeInboundPorts"),
        (7, 1, "excludeOutboundIPRanges"),
        (BAD.count("\n") + 3, 2, ""),
        (second + 6, 3, "includeInboundPorts"),
        (second + 7, 3, "excludeOutboundIPRanges"),
    }


def test_an_item_of_a_list_is_named_with_its_line(settings: Settings) -> None:
    text = LIST.replace("{name: a}", "{name: a, annotations: {sidecar.istio.io/inject: 'false'}}")
    (warning,) = inject_manifest(text, "list.yaml", settings).problems
    assert (warning.where.name, warning.where.line) == ("a", 4)


BROKEN = DEPLOYMENT.replace(
    "        note:",
    "        sidecar.istio.io/status: '{}'\n        proxy.istio.io/overrides: '['\n        note:",
)


def test_annotations_that_make_no_sense_are_errors(settings: Settings) -> None:
    for call in (
        lambda: uninject(BROKEN, "f.yaml"),
        lambda: inject_manifest(BROKEN, "f", settings),
    ):
        with pytest.raises(InjectionError, match=r"proxy.istio.io/overrides: it is not JSON"):
            call()


def test_a_pod_without_the_record_of_a_key_is_not_touched_by_uninject() -> None:
    for text in (DEPLOYMENT, OTHERS, JOB, LIST, "", "# nothing\n", "3\n", "[a]\n"):
        result = uninject(text, "f")
        assert (result.text, result.changed, result.notes) == (text, 0, ())


@pytest.mark.parametrize(
    ("live", "before"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1}, {"a": {"b": 1}}),
        ({"a": [1]}, {"a": [1, 2]}),
        ({"a": [{"name": "x"}]}, {"a": [{"name": "x", "image": "y"}]}),
        ({"a": [{"name": "x"}]}, {"a": [{"name": "y"}]}),
        ({"a": "1k"}, {"a": "1001"}),
        ({"a": "true"}, {"a": "yes"}),
        ([], {"a": 1}),
        (None, {"a": 1}),
    ],
)
def test_what_the_live_document_does_not_have_does_not_belong_to_it(
    live: PlainValue, before: PlainValue
) -> None:
    assert not belong_together(ManifestDocument(before, live, Where()))


@pytest.mark.parametrize(
    ("live", "before"),
    [
        ({"a": 1, "b": 2}, {"a": 1}),
        ({"a": [1, 2]}, {"a": [2]}),
        ({"a": 1}, {"a": 1, "b": None, "c": {}, "d": []}),
        ({"a": [{"name": "x", "image": "y"}]}, {"a": [{"name": "x"}]}),
        ({"a": "1"}, {"a": "1000m"}),
        ({"a": "true", "b": "8"}, {"a": True, "b": 8}),
        ({"p": {"httpGet": {"port": 15020}}}, {"p": {"tcpSocket": {"port": 80}}}),
        ({"prometheus.io/port": "15020"}, {"prometheus-io.port": "80"}),
    ],
)
def test_what_an_injection_replaces_belongs_to_the_document(
    live: PlainValue, before: PlainValue
) -> None:
    assert belong_together(ManifestDocument(before, live, Where()))


def test_a_live_document_that_makes_no_sense_belongs_to_nothing() -> None:
    live = load(BROKEN)
    assert not belong_together(ManifestDocument(load(DEPLOYMENT), live, Where()))
