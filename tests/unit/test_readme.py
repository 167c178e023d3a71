"""The README says what the program does."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from istio_init.cli import main
from tests.readme import README, brought_up_to_date

if TYPE_CHECKING:
    import pytest


def test_tables_are_made_from_the_options_and_the_measurements() -> None:
    text = README.read_text(encoding="utf-8")

    assert brought_up_to_date(text) == text


def test_dry_run_example_prints_what_the_readme_shows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISTIO_CLUSTER_CONFIG", "/nonexistent")
    monkeypatch.setenv("ISTIO_SIDECAR_CONFIG", "/nonexistent")
    example = README.read_text(encoding="utf-8").split("```console\n$ istio-init ", 1)[1]
    command, _, rest = example.partition("\n")

    assert main(shlex.split(command)) == 0

    assert capsys.readouterr().out == rest.partition("```")[0]
