"""How this network namespace is connected."""

from __future__ import annotations

from _socket import if_indextoname, if_nameindex

from istio_init.diagnose.packet import LO
from istio_init.diagnose.samples import PodNetwork
from istio_init.kernel import host, rtnetlink
from istio_init.lean import TYPE_CHECKING
from istio_init.rules.ranges import IPV4, IPV6, Network

if TYPE_CHECKING:
    from istio_init.rules.ranges import Family

# The interface that a pod has where nothing says another.
USUAL_INTERFACE = "eth0"
# Addresses that nobody has, which leave by the default route. Sources: RFC 5737, RFC 3849.
_FAR_AWAY: dict[Family, Network] = {
    "ipv4": Network(IPV4, b"\xc0\x00\x02\x01", 32),
    "ipv6": Network(IPV6, b"\x20\x01\x0d\xb8" + bytes(11) + b"\x01", 128),
}


def pod_network(family: Family) -> PodNetwork:
    """Return the interfaces but lo, that of the default route first, and the addresses.

    Where there is no route ``eth0`` stands for its interface.
    """
    try:
        main = if_indextoname(rtnetlink.route_get(_FAR_AWAY[family]).interface)
    except OSError:
        main = USUAL_INTERFACE
    names = (name for _, name in if_nameindex() if name not in (LO, main))
    own = tuple(one for one in host.usable_addresses() if one.family == family)
    return PodNetwork((main, *names), own)
