"""What a YAML scalar without quotes means to Kubernetes, and when a string needs quotes.

Kubernetes reads YAML with sigs.k8s.io/yaml, a fork of go-yaml 2: YAML 1.1's
booleans and octal numbers, ``0o17`` of YAML 1.2, underscores in numbers, no
dates and no numbers to the base of 60.
"""

from __future__ import annotations

import json
import math
import re
import struct
from functools import cache, lru_cache

Scalar = str | int | float | bool | None

_INT64 = range(-(2**63), 2**63)
_UINT64_END = 2**64
_INFINITE = (math.inf, -math.inf)
# Go's %g writes larger powers of ten with an exponent.
_LARGEST_POWER = 6

_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE"), True),
    **dict.fromkeys(("on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE"), False),
    **dict.fromkeys(("off", "Off", "OFF"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}
_NUMBER_START = frozenset("+-.0123456789")
_SPECIAL_START = _NUMBER_START | {word[:1] for word in _WORDS}
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_DOT_FLOAT = re.compile(r"\.[0-9]+(_[0-9]+)*([eE][-+]?[0-9]+(_[0-9]+)*)?", re.ASCII)
_BINARY_WITH_INNER_SIGN = re.compile(r"0b[-+][01]+", re.ASCII)
_INTEGER = re.compile(
    r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|(0|[1-9][0-9]*))", re.ASCII
)
# Go refuses to read a longer number as an integer too, and Python takes
# quadratic time for it.
_LONGEST_NUMBER = 400
_LONGEST_CACHED = 200

# What only other readers of YAML 1.1 take for something else than a string:
# numbers to the base of 60, dates, and the keys for merging and for defaults.
_OTHERS = re.compile(
    r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"
    r"|[-+]?[0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?"
    r"|[-+]?\.[0-9_]+([eE][-+]?[0-9]+)?"
    r"|[-+]?0[xXoObB]?[0-9a-fA-F_]+"
    r"|[-+]?[0-9][0-9_]*"
    r"|[0-9]{4}-[0-9][0-9]?-[0-9][0-9]?([Tt ].*)?"
    r"|[-+]?0[bB][-+01_]+"
    r"|<<|=",
    re.ASCII,
)
# ``-`` , ``?`` and ``:`` may begin a plain scalar if no blank follows.
_PLAIN = re.compile(
    r"(?:[^\s\-?:,\[\]{}#&*!|>'\"%@`]|[-?:](?=\S))(?:[^\s:#]|:(?=\S)|(?<=\S)#| +(?=[^\s#]))*"
)
_DOCUMENT_MARK = re.compile(r"(---|\.\.\.)(\s|$)")


@cache
def _unprintable() -> re.Pattern[str]:
    """Return what YAML does not let stand in a text, and what breaks lines for some readers.

    Compiled when it is needed: it takes 2 ms, and most texts are printable to Python.
    """
    return re.compile(
        "[^\\t\\n\\x20-\\x7e\\xa0-\\u2027\\u202a-\\ud7ff\\ue000-\\ufefe\\uff00-\\ufffd"
        "\\U00010000-\\U0010ffff]"
    )


def _has_unprintable(text: str) -> bool:
    return not text.isprintable() and bool(_unprintable().search(text))


def resolve(text: str) -> Scalar:
    """Return the value of a scalar that is written without quotes, as Kubernetes reads it.

    A whole number that no 64 bits hold is a float. Infinity, which JSON does
    not have, is returned too. Source: go-yaml 2, ``resolve.go``.
    """
    first = text[:1]
    if first not in _SPECIAL_START:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if first not in _NUMBER_START or len(text) > _LONGEST_NUMBER:
        return text
    if first == ".":
        return _finite(text, text) if _DOT_FLOAT.fullmatch(text) else text
    plain = text.replace("_", "")
    if match := _INTEGER.fullmatch(plain):
        sign, hexadecimal, binary, octal, decimal = match.groups()
        for digits, base in ((decimal, 10), (hexadecimal, 16), (octal, 8), (binary, 2)):
            if digits:
                number = int(digits, base)
                return whole(-number if sign == "-" else number)
    if _FLOAT.fullmatch(plain):
        return _finite(plain, text)
    if _BINARY_WITH_INNER_SIGN.fullmatch(plain):
        return whole(int(plain[len("0b") :], base=2))
    return text


