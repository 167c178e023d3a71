"""What a shell is told when somebody presses Tab, and the help by purpose."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
from contextlib import redirect_stdout
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from istio_init.cli import help as command_help
from istio_init.cli import main
from istio_init.cli.click_app import SHELLS
from istio_init.config.fast_arguments import COMPLETE_VARIABLE
from istio_init.config.options import OPTIONS
from istio_init.kernel import netns
from tests.namespace import CLEAN_ENVIRONMENT, PROGRAM
from tests.unit.calls import call

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = [command.name for command in command_help.COMMANDS]

# A line up to the cursor, and what may stand there.
LINES: tuple[tuple[str, list[str]], ...] = (
    ("istio-init ", COMMANDS),
    ("istio-init au", ["audit"]),
    ("istio-init --backe", ["--backend"]),
    ("istio-init -p 15001 --backend ", ["auto", "legacy", "nft", "nftables"]),
    ("istio-init istio-iptables -m R", ["REDIRECT"]),
    ("istio-init clean --dry-run ", ["true", "false"]),
    ("istio-init apply --on-missing d", ["degrade"]),
    ("istio-init audit is", ["istio-iptables"]),
    ("istio-init audit --format ", ["text", "json", "prometheus"]),
    ("istio-init audit --al", ["--all"]),
    ("istio-init doctor --format p", []),
    ("istio-init completion ", list(SHELLS)),
    ("istio-init --layout ", ["1.0", "1.30"]),
    ("istio-init --run-v", ["--run-validation"]),
)


def completed(shell: str, line: str) -> list[str]:
    """Return what the program answers a shell's script."""
    words = shlex.split(line)
    position = len(words) - (not line.endswith(" "))
    last = words[position] if position < len(words) else ""
    asked = {
        COMPLETE_VARIABLE: f"{shell}_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": last if shell == "fish" else str(position),
    }
    with redirect_stdout(io.TextIOWrapper(io.BytesIO())) as out:
        # What it writes there are bytes.
        with mock.patch.dict(os.environ, asked), pytest.raises(SystemExit):
            main(())
        out.seek(0)
        lines = out.read().strip().splitlines()
    if shell == "zsh":
        # Kind, value and help on a line each.
        return lines[1::3]
    return [one.partition(",")[2].partition("\t")[0] for one in lines]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("line", "expected"), LINES, ids=[one[0] for one in LINES])
def test_what_may_stand_at_the_cursor(line: str, expected: list[str], shell: str) -> None:
    assert sorted(completed(shell, line)) == sorted(expected)


def test_every_flag_is_offered() -> None:
    offered = completed("bash", "istio-init --")

    assert {f"--{option.name}" for option in OPTIONS} <= set(offered)


def test_namespaces_are_offered_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pod-a", "pod-b", "other"):
        (tmp_path / name).touch()
    monkeypatch.setattr(netns, "NAMED", str(tmp_path))
    line = "istio-init audit --network-namespace p"

    assert completed("bash", line) == ["pod-a", "pod-b"]
    monkeypatch.setattr(netns, "NAMED", f"{tmp_path}/none")
    assert completed("bash", line) == []


def test_bash_itself_completes() -> None:
    script = f"""
    istio-init() {{ {shlex.quote(PROGRAM)} "$@"; }}
    source <({shlex.quote(PROGRAM)} completion bash)
    complete -p istio-init
    COMP_WORDS=({shlex.quote(PROGRAM)} au) COMP_CWORD=1
    _istio_init_completion {shlex.quote(PROGRAM)}
    echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-ec", script],
        env=CLEAN_ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    declared, reply = done.stdout.splitlines()
    assert declared == "complete -o nosort -F _istio_init_completion istio-init"
    assert reply == "audit"


@pytest.mark.parametrize(
    ("shell", "part"),
    [
        ("bash", "complete -o nosort -F _istio_init_completion istio-init"),
        ("zsh", "#compdef istio-init"),
        ("fish", "complete --no-files --command istio-init"),
    ],
)
def test_each_shell_has_its_script(shell: str, part: str) -> None:
    done = call("completion", shell)

    assert done.code == 0
    assert part in done.out


@pytest.mark.parametrize("argv", [("completion",), ("completion", "tcsh")])
def test_other_shells_are_refused(argv: tuple[str, ...]) -> None:
    assert call(*argv).code == 2


def test_the_help_lists_commands_by_purpose_with_examples_and_exit_codes() -> None:
    out = call("--help").out

    for purpose in command_help.PURPOSES:
        names = [one.name for one in command_help.COMMANDS if one.purpose == purpose]
        section = out.partition(f"\n{purpose}:\n")[2].partition("\n\n")[0]
        assert [line.split()[0] for line in section.splitlines() if line[2] != " "] == names
    examples = out.partition("\nExamples:\n")[2].partition("\n\n")[0].splitlines()
    assert len(examples) == len(COMMANDS)
    codes = out.partition("\nExit codes:\n")[2].splitlines()
    assert [line.split()[0] for line in codes if line.strip()] == ["0", "1", "2", "3", "126"]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_has_examples_that_can_be_read(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However narrow the terminal, an example is one line.
    monkeypatch.setenv("COLUMNS", "40")
    out = call(command, "--help").out
    examples = out.partition("\nExamples:\n")[2].splitlines()

    assert examples
    for line in examples:
        words = shlex.split(line.partition(" >")[0])
        assert words[0] == "istio-init"
        # All but what it would do is checked by asking for help with it.
        assert main([*words[1:], "--help"]) == 0
