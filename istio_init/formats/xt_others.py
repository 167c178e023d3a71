"""Targets that this program never writes, as iptables prints them.

They stand in rules of others and of earlier sidecars. What cannot be read is left
to the name alone.

Sources: linux/netfilter/nf_nat.h, linux/netfilter/xt_NFLOG.h; iptables 1.8,
extensions/libxt_NAT.c and libxt_NFLOG.c.
"""

from __future__ import annotations

from _socket import inet_ntop
from struct import Struct
from struct import error as struct_error

from istio_init.lean import TYPE_CHECKING
from istio_init.rules.ranges import ADDRESS_FAMILY, IPV4, Network

if TYPE_CHECKING:
    from istio_init.rules.ranges import Family

# The addresses and ports to which a connection is changed: as IPv4 had them at
# first, behind their count, and as both families have them.
_FIRST_RANGE = Struct("=4xI4s4s")
_RANGE = Struct("=I16s16s")
_PORTS = Struct(">HH")
_WITH_ADDRESSES = 1
_WITH_PORTS = 2
_SWITCHES = {4: "--random", 8: "--persistent", 16: "--random-fully"}

_NFLOG = Struct("=IHHHxx64s")
_NFLOG_SIZE = 1
_NFLOG_THRESHOLD = 1


def other_target_words(name: str, revision: int, data: bytes, family: Family) -> list[str]:
    """Return the words of a target, ``-j`` included; only its name where it is not known."""
    try:
        match name:
            case "DNAT":
                return ["-j", name, *_nat("--to-destination", revision, data, family)]
            case "SNAT":
                return ["-j", name, *_nat("--to-source", revision, data, family)]
            case "REDIRECT":
                return ["-j", name, *_nat("--to-ports", revision, data, family)]
            case "NETMAP":
                return ["-j", name, "--to", _netmap(data, family)]
            case "NFLOG":
                return ["-j", name, *_nflog(data)]
            case _:
                pass
    except (ValueError, struct_error):
        # A revision of a later kernel.
        pass
    return ["-j", name]


def _nat(option: str, revision: int, data: bytes, family: Family) -> list[str]:
    if revision == 0 and family == IPV4:
        size = _FIRST_RANGE.size
        flags, low, high = _FIRST_RANGE.unpack_from(data)
    else:
        size = _RANGE.size
        flags, low, high = _RANGE.unpack_from(data)
        used = 4 if family == IPV4 else 16
        low, high = low[:used], high[:used]
    known = _WITH_ADDRESSES | _WITH_PORTS | sum(_SWITCHES)
    if flags & ~known:
        raise ValueError("flags that are known")
    where = ""
    if flags & _WITH_ADDRESSES:
        addresses = dict.fromkeys(inet_ntop(ADDRESS_FAMILY[family], one) for one in (low, high))
        where = "-".join(addresses)
        if family != IPV4 and flags & _WITH_PORTS:
            where = f"[{where}]"
    if flags & _WITH_PORTS:
        ports = "-".join(dict.fromkeys(str(one) for one in _PORTS.unpack_from(data, size)))
        where += f":{ports}" if option != "--to-ports" else ports
    switches = [word for bit, word in _SWITCHES.items() if flags & bit]
    return [*([option, where] if where else []), *switches]


def _netmap(data: bytes, family: Family) -> str:
    """Return the network to which NETMAP changes addresses, bit for bit."""
    size = 4 if family == IPV4 else 16
    layout = _FIRST_RANGE if family == IPV4 else _RANGE
    low, high = (end[:size] for end in layout.unpack_from(data)[1:])
    mask = int.from_bytes(low, "big") ^ int.from_bytes(high, "big")
    return str(Network(family, low, 8 * size - mask.bit_length()))


def _nflog(data: bytes) -> list[str]:
    size, group, threshold, flags, raw = _NFLOG.unpack_from(data)
    prefix = raw.partition(b"\0")[0].decode(errors="replace")
    words: list[str] = []
    if prefix:
        words += ["--nflog-prefix", quoted(prefix)]
    if group:
        words += ["--nflog-group", str(group)]
    if size or flags & _NFLOG_SIZE:
        words += ["--nflog-size" if flags & _NFLOG_SIZE else "--nflog-range", str(size)]
    if threshold != _NFLOG_THRESHOLD:
        words += ["--nflog-threshold", str(threshold)]
    return words


def quoted(text: str) -> str:
    """Return a text as iptables prints it: in quotes if it is more than a plain word."""
    if text.replace("_", "").replace("-", "").isalnum():
        return text
    return '"' + "".join(f"\\{char}" if char in "\"'\\" else char for char in text) + '"'
