"""One table of flags: their names, environment, and what the help says.

Everything that reads or prints a flag reads it here.
"""

from __future__ import annotations

from istio_init.config.model import LAYOUT_1_0, LAYOUT_1_30, LAYOUTS
from istio_init.lean import Record

BOTH = LAYOUTS
OLD = (LAYOUT_1_0,)
NEW = (LAYOUT_1_30,)

_POD = "traffic.sidecar.istio.io/"

PORTS = "Ports"
INBOUND = "Inbound traffic"
OUTBOUND = "Outbound traffic"
PROXY = "The proxy"
DNS = "DNS"
RUNNING = "How it runs"
OUTPUT = "What it prints"
VALIDATION = "Validation"
# What decides which rules are planned; the rest decides what is done with them.
RULE_GROUPS = (PORTS, INBOUND, OUTBOUND, PROXY, DNS)
GROUPS = (PORTS, INBOUND, OUTBOUND, PROXY, DNS, RUNNING, OUTPUT, VALIDATION)


class Option(Record):
    """One flag.

    ``env`` lists its variables, the stronger last; they count in the layouts of
    ``env_layouts``. A flag that is not for every layout is refused in the
    others. ``switch`` flags take no value but accept ``=true`` and ``=false``.
    ``default`` is what the help shows.
    """

    name: str
    short: str
    group: str
    help: str
    default: str = ""
    env: tuple[str, ...] = ()
    env_layouts: tuple[str, ...] = BOTH
    layouts: tuple[str, ...] = BOTH
    switch: bool = False
    metavar: str = "TEXT"
    annotation: str = ""

    @property
    def spelled(self) -> str:
        """The flag as its user writes it."""
        return f"-{self.short} --{self.name}" if self.short else f"--{self.name}"


