"""Text to typed values, strictly.

Every function returns the value or raises ValueError whose text completes the
sentence "expected ...". Nothing here looks at the host: names are resolved by
the lookups that are passed in. The functions called ``parse_...`` read the whole
text of a flag.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_pton

from istio_init.lean import TYPE_CHECKING
from istio_init.log import LEVELS
from istio_init.rules.ranges import IPV4, IPV6, IdRange, Network, PortRange

if TYPE_CHECKING:
    from collections.abc import Callable

    from istio_init.config.model import Host
    from istio_init.log import Level
    from istio_init.rules.ranges import Family

    Lookup = Callable[[str], int | None]

MAX_PORT = 65535
MAX_ID = 0xFFFFFFFF - 1
MAX_U32 = 0xFFFFFFFF
MAX_INTERFACE = 15
MAX_OWNER_GROUPS = 64
LOOPBACK_PREFIX = 8

# What stands around and between the parts of a list without meaning anything.
LIST_BLANKS = ", \t\r\n"

# Route tables of the kernel itself: a local default route in one of them would
# cut the pod off.
_MAX_SPARE_TABLE = 252
_FIRST_FREE_TABLE = 256

TRUE_WORDS = frozenset({"1", "t", "true"})
FALSE_WORDS = frozenset({"0", "f", "false"})

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def items(text: str) -> list[str]:
    """Return the parts between commas, without blanks around and without empty ones.

    Raises:
        ValueError: ``text`` looks like a flag that slipped into a value's place.
    """
    if text.lstrip().startswith("-"):
        raise ValueError("a list; this looks like a flag whose own value is missing")
    return [part for part in (part.strip() for part in text.split(",")) if part]


def listed(text: str, what: str) -> list[str]:
    """Return the parts of a list in which ``*`` has no meaning."""
    parts = items(text)
    if "*" in parts:
        alone = "'*' has no meaning here" if len(parts) == 1 else "'*' must stand alone"
        raise ValueError(f"{what}; {alone}")
    return parts


def number(text: str, low: int, high: int, *, hexadecimal: bool = False) -> int:
    """Return a decimal (or, if allowed, 0x hexadecimal) integer in ``low``-``high``.

    A leading zero is refused: iptables reads such numbers as octal.
    """
    expected = f"a number {low}-{high}"
    if hexadecimal:
        expected += ", decimal or 0x hexadecimal"
        if text[:2].lower() == "0x" and text[2:].isalnum() and text.isascii():
            try:
                value = int(text, 16)
            except ValueError:
                raise ValueError(expected) from None
            if low <= value <= high:
                return value
            raise ValueError(expected)
    if not (text.isascii() and text.isdigit()) or (len(text) > 1 and text[0] == "0"):
        raise ValueError(expected)
    # Longer than any accepted number: never handed to int(), which would be slow.
    if len(text) > len(str(high)) or not low <= int(text) <= high:
        raise ValueError(expected)
    return int(text)


def boolean(text: str) -> bool:
    """Return the truth of Istio's spellings (1, t, true, 0, f, false; any case)."""
    word = text.strip().lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise ValueError("true or false")


def port(text: str) -> int:
    """Return a port number, 1-65535."""
    return number(text, 1, MAX_PORT)


def port_range(text: str, service: Lookup) -> PortRange:
    """Return one port, a range (``8000:9000`` or ``8000-9000``) or a service's port."""
    expected = f"a port 1-{MAX_PORT}, a range such as 8000:9000, or a service name"
    looked_up = None
    if text[:1].isalpha():
        looked_up = service(text)
        if looked_up is None:
            raise ValueError(f"{expected}; {text!r} is not a service of this host")
        return PortRange(looked_up, looked_up)
    low_text, separator, high_text = text.partition(":" if ":" in text else "-")
    try:
        low = port(low_text)
        high = port(high_text) if separator else low
    except ValueError:
        raise ValueError(f"{expected}, not {text!r}") from None
    if low > high:
        raise ValueError(f"{expected}; {text!r} runs backwards")
    return PortRange(low, high)


