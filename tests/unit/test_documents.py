"""The documentation says what the program does."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.cli import main
from istio_init.config.model import LAYOUTS, Facts
from istio_init.planner import plan
from istio_init.rules.model import reason_of
from tests.documents import (
    CONFIGURATION,
    DOCS,
    README,
    brought_up_to_date,
    configuration,
    pages,
    rule_rows,
)
from tests.strategies import configs
from tests.unit.settings import tried

if TYPE_CHECKING:
    from pathlib import Path

    from istio_init.config.model import Config

# The reasons in the table of rules, by layout and chain.
ROWS = {
    layout: {chain: [row.why for row in rows] for chain, rows in rule_rows(layout).items()}
    for layout in LAYOUTS
}

# A newcomer reads the README to its end.
LONGEST_README = 260
_LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")
_PATH = re.compile(r"`((?:istio_init|tests|scripts|container|docs)/[\w./-]+)`")


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_tables_are_made_from_the_program_and_the_measurements(page: Path) -> None:
    assert brought_up_to_date(page) == page.read_text(encoding="utf-8")


@given(st.sampled_from(LAYOUTS).flatmap(configs))
@tried
def test_every_rule_of_any_plan_has_a_row(config: Config) -> None:
    for ruleset in plan(config, Facts()).rulesets:
        for table in ruleset.tables:
            for chain in table.chains:
                for rule in chain.rules:
                    assert reason_of(rule).text in ROWS[config.layout][table.name, chain.name]


@given(st.sampled_from(LAYOUTS).flatmap(configs))
@tried
def test_rows_stand_in_the_order_of_the_rules(config: Config) -> None:
    for ruleset in plan(config, Facts()).rulesets:
        for table in ruleset.tables:
            for chain in table.chains:
                rows = ROWS[config.layout].get((table.name, chain.name), [])
                reasons = dict.fromkeys(reason_of(rule).text for rule in chain.rules)
                places = [rows.index(reason) for reason in reasons]
                assert places == sorted(places)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")

    for target, _ in _LINK.findall(text):
        if "://" not in target:
            assert (page.parent / unquote(target)).exists(), target
    for path in _PATH.findall(text):
        assert (README.parent / path).exists(), path


def test_the_webhooks_manifests_install_what_is_built_in() -> None:
    assert CONFIGURATION.read_text(encoding="utf-8") == configuration()


def test_readme_is_short_and_names_every_page() -> None:
    text = README.read_text(encoding="utf-8")

    assert text.count("\n") <= LONGEST_README
    for page in DOCS.glob("*.md"):
        assert f"](docs/{page.name})" in text


@pytest.mark.parametrize(
    ("page", "begins"), [(README, "istio-iptables"), (DOCS / "operations.md", "explain")]
)
def test_example_prints_what_the_page_shows(
    page: Path, begins: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISTIO_CLUSTER_CONFIG", "/nonexistent")
    monkeypatch.setenv("ISTIO_SIDECAR_CONFIG", "/nonexistent")
    text = page.read_text(encoding="utf-8")
    example = text.split(f"```console\n$ istio-init {begins} ", 1)[1]
    command, _, rest = f"{begins} {example}".partition("\n")

    assert main(shlex.split(command)) == 0

    assert capsys.readouterr().out == rest.partition("```")[0]
