"""What each flag and each variable takes, and what it sets there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from istio_init.config.model import LAYOUT_1_0, LAYOUT_1_30, LAYOUTS, TPROXY
from istio_init.config.values import address, network
from istio_init.rules.ranges import IdRange, Network, PortRange

if TYPE_CHECKING:
    from istio_init.config.model import Layout


def ports(*numbers: int) -> tuple[PortRange, ...]:
    return tuple(PortRange(number, number) for number in numbers)


def ids(*numbers: int) -> tuple[IdRange, ...]:
    return tuple(IdRange(number, number) for number in numbers)


def networks(*texts: str) -> tuple[Network, ...]:
    return tuple(network(text)[0] for text in texts)


# Flag, short name, a text, the field of Config or Run that it sets, the value there.
VALUES: tuple[tuple[str, str, str, str, object], ...] = (
    ("envoy-port", "p", "15011", "outbound_port", 15011),
    ("inbound-capture-port", "z", "15016", "inbound_port", 15016),
    ("inbound-tunnel-port", "e", "15018", "tunnel_port", 15018),
    ("proxy-uid", "u", "1,2-3", "proxy_uids", (IdRange(1, 1), IdRange(2, 3))),
    ("proxy-gid", "g", "4,5", "proxy_gids", ids(4, 5)),
    ("istio-inbound-interception-mode", "m", "tproxy", "mode", TPROXY),
    ("istio-inbound-ports", "b", "80,443", "inbound_ports", ports(80, 443)),
    ("istio-local-exclude-ports", "d", "81,82", "inbound_exclude_ports", ports(81, 82)),
    ("istio-service-cidr", "i", "10.0.0.0/8", "outbound_cidrs", networks("10.0.0.0/8")),
    ("istio-service-exclude-cidr", "x", "fd00::/8", "outbound_exclude_cidrs", networks("fd00::/8")),
    ("istio-outbound-ports", "q", "90", "outbound_ports", ports(90)),
    ("istio-local-outbound-ports-exclude", "o", "25", "outbound_exclude_ports", ports(25)),
    ("istio-exclude-interfaces", "c", "eth8,eth+", "exclude_interfaces", ("eth8", "eth+")),
    ("kube-virt-interfaces", "k", "eth1", "virtual_interfaces", ("eth1",)),
    ("istio-inbound-tproxy-mark", "t", "0x2a", "tproxy_mark", 42),
    ("istio-inbound-tproxy-route-table", "r", "300", "tproxy_table", 300),
    ("outbound-owner-groups", "", "java,202", "owner_groups", ids(4001, 202)),
    ("outbound-owner-groups-exclude", "", "202", "owner_groups_exclude", ids(202)),
    ("outbound-ipv4-loopback-cidr", "", "127.0.0.0/8", "loopback", networks("127.0.0.0/8")[0]),
    (
        "dns-servers",
        "",
        "10.0.0.2, fd00::2",
        "dns_servers",
        (address("10.0.0.2"), address("fd00::2")),
    ),
    ("network-namespace", "", "4711", "network_namespace", "4711"),
    ("backend", "", "legacy", "backend", "legacy"),
    ("force-iptables-binary", "", "nft", "backend", "nft"),
    ("format", "", "json", "format", "json"),
    ("wait", "", "1m", "wait", 60.0),
    ("iptables-probe-port", "", "15102", "probe_port", 15102),
    ("on-missing", "", "degrade", "degrade", True),
    ("probe-timeout", "", "500ms", "probe_timeout", 0.5),
    ("log_output_level", "", "default:warn", "log_level", "warn"),
)

# Switch, short name, the field it sets, the value there when it is on.
SWITCHES: tuple[tuple[str, str, str, object], ...] = (
    ("dry-run", "n", "dry_run", True),
    ("redirect-dns", "", "redirect_dns", True),
    ("capture-all-dns", "", "capture_all_dns", True),
    ("drop-invalid", "", "drop_invalid", True),
    ("dual-stack", "", "dual_stack", True),
    ("cleanup-only", "", "command", "clean"),
    ("skip-rule-apply", "", "skip_rule_apply", True),
    ("run-validation", "", "run_validation", True),
    ("native-nftables", "", "backend", "nftables"),
    ("log_as_json", "", "log_json", True),
    ("ipv6", "", "ipv6", True),
)

# Flags that are understood and change nothing.
ACCEPTED_SWITCHES = ("reconcile", "force-apply", "cni-mode")
ACCEPTED = ("log_target", "log_caller", "log_stacktrace_level")

# Variable, flag, text; the layouts in which it counts.
BOTH, OLD_ONLY, NEW_ONLY = LAYOUTS, (LAYOUT_1_0,), (LAYOUT_1_30,)
VARIABLES: tuple[tuple[str, str, str, tuple[Layout, ...]], ...] = (
    ("ENVOY_PORT", "envoy-port", "15011", OLD_ONLY),
    ("INBOUND_CAPTURE_PORT", "inbound-capture-port", "15016", BOTH),
    ("INBOUND_TUNNEL_PORT", "inbound-tunnel-port", "15018", NEW_ONLY),
    ("PROXY_UID", "proxy-uid", "1,2-3", NEW_ONLY),
    ("PROXY_GID", "proxy-gid", "4,5", NEW_ONLY),
    ("ISTIO_INBOUND_INTERCEPTION_MODE", "istio-inbound-interception-mode", "TPROXY", BOTH),
    ("ISTIO_INBOUND_PORTS", "istio-inbound-ports", "80,443", BOTH),
    ("ISTIO_LOCAL_EXCLUDE_PORTS", "istio-local-exclude-ports", "81,82", BOTH),
    ("ISTIO_SERVICE_CIDR", "istio-service-cidr", "10.0.0.0/8", BOTH),
    ("ISTIO_SERVICE_EXCLUDE_CIDR", "istio-service-exclude-cidr", "fd00::/8", BOTH),
    ("ISTIO_OUTBOUND_PORTS", "istio-outbound-ports", "90", NEW_ONLY),
    ("ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE", "istio-local-outbound-ports-exclude", "25", NEW_ONLY),
    ("ISTIO_EXCLUDE_INTERFACES", "istio-exclude-interfaces", "eth8,eth+", NEW_ONLY),
    ("KUBE_VIRT_INTERFACES", "kube-virt-interfaces", "eth1", NEW_ONLY),
    ("ISTIO_INBOUND_TPROXY_MARK", "istio-inbound-tproxy-mark", "42", BOTH),
    ("ISTIO_INBOUND_TPROXY_ROUTE_TABLE", "istio-inbound-tproxy-route-table", "300", BOTH),
    ("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "outbound-ipv4-loopback-cidr", "127.0.0.0/8", NEW_ONLY),
    ("DRY_RUN", "dry-run", "true", BOTH),
    ("REDIRECT_DNS", "redirect-dns", "true", NEW_ONLY),
    ("ISTIO_META_DNS_CAPTURE", "redirect-dns", "true", NEW_ONLY),
    ("CAPTURE_ALL_DNS", "capture-all-dns", "true", NEW_ONLY),
    ("DROP_INVALID", "drop-invalid", "true", NEW_ONLY),
    ("INVALID_DROP", "drop-invalid", "true", NEW_ONLY),
    ("DUAL_STACK", "dual-stack", "true", BOTH),
    ("ISTIO_DUAL_STACK", "dual-stack", "true", BOTH),
    ("NETWORK_NAMESPACE", "network-namespace", "4711", BOTH),
    ("CLEANUP_ONLY", "cleanup-only", "true", BOTH),
    ("RECONCILE", "reconcile", "true", BOTH),
    ("FORCE_APPLY", "force-apply", "true", BOTH),
    ("CNI_MODE", "cni-mode", "true", BOTH),
    ("SKIP_RULE_APPLY", "skip-rule-apply", "true", BOTH),
    ("RUN_VALIDATION", "run-validation", "true", BOTH),
    ("IPTABLES_PROBE_PORT", "iptables-probe-port", "15102", BOTH),
    ("PROBE_TIMEOUT", "probe-timeout", "500ms", BOTH),
    ("NATIVE_NFTABLES", "native-nftables", "true", BOTH),
    ("FORCE_IPTABLES_BINARY", "force-iptables-binary", "legacy", BOTH),
)
