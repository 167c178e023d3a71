"""What each flag and each variable takes, and what it sets there."""

from __future__ import annotations

from istio_init.config.model import TPROXY
from istio_init.config.options import OPTIONS, Option
from istio_init.config.values import address, network
from istio_init.rules.ranges import IdRange, Network, PortRange


def ports(*numbers: int) -> tuple[PortRange, ...]:
    return tuple(PortRange(number, number) for number in numbers)


def ids(*numbers: int) -> tuple[IdRange, ...]:
    return tuple(IdRange(number, number) for number in numbers)


def networks(*texts: str) -> tuple[Network, ...]:
    return tuple(network(text)[0] for text in texts)


# What each flag with a value can be given, and what its field of Config or Run is then.
VALUES: dict[str, tuple[str, object]] = {
    "envoy-port": ("15011", 15011),
    "inbound-capture-port": ("15016", 15016),
    "inbound-tunnel-port": ("15018", 15018),
    "proxy-uid": ("1,2-3", (IdRange(1, 1), IdRange(2, 3))),
    "proxy-gid": ("4,5", ids(4, 5)),
    "istio-inbound-interception-mode": ("tproxy", TPROXY),
    "istio-inbound-ports": ("80,443", ports(80, 443)),
    "istio-local-exclude-ports": ("81,82", ports(81, 82)),
    "istio-service-cidr": ("10.0.0.0/8", networks("10.0.0.0/8")),
    "istio-service-exclude-cidr": ("fd00::/8", networks("fd00::/8")),
    "istio-outbound-ports": ("90", ports(90)),
    "istio-local-outbound-ports-exclude": ("25", ports(25)),
    "istio-exclude-interfaces": ("eth8,eth+", ("eth8", "eth+")),
    "kube-virt-interfaces": ("eth1", ("eth1",)),
    "istio-inbound-tproxy-mark": ("0x2a", 42),
    "istio-inbound-tproxy-route-table": ("300", 300),
    "outbound-owner-groups": ("java,202", ids(4001, 202)),
    "outbound-owner-groups-exclude": ("202", ids(202)),
    "outbound-ipv4-loopback-cidr": ("127.0.0.0/8", networks("127.0.0.0/8")[0]),
    "dns-servers": ("10.0.0.2, fd00::2", (address("10.0.0.2"), address("fd00::2"))),
    "network-namespace": ("4711", "4711"),
    "backend": ("legacy", "legacy"),
    "force-iptables-binary": ("nft", "nft"),
    "format": ("json", "json"),
    "wait": ("1m", 60.0),
    "iptables-probe-port": ("15102", 15102),
    "on-missing": ("degrade", True),
    "probe-timeout": ("500ms", 0.5),
    "log_output_level": ("default:warn", "warn"),
}

# What the field of each switch is when it is on.
SWITCHES: dict[str, object] = {
    "dry-run": True,
    "redirect-dns": True,
    "capture-all-dns": True,
    "drop-invalid": True,
    "dual-stack": True,
    "cleanup-only": "clean",
    "skip-rule-apply": True,
    "run-validation": True,
    "native-nftables": "nftables",
    "log_as_json": True,
    "ipv6": True,
    "no-ipv6": False,
}

# Flags that are understood and change nothing.
ACCEPTED_SWITCHES = ("reconcile", "force-apply", "cni-mode")
ACCEPTED = ("log_target", "log_caller", "log_stacktrace_level")


def text_of(name: str) -> str:
    """Return a text that a flag can be given."""
    return VALUES[name][0] if name in VALUES else "true"


# Variable and its row. Two rows have tests of their own: the layout, on which it depends
# which variables count, and the groups, whose variable is refused in layout 1.0.
VARIABLES: tuple[tuple[str, Option], ...] = tuple(
    (variable, option)
    for option in OPTIONS
    for variable in option.env
    if option.field != "layout" and set(option.env_layouts) <= set(option.layouts)
)
