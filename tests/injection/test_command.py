"""Istio's results of injection, by the commands that a person calls: from files to text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from istio_init.inject import yaml
from tests.injection.compare import comparable
from tests.injection.test_cases import assert_mentions, cases, read
from tests.unit.inject.commands import Result, run

if TYPE_CHECKING:
    from pathlib import Path

FLAGS = {"inject_config": "--inject-config", "values": "--values", "mesh_config": "--mesh-config"}


def inject(folder: Path, case: dict[str, Any], stdin: bytes) -> Result:
    flags = [f"{flag}={folder / case[key]}" for key, flag in FLAGS.items() if case.get(key)]
    if case.get("revision"):
        flags.append(f"--revision={case['revision']}")
    return run("inject", "-f", "-", *flags, stdin=stdin, env=case["env"])


@pytest.mark.parametrize(("folder", "case"), cases("inject"))
def test_the_command_injects_as_istio_does(folder: Path, case: dict[str, Any]) -> None:
    before = read(folder, case["input"])
    done = inject(folder, case, before.encode())
    if "error" in case:
        assert (done.code, done.out) == (2, "")
        assert_mentions(done.err, case["error"])
        return
    assert done.code == 0, done.err
    got = [one.value for one in yaml.load_documents(done.out) if one.value]
    wanted = [one.value for one in yaml.load_documents(read(folder, case["expected"]))]
    assert comparable(got) == comparable([one for one in wanted if one])
    for warning in case.get("warnings", ()):
        assert_mentions(done.err, warning)
    again = inject(folder, case, done.out.encode())
    assert again.out == done.out
    freed = run("uninject", "-f", "-", stdin=done.out.encode())
    assert freed.code == 0
    if "sidecar.istio.io/status" not in before:
        assert freed.out == before
    assert "sidecar.istio.io/status" not in freed.out