OPTIONS: tuple[Option, ...] = (
    Option(
        "envoy-port",
        "p",
        PORTS,
        "Port of the proxy that outbound TCP is redirected to.",
        "15001",
        env=("ENVOY_PORT",),
        env_layouts=OLD,
        metavar="PORT",
    ),
    Option(
        "inbound-capture-port",
        "z",
        PORTS,
        "Port of the proxy that inbound TCP is redirected to.",
        "15006; layout 1.0: same as -p",
        env=("INBOUND_CAPTURE_PORT",),
        metavar="PORT",
    ),
    Option(
        "inbound-tunnel-port",
        "e",
        PORTS,
        "HBONE port of the proxy, never redirected.",
        "15008",
        env=("INBOUND_TUNNEL_PORT",),
        env_layouts=NEW,
        layouts=NEW,
        metavar="PORT",
    ),
    Option(
        "istio-inbound-interception-mode",
        "m",
        INBOUND,
        "How inbound TCP reaches the proxy: REDIRECT or TPROXY (keeps the client's address).",
        "REDIRECT",
        env=("ISTIO_INBOUND_INTERCEPTION_MODE",),
        metavar="MODE",
        annotation="sidecar.istio.io/interceptionMode",
    ),
    Option(
        "istio-inbound-ports",
        "b",
        INBOUND,
        "Inbound ports to capture; * for all, empty for none.",
        env=("ISTIO_INBOUND_PORTS",),
        metavar="PORTS",
        annotation=f"{_POD}includeInboundPorts",
    ),
    Option(
        "istio-local-exclude-ports",
        "d",
        INBOUND,
        "Inbound ports left alone; counts only with -b '*'.",
        env=("ISTIO_LOCAL_EXCLUDE_PORTS",),
        metavar="PORTS",
        annotation=f"{_POD}excludeInboundPorts",
    ),
    Option(
        "istio-inbound-tproxy-mark",
        "t",
        INBOUND,
        "Mark of packets that TPROXY takes, decimal or 0x hexadecimal.",
        "1337",
        env=("ISTIO_INBOUND_TPROXY_MARK",),
        metavar="MARK",
    ),
    Option(
        "istio-inbound-tproxy-route-table",
        "r",
        INBOUND,
        "Route table that leads marked packets to the proxy.",
        "133",
        env=("ISTIO_INBOUND_TPROXY_ROUTE_TABLE",),
        metavar="TABLE",
    ),
    Option(
        "drop-invalid",
        "",
        INBOUND,
        "Drop inbound packets that belong to no connection, instead of resetting it.",
        env=("DROP_INVALID", "INVALID_DROP"),
        env_layouts=NEW,
        layouts=NEW,
        switch=True,
    ),
    Option(
        "istio-service-cidr",
        "i",
        OUTBOUND,
        "Outbound destinations to capture; * for all, empty for none.",
        env=("ISTIO_SERVICE_CIDR",),
        metavar="CIDRS",
        annotation=f"{_POD}includeOutboundIPRanges",
    ),
    Option(
        "istio-service-exclude-cidr",
        "x",
        OUTBOUND,
        "Outbound destinations left alone.",
        env=("ISTIO_SERVICE_EXCLUDE_CIDR",),
        metavar="CIDRS",
        annotation=f"{_POD}excludeOutboundIPRanges",
    ),
    Option(
        "istio-outbound-ports",
        "q",
        OUTBOUND,
        "Outbound ports captured whatever the destination; adds to -i, never narrows it.",
        env=("ISTIO_OUTBOUND_PORTS",),
        env_layouts=NEW,
        layouts=NEW,
        metavar="PORTS",
        annotation=f"{_POD}includeOutboundPorts",
    ),
    Option(
        "istio-local-outbound-ports-exclude",
        "o",
        OUTBOUND,
        "Outbound ports left alone, TCP and UDP.",
        env=("ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE",),
        env_layouts=NEW,
        layouts=NEW,
        metavar="PORTS",
        annotation=f"{_POD}excludeOutboundPorts",
    ),
    Option(
        "istio-exclude-interfaces",
        "c",
        OUTBOUND,
        "Interfaces whose traffic is captured neither in nor out.",
        env=("ISTIO_EXCLUDE_INTERFACES",),
        env_layouts=NEW,
        layouts=NEW,
        metavar="NICS",
        annotation=f"{_POD}excludeInterfaces",
    ),
    Option(
        "kube-virt-interfaces",
        "k",
        OUTBOUND,
        "Interfaces whose inbound traffic (from a virtual machine) is treated as outbound.",
        env=("KUBE_VIRT_INTERFACES",),
        env_layouts=NEW,
        layouts=NEW,
        metavar="NICS",
        annotation=f"{_POD}kubevirtInterfaces",
    ),
    Option(
        "outbound-owner-groups",
        "",
        OUTBOUND,
        "Groups whose outbound traffic is captured; * for all, empty for none.",
        "*",
        env=("ISTIO_OUTBOUND_OWNER_GROUPS",),
        layouts=NEW,
        metavar="GIDS",
    ),
    Option(
        "outbound-owner-groups-exclude",
        "",
        OUTBOUND,
        "Groups whose outbound traffic is left alone.",
        env=("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE",),
        layouts=NEW,
        metavar="GIDS",
    ),
    Option(
        "outbound-ipv4-loopback-cidr",
        "",
        OUTBOUND,
        "IPv4 range by which the pod talks to itself.",
        "127.0.0.1/32",
        env=("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR",),
        env_layouts=NEW,
        layouts=NEW,
        metavar="CIDR",
    ),
    Option(
        "proxy-uid",
        "u",
        PROXY,
        "Users whose traffic is the proxy's own.",
        "uid of $ENVOY_USER (istio-proxy), else 1337; layout 1.0: and 0",
        env=("PROXY_UID",),
        env_layouts=NEW,
        metavar="UIDS",
    ),
    Option(
        "proxy-gid",
        "g",
        PROXY,
        "Groups whose traffic is the proxy's own.",
        "same as -u",
        env=("PROXY_GID",),
        env_layouts=NEW,
        metavar="GIDS",
    ),
    Option(
        "redirect-dns",
        "",
        DNS,
        "Send DNS queries to the agent on port 15053.",
        env=("REDIRECT_DNS", "ISTIO_META_DNS_CAPTURE"),
        env_layouts=NEW,
        layouts=NEW,
        switch=True,
        annotation="proxy.istio.io/config",
    ),
    Option(
        "capture-all-dns",
        "",
        DNS,
        "With --redirect-dns: every query to port 53, not only those to known servers.",
        env=("CAPTURE_ALL_DNS",),
        env_layouts=NEW,
        layouts=NEW,
        switch=True,
    ),
    Option(
        "dns-servers",
        "",
        DNS,
        "DNS servers whose queries are captured.",
        "nameservers of resolv.conf",
        layouts=NEW,
        metavar="ADDRESSES",
    ),
    Option(
        "layout",
        "",
        RUNNING,
        "Rules of which release: 1.0 or 1.30.",
        "1.30 after the word istio-iptables, else 1.0",
        env=("ISTIO_INIT_LAYOUT",),
        metavar="LAYOUT",
    ),
    Option(
        "ipv6",
        "",
        RUNNING,
        "Capture IPv6 too, or do not (layout 1.0: leave inbound IPv6 open, or reject it).",
        "as the pod's addresses say; layout 1.0: as ENABLE_INBOUND_IPV6 says",
        switch=True,
    ),
    Option(
        "dual-stack",
        "",
        RUNNING,
        "Look at all of the pod's addresses for IPv6, not only at the first.",
        env=("DUAL_STACK", "ISTIO_DUAL_STACK"),
        switch=True,
    ),
    Option(
        "backend",
        "",
        RUNNING,
        "Which of the kernel's rule sets to write: auto, legacy, nft or nftables.",
        "auto",
        metavar="BACKEND",
    ),
    Option(
        "native-nftables",
        "",
        RUNNING,
        "Same as --backend nftables.",
        env=("NATIVE_NFTABLES",),
        switch=True,
    ),
    Option(
        "force-iptables-binary",
        "",
        RUNNING,
        "Same as --backend legacy or --backend nft.",
        env=("FORCE_IPTABLES_BINARY",),
        metavar="legacy|nft",
    ),
    Option(
        "network-namespace",
        "",
        RUNNING,
        "Network namespace to enter first: a path, a name known to ip netns, or a PID.",
        "the current one",
        env=("NETWORK_NAMESPACE",),
        metavar="NAMESPACE",
    ),
    Option(
        "cleanup-only",
        "",
        RUNNING,
        "Same as the command clean.",
        env=("CLEANUP_ONLY",),
        switch=True,
    ),
    Option(
        "wait",
        "",
        RUNNING,
        "How long to wait for the xtables lock.",
        "30s",
        metavar="DURATION",
    ),
    Option(
        "on-missing",
        "",
        RUNNING,
        "When the kernel lacks what DNS zones or --drop-invalid need: fail, or degrade (go on "
        "without them, with a warning).",
        "fail",
        metavar="fail|degrade",
    ),
    Option(
        "reconcile",
        "",
        RUNNING,
        "Accepted; every run converges to the planned rules.",
        env=("RECONCILE",),
        switch=True,
    ),
    Option(
        "force-apply",
        "",
        RUNNING,
        "Accepted; every run compares with the kernel first.",
        env=("FORCE_APPLY",),
        switch=True,
    ),
    Option(
        "cni-mode",
        "",
        RUNNING,
        "Accepted; makes no difference.",
        env=("CNI_MODE",),
        switch=True,
    ),
    Option(
        "dry-run",
        "n",
        OUTPUT,
        "Print what would be in place, touch nothing; needs no privilege.",
        env=("DRY_RUN",),
        switch=True,
    ),
    Option(
        "format",
        "",
        OUTPUT,
        "What --dry-run prints: rules, save, json, nft or commands; json without it: the result.",
        "rules",
        metavar="FORMAT",
    ),
    Option(
        "log_output_level",
        "",
        OUTPUT,
        "Least level that is logged, as SCOPE:LEVEL,...; scopes other than default are ignored.",
        "default:info",
        metavar="LEVELS",
    ),
    Option("log_as_json", "", OUTPUT, "Log one JSON object a line.", switch=True),
    Option("log_target", "", OUTPUT, "Accepted; the log goes to standard error."),
    Option("log_caller", "", OUTPUT, "Accepted; makes no difference."),
    Option("log_stacktrace_level", "", OUTPUT, "Accepted; makes no difference."),
    Option(
        "skip-rule-apply",
        "",
        VALIDATION,
        "Write no rules (for --run-validation alone).",
        env=("SKIP_RULE_APPLY",),
        switch=True,
    ),
    Option(
        "run-validation",
        "",
        VALIDATION,
        "Check with a real connection that the rules lead to the proxy.",
        env=("RUN_VALIDATION",),
        switch=True,
    ),
    Option(
        "iptables-probe-port",
        "",
        VALIDATION,
        "Port that the validation dials.",
        "15002",
        env=("IPTABLES_PROBE_PORT",),
        metavar="PORT",
    ),
    Option(
        "probe-timeout",
        "",
        VALIDATION,
        "How long the validation waits.",
        "5s",
        env=("PROBE_TIMEOUT",),
        metavar="DURATION",
    ),
)

BY_NAME = {option.name: option for option in OPTIONS}

# How planned rules name the flag that asked for them, with the pod annotation that feeds it.
ANNOTATIONS = {
    name: option.annotation
    for option in OPTIONS
    for name in (f"-{option.short}", f"--{option.name}", *option.env)
    if option.annotation and name != "-"
}

# Settings without a flag, which the help names too.
ENABLE_INBOUND_IPV6 = "ENABLE_INBOUND_IPV6"
ENVOY_USER = "ENVOY_USER"
CLUSTER_FILE = ("ISTIO_CLUSTER_CONFIG", "/var/lib/istio/envoy/cluster.env")
SIDECAR_FILE = ("ISTIO_SIDECAR_CONFIG", "/var/lib/istio/envoy/sidecar.env")
