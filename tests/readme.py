"""The parts of the README that are made from the program, so that they stay true."""

from __future__ import annotations

import re
from pathlib import Path

from istio_init.cli.options import OPTIONS

README = Path(__file__).parents[1] / "README.md"
_BLOCK = re.compile(r"(<!-- flags -->\n).*?(<!-- end of flags -->)", re.DOTALL)


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


def with_flag_table(text: str) -> str:
    """Return the README's text with its flag table brought up to date."""
    return _BLOCK.sub(lambda found: found[1] + flag_table() + found[2], text)
