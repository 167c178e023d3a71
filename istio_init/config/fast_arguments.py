"""The call as clusters make it, read without a command line library.

Importing click costs as much as everything else a run does. This reads the
plain calls, from the same table of flags, exactly as click does; it leaves
everything unusual (help, mistakes, shell completion) to it.
"""

from __future__ import annotations

from istio_init.config.model import APPLY, COMMANDS
from istio_init.config.options import BY_NAME, OPTIONS
from istio_init.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COMPLETE_VARIABLE = "_ISTIO_INIT_COMPLETE"

_BY_SHORT = {option.short: option for option in OPTIONS if option.short}


def read(
    arguments: Sequence[str], environment: Mapping[str, str]
) -> tuple[str, dict[str, str]] | None:
    """Return the command and its flags by long name, or None for what click has to see."""
    if COMPLETE_VARIABLE in environment:
        return None
    words = list(arguments)
    command = words.pop(0) if words and words[0] in COMMANDS else APPLY
    flags: dict[str, str] = {}
    while words:
        word = words.pop(0)
        name, attached = _split(word)
        option = BY_NAME.get(name) if word.startswith("--") else _BY_SHORT.get(name)
        if option is None:
            return None
        if attached is None:
            # A switch takes a word that does not look like a flag, as click has it.
            if option.switch and (not words or (words[0][:1] == "-" and len(words[0]) > 1)):
                attached = "true"
            elif words:
                attached = words.pop(0)
            else:
                return None
        flags[option.name] = option.written(attached)
    return command, flags


def _split(word: str) -> tuple[str, str | None]:
    """Return a flag's name, and the value that is written against it, if any."""
    if word.startswith("--"):
        name, equals, value = word[2:].partition("=")
        return name, value if equals else None
    if word.startswith("-") and len(word) > 1:
        return word[1], word[2:] or None
    return "", None
