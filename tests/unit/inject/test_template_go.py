"""The engine against Go: what text/template of Go 1.26, sprig 3.3.0 and sigs.k8s.io/yaml 1.6 print.

``go_output.json`` has templates of our own, the data they run on, and what Go made of
each: its output, or the stage, line and column of its error (no column while parsing).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from istio_init.inject.data import prepare_values
from istio_init.inject.template import Generation, Template, TemplateData, TemplateError

if TYPE_CHECKING:
    from tests.unit.inject.templates import Json

GO = json.loads(Path(__file__).with_name("go_output.json").read_text())
CASES = [
    pytest.param(template, expected, "1.0" if group == "old" else "1.30", id=f"{group}-{number}")
    for group in ("language", "text", "functions", "versions", "more", "old")
    for number, (template, expected) in enumerate(GO[group])
]


def run(template: str, generation: Generation) -> str:
    data = TemplateData(prepare_values(GO["data"]))
    return Template.parse(template, generation).render(data)


@pytest.mark.parametrize(("template", "expected", "generation"), CASES)
def test_it_prints_what_go_prints(template: str, expected: Json, generation: Generation) -> None:
    if isinstance(expected, str):
        assert run(template, generation) == expected
        return
    stage, line, column = expected
    with pytest.raises(TemplateError) as caught:
        run(template, generation)
    assert (caught.value.stage, caught.value.line) == (stage, line)
    if column is not None:
        assert caught.value.column == column


def test_no_rendering_changes_the_data() -> None:
    before = json.dumps(GO["data"])
    data = TemplateData(prepare_values(GO["data"]))
    template = Template.parse(
        "{{ $_ := set .m `z` 1 }}{{ $_ := unset .deep `a` }}{{ .m.z }}", "1.30"
    )
    assert [template.render(data), template.render(data)] == ["1", "1"]
    assert json.dumps(GO["data"]) == before
    assert "z" not in data.root["m"]  # type: ignore[index]
