"""What a dry run prints, call by call and format by format, is what a person has read."""

from __future__ import annotations

import json
import runpy
import shlex
from typing import TYPE_CHECKING

import pytest

from istio_init.config.model import FORMATS as ALL_FORMATS
from istio_init.config.model import LAYOUTS
from istio_init.formats.iptables import tool
from istio_init.formats.save_reader import parse_rules, parse_save, parse_table
from istio_init.rules.ranges import FAMILIES, IPV4
from tests.cases import CALLS, CASES, Call, Case
from tests.cost import STARTS
from tests.unit import goldens
from tests.unit.calls import asked, call
from tests.unit.goldens import FORMATS, GOLDEN, cost_path, dry_run, path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from istio_init.rules.model import Ruleset, Table
    from istio_init.rules.ranges import Family

SCRIPT = GOLDEN.parents[1] / "scripts" / "golden"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("one", CALLS, ids=str)
def test_dry_run_prints_the_golden(one: Call, form: str) -> None:
    assert dry_run(one, form) == path(one, form).read_text(encoding="utf-8")


def test_goldens_are_those_of_the_calls_and_no_others() -> None:
    kept = {path(one, form) for one in CALLS for form in FORMATS}
    assert set(GOLDEN.glob("*/*")) == {*kept, *map(cost_path, STARTS)}
    # nft scripts are for a backend of their own.
    assert {*FORMATS, "nft"} == set(ALL_FORMATS)


def test_calls_are_told_apart_by_names_that_tell_their_layout() -> None:
    assert len({one.name for one in CALLS}) == len(CALLS)
    for one in CALLS:
        assert one.layout in LAYOUTS
        assert asked(*one.argv, env=one.env).config.layout == one.layout


@pytest.mark.parametrize("one", CALLS, ids=str)
def test_same_call_prints_the_same_again(one: Call) -> None:
    assert dry_run(one, "rules") == dry_run(one, "rules")
    assert call(*one.argv, "--dry-run", env=one.env).out == dry_run(one, "rules")


def sections(text: str) -> dict[str, list[str]]:
    """Return the lines under each ``# command``."""
    found: dict[str, list[str]] = {}
    for section in ("\n" + text).split("\n# ")[1:]:
        command, *lines = section.splitlines()
        assert command not in found
        found[command] = lines
    return found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rules_are_what_the_kernel_listed_after_the_original_had_run(case: Case) -> None:
    printed = sections(dry_run(case, "rules"))

    for program in ("iptables", "ip6tables"):
        for table, listed in case.expected[program].items():
            touched = any(not line.startswith("-P ") for line in listed)
            assert printed.pop(f"{program} -t {table} -S", None) == (listed if touched else None)
    for version, rules, routes in (
        ("-4", "ip_rules", "ip_routes"),
        ("-6", "ip6_rules", "ip6_routes"),
    ):
        assert printed.pop(f"ip {version} rule show", []) == case.expected[rules]
        show = f"ip {version} route show table {case.route_table}"
        assert printed.pop(show, []) == case.expected[routes]
    addresses = [f"inet6 {one} scope global" for one in case.expected["lo_addresses"]]
    assert printed.pop("ip addr show dev lo", []) == addresses
    assert not printed


@pytest.mark.parametrize("one", CALLS, ids=str)
def test_rules_read_back_are_those_of_the_document(one: Call) -> None:
    rulesets = parse_rules(dry_run(one, "rules"))
    document = json.loads(dry_run(one, "json"))

    assert tuple(ruleset.family for ruleset in rulesets) == FAMILIES
    for ruleset in rulesets:
        family = document["families"][ruleset.family]
        assert [table.name for table in ruleset.tables] == list(family)
        for table in ruleset.tables:
            lines = [
                line
                for chain, held in family[table.name].items()
                for line in (f"-P {chain} {held['policy']}" if held["policy"] else f"-N {chain}",)
            ]
            lines += [
                f"-A {chain} {rule['spec']}"
                for chain, held in family[table.name].items()
                for rule in held["rules"]
            ]
            assert parse_table(lines, table.name, ruleset.family) == table


def apart(words: list[str]) -> list[str]:
    """Return the words of a rule as one types them, where the file writes them closer."""
    found: list[str] = []
    for word in words:
        if word.startswith("-m") and word != "-m":
            found += ["-m", word[2:]]
        elif word.startswith("--") and "=" in word:
            found += word.split("=")
        else:
            found.append(word)
    return found


