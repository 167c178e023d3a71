"""Everything this program asks the host, in one place.

Nothing is read before it is needed: a dry run with numeric ids, ``--ipv6`` or
``--no-ipv6`` and ``--dns-servers`` opens none of these files.
"""

from __future__ import annotations

import _struct as struct
from _socket import AF_INET, AF_INET6, IPPROTO_RAW, SOCK_DGRAM, SOCK_RAW, socket

from istio_init.config.model import LAYOUT_1_30, Facts
from istio_init.config.values import MAX_ID, MAX_PORT, address, number
from istio_init.errors import ApplyError, printable
from istio_init.lean import TYPE_CHECKING
from istio_init.rules.names import LOOPBACK_IPV6, PASSTHROUGH
from istio_init.rules.ranges import IPV4, IPV6, Network

if TYPE_CHECKING:
    from istio_init.config.model import Config
    from istio_init.rules.ranges import Family

LEGACY_TABLES: dict[Family, str] = {
    IPV4: "/proc/self/net/ip_tables_names",
    IPV6: "/proc/self/net/ip6_tables_names",
}

# A node may know a hundred thousand users.
_MOST_NAMES = 1 << 24

_SIOCGIFCONF = 0x8912
# struct ifreq on a 64-bit kernel: 16 bytes of name, 24 of union.
_IFREQ_SIZE = 40


class HostFiles:
    """The files of this image or node that a call's values refer to.

    Names come from passwd, group and services; a file that is missing has no
    names. They are read directly: the C library's lookups may ask LDAP or a socket
    that does not answer in an init container.

    Raises:
        ApplyError: a file cannot be read.
    """

    def __init__(self, etc: str = "/etc") -> None:
        self._etc = etc
        self._files: dict[str, dict[str, int]] = {}

    def uid(self, name: str) -> int | None:
        """Return the uid of a user, or None."""
        return self._entries("passwd").get(name)

    def gid(self, name: str) -> int | None:
        """Return the gid of a group, or None."""
        return self._entries("group").get(name)

    def service(self, name: str) -> int | None:
        """Return the port of a service (its TCP port where it has one), or None."""
        return self._entries("services").get(name)

    def text(self, path: str) -> str:
        """Return the text of a file.

        Raises:
            OSError: it cannot be read, is no regular file, or is larger than 1 MiB.
            UnicodeDecodeError: it is not text.
        """
        from istio_init.kernel import files

        return files.read(path).decode()

    def _entries(self, file: str) -> dict[str, int]:
        if file not in self._files:
            from istio_init.kernel import files

            parse = _services if file == "services" else _ids
            try:
                text = files.read(f"{self._etc}/{file}", _MOST_NAMES).decode(errors="replace")
                self._files[file] = parse(text.splitlines())
            except FileNotFoundError:
                self._files[file] = {}
            except OSError as error:
                raise ApplyError(
                    "cannot look names up",
                    where=f"{self._etc}/{file}",
                    why=error.strerror or str(error),
                    remedy="give numbers in place of names",
                ) from error
        return self._files[file]


def _ids(lines: list[str]) -> dict[str, int]:
    """Return name to number of passwd or group lines; the first of a name counts."""
    ids: dict[str, int] = {}
    for line in lines:
        fields = line.split(":")
        one = _number(fields[2], 0, MAX_ID) if len(fields) > 2 else None
        if one is not None:
            ids.setdefault(fields[0], one)
    return ids


def _services(lines: list[str]) -> dict[str, int]:
    tcp: dict[str, int] = {}
    other: dict[str, int] = {}
    for line in lines:
        fields = line.partition("#")[0].split()
        if len(fields) < 2:
            continue
        text, _, protocol = fields[1].partition("/")
        port = _number(text, 1, MAX_PORT)
        if port is not None:
            for name in (fields[0], *fields[2:]):
                (tcp if protocol == "tcp" else other).setdefault(name, port)
    return {**other, **tcp}


def _number(text: str, low: int, high: int) -> int | None:
    """Return the number of a line; None for what no kernel would take."""
    try:
        return number(text, low, high)
    except ValueError:
        return None


def gather(config: Config) -> Facts:
    """Return what the config leaves to the host to say.

    Raises:
        ApplyError: resolv.conf is needed and cannot be read.
    """
    addresses: tuple[Network, ...] = ()
    nameservers: tuple[Network, ...] = ()
    skipped: tuple[str, ...] = ()
    if config.layout == LAYOUT_1_30 and config.ipv6 is None:
        addresses = usable_addresses()
    if config.redirect_dns and not config.capture_all_dns and config.dns_servers is None:
        nameservers, skipped = resolvers()
    return Facts(addresses, nameservers, skipped)


