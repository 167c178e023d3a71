"""The README says what the program does."""

from __future__ import annotations

import shlex

import pytest

from istio_init.cli import main
from tests.readme import README, brought_up_to_date


def test_tables_are_made_from_the_options_and_the_measurements() -> None:
    text = README.read_text(encoding="utf-8")

    assert brought_up_to_date(text) == text


@pytest.mark.parametrize("begins", ["istio-iptables", "explain"])
def test_example_prints_what_the_readme_shows(
    begins: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISTIO_CLUSTER_CONFIG", "/nonexistent")
    monkeypatch.setenv("ISTIO_SIDECAR_CONFIG", "/nonexistent")
    text = README.read_text(encoding="utf-8")
    example = text.split(f"```console\n$ istio-init {begins} ", 1)[1]
    command, _, rest = f"{begins} {example}".partition("\n")

    assert main(shlex.split(command)) == 0

    assert capsys.readouterr().out == rest.partition("```")[0]