def _finite(digits: str, text: str) -> Scalar:
    number = float(digits.replace("_", ""))
    return text if number in _INFINITE else number


def whole(number: int) -> int | float:
    """Return a whole number as JSON's readers in Kubernetes keep it: 64 bits, else a float."""
    return number if _INT64.start <= number < _UINT64_END else float(number)


def json_number(number: float) -> int | float:
    """Return a float as JSON's readers in Kubernetes keep it: whole ones of 64 bits as integers.

    Raises ``ValueError`` for infinity and for what is no number.
    """
    if number != number or number in _INFINITE:  # noqa: PLR0124 - the one that is not itself
        raise ValueError("JSON has no such number")
    return int(number) if number.is_integer() and int(number) in _INT64 else number


def key_text(value: Scalar) -> str | None:
    """Return the string that a key of a map becomes in JSON; None for a key that is null.

    Booleans become ``true`` and ``false`` even where ``y`` and ``off`` stand;
    floats are written with the precision of 32 bits. Source: sigs.k8s.io/yaml.
    """
    match value:
        case str() | None:
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return _float_key(value)


def _float_key(number: float) -> str:
    if number != number:  # noqa: PLR0124 - the one that is not itself
        return ".nan"
    number = _single(number)
    if number in _INFINITE:
        return ".inf" if number > 0 else "-.inf"
    # The shortest digits that give the same 32 bits; nine always do.
    digits = next(
        text
        for text in (f"{number:.{places}e}" for places in range(10))
        if _single(float(text)) == number
    )
    mantissa, _, exponent = digits.partition("e")
    power = int(exponent)
    if power < -4 or power >= _LARGEST_POWER:
        return f"{mantissa}e{'-' if power < 0 else '+'}{abs(power):02d}"
    places = max(len(mantissa.lstrip("-").replace(".", "")) - 1 - power, 0)
    return f"{float(digits):.{places}f}"


def _single(number: float) -> float:
    """Return a number rounded to 32 bits."""
    # Without a byte order, too large a number becomes infinite.
    return float(struct.unpack("f", struct.pack("f", number))[0])


def is_plain(text: str) -> bool:
    """Whether a string may stand without quotes in block style.

    Every reader of YAML 1.1 and 1.2 then takes it for the same string.
    """
    # What is added to one workload is much the same in the next.
    return _is_plain(text) if len(text) > _LONGEST_CACHED else _cached_is_plain(text)


def _is_plain(text: str) -> bool:
    return (
        bool(_PLAIN.fullmatch(text))
        and not _has_unprintable(text)
        and not _DOCUMENT_MARK.match(text)
        and isinstance(resolve(text), str)
        and not _OTHERS.fullmatch(text)
    )


_cached_is_plain = lru_cache(maxsize=2048)(_is_plain)


def quoted(text: str) -> str:
    """Return a string in double quotes, with everything escaped that does not print."""
    shown = json.dumps(text, ensure_ascii=False)
    return shown if shown.isprintable() else _unprintable().sub(_escape, shown)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return r"\ufffd" if 0xD800 <= code < 0xE000 else f"\\u{code:04x}"


def is_literal(text: str) -> bool:
    """Whether a string of several lines can be written as a literal block (``|``)."""
    return "\n" in text.rstrip("\n") and not _has_unprintable(text)


def is_single_line(text: str) -> bool:
    """Whether a string can be written on one line without escapes."""
    return not _has_unprintable(text) and not {"\t", "\n"} & set(text)


def written(value: Scalar) -> str:
    """Return a scalar on one line, in quotes where it needs them."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return value if is_plain(value) else in_quotes(value)
        case _:
            return _number(value)


def in_quotes(text: str) -> str:
    """Return a string in the quotes that need fewer escapes."""
    if '"' in text and "'" not in text and is_single_line(text):
        return f"'{text}'"
    return quoted(text)


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    if value != value or value in _INFINITE:  # noqa: PLR0124 - not a number
        return _float_key(value)
    return repr(value)
