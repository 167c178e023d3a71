"""What the image holds, what it does not, and that another build gives the same."""

from __future__ import annotations

import re
import subprocess
import tomllib
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import source_hash
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement

from istio_init import __version__
from tests.container.runtime import WAITS, Context, Image
from tests.container.size import COMPRESSED, WHOLE, megabytes, parts, shown, table
from tests.documents import DOCS
from tests.expected import expected
from tests.foreign import plant
from tests.namespace import BACKENDS, PROGRAM, Namespace
from tests.snapshot import snapshot

if TYPE_CHECKING:
    from tests.container.runtime import Runtime

ROOT = Path(__file__).parents[2]
MEGABYTE = 10**6
# Every table, so that the rules of others in each of them are read and written.
EVERYTHING = (
    *("istio-iptables", "-u", "0", "-g", "1337", "-m", "TPROXY", "-i", "*", "-b", "*", "--ipv6"),
    *("--redirect-dns", "--capture-all-dns", "--drop-invalid"),
)


# What the program does without, and a container has none of.
FOR_TERMINALS = {"rich"}


def executables(image: Image) -> set[str]:
    return {
        file.name.removeprefix("./")
        for file in image.files
        if file.isreg() and file.mode & 0o111 and ".so" not in file.name
    }


def test_nothing_but_the_program_and_what_it_runs(image: Image) -> None:
    found = {Path(name).name for name in executables(image)}

    assert found == {
        *("istio-init", "istio-iptables", "nft", "python3.11"),
        *("xtables-legacy-multi", "xtables-nft-multi"),
    }


def test_nothing_to_install_or_compile_with(image: Image) -> None:
    names = [file.name for file in image.files]

    assert not [name for name in names if re.search(r"/(pip|setuptools|ensurepip)\b|\.[ch]$", name)]


def test_nobody_may_write_and_everything_is_roots(image: Image) -> None:
    files = [file for file in image.files if not file.issym()]

    # And everybody may read and run.
    assert {oct(file.mode & 0o7777) for file in files} == {"0o444", "0o555"}
    assert {(file.uid, file.gid) for file in image.files} == {(0, 0)}


def test_python_is_compiled_and_needs_no_source(image: Image) -> None:
    compiled = [file.name for file in image.files if file.name.endswith(".pyc")]

    assert not [file.name for file in image.files if file.name.endswith(".py")]
    assert len(compiled) > 100
    for name in compiled:
        head = (image.root / name).read_bytes()[:16]
        # The flags of PEP 552: by the hash of its source, which is not compared.
        assert int.from_bytes(head[4:8], "little") == 1, name
    own = (ROOT / "istio_init" / "rules" / "model.py").read_bytes()
    head = (image.root / "usr/lib/python3.11/istio_init/rules/model.pyc").read_bytes()[:16]
    assert head[8:] == source_hash(own), "the image is older than the checkout: run `make image`"


