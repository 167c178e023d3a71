"""Small templates with what Go prints for them, and the templates of Istio's installations."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml

from istio_init.inject.data import data_1_30
from istio_init.inject.mesh import mesh_config
from istio_init.inject.template import Generation, Template, TemplateData, TemplateError
from tests.injection.folder import conformance

if TYPE_CHECKING:
    from pathlib import Path
from typing import Any

FOLDER = conformance()
PROBES: dict[str, Any] = (
    json.loads((FOLDER / "1.30" / "template-probes.json").read_text()) if FOLDER else {"probes": []}
)
CONFIGS = sorted(FOLDER.glob("*/configs/*")) if FOLDER else []


def probe_data() -> TemplateData:
    data = PROBES["data"]
    mesh = mesh_config(data["mesh"], "1.30")
    return data_1_30(
        metadata=data["pod"]["metadata"],
        spec=data["pod"]["spec"],
        mesh=mesh,
        proxy_config=mesh["defaultConfig"],
        values=data["values"],
        kind=data["type_meta"]["kind"],
        api_version=data["type_meta"]["apiVersion"],
        deployment_name=data["deployment_meta"]["name"],
        deployment_namespace=data["deployment_meta"]["namespace"],
        revision=data["revision"],
        native_sidecars=data["native"],
        proxy_image="h/proxyv2:t",
    )


@pytest.mark.parametrize("probe", PROBES["probes"], ids=lambda probe: probe["name"])
def test_a_probe_prints_what_go_prints(probe: dict[str, Any]) -> None:
    if "output" in probe:
        template = Template.parse(probe["template"], "1.30")
        assert template.render(probe_data()) == probe["output"]
        return
    with pytest.raises(TemplateError) as caught:
        Template.parse(probe["template"], "1.30").render(probe_data())
    # Go's error begins with the template's name, the line and, while it runs, the column.
    place = probe["error"].split(":")[2:4]
    assert caught.value.stage == probe["stage"]
    assert caught.value.line == int(place[0])
    if probe["stage"] == "run":
        assert caught.value.column == int(place[1])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parts[-3]}-{path.name}")
def test_the_templates_of_every_installation_parse(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    generation: Generation = "1.0" if path.parts[-3] == "1.0" else "1.30"
    templates = config.get("templates") or {"template": config["template"]}
    for name, text in templates.items():
        assert Template.parse(text, generation, name).name == name
