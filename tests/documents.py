"""The parts of the documentation that are made from the program, so that they stay true.

Run as a module, it brings them up to date.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from istio_init.config.model import LAYOUT_1_0, LAYOUT_1_30
from istio_init.config.options import ANNOTATIONS, OPTIONS
from istio_init.diagnose.effects import consequence
from istio_init.formats.iptables import rule_words
from istio_init.inject import builtin, webhooks
from istio_init.inject.annotations import markdown_table
from istio_init.inject.gates import reasons_table
from istio_init.inject.generation import NEW, OLD, Generation
from istio_init.inject.status_table import markdown, status_table
from istio_init.rules.model import BUILTIN_CHAINS, LAYOUT, TABLES, Rule
from tests.namespace import BACKENDS
from tests.plans import plan_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from istio_init.rules.model import Chain
    from istio_init.rules.ranges import Family
    from tests.benchmark.report import Results, RowResult

_ROOT = Path(__file__).parents[1]
README = _ROOT / "README.md"
DOCS = _ROOT / "docs"
CONFIGURATION = _ROOT / "container" / "kubernetes" / "injector" / "configuration.yaml"
MEASURED = _ROOT / "scripts" / "bench.json"
# The rows of the table of costs; the benchmark has more.
ROWS = (
    *("bare", "dry run", "--skip-rule-apply", "script", *BACKENDS),
    *(
        f"{backend}, {what}"
        for what in ("rerun", "both families", "TPROXY, both families", "1000 ranges")
        for backend in BACKENDS
    ),
    "script, 1000 ranges",
    *(f"container, {what}" for what in ("bare", *BACKENDS)),
    *(f"{backend}, {size} ranges" for size in (5000, 20000) for backend in BACKENDS),
    *(
        f"{backend}, {size} foreign rules, {run}"
        for size in (10000, 50000)
        for run in ("first run", "rerun", "audit")
        for backend in BACKENDS
    ),
    "audit --all, 1000 namespaces",
    *(
        f"inject, {number}, {configuration}"
        for configuration in ("built-in configuration", "Istio's configuration")
        for number in ("1 Deployment", "500 Deployments")
    ),
)
_NOT_MEASURED = "not measured"


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
    """Return what ``make bench`` measured last in Markdown: times, memory and goals."""
    measured: Results = json.loads(MEASURED.read_text(encoding="utf-8"))
    return costs(measured)


def costs(measured: Results) -> str:
    """Return the tables of results; what is not among them is said not to be measured.

    The peer's column is empty where none was named.
    """
    peer = measured.get("peer", "peer")
    times = _table(f"whole process | median, ms | quartiles | x bare | x script | {peer}, ms")
    for name in ROWS:
        times.append(_row(name, *_time_cells(measured["rows"].get(name))))
    memory = _table(f"peak memory | MB | {peer}, MB")
    others = measured.get("peer_peak_memory_mb", {})
    for name, peak in measured["peak_memory_mb"].items():
        memory.append(_row(name, peak, others.get(name, "")))
    goals = ["| goal | at most | measured | |", "|---|--:|--:|---|"]
    for goal in measured["goals"]:
        limit = f"at least {goal['limit']}" if goal.get("at_least") else goal["limit"]
        verdict = "met" if goal["met"] else "missed"
        goals.append(_row(goal["what"], limit, goal["measured"], verdict))
    return "\n".join([*times, "", *memory, "", *goals]) + "\n"


def _table(heads: str) -> list[str]:
    """Return the head of a table, all of whose columns but the first hold numbers."""
    return [f"| {heads} |", f"|---{'|--:' * heads.count('|')}|"]


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _time_cells(row: RowResult | None) -> tuple[object, ...]:
    if row is None:
        return (_NOT_MEASURED, "", "", "", "")
    low, high = row["quartiles_ms"]
    compared = (row.get("times_bare", ""), row.get("times_script", ""), row.get("peer_ms", ""))
    return (f"{row['median_ms']:.1f}", f"{low:.1f}-{high:.1f}", *compared)


# Calls that together have every rule of a layout. What one of them has and those
# before it had not is put where it belongs among their rules.
_IDS = ("-u", "1337", "-g", "1337", "-x", "10.9.0.0/16")
_OTHERS = ("--ipv6", "-c", "eth1", "-k", "vm0", "-q", "25", "-o", "3306", "--drop-invalid")
_ALL = ("-i", "*", "-b", "*", "-d", "15090")
_LISTED = ("-i", "10.0.0.0/8", "-b", "8080")
_DNS = ("--redirect-dns", "--dns-servers", "10.96.0.10")
_TPROXY = ("-m", "TPROXY")
RULE_CALLS: dict[str, tuple[tuple[str, ...], ...]] = {
    LAYOUT_1_0: (
        (*_IDS, *_ALL),
        (*_IDS, *_LISTED),
        (*_IDS, *_ALL, *_TPROXY),
        (*_IDS, *_LISTED, *_TPROXY),
    ),
    LAYOUT_1_30: (
        (*_IDS, *_OTHERS, *_ALL, *_DNS),
        (*_IDS, *_OTHERS, *_LISTED),
        (*_IDS, *_DNS, "--outbound-owner-groups-exclude", "2000"),
        (*_IDS, *_DNS, "--outbound-owner-groups", "2000,2001"),
        (*_IDS, *_OTHERS, *_ALL, *_TPROXY),
        (*_IDS, *_OTHERS, *_LISTED, *_TPROXY),
    ),
}


class RuleRow(NamedTuple):
    """A row of the table of rules; in its chain there is one for each reason."""

    rule: str
    flags: tuple[str, ...]
    why: str
    without: str
    source: str


def rule_rows(layout: str) -> dict[tuple[str, str], list[RuleRow]]:
    """Return the rows of each chain of a layout, by the names of table and chain, in order."""
    rows: dict[tuple[str, str], list[RuleRow]] = {}
    for call in RULE_CALLS[layout]:
        for ruleset in plan_of(*call, "--layout", layout).rulesets:
            for table in ruleset.tables:
                for chain in table.chains:
                    if chain.rules:
                        known = rows.setdefault((table.name, chain.name), [])
                        _merge(known, _rows_of(chain, ruleset.family))
    return dict(sorted(rows.items(), key=lambda one: _place(*one[0])))


def _place(table: str, chain: str) -> tuple[int, int, str]:
    """Return by what a chain is sorted: the order in which packets meet tables and hooks."""
    hooks = BUILTIN_CHAINS[table]
    return TABLES.index(table), hooks.index(chain) if chain in hooks else len(hooks), chain


def _rows_of(chain: Chain, family: Family) -> Iterator[RuleRow]:
    for rule in chain.rules:
        assert isinstance(rule, Rule)
        reason = rule.reason
        spelled = " ".join(rule_words(rule, family))
        without = consequence(rule, chain.name)
        yield RuleRow(spelled, (reason.flag,), reason.text, without, reason.source)


def _merge(rows: list[RuleRow], added: Iterable[RuleRow]) -> None:
    """Take the rows of one plan in, each new one above the known one that follows it."""
    waiting: list[RuleRow] = []
    for row in added:
        reasons = [one.why for one in rows]
        if row.why in reasons:
            position = reasons.index(row.why)
            flags = tuple(dict.fromkeys((*rows[position].flags, *row.flags)))
            rows[position] = rows[position]._replace(flags=flags)
            rows[position:position] = waiting
            waiting.clear()
        elif row.why not in [one.why for one in waiting]:
            waiting.append(row)
    rows += waiting


def rule_table(layout: str) -> str:
    """Return the rules of a layout with their reasons, a table in Markdown for each chain."""
    lines: list[str] = []
    for (table, chain), rows in rule_rows(layout).items():
        lines += [
            f"### {table} {chain} of layout {layout}",
            "",
            "| rule | put there by | why it has to be there | without it |",
            "|---|---|---|---|",
        ]
        for row in rows:
            flags = "<br>".join(_flag_cell(flag, layout) for flag in row.flags)
            lines.append(f"| `{row.rule}` | {flags} | {row.why} | {row.without} |")
        sources = dict.fromkeys(row.source for row in rows)
        # What both layouts have names the sources of both.
        apart = [one for one in sources if not any(one in more for more in sources if more != one)]
        lines += ["", f"Source: {'; '.join(apart)}.", ""]
    return "\n".join(lines)


def _flag_cell(flag: str, layout: str) -> str:
    if flag == LAYOUT:
        return f"every plan of layout {layout}"
    (long,) = [f"--{one.name}" for one in OPTIONS if f"-{one.short}" == flag] or [flag]
    cell = f"`{flag}`" if long == flag else f"`{flag}` `{long}`"
    annotation = ANNOTATIONS.get(flag)
    return f"{cell}, annotation `{annotation}`" if annotation else cell


def injected(release: Generation) -> str:
    """Return the injection status table of a release, in an installation without settings."""
    return markdown(status_table(release, webhooks.installation(release)))


# A page, the mark in it, and what stands between the mark and its end.
_TABLES = (
    ("flags.md", "flags", flag_table),
    ("rules.md", "rules of 1.0", partial(rule_table, LAYOUT_1_0)),
    ("rules.md", "rules of 1.30", partial(rule_table, LAYOUT_1_30)),
    ("cost.md", "costs", cost_table),
    ("injection.md", "annotations", markdown_table),
    ("injection.md", "reasons", reasons_table),
    ("injection.md", "status 1.0", lambda: injected(OLD)),
    ("injection.md", "status 1.30", lambda: injected(NEW)),
)


def configuration() -> str:
    """Return the ConfigMap that the webhook's manifests install."""
    return (
        "# What is injected: the configuration that is built in, which `istio-init inject\n"
        "# --print-config` prints. The webhook reads it again when it changes.\n"
        + builtin.config_map("istio-init-injector")
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
    CONFIGURATION.write_text(configuration(), encoding="utf-8")
    for _page in pages():
        _page.write_text(brought_up_to_date(_page), encoding="utf-8")
