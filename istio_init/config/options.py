"""One row for each flag: its names, where its value comes from, and where it goes.

Everything that reads, resolves, infers, prints or documents a flag is a loop over
these rows.
"""

from __future__ import annotations

from istio_init.config import values
from istio_init.config.model import (
    BACKEND_CHOICES,
    CLEAN,
    FORMATS,
    LAYOUT_1_0,
    LAYOUT_1_30,
    LAYOUTS,
    MODES,
    Config,
)
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.log import LEVELS
from istio_init.rules.names import (
    AGENT_DNS_PORT,
    DEFAULT_LOOPBACK,
    DEFAULT_MARK,
    DEFAULT_PROXY_ID,
    DEFAULT_ROUTE_TABLE,
    INBOUND_PORT,
    OUTBOUND_PORT,
    TUNNEL_PORT,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    Parser = Callable[[str, values.Context], object]
    Speller = Callable[[object], str]
    Empty = Literal["refused", "default", "warned", "value"]

BOTH = LAYOUTS
OLD = (LAYOUT_1_0,)
NEW = (LAYOUT_1_30,)

_POD = "traffic.sidecar.istio.io/"

# The sections of the help.
PORTS = "Ports"
INBOUND_TRAFFIC = "Inbound traffic"
OUTBOUND_TRAFFIC = "Outbound traffic"
PROXY = "The proxy"
DNS = "DNS"
RUNNING = "How it runs"
PRINTING = "What it prints"
VALIDATION = "Validation"
GROUPS = (PORTS, INBOUND_TRAFFIC, OUTBOUND_TRAFFIC, PROXY, DNS, RUNNING, PRINTING, VALIDATION)


class Option(Record):
    """One flag.

    ``default`` is what the help shows; where none is given, the field keeps the
    default of its record. ``env`` lists the flag's variables, the stronger last; they
    count in the layouts of ``env_layouts``. A flag that is not for every layout is
    refused in the others. ``annotation`` is the pod annotation that feeds it.

    ``parse`` makes the value of the text, which goes to ``field`` of Config or Run;
    a flag without a field is accepted and changes nothing. Of a ``switch``, which takes
    no value but accepts ``=true`` and ``=false``, ``on`` and ``off`` are the values;
    None leaves the field to its default. Where ``choices`` are given and no parser, the
    value is one of them, whatever the case of its letters. ``star`` is the field that
    ``*`` sets in place of the list.

    ``empty`` says what an empty text means: it is refused, it means the default
    (without or with a warning), or it is a value like any other. An empty variable
    counts as unset unless it is a value.

    ``spell`` is the inverse of ``parse``. ``always`` says that a call which is inferred
    from live rules names the flag even at its default. ``writes`` marks what makes a
    difference only to a run that writes.
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
    parse: Parser = values.parse_text
    field: str = ""
    star: str = ""
    choices: tuple[str, ...] = ()
    empty: Empty = "refused"
    on: object = True
    off: object = None
    spell: Speller = values.spell
    always: bool = False
    writes: bool = False

    @property
    def spelled(self) -> str:
        """The flag as its user writes it."""
        return f"-{self.short} --{self.name}" if self.short else f"--{self.name}"

    @property
    def shortest(self) -> str:
        """The flag by its short name, where it has one."""
        return f"-{self.short}" if self.short else f"--{self.name}"

    def words(self, config: Config) -> list[str]:
        """Return the words by which a call asks for this field of a config.

        There are none where the flag is not for the layout, and none where the config
        has the default, unless the flag is ``always`` named.
        """
        if not self.of_config or config.layout not in self.layouts:
            return []
        value = getattr(config, self.field)
        changed = value != getattr(_DEFAULTS, self.field)
        if self.switch:
            return [f"--{self.name}"] if changed and value == self.on else []
        if self.star and getattr(config, self.star):
            return [self.shortest, "*"]
        if self.always or (changed and (value != () or self.empty == "value")):
            return [self.shortest, self.spell(value)]
        return []

    def written(self, text: str) -> str:
        """Return the flag's text as it was meant.

        ``-p=15001`` is the same as ``-p 15001`` to Istio's own parser.
        """
        return text.removeprefix("=") if self.short else text

    @property
    def of_config(self) -> bool:
        """Whether the flag decides which rules are planned."""
        return self.field in Config.__match_args__


def _degrades(text: str, _: values.Context) -> bool:
    return values.choice(text, ON_MISSING) == "degrade"


ON_MISSING = ("fail", "degrade")
_DEFAULTS = Config(LAYOUT_1_30)

OPTIONS: tuple[Option, ...] = (
    Option(
        "envoy-port",
        "p",
        PORTS,
        "Port of the proxy that outbound TCP is redirected to.",
        str(OUTBOUND_PORT),
        env=("ENVOY_PORT",),
        env_layouts=OLD,
        metavar="PORT",
        parse=values.parse_port,
        field="outbound_port",
        always=True,
    ),
    Option(
        "inbound-capture-port",
        "z",
        PORTS,
        "Port of the proxy that inbound TCP is redirected to.",
        f"{INBOUND_PORT}; layout 1.0: same as -p",
        env=("INBOUND_CAPTURE_PORT",),
        metavar="PORT",
        parse=values.parse_port,
        field="inbound_port",
        always=True,
    ),
    Option(
        "inbound-tunnel-port",
        "e",
        PORTS,
        "HBONE port of the proxy, never redirected.",
        str(TUNNEL_PORT),
        env=("INBOUND_TUNNEL_PORT",),
        env_layouts=NEW,
        layouts=NEW,
        metavar="PORT",
        parse=values.parse_port,
        field="tunnel_port",
    ),
    Option(
        "istio-inbound-interception-mode",
        "m",
        INBOUND_TRAFFIC,
        "How inbound TCP reaches the proxy: REDIRECT or TPROXY (keeps the client's address).",
        MODES[0],
        env=("ISTIO_INBOUND_INTERCEPTION_MODE",),
        metavar="MODE",
        annotation="sidecar.istio.io/interceptionMode",
        choices=MODES,
        field="mode",
        empty="warned",
        always=True,
    ),
    Option(
        "istio-inbound-ports",
        "b",
        INBOUND_TRAFFIC,
        "Inbound ports to capture; * for all, empty for none.",
        env=("ISTIO_INBOUND_PORTS",),
        metavar="PORTS",
        annotation=f"{_POD}includeInboundPorts",
        parse=values.parse_ports,
        field="inbound_ports",
        star="inbound_all",
        empty="default",
        always=True,
    ),
    Option(
        "istio-local-exclude-ports",
        "d",
        INBOUND_TRAFFIC,
        "Inbound ports left alone; counts only with -b '*'.",
        env=("ISTIO_LOCAL_EXCLUDE_PORTS",),
        metavar="PORTS",
        annotation=f"{_POD}excludeInboundPorts",
        parse=values.parse_ports,
        field="inbound_exclude_ports",
        empty="default",
    ),
    Option(
        "istio-inbound-tproxy-mark",
        "t",
        INBOUND_TRAFFIC,
        "Mark of packets that TPROXY takes, decimal or 0x hexadecimal.",
        str(DEFAULT_MARK),
        env=("ISTIO_INBOUND_TPROXY_MARK",),
        metavar="MARK",
        parse=values.parse_mark,
        field="tproxy_mark",
    ),
    Option(
        "istio-inbound-tproxy-route-table",
        "r",
        INBOUND_TRAFFIC,
        "Route table that delivers marked packets to the proxy.",
        str(DEFAULT_ROUTE_TABLE),
        env=("ISTIO_INBOUND_TPROXY_ROUTE_TABLE",),
        metavar="TABLE",
        parse=values.parse_route_table,
        field="tproxy_table",
    ),
    Option(
        "drop-invalid",
        "",
        INBOUND_TRAFFIC,
        "Drop inbound packets that belong to no connection, instead of resetting it.",
        env=("DROP_INVALID", "INVALID_DROP"),
        env_layouts=NEW,
        layouts=NEW,
        switch=True,
        field="drop_invalid",
    ),
    Option(
        "istio-service-cidr",
        "i",
        OUTBOUND_TRAFFIC,
        "Outbound destinations to capture; * for all, empty for none.",
        env=("ISTIO_SERVICE_CIDR",),
        metavar="CIDRS",
        annotation=f"{_POD}includeOutboundIPRanges",
        parse=values.parse_cidrs,
        field="outbound_cidrs",
        star="outbound_all",
        empty="default",
        always=True,
    ),
    Option(
        "istio-service-exclude-cidr",
        "x",
        OUTBOUND_TRAFFIC,
        "Outbound destinations left alone.",
        env=("ISTIO_SERVICE_EXCLUDE_CIDR",),
        metavar="CIDRS",
        annotation=f"{_POD}excludeOutboundIPRanges",
        parse=values.parse_cidrs,
        field="outbound_exclude_cidrs",
        empty="default",
    ),
    Option(
        "istio-outbound-ports",
        "q",
        OUTBOUND_TRAFFIC,
        "Outbound ports captured whatever the destination; adds to -i, never narrows it.",
        env=("ISTIO_OUTBOUND_PORTS",),
        env_layouts=NEW,
        layouts=NEW,
        metavar="PORTS",
        annotation=f"{_POD}includeOutboundPorts",
        parse=values.parse_ports,
        field="outbound_ports",
        empty="default",
    ),
    Option(
        "istio-local-outbound-ports-exclude",
        "o",
        OUTBOUND_TRAFFIC,
        "Outbound ports left alone, TCP and UDP.",
        env=("ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE",),
        env_layouts=NEW,
        layouts=NEW,
        metavar="PORTS",
        annotation=f"{_POD}excludeOutboundPorts",
        parse=values.parse_ports,
        field="outbound_exclude_ports",
        empty="default",
    ),
    Option(
        "istio-exclude-interfaces",
        "c",
        OUTBOUND_TRAFFIC,
        "Interfaces whose traffic is not captured, neither inbound nor outbound.",
        env=("ISTIO_EXCLUDE_INTERFACES",),
        env_layouts=NEW,
        layouts=NEW,
        metavar="NICS",
        annotation=f"{_POD}excludeInterfaces",
        parse=values.parse_interfaces,
        field="exclude_interfaces",
        empty="default",
    ),
    Option(
        "kube-virt-interfaces",
        "k",
        OUTBOUND_TRAFFIC,
        "Interfaces whose inbound traffic (from a virtual machine) is treated as outbound.",
        env=("KUBE_VIRT_INTERFACES",),
        env_layouts=NEW,
        layouts=NEW,
        metavar="NICS",
        annotation=f"{_POD}kubevirtInterfaces",
        parse=values.parse_interfaces,
        field="virtual_interfaces",
        empty="default",
    ),
    Option(
        "outbound-owner-groups",
        "",
        OUTBOUND_TRAFFIC,
        "Groups whose outbound traffic is captured; * for all, empty for none.",
        "*",
        env=("ISTIO_OUTBOUND_OWNER_GROUPS",),
        layouts=NEW,
        metavar="GIDS",
        parse=values.parse_captured_groups,
        field="owner_groups",
        empty="value",
    ),
    Option(
        "outbound-owner-groups-exclude",
        "",
        OUTBOUND_TRAFFIC,
        "Groups whose outbound traffic is left alone.",
        env=("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE",),
        layouts=NEW,
        metavar="GIDS",
        parse=values.parse_excluded_groups,
        field="owner_groups_exclude",
        empty="default",
    ),
    Option(
        "outbound-ipv4-loopback-cidr",
        "",
        OUTBOUND_TRAFFIC,
        "IPv4 range by which the pod talks to itself.",
        str(DEFAULT_LOOPBACK),
        env=("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR",),
        env_layouts=NEW,
        layouts=NEW,
        metavar="CIDR",
        parse=values.parse_loopback,
        field="loopback",
    ),
    Option(
        "proxy-uid",
        "u",
        PROXY,
        "Users whose traffic is the proxy's own.",
        f"uid of $ENVOY_USER (istio-proxy), else {DEFAULT_PROXY_ID}; layout 1.0: and 0",
        env=("PROXY_UID",),
        env_layouts=NEW,
        metavar="UIDS",
        parse=values.parse_uids,
        field="proxy_uids",
        empty="default",
        always=True,
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
        parse=values.parse_gids,
        field="proxy_gids",
        empty="default",
        always=True,
    ),
    Option(
        "redirect-dns",
        "",
        DNS,
        f"Send DNS queries to the agent on port {AGENT_DNS_PORT}.",
        env=("REDIRECT_DNS", "ISTIO_META_DNS_CAPTURE"),
        env_layouts=NEW,
        layouts=NEW,
        switch=True,
        annotation="proxy.istio.io/config",
        field="redirect_dns",
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
        field="capture_all_dns",
    ),
    Option(
        "dns-servers",
        "",
        DNS,
        "DNS servers whose queries are captured.",
        "nameservers of resolv.conf",
        layouts=NEW,
        metavar="ADDRESSES",
        parse=values.parse_addresses,
        spell=values.spell_addresses,
        field="dns_servers",
    ),
    Option(
        "layout",
        "",
        RUNNING,
        "Which release's rules to write: 1.0 or 1.30.",
        "1.30 after the word istio-iptables, else 1.0",
        env=("ISTIO_INIT_LAYOUT",),
        metavar="LAYOUT",
        choices=LAYOUTS,
        field="layout",
    ),
    Option(
        "ipv6",
        "",
        RUNNING,
        "Capture IPv6 too, or do not (layout 1.0: leave inbound IPv6 open, or reject it).",
        "as the pod's addresses say; layout 1.0: as ENABLE_INBOUND_IPV6 says",
        switch=True,
        field="ipv6",
        off=False,
    ),
    Option(
        "no-ipv6",
        "",
        RUNNING,
        "Same as --ipv6=false.",
        switch=True,
        field="ipv6",
        on=False,
    ),
    Option(
        "dual-stack",
        "",
        RUNNING,
        "Look at all of the pod's addresses for IPv6, not only at the first.",
        env=("DUAL_STACK", "ISTIO_DUAL_STACK"),
        switch=True,
        field="dual_stack",
    ),
    Option(
        "backend",
        "",
        RUNNING,
        "Which of the kernel's rule sets to write: auto, legacy, nft or nftables.",
        "auto",
        metavar="BACKEND",
        choices=BACKEND_CHOICES,
        field="backend",
    ),
    Option(
        "native-nftables",
        "",
        RUNNING,
        "Same as --backend nftables.",
        env=("NATIVE_NFTABLES",),
        switch=True,
        field="backend",
        on="nftables",
    ),
    Option(
        "force-iptables-binary",
        "",
        RUNNING,
        "Same as --backend legacy or --backend nft.",
        env=("FORCE_IPTABLES_BINARY",),
        metavar="legacy|nft",
        choices=("legacy", "nft", "auto"),
        field="backend",
    ),
    Option(
        "network-namespace",
        "",
        RUNNING,
        "Network namespace to enter first: a path, a name known to ip netns, or a PID.",
        "the current one",
        env=("NETWORK_NAMESPACE",),
        metavar="NAMESPACE",
        field="network_namespace",
        empty="default",
    ),
    Option(
        "cleanup-only",
        "",
        RUNNING,
        "Same as the command clean.",
        env=("CLEANUP_ONLY",),
        switch=True,
        field="command",
        on=CLEAN,
        writes=True,
    ),
    Option(
        "wait",
        "",
        RUNNING,
        "How long to wait for the xtables lock.",
        "30s",
        metavar="DURATION",
        parse=values.parse_duration,
        field="wait",
        writes=True,
    ),
    Option(
        "on-missing",
        "",
        RUNNING,
        "When the kernel lacks what DNS zones or --drop-invalid need: fail, or degrade (go on "
        "without them, with a warning).",
        "fail",
        metavar="fail|degrade",
        parse=_degrades,
        field="degrade",
        choices=ON_MISSING,
    ),
    Option(
        "reconcile",
        "",
        RUNNING,
        "Accepted; every run converges to the planned rules.",
        env=("RECONCILE",),
        switch=True,
        writes=True,
    ),
    Option(
        "force-apply",
        "",
        RUNNING,
        "Accepted; every run compares with the kernel first.",
        env=("FORCE_APPLY",),
        switch=True,
        writes=True,
    ),
    Option(
        "cni-mode",
        "",
        RUNNING,
        "Accepted; makes no difference.",
        env=("CNI_MODE",),
        switch=True,
        writes=True,
    ),
    Option(
        "dry-run",
        "n",
        PRINTING,
        "Print the planned rules and change nothing; needs no privilege.",
        env=("DRY_RUN",),
        switch=True,
        field="dry_run",
        writes=True,
    ),
    Option(
        "format",
        "",
        PRINTING,
        "What --dry-run prints: rules, save, json, nft or commands. Without --dry-run, json "
        "prints the result.",
        "rules",
        metavar="FORMAT",
        choices=FORMATS,
        field="format",
        writes=True,
    ),
    Option(
        "log_output_level",
        "",
        PRINTING,
        "Least level that is logged, as SCOPE:LEVEL,...; scopes other than default are ignored.",
        "default:info",
        metavar="LEVELS",
        parse=values.parse_log_level,
        field="log_level",
        choices=LEVELS,
        empty="default",
    ),
    Option(
        "log_as_json",
        "",
        PRINTING,
        "Log one JSON object a line.",
        switch=True,
        field="log_json",
    ),
    Option(
        "log_target",
        "",
        PRINTING,
        "Accepted; the log goes to standard error.",
        empty="value",
    ),
    Option(
        "log_caller",
        "",
        PRINTING,
        "Accepted; makes no difference.",
        empty="value",
    ),
    Option(
        "log_stacktrace_level",
        "",
        PRINTING,
        "Accepted; makes no difference.",
        empty="value",
    ),
    Option(
        "skip-rule-apply",
        "",
        VALIDATION,
        "Write no rules (for --run-validation alone).",
        env=("SKIP_RULE_APPLY",),
        switch=True,
        field="skip_rule_apply",
        writes=True,
    ),
    Option(
        "run-validation",
        "",
        VALIDATION,
        "Make a real connection, and check that it arrives at the proxy.",
        env=("RUN_VALIDATION",),
        switch=True,
        field="run_validation",
        writes=True,
    ),
    Option(
        "iptables-probe-port",
        "",
        VALIDATION,
        "Port that the validation dials.",
        "15002",
        env=("IPTABLES_PROBE_PORT",),
        metavar="PORT",
        parse=values.parse_port,
        field="probe_port",
        writes=True,
    ),
    Option(
        "probe-timeout",
        "",
        VALIDATION,
        "How long the validation waits for that connection.",
        "5s",
        env=("PROBE_TIMEOUT",),
        metavar="DURATION",
        parse=values.parse_duration,
        field="probe_timeout",
        writes=True,
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
