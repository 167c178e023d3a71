"""What costs time to import is imported where it is needed, and pure modules touch nothing.

That imports point one way is import-linter's, as pyproject.toml says.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import istio_init
from istio_init.rules import names

ROOT = Path(istio_init.__file__).parent

# Everything before the kernel: no input or output, no clock, no environment.
PURE = {"lean", "errors", "rules", "config", "formats", "planner", "diagnose"}
PURE_LIBRARY = {
    *("__future__", "bisect", "collections", "contextlib", "difflib", "functools", "itertools"),
    *("json", "_blake2", "_operator", "re", "shlex", "_socket", "_struct", "struct"),
}
# Each costs between a tenth of a bare interpreter and several of them. What the
# program needs of socket and signal is in the C modules beneath them.
SLOW = {
    *("argparse", "asyncio", "collections", "contextlib", "dataclasses", "enum", "functools"),
    *("logging", "pathlib", "re", "signal", "socket", "subprocess", "typing"),
}
# What no plain run loads: the validation, and a node's audit.
APART = {
    *("istio_init.operate.validate", "istio_init.operate.fleet", "istio_init.operate.prometheus"),
    "istio_init.cli.fleet",
    "istio_init.cli.replace_files",
}
# Injection starts when a person or a webhook asks for it, and may take its time.
BESIDE_THE_START = "inject"
# Modules that are themselves imported when a library is needed, and that library.
WITH_LIBRARY = {
    f"istio_init.cli.{name}": {"click"}
    for name in (
        *("click_app", "click_flags", "inject", "uninject", "manifest_run", "check_inject"),
        "webhook",
    )
}


@dataclass(frozen=True)
class Import:
    """One imported module, and whether it is imported with the module that names it."""

    module: str
    at_once: bool
    for_types: bool


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports(name: str) -> list[Import]:
    """Return everything a module imports."""
    found: list[Import] = []

    def look(node: ast.AST, *, at_once: bool, for_types: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(one.name, at_once, for_types) for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            for one in node.names:
                below = f"{base}.{one.name}"
                found.append(Import(below if below in MODULES else base, at_once, for_types))
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for guarded in node.body:
                look(guarded, at_once=at_once, for_types=True)
            for other in node.orelse:
                look(other, at_once=at_once, for_types=for_types)
            return
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            look(child, at_once=at_once and not inside, for_types=for_types)

    look(ast.parse(MODULES[name].read_text(encoding="utf-8")), at_once=True, for_types=False)
    return found


def part_of(name: str) -> str:
    """Return the part of the program that a module belongs to, its name below the package."""
    return name.split(".")[1] if "." in name else ""


@pytest.mark.parametrize("name", [name for name in MODULES if part_of(name) in PURE])
def test_pure_modules_touch_nothing(name: str) -> None:
    library = {one.module.split(".")[0] for one in imports(name) if not one.for_types}

    assert library - {"istio_init"} <= PURE_LIBRARY
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"open", "print", "input", "exec", "eval", "__import__"}
    if "_socket" in library:
        (names,) = [
            {one.name for one in node.names}
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "_socket"
        ]
        assert names <= {"AF_INET", "AF_INET6", "inet_ntop", "inet_pton"}


@pytest.mark.parametrize("name", [name for name in MODULES if part_of(name) != BESIDE_THE_START])
def test_libraries_are_imported_when_they_are_needed(name: str) -> None:
    at_once = {one.module.split(".")[0] for one in imports(name) if one.at_once}
    libraries = {one for one in at_once if one not in sys.stdlib_module_names} - {"istio_init"}

    assert libraries <= WITH_LIBRARY.get(name, set())


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in sorted(MODULES.keys() - APART - WITH_LIBRARY.keys())
        if part_of(name) != BESIDE_THE_START
    ],
)
def test_slow_modules_are_for_the_type_checker_alone(name: str) -> None:
    at_once = {one.module for one in imports(name) if one.at_once and not one.for_types}

    assert not {module.split(".")[0] for module in at_once} & SLOW


def test_the_numbers_of_the_rules_stand_in_one_place() -> None:
    numbers = {
        *(names.OUTBOUND_PORT, names.INBOUND_PORT, names.TUNNEL_PORT, names.AGENT_DNS_PORT),
        *(names.DEFAULT_MARK, names.OUTBOUND_MARK, names.DEFAULT_ROUTE_TABLE),
    }
    places = {
        name
        for name, path in MODULES.items()
        # In the template engine such numbers are characters.
        if not name.startswith("istio_init.inject.template.")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in numbers
    }

    assert places == {"istio_init.rules.names"}


RUN = """
import sys
from istio_init.cli import main
code = main(sys.argv[1:])
print(*sorted(sys.modules), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("form", ["rules", "save", "json", "commands"])
def test_dry_run_loads_nothing_that_only_writing_needs(form: str) -> None:
    argv = ("istio-iptables", "-u", "1337", "-b", "*", "-m", "TPROXY", "--ipv6", "--dry-run")
    done = subprocess.run(
        [sys.executable, "-c", RUN, *argv, "--format", form],
        # What measures the tests loads much.
        env={name: text for name, text in os.environ.items() if not name.startswith("COVERAGE_")},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stderr.splitlines()[-1].split())

    assert "istio_init.planner.layout_1_30" in loaded
    assert not loaded & {"pyroute2", "iptc", "rich", "dataclasses", "logging", "subprocess"}
    assert not {one for one in loaded if one.startswith(("istio_init.apply", "istio_init.inject"))}
    assert not loaded & {*APART, "istio_init.diagnose.findings", "istio_init.cli.result"}
    assert not loaded & {
        "istio_init.rules.ownership",
        "istio_init.formats.save_reader",
        "istio_init.kernel.netns",
    }
    assert "istio_init.planner.layout_1_0" not in loaded