def id_range(text: str, lookup: Lookup, what: str) -> IdRange:
    """Return one id, a range ``1000-2000`` or the id of a name in ``what`` (passwd, group)."""
    expected = f"an id 0-{MAX_ID}, a range such as 1000-2000, or a name in the {what} file"
    if not text[:1].isdigit():
        found = lookup(text)
        if found is None:
            raise ValueError(f"{expected}; {text!r} is not in it")
        return IdRange(found, found)
    low_text, separator, high_text = text.partition("-")
    try:
        low = number(low_text, 0, MAX_ID)
        high = number(high_text, 0, MAX_ID) if separator else low
    except ValueError:
        raise ValueError(f"{expected}, not {text!r}") from None
    if low > high:
        raise ValueError(f"{expected}; {text!r} runs backwards")
    return IdRange(low, high)


def interface(text: str) -> str:
    """Return an interface name of 1-15 bytes; a trailing ``+`` is a wildcard."""
    expected = f"an interface name of 1-{MAX_INTERFACE} characters without blanks, / ; or quotes"
    bad = any(char.isspace() or char in "/;'\"`" for char in text) or not text.isprintable()
    # Neither can be told from an option or a negation where rules are spelled.
    bad = bad or text[:1] in ("-", "!")
    if bad or not 1 <= len(text.encode()) <= MAX_INTERFACE:
        raise ValueError(f"{expected}, not {text!r}")
    return text


def address(text: str) -> Network:
    """Return one IPv4 or IPv6 address as a range of its own."""
    family: Family = IPV6 if ":" in text else IPV4
    try:
        packed = inet_pton(AF_INET6 if family == IPV6 else AF_INET, text)
    except (OSError, ValueError):
        raise ValueError(f"an IPv4 or IPv6 address, not {text!r}") from None
    return Network(family, packed, len(packed) * 8)


