"""What a dry run of every call in the table prints, and what starts cost, under ``tests/golden``.

``scripts/golden`` writes them, the tests compare with them.
"""

from __future__ import annotations

from pathlib import Path

from tests.cases import CALLS, Call
from tests.cost import STARTS, told
from tests.unit.calls import call

GOLDEN = Path(__file__).parents[1] / "golden"
FORMATS = ("rules", "save", "json", "commands")


def dry_run(one: Call, form: str) -> str:
    """Return what a call prints when it is only to print."""
    done = call(*one.argv, "--dry-run", "--format", form, env=one.env)
    assert done.code == 0, done.err
    return done.out


def path(one: Call, form: str) -> Path:
    """Return where the output of a call in a format is kept."""
    return GOLDEN / one.layout / f"{one.name}.{form}"


def cost_path(name: str) -> Path:
    """Return where it is kept what a start costs."""
    return GOLDEN / "cost" / f"{name}.txt"


def goldens() -> dict[Path, str]:
    """Return every file with the text that belongs into it."""
    dry_runs = {path(one, form): dry_run(one, form) for one in CALLS for form in FORMATS}
    costs = {cost_path(name): told(start) for name, start in STARTS.items()}
    return {**dry_runs, **costs}