def usable_addresses() -> tuple[Network, ...]:
    """Return this namespace's addresses that are neither loopback nor link-local.

    IPv4 comes first, whatever the interface: Istio takes the addresses in the
    order of the kernel's dump, which goes family by family.

    Source: istio 1.30, tools/common/config, getLocalIP.
    """
    return (*_ipv4_addresses(), *(one for one, _ in ipv6_addresses() if _usable(one)))


def _usable(one: Network) -> bool:
    if one.family == IPV4:
        return one.packed[0] != 127 and one.packed[:2] != b"\xa9\xfe"
    link_local = one.packed[0] == 0xFE and one.packed[1] & 0xC0 == 0x80
    # ::6 is there because an earlier run put it there: it must not decide this one.
    return not link_local and one not in (LOOPBACK_IPV6, PASSTHROUGH[IPV6])


def _ipv4_addresses() -> tuple[Network, ...]:
    import array
    import fcntl

    room = 128
    handle = socket(AF_INET, SOCK_DGRAM)
    try:
        while True:
            buffer = array.array("B", bytes(room * _IFREQ_SIZE))
            request = struct.pack("iP", len(buffer), buffer.buffer_info()[0])
            used = struct.unpack("iP", fcntl.ioctl(handle, _SIOCGIFCONF, request))[0]
            # The kernel fills what fits and does not say that there was more.
            if used < len(buffer):
                break
            room *= 2
    finally:
        handle.close()
    data = buffer.tobytes()
    # The union holds a sockaddr_in: family, port, then the address.
    addresses = (
        Network(IPV4, data[start + 20 : start + 24], 32) for start in range(0, used, _IFREQ_SIZE)
    )
    return tuple(one for one in addresses if _usable(one))


def ipv6_addresses() -> tuple[tuple[Network, str], ...]:
    """Return every IPv6 address of this namespace with its interface's name."""
    try:
        with open("/proc/self/net/if_inet6", encoding="utf-8") as lines:
            fields = [line.split() for line in lines]
    except FileNotFoundError:
        return ()
    return tuple((Network(IPV6, bytes.fromhex(one[0]), 128), one[5]) for one in fields)


def has_ipv6() -> bool:
    """Whether this kernel has IPv6 at all (it can be built without, or booted without)."""
    try:
        socket(AF_INET6, SOCK_DGRAM).close()
    except OSError:
        return False
    return True


def legacy_tables(family: Family) -> frozenset[str] | None:
    """Return the legacy tables that exist in this namespace, or None without ip_tables.

    Raises:
        PermissionError: the kernel does not tell; in a user namespace that was
            mapped after its network namespace was made, nobody may know.
    """
    try:
        with open(LEGACY_TABLES[family], encoding="utf-8") as names:
            return frozenset(names.read().split())
    except FileNotFoundError:
        return None


def may_open_legacy_tables() -> bool:
    """Whether this process may open the socket over which libiptc reads and writes them.

    It takes NET_RAW beside NET_ADMIN, which the kernel asks for rules alone.
    """
    try:
        socket(AF_INET, SOCK_RAW, IPPROTO_RAW).close()
    except PermissionError:
        return False
    return True


def resolvers(path: str = "/etc/resolv.conf") -> tuple[tuple[Network, ...], tuple[str, ...]]:
    """Return the nameservers of resolv.conf in order, and why lines that name another are none.

    A zone (``%eth0``) is cut off.

    Raises:
        ApplyError: the file cannot be read.
    """
    from istio_init.kernel import files

    try:
        text = files.read(path).decode(errors="replace")
    except OSError as error:
        raise ApplyError(
            "cannot learn the DNS servers to capture",
            where=path,
            why=error.strerror or str(error),
            remedy="give them with --dns-servers, or use --capture-all-dns",
        ) from error
    servers, skipped = [], []
    for place, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            try:
                servers.append(address(words[1].partition("%")[0]))
            except ValueError:
                # The C library skips such a line too.
                why = f"{printable(words[1])!r} is no address"
                skipped.append(f"{path} line {place} is passed over: {why}")
        elif words and words[0].endswith("nameserver") and not words[0].isprintable():
            why = f"it begins with {printable(words[0])!r}, not with nameserver"
            skipped.append(f"{path} line {place} is passed over: {why}")
    return tuple(servers), tuple(skipped)
