"""What a caller wishes, validated, and what the host says.

``Config`` decides which rules are planned; ``Run`` decides what is done with
them. Neither knows where a value came from: flags, environment and files were
settled before.
"""

from __future__ import annotations

from istio_init.lean import TYPE_CHECKING, Record
from istio_init.rules.names import (
    DEFAULT_LOOPBACK,
    DEFAULT_MARK,
    DEFAULT_PROXY_ID,
    DEFAULT_ROUTE_TABLE,
    INBOUND_PORT,
    OUTBOUND_PORT,
    TUNNEL_PORT,
)

if TYPE_CHECKING:
    from typing import Literal, Protocol

    from istio_init.log import Level
    from istio_init.rules.ranges import IdRange, Network, PortRange

    Layout = Literal["1.0", "1.30"]
    Mode = Literal["REDIRECT", "TPROXY"]
    Backend = Literal["legacy", "nft", "nftables"]
    BackendChoice = Literal["auto", "legacy", "nft", "nftables"]
    Format = Literal["rules", "save", "json", "nft", "commands"]
    RunCommand = Literal["apply", "clean"]

    class Host(Protocol):
        """What a call's values leave to files of the host; ``kernel.host.HostFiles`` reads them."""

        def uid(self, name: str) -> int | None:
            """Return the uid of a user, or None."""

        def gid(self, name: str) -> int | None:
            """Return the gid of a group, or None."""

        def service(self, name: str) -> int | None:
            """Return the port of a service, or None."""

        def text(self, path: str) -> str:
            """Return the text of a file; raise OSError or UnicodeDecodeError."""


# The commands that change rules, as a call spells them. A call without a command
# means APPLY; Istio's injection template calls ISTIO_IPTABLES.
APPLY = "apply"
ISTIO_IPTABLES = "istio-iptables"
CLEAN = "clean"
COMMANDS = (APPLY, ISTIO_IPTABLES, CLEAN)

LAYOUT_1_0: Layout = "1.0"
LAYOUT_1_30: Layout = "1.30"
LAYOUTS: tuple[Layout, ...] = (LAYOUT_1_0, LAYOUT_1_30)

REDIRECT: Mode = "REDIRECT"
TPROXY: Mode = "TPROXY"
MODES: tuple[Mode, ...] = (REDIRECT, TPROXY)

BACKENDS: tuple[Backend, ...] = ("legacy", "nft", "nftables")
BACKEND_CHOICES: tuple[BackendChoice, ...] = ("auto", *BACKENDS)
FORMATS: tuple[Format, ...] = ("rules", "save", "json", "nft", "commands")


class Config(Record):
    """The traffic that is to be captured, and how.

    An ``_all`` flag stands for ``*`` and makes the list beside it empty. Lists
    keep the caller's order, duplicates included. ``owner_groups`` is None for
    ``*``; an empty tuple captures nothing. ``ipv6`` is None where the pod's
    addresses decide, ``dns_servers`` None where resolv.conf does. ``dns_zones``
    keeps the agent's DNS connections apart from the application's.
    """

    layout: Layout
    mode: Mode = REDIRECT
    outbound_port: int = OUTBOUND_PORT
    inbound_port: int = INBOUND_PORT
    tunnel_port: int = TUNNEL_PORT
    proxy_uids: tuple[IdRange, ...] = (DEFAULT_PROXY_ID,)
    proxy_gids: tuple[IdRange, ...] = (DEFAULT_PROXY_ID,)
    inbound_all: bool = False
    inbound_ports: tuple[PortRange, ...] = ()
    inbound_exclude_ports: tuple[PortRange, ...] = ()
    outbound_all: bool = False
    outbound_cidrs: tuple[Network, ...] = ()
    outbound_exclude_cidrs: tuple[Network, ...] = ()
    outbound_ports: tuple[PortRange, ...] = ()
    outbound_exclude_ports: tuple[PortRange, ...] = ()
    exclude_interfaces: tuple[str, ...] = ()
    virtual_interfaces: tuple[str, ...] = ()
    tproxy_mark: int = DEFAULT_MARK
    tproxy_table: int = DEFAULT_ROUTE_TABLE
    redirect_dns: bool = False
    capture_all_dns: bool = False
    dns_servers: tuple[Network, ...] | None = None
    dns_zones: bool = True
    drop_invalid: bool = False
    owner_groups: tuple[IdRange, ...] | None = None
    owner_groups_exclude: tuple[IdRange, ...] = ()
    loopback: Network = DEFAULT_LOOPBACK
    ipv6: bool | None = None
    dual_stack: bool = False

    @property
    def captures_inbound(self) -> bool:
        """Whether ``-b`` names any port."""
        return self.inbound_all or bool(self.inbound_ports)


class Facts(Record):
    """What the host says, gathered once; empty where the config did not need it.

    ``addresses`` are those of every interface but loopback and link-local ones,
    IPv4 first, in the order in which the kernel lists them. ``nameservers`` are
    resolv.conf's; ``skipped_nameservers`` has a sentence for each of its lines that
    names a server and is passed over.
    """

    addresses: tuple[Network, ...] = ()
    nameservers: tuple[Network, ...] = ()
    skipped_nameservers: tuple[str, ...] = ()


class Run(Record):
    """What is to be done with the plan.

    ``network_namespace`` is a path, an ``ip netns`` name or a PID, or ``""`` for
    the current one. ``wait`` and ``probe_timeout`` are seconds. With ``degrade``
    a kernel that lacks a feature which can be spared is put up with.
    """

    command: RunCommand = "apply"
    dry_run: bool = False
    format: Format = "rules"
    backend: BackendChoice = "auto"
    network_namespace: str = ""
    wait: float = 30.0
    degrade: bool = False
    skip_rule_apply: bool = False
    run_validation: bool = False
    probe_port: int = 15002
    probe_timeout: float = 5.0
    log_level: Level = "info"
    log_json: bool = False

    @property
    def prints_plan(self) -> bool:
        """Whether the plan is printed in place of a result; a dry run of clean has none."""
        return self.dry_run and self.command == "apply"
