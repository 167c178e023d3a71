"""The built-in configuration, as files."""

from __future__ import annotations

from istio_init import __version__
from istio_init.inject import builtin, yaml
from istio_init.inject.generation import NEW
from istio_init.inject.settings import SettingsFile, load_settings


def test_every_file_is_read_as_release_1_30() -> None:
    files = [SettingsFile(builtin.text(name), name) for name in builtin.FILES]

    settings = load_settings(*files)

    assert settings.generation == NEW
    assert list(settings.templates) == list(settings.default_templates) == ["sidecar"]
    assert settings.policy.policy == "enabled"
    assert settings.mesh["enablePrometheusMerge"] is False


def test_the_config_map_can_be_given_back() -> None:
    text = builtin.config_map()
    ours = SettingsFile(text, "ours.yaml")
    files = [SettingsFile(builtin.text(name), name) for name in builtin.FILES]

    given_back, built_in = load_settings(ours, ours, ours), load_settings(*files)

    assert given_back.values == built_in.values
    assert given_back.mesh == built_in.mesh
    assert given_back.policy == built_in.policy
    assert yaml.load(text)["data"] == dict(
        zip(("config", "values", "mesh"), map(builtin.text, builtin.FILES), strict=True)
    )


def test_the_init_containers_image_is_of_this_version() -> None:
    values = yaml.load(builtin.text(builtin.VALUES))

    assert values["global"]["proxy_init"]["image"] == f"istio-init:{__version__}"
