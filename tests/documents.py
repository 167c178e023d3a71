"""The parts of the documentation that are made from the program, so that they stay true.

Run as a module, it brings them up to date.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from istio_init.config.options import OPTIONS
from istio_init.inject import webhooks
from istio_init.inject.annotations import markdown_table
from istio_init.inject.gates import reasons_table
from istio_init.inject.generation import NEW, OLD, Generation
from istio_init.inject.status_table import markdown, status_table

_ROOT = Path(__file__).parents[1]
README = _ROOT / "README.md"
DOCS = _ROOT / "docs"
MEASURED = _ROOT / "scripts" / "bench.json"
# The rows of the table of costs; the benchmark has more.
_ROWS = (
    *("bare", "dry run", "--skip-rule-apply", "script", "legacy", "nft", "nftables"),
    *(
        f"{backend}, {what}"
        for what in ("rerun", "both families", "TPROXY, both families", "1000 ranges")
        for backend in ("legacy", "nft", "nftables")
    ),
    "script, 1000 ranges",
    *(f"container, {what}" for what in ("bare", "legacy", "nft", "nftables")),
    *(f"{backend}, 5000 ranges" for backend in ("legacy", "nft", "nftables")),
)


def flag_table() -> str:
    """Return the table of flags in Markdown, in the order of the help."""
    lines = ["| flag | meaning | default | environment |", "|---|---|---|---|"]
    for option in OPTIONS:
        names = [f"`-{option.short}`"] if option.short else []
        names.append(f"`--{option.name}`")
        environment = ", then ".join(f"`{name}`" for name in option.env)
        if len(option.env_layouts) == 1 and option.env:
            environment += f" ({option.env_layouts[0]} only)"
        meaning = option.help
        if len(option.layouts) == 1:
            meaning += f" Layout {option.layouts[0]} only."
        default = option.default or ("off" if option.switch else "")
        cells = (" ".join(names), meaning, default, environment)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def cost_table() -> str:
    """Return what ``make bench`` measured last, rows and goals, in Markdown."""
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    lines = [
        "| whole process | median, ms | quartiles | x bare | x script |",
        "|---|--:|--:|--:|--:|",
    ]
    for name in _ROWS:
        row = measured["rows"][name]
        low, high = row["quartiles_ms"]
        cells = (f"{row['median_ms']:.1f}", f"{low:.1f}-{high:.1f}")
        lines.append(
            f"| {name} | {' | '.join(cells)} | {row['times_bare']} | {row['times_script']} |"
        )
    lines += ["", "| goal | at most | measured | |", "|---|--:|--:|---|"]
    for goal in measured["goals"]:
        verdict = "met" if goal["met"] else "missed"
        lines.append(f"| {goal['what']} | {goal['limit']} | {goal['measured']} | {verdict} |")
    return "\n".join(lines) + "\n"


def injected(release: Generation) -> str:
    """Return the injection status table of a release, in an installation without settings."""
    return markdown(status_table(release, webhooks.installation(release)))


# A page, the mark in it, and what stands between the mark and its end.
_TABLES = (
    ("flags.md", "flags", flag_table),
    ("cost.md", "costs", cost_table),
    ("injection.md", "annotations", markdown_table),
    ("injection.md", "reasons", reasons_table),
    ("injection.md", "status 1.0", lambda: injected(OLD)),
    ("injection.md", "status 1.30", lambda: injected(NEW)),
)


def pages() -> tuple[Path, ...]:
    """Return the README and every page of docs/."""
    return (README, *sorted(DOCS.glob("*.md")))


def brought_up_to_date(page: Path) -> str:
    """Return a page's text with the tables that are made."""
    text = page.read_text(encoding="utf-8")
    for name, mark, table in _TABLES:
        if name == page.name:
            block = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- end of {mark} -->)", re.DOTALL)
            text, places = block.subn(lambda marks: marks[1] + table() + marks[2], text)  # noqa: B023
            assert places == 1, f"{page.name} has {places} places for {mark}"
    return text


if __name__ == "__main__":
    for _page in pages():
        _page.write_text(brought_up_to_date(_page), encoding="utf-8")