def network(text: str) -> tuple[Network, bool]:
    """Return an address range, and whether host bits had to be cleared.

    Accepts an address alone, with a prefix length, or (IPv4) with a netmask.
    """
    host_text, slash, mask_text = text.partition("/")
    expected = f"an address range such as 10.0.0.0/8 or fd00::/8, not {text!r}"
    try:
        host = address(host_text)
        bits = len(host.packed) * 8
        if not slash:
            prefix = bits
        elif "." in mask_text and host.family == IPV4:
            prefix = _prefix_of(int.from_bytes(address(mask_text).packed, "big"))
        else:
            prefix = number(mask_text, 0, bits)
    except ValueError:
        raise ValueError(expected) from None
    value = int.from_bytes(host.packed, "big")
    kept = value >> (bits - prefix) << (bits - prefix)
    return Network(host.family, kept.to_bytes(bits // 8, "big"), prefix), kept != value


def _prefix_of(mask: int) -> int:
    inverse = mask ^ MAX_U32
    if inverse & (inverse + 1):
        raise ValueError("a netmask whose ones are contiguous")
    return 32 - inverse.bit_length()


def loopback_range(text: str) -> tuple[Network, bool]:
    """Return an IPv4 range inside 127.0.0.0/8, and whether host bits were cleared."""
    expected = f"an IPv4 range inside 127.0.0.0/8, not {text!r}"
    try:
        found, cleared = network(text)
    except ValueError:
        raise ValueError(expected) from None
    if found.family != IPV4 or found.packed[0] != 127 or found.prefix < LOOPBACK_PREFIX:
        raise ValueError(expected)
    return found, cleared


def duration(text: str) -> float:
    """Return the seconds of a duration such as ``5s``, ``1m30s`` or ``500ms``; more than 0."""
    expected = "a duration such as 5s, 500ms or 1m30s"
    total, rest = 0.0, text
    while rest:
        digits = 0
        while digits < len(rest) and (rest[digits] in "0123456789."):
            digits += 1
        letters = digits
        while letters < len(rest) and rest[letters] in "hms":
            letters += 1
        amount, unit = rest[:digits], rest[digits:letters]
        # One unit a step: "1m30s" is cut after its first m, "5ms" is not.
        if unit not in _SECONDS or amount.count(".") > 1 or not amount.strip("."):
            raise ValueError(expected)
        total += float(amount) * _SECONDS[unit]
        rest = rest[letters:]
    if not 0 < total <= 24 * 3600:
        raise ValueError(expected)
    return total


class Context:
    """What parsing a flag's text takes beside the text, and what it leaves beside the value.

    ``host`` resolves names. ``remarks`` are sentences about texts that were understood
    but look like a mistake.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.remarks: list[str] = []


def is_everything(text: str) -> bool:
    """Whether a list is ``*`` alone."""
    return text.strip(LIST_BLANKS) == "*"


def choice(text: str, choices: tuple[str, ...]) -> str:
    """Return one of ``choices``, whatever the case of its letters."""
    word = text.strip().lower()
    for one in choices:
        if one.lower() == word:
            return one
    raise ValueError(" or ".join(choices))


def spell(value: object) -> str:
    """Return the text that is parsed to a value: of a list its parts between commas."""
    # A record is a tuple too, and no list.
    listed_parts = value if type(value) is tuple else (value,)
    return ",".join(str(part) for part in listed_parts)


def spell_addresses(value: object) -> str:
    """Return the text of a list of addresses, which takes no prefix lengths."""
    parts = value if isinstance(value, tuple) else ()
    return ",".join(part.address for part in parts)


def parse_text(text: str, _: Context) -> str:
    """Return any text as it is."""
    return text


def parse_port(text: str, _: Context) -> int:
    """Return one port number."""
    return port(text)


def parse_ports(text: str, context: Context) -> tuple[PortRange, ...]:
    """Return a list of ports, ranges and services."""
    parts = listed(text, f"ports 1-{MAX_PORT}, ranges such as 8000:9000 or service names")
    return tuple(port_range(part, context.host.service) for part in parts)


def parse_uids(text: str, context: Context) -> tuple[IdRange, ...]:
    """Return a list of users."""
    parts = listed(text, "user ids or names")
    return tuple(id_range(part, context.host.uid, "passwd") for part in parts)


def parse_gids(text: str, context: Context) -> tuple[IdRange, ...]:
    """Return a list of groups."""
    parts = listed(text, "group ids or names")
    return tuple(id_range(part, context.host.gid, "group") for part in parts)


def parse_excluded_groups(text: str, context: Context) -> tuple[IdRange, ...]:
    """Return a list of at most MAX_OWNER_GROUPS groups."""
    groups = parse_gids(text, context)
    if len(groups) > MAX_OWNER_GROUPS:
        raise ValueError(f"at most {MAX_OWNER_GROUPS} groups, not {len(groups)}")
    return groups


def parse_captured_groups(text: str, context: Context) -> tuple[IdRange, ...] | None:
    """Return a list of at most MAX_OWNER_GROUPS groups, None for ``*``."""
    return None if is_everything(text) else parse_excluded_groups(text, context)


def parse_interfaces(text: str, _: Context) -> tuple[str, ...]:
    """Return a list of interface names."""
    return tuple(interface(part) for part in listed(text, "interface names"))


def parse_addresses(text: str, _: Context) -> tuple[Network, ...]:
    """Return a list of addresses."""
    return tuple(address(part) for part in listed(text, "addresses"))


def parse_cidrs(text: str, context: Context) -> tuple[Network, ...]:
    """Return a list of address ranges; cleared host bits are remarked on."""
    ranges = []
    for part in listed(text, "address ranges such as 10.0.0.0/8"):
        one, cleared = network(part)
        if cleared:
            context.remarks.append(f"{part} has host bits set and means {one}")
        ranges.append(one)
    return tuple(ranges)


def parse_loopback(text: str, context: Context) -> Network:
    """Return the loopback range; cleared host bits are remarked on."""
    one, cleared = loopback_range(text.strip())
    if cleared:
        context.remarks.append(f"{text} has host bits set and means {one}")
    return one


def parse_mark(text: str, _: Context) -> int:
    """Return a packet mark."""
    # Mark 0 is every unmarked packet: its ip rule would swallow all traffic.
    return number(text.strip(), 1, MAX_U32, hexadecimal=True)


def parse_route_table(text: str, _: Context) -> int:
    """Return a route table that is none of the kernel's own."""
    table = number(text.strip(), 1, MAX_U32)
    if _MAX_SPARE_TABLE < table < _FIRST_FREE_TABLE:
        raise ValueError("a route table that is not the kernel's default, main or local (253-255)")
    return table


def parse_duration(text: str, _: Context) -> float:
    """Return the seconds of a duration."""
    return duration(text)


def parse_log_level(text: str, _: Context) -> Level:
    """Return the level of the default scope in ``SCOPE:LEVEL,...`` or a bare level."""
    level: Level = "info"
    for part in text.split(","):
        scope, colon, word = part.strip().rpartition(":")
        known = [one for one in LEVELS if one == word]
        if not known:
            raise ValueError(f"SCOPE:LEVEL with a level of {', '.join(LEVELS)}")
        if not colon or scope in ("default", "all"):
            level = known[0]
    return level
