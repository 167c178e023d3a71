"""What a dry run prints for other programs does there what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from istio_init.rules.model import TABLES
from tests.cases import CASES
from tests.namespace import Namespace, tool

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cases import Case

PROGRAMS = ("iptables", "ip6tables")
variants = pytest.mark.parametrize("variant", ["legacy", "nft"])


def programs_of(case: Case) -> list[str]:
    """Return the programs for whose families the case has rules.

    A file with rules of IPv4 alone is for iptables-restore alone; any other is
    for both programs.
    """
    ipv6 = any(line[:2] == "-A" for lines in case.expected["ip6tables"].values() for line in lines)
    return list(PROGRAMS if ipv6 else PROGRAMS[:1])


def printed(pod: Namespace, variant: str) -> dict[str, dict[str, list[str]]]:
    """Return what each program prints, in the shape of a conformance case."""
    return {
        program: {
            table: pod.run(f"{program}-{variant}", "-t", table, "-S").stdout.splitlines()
            for table in TABLES
        }
        for program in PROGRAMS
    }


@variants
@pytest.mark.parametrize("case", CASES, ids=str)
def test_restore_builds_the_same_from_a_saved_file(case: Case, variant: str) -> None:
    with Namespace() as pod:
        text = pod.init(*case.argv, "--dry-run", "--format", "save", env=case.env).stdout
        for program in programs_of(case):
            pod.run(f"{program}-{variant}-restore", text=text)
        once = printed(pod, variant)
        # Without --noflush a second time changes nothing.
        for program in programs_of(case):
            pod.run(f"{program}-{variant}-restore", text=text)
        twice = printed(pod, variant)

    assert once == {program: case.expected[program] for program in PROGRAMS}
    assert twice == once


FOREIGN = """\
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
-A INPUT -i lo -j ACCEPT
COMMIT
*nat
:THEIRS - [0:0]
-A PREROUTING -j THEIRS
-A OUTPUT -m mark --mark 0x1 -j THEIRS
-A THEIRS -j RETURN
COMMIT
"""


@variants
@pytest.mark.parametrize("name", ["1.0-injector", "1.30-dns-uid-gid", "1.30-kube-virt-interfaces"])
def test_restore_without_flush_leaves_others_alone(name: str, variant: str) -> None:
    (case,) = [case for case in CASES if case.name == name]
    programs = programs_of(case)
    with Namespace() as pod:
        for program in programs:
            pod.run(f"{program}-{variant}-restore", "--noflush", text=FOREIGN)
        before = printed(pod, variant)
        text = pod.init(*case.argv, "--dry-run", "--format", "save", env=case.env).stdout
        for program in programs:
            pod.run(f"{program}-{variant}-restore", "--noflush", text=text)
        after = printed(pod, variant)

    for program in programs:
        for table, lines in after[program].items():
            theirs = [line for line in lines if line in before[program][table]]
            ours = [line for line in lines if line not in theirs]
            expected = case.expected[program][table]
            assert theirs == before[program][table]
            assert ours == [line for line in expected if line[:2] != "-P"]
    # What belongs at the head stands above the others' rules.
    heads = {
        "1.0-injector": ("ip6tables", "filter"),
        "1.30-kube-virt-interfaces": ("iptables", "nat"),
    }
    if name in heads:
        program, table = heads[name]
        rules = [line for line in after[program][table] if line[:2] == "-A"]
        assert rules[0] not in before[program][table]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_shell_builds_the_same_from_the_commands(case: Case, tmp_path: Path) -> None:
    for program in PROGRAMS:
        (tmp_path / program).symlink_to(tool(f"{program}-legacy"))
    with Namespace() as pod:
        script = pod.init(*case.argv, "--dry-run", "--format", "commands", env=case.env).stdout
        search = {"PATH": f"{tmp_path}:{pod.environment()['PATH']}"}
        pod.run("sh", "-e", env=search, text=script)
        found = pod.state(case.route_table)

    assert found == case.expected


# An interface's name may hold nearly anything, and a shell reads much into it.
NAMES = ("a$b", "$(id)", "a&b", "a|b", "*?", "#x", "~r", "a>b", "(c)", "{d}", "[e]", "a\\b", "h!")


def test_names_are_taken_as_they_are(tmp_path: Path) -> None:
    for program in PROGRAMS:
        (tmp_path / program).symlink_to(tool(f"{program}-legacy"))
    flags = ("istio-iptables", "-c", ",".join(NAMES), "--no-ipv6")
    with Namespace() as typed, Namespace() as restored, Namespace() as applied:
        script = typed.init(*flags, "--dry-run", "--format", "commands").stdout
        search = {"PATH": f"{tmp_path}:{typed.environment()['PATH']}"}
        typed.run("sh", "-e", env=search, text=script)
        saved = typed.init(*flags, "--dry-run", "--format", "save").stdout
        restored.run("iptables-legacy-restore", text=saved)
        applied.init(*flags)
        found = [pod.rules("ipv4", "nat") for pod in (typed, restored, applied)]
        dry_run = typed.init(*flags, "--dry-run").stdout.splitlines()

    assert found == [dry_run[1:]] * 3
    for name in NAMES:
        assert f"-A OUTPUT -o {name} -j RETURN" in dry_run