def test_labels(image: Image) -> None:
    labels = image.config["config"]["Labels"]

    for name in ("title", "description", "licenses", "revision"):
        assert labels[f"org.opencontainers.image.{name}"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert image.config["config"]["Entrypoint"] == ["/usr/bin/istio-init"]
    # Istio's template names the user itself; that of 1.0.2 relies on root.
    assert "User" not in image.config["config"]


def test_it_is_of_this_commit(image: Image) -> None:
    """Unless there is none, a builder must not take what it made of another for this one's."""
    labels = image.config["config"]["Labels"]
    asked = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    revision = asked.stdout.strip() or "unknown"
    told = (image.root / "usr/share/doc/istio-init/revision").read_text(encoding="utf-8")

    assert labels["org.opencontainers.image.revision"].removesuffix("-dirty") == revision
    assert told.startswith(revision)
    assert {file.mtime for file in image.files} == {int(told.split()[1])}


def test_what_it_is_made_of_can_be_told(image: Image) -> None:
    listed = {path.name for path in (image.root / "var/lib/dpkg/status.d").iterdir()}
    stated = {path.name for path in (image.root / "usr/share/doc").iterdir()}

    assert {"iptables", "nftables", "libc6", "python3.11-minimal"} <= listed
    assert stated == listed | {"istio-init"}
    assert list((image.root / "usr/lib/python3.11").glob("click-*.dist-info/METADATA"))


def test_size(image: Image) -> None:
    assert sum(file.size for file in image.files) < 32 * MEGABYTE
    assert sum(layer["size"] for layer in image.layers) < 12 * MEGABYTE


def test_the_readme_tells_the_size(image: Image) -> None:
    told = shown((DOCS / "container.md").read_text(encoding="utf-8"))
    found = parts(image)
    whole = sum(size for name, size in found.items() if name not in (WHOLE, COMPRESSED))

    assert told.keys() == found.keys()
    assert whole == found[WHOLE]
    for name, size in found.items():
        # The next change, here or in Debian, moves it a little.
        near = pytest.approx(megabytes(size), rel=0.05, abs=0.3)
        assert told[name] == near, f"{name}: docs/container.md should say\n{table(image)}"


def test_another_build_gives_the_same(image: Image, tmp_path: Path) -> None:
    archive = tmp_path / "again.tar"
    built = subprocess.run(
        [ROOT / "scripts" / "image", "--no-cache", "--output", archive],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr

    assert Image(archive).descriptor["digest"] == image.descriptor["digest"]


def test_python_packages_are_those_that_the_project_asks_for() -> None:
    text = (ROOT / "container" / "requirements.txt").read_text(encoding="utf-8")
    pinned = dict(
        re.findall(r"^([\w-]+)==(\S+) \\\n {4}--hash=sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {one.name: one.specifier for one in map(Requirement, project["dependencies"])}

    assert text.count("==") == len(pinned)
    assert pinned.keys() == asked.keys() - FOR_TERMINALS
    for name, version in pinned.items():
        assert version in asked[name], name


@pytest.mark.parametrize("form", ["rules", "save", "json", "nft", "commands"])
def test_it_prints_what_the_checkout_prints(runtime: Runtime, form: str) -> None:
    with Namespace() as pod:
        arguments = (*EVERYTHING, "--dry-run", "--format", form)
        theirs = runtime.run(*arguments, pod=pod)
        ours = pod.run(PROGRAM, *arguments)

    assert theirs.stdout == ours.stdout
    assert theirs.returncode == 0


def test_what_is_imported_late_is_there(image: Image) -> None:
    """Wherever a module of the program, or of the library, imports something in a function."""
    found = {file.name.removeprefix("./") for file in image.files}
    late = ["importlib/metadata/__init__", "email/parser", "shutil", "datetime", "traceback"]

    for name in late:
        assert f"usr/lib/python3.11/{name}.pyc" in found


@pytest.mark.parametrize("arguments", [("--help",), ("clean", "--help"), ("--no-such-flag",)])
def test_it_explains_itself(runtime: Runtime, arguments: tuple[str, ...]) -> None:
    with Namespace() as pod:
        theirs = runtime.run(*arguments, pod=pod)
        ours = pod.run(PROGRAM, *arguments, check=False)

    assert (theirs.returncode, theirs.stdout) == (ours.returncode, ours.stdout)
    assert theirs.stdout or "--no-such-flag" in theirs.stderr


@pytest.mark.parametrize("backend", BACKENDS)
def test_rules_of_others_keep_their_place(runtime: Runtime, backend: str) -> None:
    with Namespace() as pod:
        plant(pod, "nft")
        done = runtime.run(*EVERYTHING, "--backend", backend, pod=pod)
        assert done.returncode == 0, done.stderr
        found = snapshot(pod)

    assert found == expected(EVERYTHING, backend, "nft")


def test_rules_of_others_may_use_what_ours_do_not(runtime: Runtime) -> None:
    rule = "-A OUTPUT -m statistic --mode random --probability 0.5 -m length --length 0:99 -j LOG"
    with Namespace() as pod:
        pod.run("iptables-nft", "-t", "nat", *rule.split())
        before = snapshot(pod)
        for arguments in (EVERYTHING, ("clean",)):
            done = runtime.run(*arguments, "--backend", "nft", pod=pod)
            assert done.returncode == 0, done.stderr
        after = snapshot(pod)

    assert "statistic" in before["nft ipv4 nat"]
    assert after == before


def test_it_enters_the_namespace_of_another_pod(runtime: Runtime) -> None:
    """For a node's tools."""
    context = Context(("NET_ADMIN", "NET_RAW", "SYS_ADMIN"))
    with Namespace() as own, Namespace() as pod, ExitStack() as stack:
        first = stack.enter_context(runtime.running(WAITS, pod=pod, context=Context(())))
        before = snapshot(own)
        beside = replace(context, beside=first)
        done = runtime.run(*EVERYTHING, "--network-namespace", "1", pod=own, context=beside)
        found, after = snapshot(pod), snapshot(own)

    assert done.returncode == 0, done.stderr
    assert found == expected(EVERYTHING, "legacy")
    assert after == before


@pytest.mark.parametrize(
    "program",
    [
        *(
            f"{tool}-{kind}-save"
            for tool in ("iptables", "ip6tables")
            for kind in ("legacy", "nft")
        ),
        *("iptables-legacy -t nat -S", "ip6tables-nft -t nat -S", "nft list ruleset"),
        "nft --json list ruleset",
    ],
)
def test_a_person_can_look_at_the_rules(runtime: Runtime, program: str) -> None:
    kind = "legacy" if "legacy" in program else "nft"
    with Namespace() as pod:
        pod.init(*EVERYTHING, "--backend", kind)
        theirs = runtime.run(pod=pod, program=program.split())
        ours = pod.run(*program.split())

    def without_comments(text: str) -> list[str]:
        return [line for line in text.splitlines() if not line.startswith("#")]

    assert without_comments(theirs.stdout) == without_comments(ours.stdout)
    assert "ISTIO_OUTPUT" in theirs.stdout