def restored(text: str, family: Family) -> Ruleset:
    """Return what the restore program of a family makes of a file in empty tables."""
    marked = any(line.startswith(("-4 ", "-6 ")) for line in text.splitlines())
    mark = {True: "-4 " if family == IPV4 else "-6 ", False: ""}[marked]
    written: list[str] = []
    chains: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("*"):
            written.append(line)
        elif line == "COMMIT":
            # Jumps to chains that come later in the file are fine: all are there by now.
            written += [f":{name} {_policy(name)} [0:0]" for name in chains]
            written += [f"-A {name} {rule}" for name, held in chains.items() for rule in held]
            written.append(line)
            chains = {}
        elif line.startswith(f"{mark}-") and (marked or family == IPV4):
            verb, name, *words = apart(line.removeprefix(mark).split(" "))
            held = chains.setdefault(name, [])
            if verb == "-I":
                held.insert(int(words[0]) - 1, " ".join(words[1:]))
            elif verb == "-A":
                held.append(" ".join(words))
    found = parse_save("\n".join(written), family)
    return found.replace(tables=tuple(table for table in found.tables if _holds_anything(table)))


def _policy(name: str) -> str:
    return "-" if name.startswith("ISTIO_") else "ACCEPT"


def _holds_anything(table: Table) -> bool:
    return any(chain.rules or chain.policy is None for chain in table.chains)


@pytest.mark.parametrize("one", CALLS, ids=str)
def test_save_file_builds_the_rules_in_empty_tables(one: Call) -> None:
    text = dry_run(one, "save")

    for ruleset in parse_rules(dry_run(one, "rules")):
        assert restored(text, ruleset.family) == ruleset


@pytest.mark.parametrize("one", CALLS, ids=str)
def test_commands_are_those_of_the_save_file_and_the_routes(one: Call) -> None:
    commands = [shlex.split(line) for line in dry_run(one, "commands").splitlines()]
    saved: list[list[str]] = []
    table = ""
    for line in dry_run(one, "save").splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith("# "):
            saved.append(line[2:].split())
        elif line != "COMMIT":
            program = "ip6tables" if line.startswith("-6 ") else "iptables"
            words = line.removeprefix("-4 ").removeprefix("-6 ").split()
            saved.append([program, "-t", table, *apart(words)])

    # The file goes table by table, the commands family by family.
    assert sorted(commands) == sorted(saved)
    assert [words for words in commands if words[0] == "ip"] == [
        words for words in saved if words[0] == "ip"
    ]


def test_tools_of_the_families() -> None:
    assert [tool(family) for family in FAMILIES] == ["iptables", "ip6tables"]


@pytest.fixture
def script() -> Callable[[], int]:
    main: Callable[[], int] = runpy.run_path(str(SCRIPT))["main"]
    return main


def test_script_refuses_under_ci(
    script: Callable[[], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {one: one.stat().st_mtime_ns for one in GOLDEN.glob("*/*")}
    monkeypatch.setenv("CI", "")

    assert script() == 1

    assert "refused" in capsys.readouterr().err
    assert {one: one.stat().st_mtime_ns for one in GOLDEN.glob("*/*")} == before


def test_script_rewrites_and_shows_what_changed(
    script: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    golden = tmp_path / "tests" / "golden"
    wanted = {golden / "1.0" / "a.rules": "one\ntwo\n", golden / "1.30" / "b.save": "three\n"}
    (golden / "1.0").mkdir(parents=True)
    (golden / "1.0" / "a.rules").write_text("one\n2\n")
    (golden / "1.0" / "gone.rules").write_text("four\n")
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(goldens, "GOLDEN", golden)
    monkeypatch.setattr(goldens, "goldens", lambda: wanted)

    assert script() == 0

    assert {one: one.read_text() for one in golden.glob("*/*")} == wanted
    out = capsys.readouterr().out
    for line in ("--- tests/golden/1.0/a.rules", "-2", "+two", "+three", "-four"):
        assert f"{line}\n" in out
    assert out.endswith("2 of 2 files written, 1 removed\n")
    assert script() == 0
    assert capsys.readouterr().out == "0 of 2 files written, 0 removed\n"
