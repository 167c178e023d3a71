"""Sprig's functions over strings. Lengths and indexes count bytes, as in Go."""

from __future__ import annotations

from istio_init.inject.template.builtins import bounded
from istio_init.inject.template.errors import FunctionError
from istio_init.inject.template.functions import Registry
from istio_init.inject.template.printing import printed, quoted
from istio_init.inject.template.sprig.convert import few, room_for, string, strings
from istio_init.inject.template.values import Value, byte_length, from_utf8, utf8

FUNCTIONS = Registry()
_SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)


@FUNCTIONS.add("hello")
def _hello() -> str:
    return "Hello!"


@FUNCTIONS.add("trim", "string")
def _trim(text: str) -> str:
    return text.strip(_SPACES)


@FUNCTIONS.add("upper", "string")
def _upper(text: str) -> str:
    return "".join(char.upper() if len(char.upper()) == 1 else char for char in text)


@FUNCTIONS.add("lower", "string")
def _lower(text: str) -> str:
    return "".join(char.lower() if len(char.lower()) == 1 else char for char in text)


@FUNCTIONS.add("repeat", "int; string")
def _repeat(count: int, text: str) -> str:
    if count < 0:
        raise FunctionError("a text cannot be repeated less than 0 times")
    room_for(count * len(text))
    return text * count


@FUNCTIONS.add("trimall trimAll", "string; string")
def _trim_all(letters: str, text: str) -> str:
    return text.strip(letters) if letters else text


@FUNCTIONS.add("trimSuffix", "string; string")
def _trim_suffix(suffix: str, text: str) -> str:
    return text.removesuffix(suffix)


@FUNCTIONS.add("trimPrefix", "string; string")
def _trim_prefix(prefix: str, text: str) -> str:
    return text.removeprefix(prefix)


@FUNCTIONS.add("contains", "string; string", gives_text=False)
def _contains(part: str, text: str) -> bool:
    return part in text


@FUNCTIONS.add("hasPrefix", "string; string", gives_text=False)
def _has_prefix(prefix: str, text: str) -> bool:
    return text.startswith(prefix)


@FUNCTIONS.add("hasSuffix", "string; string", gives_text=False)
def _has_suffix(suffix: str, text: str) -> bool:
    return text.endswith(suffix)


@FUNCTIONS.add("quote", "...any", json=True)
def _quote(*values: Value) -> str:
    return bounded(" ".join(quoted(string(value)) for value in values if value is not None))


@FUNCTIONS.add("squote", "...any")
def _squote(*values: Value) -> str:
    return bounded(" ".join(f"'{printed(value)}'" for value in values if value is not None))


@FUNCTIONS.add("cat", "...any")
def _cat(*values: Value) -> str:
    return bounded(" ".join(printed(value) for value in values if value is not None))


def indented(spaces: int, text: str) -> str:
    """Return a text with so many blanks before each of its lines."""
    if spaces < 0:
        raise FunctionError("a text cannot be indented by less than 0 blanks")
    room_for(spaces * (text.count("\n") + 1) + len(text))
    pad = " " * spaces
    return pad + text.replace("\n", "\n" + pad)


@FUNCTIONS.add("indent", "int; string")
def _indent(spaces: int, text: str) -> str:
    return indented(spaces, text)


@FUNCTIONS.add("nindent", "int; string")
def _nindent(spaces: int, text: str) -> str:
    return "\n" + indented(spaces, text)


@FUNCTIONS.add("replace", "string; string; string")
def _replace(old: str, new: str, text: str) -> str:
    room_for(len(text) + (text.count(old)) * len(new))
    return text.replace(old, new)


@FUNCTIONS.add("plural", "string; string; int")
def _plural(one: str, many: str, count: int) -> str:
    return one if count == 1 else many


@FUNCTIONS.add("toString", "any")
def _to_string(value: Value) -> str:
    return string(value)


@FUNCTIONS.add("toStrings", "any")
def _to_strings(value: Value) -> list[str]:
    return strings(value)


@FUNCTIONS.add("trunc", "int; string")
def _trunc(count: int, text: str) -> str:
    size = byte_length(text)
    if count < 0 and size + count > 0:
        return from_utf8(utf8(text)[count:])
    if 0 <= count < size:
        return from_utf8(utf8(text)[:count])
    return text


