"""What of the kernel a rule needs: tables, matches and targets, and their modules."""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, IPPROTO_IP, IPPROTO_IPV6

from istio_init.errors import Location
from istio_init.formats.iptables import rule_line
from istio_init.formats.xt_entry import extensions
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.rules.model import Rule, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from istio_init.rules.diff import Change
    from istio_init.rules.ranges import Family

# IPT_SO_GET_REVISION_MATCH and _TARGET, IP6T_SO_GET_REVISION_MATCH and _TARGET.
_QUERIES = {
    "ipv4": (AF_INET, IPPROTO_IP, 66, 67),
    "ipv6": (AF_INET6, IPPROTO_IPV6, 68, 69),
}
# Where the module is not called after the extension.
_MODULES = {
    "tcp": "xt_tcpudp",
    "udp": "xt_tcpudp",
    "MARK": "xt_mark",
    "CONNMARK": "xt_connmark",
}
_REJECT_MODULES = {"ipv4": "ipt_REJECT", "ipv6": "ip6t_REJECT"}


class Feature(Record):
    """A match or target in one revision, as the kernel calls it."""

    family: Family
    name: str
    revision: int
    is_target: bool

    @property
    def module(self) -> str:
        """The kernel module that brings it."""
        if self.name == "REJECT":
            return _REJECT_MODULES[self.family]
        return _MODULES.get(self.name, f"xt_{self.name}")

    def __str__(self) -> str:
        kind = "target" if self.is_target else "match"
        return f"the {kind} {self.name} revision {self.revision} (module {self.module})"


def needed(steps: Iterable[Change], family: Family) -> tuple[Feature, ...]:
    """Return the features of all rules that the steps write, each once."""
    features: dict[Feature, None] = {}
    for step in steps:
        if isinstance(step.rule, Rule):
            for name, revision, is_target in extensions(step.rule, family):
                features[Feature(family, name, revision, is_target)] = None
    return tuple(features)


def location(backend: str, family: Family, table: str, step: Change) -> Location:
    """Return where a step was to be taken, with the flag that asked for it."""
    rule = step.rule
    if rule is None:
        return Location(backend, family, table)
    line = rule_line(step.chain, rule, family)
    return Location(backend, family, table, line, reason_of(rule).flag)


def in_legacy(feature: Feature) -> bool:
    """Whether the legacy tables know a feature; the kernel loads its module to tell.

    Raises:
        PermissionError: this process may not ask.
    """
    import ctypes
    import struct
    from socket import IPPROTO_RAW, SOCK_RAW, socket

    address_family, level, match_query, target_query = _QUERIES[feature.family]
    query = target_query if feature.is_target else match_query
    request = struct.pack("=29sB", feature.name.encode(), feature.revision)
    buffer = ctypes.create_string_buffer(request, len(request))
    # The kernel wants the request in the buffer that it would answer in, which
    # Python's own getsockopt cannot hand over.
    size = ctypes.c_uint32(len(request))
    with socket(address_family, SOCK_RAW, IPPROTO_RAW) as handle:
        library = ctypes.CDLL(None, use_errno=True)
        answer = library.getsockopt(handle.fileno(), level, query, buffer, ctypes.byref(size))
    return bool(answer == 0)
