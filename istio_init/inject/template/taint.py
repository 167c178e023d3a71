"""Strings that a pod's author chose, and the check that they stay what they are.

A template prints most values bare into YAML, so a line end in an annotation could
add a key or an argument (``sidecar.istio.io/logLevel`` did, in Istio 1.30.3). Every
string that comes from the pod is therefore ``Tainted``: it knows where it comes
from. Template functions hand the taint on. What is printed is looked at in two steps:

1. A value of harmless characters (``SAFE``, nearly all there are) cannot change how
   YAML reads its surroundings, whatever they are. It costs one match.
2. The output that has any other is compared with the same output in which these
   values are replaced by a harmless word: both must have the same structure, which is
   the sequence of YAML's events, with every key and scalar that holds no such word.
   If they differ, the values that do it are named in the error.

Where a function turned a value into a text (``quote``, ``toYaml``, ``trunc`` ...), the
harmless version of that text is what the function makes of the harmless word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from istio_init.inject.template.budget import PartCounter
from istio_init.inject.template.errors import FunctionError
from istio_init.inject.template.values import StringMap, Struct, StructList, Value

if TYPE_CHECKING:
    from typing import TypeAlias

# Text in which no letter can be mistaken for YAML, also where it is cut short.
WORD = "harmlessword"
SHORTEST = 4
MAX_SAFE = 256
MAX_BLAMED = 20
MAX_BLAMED_SIZE = 100_000

_PLAIN = r"[A-Za-z0-9_/](?:[A-Za-z0-9._/@+=-]|:(?=[A-Za-z0-9_/]))*"
SAFE = re.compile(_PLAIN)
# Printable ASCII but for what ends a quoted scalar of either kind.
SAFE_IN_QUOTES = re.compile(r"[ !#-&(-\[\]-~]*")
SAFE_JSON = re.compile(rf'(?:[{{}}\[\]:,]|true|false|null|-?[0-9][0-9.eE+-]*|"(?:{_PLAIN})?")*')
_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')

Maker: TypeAlias = Callable[[], Value]


class Tainted(str):
    """A string from ``origin``; ``maker`` makes its harmless version, if that is no plain word.

    ``json`` says that it is JSON which a function wrote.
    """

    __slots__ = ("json", "maker", "origin")

    origin: str
    maker: Maker | None
    json: bool

    @classmethod
    def of(
        cls, text: str, origin: str, maker: Maker | None = None, *, json: bool = False
    ) -> Tainted:
        """Return ``text`` as a string that comes from ``origin``."""
        tainted = cls(text)
        tainted.origin = origin
        tainted.maker = maker
        tainted.json = json
        return tainted

    def harmless(self) -> str:
        """Return a text that the same template could have printed for a harmless value."""
        if self.json:
            return _harmless_json(self)
        if self.maker is None:
            return WORD
        try:
            made = self.maker()
        except (FunctionError, RecursionError):
            return WORD
        # What has nothing of the word left, a hash for one, would not be recognised below,
        # unless it does not depend on the word at all.
        return made if isinstance(made, str) and (holds_word(made) or made == self) else WORD


class TaintedMap(dict[str, Value]):
    """A map whose strings come from the pod."""

    __slots__ = ()


class TaintedList(list[Value]):
    """A list whose strings come from the pod."""

    __slots__ = ()


class TaintedStringMap(StringMap):
    """A map[string]string from the pod: its labels or annotations."""

    __slots__ = ("origin",)
    origin: str


class HarmlessStruct(Struct):
    """A struct whose strings are read as the harmless word."""

    __slots__ = ()

    def member(self, name: str) -> Value:
        """Return a field's value without the pod's strings."""
        return harmless(super().member(name))

    def mask(self, data: Value) -> Value:
        """Return JSON data of the struct with the harmless word for its strings."""
        match data:
            case str():
                return WORD
            case dict():
                masked = type(data)()
                masked.update((key, self.mask(item)) for key, item in data.items())
                return masked
            case list():
                return [self.mask(item) for item in data]
            case _:
                pass
        return data


TAINTED: frozenset[type] = frozenset(
    {Tainted, TaintedMap, TaintedList, TaintedStringMap, Struct, StructList}
)


def holds_word(text: str) -> bool:
    """Return whether a text holds the harmless word, or a piece of it."""
    return WORD[:SHORTEST] in text.lower()


def is_safe(text: Tainted, *, in_quotes: bool) -> bool:
    """Return whether YAML reads a text like a harmless one, wherever it is printed."""
    if not text:
        return True
    if len(text) <= MAX_SAFE and SAFE.fullmatch(text):
        return True
    if text.json:
        return SAFE_JSON.fullmatch(text) is not None
    return in_quotes and SAFE_IN_QUOTES.fullmatch(text) is not None


def marked_origin(value: Value) -> str:
    """Return where a value comes from, or ``""`` if not from the pod; looks at it alone."""
    if type(value) not in TAINTED:
        return ""
    if isinstance(value, Tainted | Struct | TaintedStringMap):
        return value.origin
    return _first_origin(value, PartCounter()) or "the pod"


def hidden_origin(value: Value) -> str:
    """Return the same, but look at everything in a map or list."""
    if isinstance(value, dict | list):
        return _first_origin(value, PartCounter())
    return marked_origin(value)


def _first_origin(value: Value, parts: PartCounter) -> str:
    parts.one()
    if isinstance(value, Tainted | Struct | TaintedStringMap):
        return value.origin
    items: Iterable[Value] = ()
    if isinstance(value, dict):
        items = (part for pair in value.items() for part in pair)
    elif isinstance(value, list):
        items = value
    return next((found for item in items if (found := _first_origin(item, parts))), "")


def harmless(value: Value) -> Value:
    """Return a value of the same shape with no string of the pod in it.

    Raises:
        LimitError: the value has too many parts.
    """
    return _harmless(value, PartCounter())


def _harmless(value: Value, parts: PartCounter) -> Value:
    parts.one()
    match value:
        case Tainted():
            return value.harmless()
        case StringMap():
            return StringMap({f"{WORD}{number:04}": WORD for number in range(len(value))})
        case Struct():
            return HarmlessStruct(value.type, value.data, "")
        case StructList():
            return StructList(value.item, [_harmless(item, parts) for item in value])
        case dict():
            return {
                f"{WORD}{number:04}" if type(key) is Tainted else key: _harmless(value[key], parts)
                for number, key in enumerate(sorted(value))
            }
        case list():
            return [_harmless(item, parts) for item in value]
        case _:
            pass
    return value


def _harmless_json(text: str) -> str:
    """Return JSON text with a harmless word for each of its strings, all of them distinct."""
    count = iter(range(len(text)))
    return _JSON_STRING.sub(lambda _: f'"{WORD}{next(count)}"', text)


def taint(value: Value, origin: str, maker: Maker | None = None) -> Value:
    """Return a value with all of its strings tainted.

    Raises:
        LimitError: the value has too many parts.
    """
    return _tainted(value, origin, maker, PartCounter())


def _tainted(value: Value, origin: str, maker: Maker | None, parts: PartCounter) -> Value:
    parts.one()
    match value:
        case Tainted() | TaintedMap() | TaintedList() | StructList():
            return value
        case str():
            return Tainted.of(value, origin, maker)
        case StringMap():
            tainted = TaintedStringMap(
                {Tainted.of(key, origin): Tainted.of(text, origin) for key, text in value.items()}
            )
            tainted.origin = origin
            return tainted
        case dict():
            return TaintedMap(
                {
                    Tainted.of(key, origin): _tainted(item, origin, None, parts)
                    for key, item in value.items()
                }
            )
        case list():
            return TaintedList([_tainted(item, origin, None, parts) for item in value])
        case _:
            pass
    return value


# The comparison


def culprits(parts: list[str], suspects: dict[int, Tainted]) -> list[str] | None:
    """Return where the values come from that change the structure of the YAML in ``parts``.

    ``suspects`` are parts by their index. Returns ``None`` if nothing changes it; an
    output that is no YAML even with harmless values is none of their doing.
    """
    harmless_texts = {index: text.harmless() for index, text in suspects.items()}

    def structure(real: frozenset[int]) -> list[tuple[str, ...]] | None:
        texts = parts.copy()
        for index, text in harmless_texts.items():
            if index not in real:
                texts[index] = text
        return _structure("".join(texts))

    expected = structure(frozenset())
    if expected is None or _same(expected, structure(frozenset(suspects))):
        return None
    each = list(suspects)[:MAX_BLAMED] if sum(map(len, parts)) < MAX_BLAMED_SIZE else []
    alone = [index for index in each if not _same(expected, structure(frozenset({index})))]
    return sorted({suspects[index].origin for index in alone or suspects})


def _structure(text: str) -> list[tuple[str, ...]] | None:
    """Return what YAML makes of a text, or ``None`` if it is no YAML."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    events: list[tuple[str, ...]] = []
    try:
        for event in yaml.parse(text, Loader=loader):
            kind = type(event).__name__
            anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
            events.append((kind, anchor or "", tag or "", getattr(event, "value", "")))
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return events


def _same(expected: list[tuple[str, ...]], found: list[tuple[str, ...]] | None) -> bool:
    """Return whether two structures are equal but for scalars that hold the harmless word."""
    if found is None or len(found) != len(expected):
        return False
    return all(
        wanted[:3] == got[:3] and (wanted[3] == got[3] or holds_word(wanted[3]))
        for wanted, got in zip(expected, found, strict=True)
    )
