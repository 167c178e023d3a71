"""Settings from the files of Istio's ConfigMaps."""

from __future__ import annotations

import hashlib
import json

import pytest

from istio_init.inject import yaml
from istio_init.inject.generation import NEW, OLD
from istio_init.inject.problems import InjectionError
from istio_init.inject.settings import SettingsFile, load_settings, native_sidecars_of

OLD_TEMPLATE = "containers:\n- name: istio-proxy\n"
OLD_CONFIG = f"policy: enabled\ntemplate: |\n  {OLD_TEMPLATE.replace(chr(10), chr(10) + '  ')}"
NEW_CONFIG = """
policy: disabled
template: "{{ Not_For_Old_Injectors }}"
templates:
  sidecar: "spec: {}"
  more: "metadata: {}"
defaultTemplates: [more]
aliases:
  both: [sidecar, more]
injectedAnnotations:
  a: b
neverInjectSelector:
- matchLabels: {a: b}
"""


def config(text: str) -> SettingsFile:
    return SettingsFile(text, "config.yaml")


def test_a_config_of_1_0() -> None:
    settings = load_settings(config(OLD_CONFIG))
    assert settings.generation == OLD
    assert list(settings.templates) == ["sidecar"]
    template = yaml.load(OLD_CONFIG)["template"]
    assert settings.version == hashlib.sha256(template.encode()).hexdigest()
    assert settings.policy.policy == "enabled"


def test_a_config_of_1_30() -> None:
    settings = load_settings(config(NEW_CONFIG), revision="canary", native_sidecars=True)
    assert settings.generation == NEW
    assert sorted(settings.templates) == ["more", "sidecar"]
    assert settings.default_templates == ("more",)
    assert settings.aliases == {"both": ("sidecar", "more")}
    assert settings.injected_annotations == {"a": "b"}
    assert settings.policy.policy == "disabled"
    assert (settings.version, settings.revision, settings.native_sidecars) == ("", "canary", True)


@pytest.mark.parametrize(
    "text",
    [
        "metadata:\n  labels:\n    a: {{ .Revision }}\n",
        "spec:\n  containers: []\n",
        "{{- if true }}\nspec: {}\n{{- end }}\n",
    ],
)
def test_a_file_that_is_no_config_is_a_template(text: str) -> None:
    settings = load_settings(config(text))
    assert settings.generation == NEW
    assert list(settings.templates) == ["sidecar"]
    assert settings.default_templates == ("sidecar",)


def test_the_manifests_of_the_config_maps_are_read() -> None:
    def config_map(**data: str) -> SettingsFile:
        manifest = {"apiVersion": "v1", "kind": "ConfigMap", "data": data}
        return SettingsFile(json.dumps(manifest), "map.json")

    both = config_map(config=NEW_CONFIG, values='{"global": {"hub": "h"}}')
    settings = load_settings(both, both, config_map(mesh="trustDomain: td"))
    assert sorted(settings.templates) == ["more", "sidecar"]
    assert settings.values == {"global": {"hub": "h"}}
    assert settings.mesh["trustDomain"] == "td"


def test_without_values_and_mesh_there_are_the_defaults() -> None:
    settings = load_settings(config(NEW_CONFIG), SettingsFile(""), SettingsFile("# nothing\n"))
    assert settings.values == {}
    assert (
        settings == load_settings(config(NEW_CONFIG)) or settings.mesh["proxyListenPort"] == 15001
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["it is empty"]),
        ("template: 5", ["template", "text"]),
        ("templates: [a]", ["templates", "mapping"]),
        ("templates: {a: 5}", ["templates.a", "text"]),
        ("template: '[[ if ]]'", ["template", "parsed"]),
        ("templates: {}\ndefaultTemplates: a", ["defaultTemplates", "list"]),
        ("templates: {}\naliases: [a]", ["aliases", "mapping"]),
        ("templates: {}\naliases: {a: b}", ["a", "list"]),
        ("templates: {}\ninjectedAnnotations: {a: 1}", ["injectedAnnotations"]),
        ("templates:\n  a: {{ .X }}\n b: 1", ["config.yaml:", "invalid YAML"]),
        ("templates: {}\ntemplates: {}", ["duplicate key"]),
    ],
)
def test_a_bad_config_is_refused_with_the_place(text: str, words: list[str]) -> None:
    with pytest.raises(InjectionError) as refused:
        load_settings(config(text))
    for word in ("config.yaml", *words):
        assert word in str(refused.value)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    templates = {"a": "{{ if }}", "b": "{{ end }}", "good": "spec: {}"}
    bad = config(yaml.dump({"templates": templates, "defaultTemplates": 5}))
    with pytest.raises(InjectionError) as refused:
        load_settings(bad, SettingsFile("[a]", "values"), SettingsFile("a: [", "mesh"))
    text = str(refused.value)
    for word in ("templates.a", "templates.b", "defaultTemplates", "values", "mesh"):
        assert word in text
    assert "templates.good" not in text


def test_values_of_the_mesh_are_checked_with_the_file() -> None:
    mesh = SettingsFile("defaultConfig:\n  concurrency: many\n", "mesh.yaml")
    with pytest.raises(InjectionError, match=r"mesh.yaml.*concurrency"):
        load_settings(config(NEW_CONFIG), None, mesh)


@pytest.mark.parametrize(("text", "native"), [("true", True), ("false", False), ("auto", False)])
def test_native_sidecars(text: str, native: bool) -> None:  # noqa: FBT001
    assert native_sidecars_of(text) is native


def test_another_word_for_native_sidecars_is_refused() -> None:
    with pytest.raises(ValueError, match="auto, true or false"):
        native_sidecars_of("maybe")
