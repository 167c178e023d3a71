"""The names and numbers that rules are made of: tables, chains, ports, marks, zones."""

from __future__ import annotations

from _socket import AF_INET6, inet_pton

from istio_init.rules.model import TABLES
from istio_init.rules.ranges import IPV4, IPV6, IdRange, Network, PortRange

NAT = "nat"
MANGLE = "mangle"
RAW = "raw"
FILTER = "filter"
# What the tables are called in nf_tables, where they hold our chains and no others.
NATIVE_TABLES = {name: f"istio-proxy-{name}" for name in TABLES}
PREROUTING = "PREROUTING"
INPUT = "INPUT"
OUTPUT = "OUTPUT"
ISTIO_INBOUND = "ISTIO_INBOUND"
ISTIO_IN_REDIRECT = "ISTIO_IN_REDIRECT"
ISTIO_OUTPUT = "ISTIO_OUTPUT"
ISTIO_REDIRECT = "ISTIO_REDIRECT"
ISTIO_OUTPUT_DNS = "ISTIO_OUTPUT_DNS"
ISTIO_DIVERT = "ISTIO_DIVERT"
ISTIO_TPROXY = "ISTIO_TPROXY"
ISTIO_DROP = "ISTIO_DROP"
# Every chain that either layout may create, in any table: a chain of one of
# these names is ours, except beside chains of Istio's ambient mode.
OWN_CHAINS = frozenset(
    {
        ISTIO_INBOUND,
        ISTIO_IN_REDIRECT,
        ISTIO_OUTPUT,
        ISTIO_REDIRECT,
        ISTIO_OUTPUT_DNS,
        ISTIO_DIVERT,
        ISTIO_TPROXY,
        ISTIO_DROP,
    }
)
# The chain by which a table shows that Istio's ambient mode has rules there. It calls
# another one ISTIO_OUTPUT. Source: istio 1.21 to 1.29, cni/pkg/iptables.
ISTIO_PRERT = "ISTIO_PRERT"
# 127.0.0.6 and ::6: the proxy binds its inbound upstream connections to them.
PASSTHROUGH = {
    IPV4: Network(IPV4, b"\x7f\x00\x00\x06", 32),
    IPV6: Network(IPV6, inet_pton(AF_INET6, "::6"), 128),
}
LOOPBACK_IPV6 = Network(IPV6, inet_pton(AF_INET6, "::1"), 128)

DNS_PORT = PortRange(53, 53)
AGENT_DNS_PORT = 15053
# Marks the proxy's calls to the pod's own address, so that TPROXY takes them.
OUTBOUND_MARK = 1338
# Conntrack zones: the proxy's own queries, and the application's to the agent.
PROXY_ZONE = 1
APP_ZONE = 2
# The NFLOG group to which a sidecar's rules report, with --iptables-trace-logging.
TRACE_GROUP = 1337

# What the kernel gives the first rule that is added without a priority.
RULE_PRIORITY = 32765

# Where the proxy listens for outbound, inbound and tunnelled (HBONE) connections.
OUTBOUND_PORT = 15001
INBOUND_PORT = 15006
TUNNEL_PORT = 15008
DEFAULT_PROXY_ID = IdRange(1337, 1337)
DEFAULT_LOOPBACK = Network(IPV4, b"\x7f\x00\x00\x01", 32)
DEFAULT_MARK = 1337
DEFAULT_ROUTE_TABLE = 133