@FUNCTIONS.add("substr", "int; int; string")
def _substr(start: int, end: int, text: str) -> str:
    data = utf8(text)
    if start < 0:
        start = 0
        if end < 0 or end > len(data):
            raise FunctionError(f"the index {end} is out of range")
    elif end < 0 or end > len(data):
        end = len(data)
    if start > end:
        raise FunctionError(f"the index {start} is out of range")
    return from_utf8(data[start:end])


@FUNCTIONS.add("join", "string; any")
def _join(separator: str, value: Value) -> str:
    parts = strings(value)
    room_for(sum(map(len, parts)) + len(separator) * len(parts))
    return separator.join(parts)


def divided(separator: str, text: str, count: int = -1) -> list[str]:
    """Return Go's SplitN: at most ``count`` parts, all of them if it is below zero."""
    if count == 0:
        return []
    if not separator:
        letters = list(text)
        if 0 < count < len(letters):
            letters = [*letters[: count - 1], "".join(letters[count - 1 :])]
        return letters
    return text.split(separator, count - 1 if count > 0 else -1)


@FUNCTIONS.add("splitList", "string; string")
def _split_list(separator: str, text: str) -> list[Value]:
    return few([*divided(separator, text)])


@FUNCTIONS.add("split", "string; string")
def _split(separator: str, text: str) -> dict[str, str]:
    return _numbered(divided(separator, text))


@FUNCTIONS.add("splitn", "string; int; string")
def _splitn(separator: str, count: int, text: str) -> dict[str, str]:
    return _numbered(divided(separator, text, count))


def _numbered(parts: list[str]) -> dict[str, str]:
    from istio_init.inject.template.values import StringMap

    few([*parts])
    return StringMap({f"_{number}": part for number, part in enumerate(parts)})


@FUNCTIONS.add("abbrev", "int; string")
def _abbrev(width: int, text: str) -> str:
    return text if width < 4 else from_utf8(_abbreviated(utf8(text), 0, width))


@FUNCTIONS.add("abbrevboth", "int; int; string")
def _abbrevboth(left: int, right: int, text: str) -> str:
    if right < 4 or (left > 0 and right < 7):
        return text
    return from_utf8(_abbreviated(utf8(text), left, right))


def _abbreviated(data: bytes, offset: int, width: int) -> bytes:
    """Return at most ``width`` bytes of ``data`` around ``offset``, with dots where it is cut."""
    if len(data) <= width:
        return data
    offset = min(offset, len(data))
    if len(data) - offset < width - 3:
        offset = len(data) - (width - 3)
    if offset <= 4:
        return data[: width - 3] + b"..."
    if offset + width - 3 < len(data):
        # The rest may be too short for dots of its own: then it is left out.
        rest = data[offset:]
        return b"..." + (_abbreviated(rest, 0, width - 3) if width - 3 >= 4 else b"")
    return b"..." + data[len(data) - (width - 3) :]


@FUNCTIONS.add("wrap", "int; string")
def _wrap(width: int, text: str) -> str:
    return _wrapped(width, "\n", text, break_words=False)


@FUNCTIONS.add("wrapWith", "int; string; string")
def _wrap_with(width: int, separator: str, text: str) -> str:
    return _wrapped(width, separator or "\n", text, break_words=True)


def _wrapped(width: int, separator: str, text: str, *, break_words: bool) -> str:
    """Return a text in lines of at most ``width`` bytes, broken at blanks."""
    data, width = utf8(text), max(width, 1)
    room_for(len(data) + len(separator) * (len(data) // width + data.count(b" ") + 1))
    lines: list[bytes] = []
    offset = 0
    while len(data) - offset > width:
        if data[offset : offset + 1] == b" ":
            offset += 1
            continue
        blank = data.rfind(b" ", offset, offset + width + 1)
        if blank < 0 and break_words:
            lines.append(data[offset : offset + width])
            offset += width
            continue
        if blank < 0:
            blank = data.find(b" ", offset + width)
            if blank < 0:
                break
        lines.append(data[offset:blank])
        offset = blank + 1
    lines.append(data[offset:])
    return from_utf8(utf8(separator).join(lines))


@FUNCTIONS.add("fail", "string")
def _fail(message: str) -> str:
    raise FunctionError(message)
