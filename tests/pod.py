"""A pod with its proxy and application, and a small network around it.

        client ──┐
                 ├── outside ──── eth1 ┐
       pod eth0 ─┘  (a bridge)         pod ── vm0 ── vm

Each is a network namespace of its own; nothing is made in the caller's. The
programs in them are stand-ins (``tests/standin.py``) that say who was reached,
how, and where the call was going. Link-layer addresses are known beforehand:
layout 1.0 rejects the packets by which IPv6 neighbours find each other.
"""

from __future__ import annotations

import json
import select
import shlex
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from istio_init.rules.model import TABLES
from tests.namespace import TOOLS, Namespace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STANDIN = Path(__file__).with_name("standin.py")
# How long a program may take to start or to carry out an order, far above what
# any of them needs on a busy machine.
PATIENCE = 30
# How long a call waits for its answer.
CALL_SECONDS = 10.0

FAMILIES = ("ipv4", "ipv6")


@dataclass(frozen=True)
class Host:
    """The addresses of one place in one network, and who serves there."""

    owner: str
    ipv4: str
    ipv6: str
    network: str = "pods"

    def address(self, family: str) -> str:
        return self.ipv4 if family == "ipv4" else self.ipv6

    def spelled(self, family: str, port: int) -> str:
        return f"{self.ipv4}:{port}" if family == "ipv4" else f"[{self.ipv6}]:{port}"

    @property
    def cidrs(self) -> str:
        """Both addresses, as a list of destinations."""
        return f"{self.ipv4}/32,{self.ipv6}/128"


POD = Host("app", "10.1.0.1", "fd00:1::1")
CLIENT_HOST = Host("client", "10.1.0.2", "fd00:1::2")
OUTSIDE = Host("outside", "10.1.0.3", "fd00:1::3")
ELSEWHERE = Host("outside", "10.1.0.4", "fd00:1::4")
RESOLVER = Host("outside", "10.1.0.53", "fd00:1::53")
OTHER_RESOLVER = Host("outside", "10.1.0.54", "fd00:1::54")

POD_ETH1 = Host("app", "10.2.0.1", "fd00:2::1", "eth1")
OUTSIDE_ETH1 = Host("outside", "10.2.0.3", "fd00:2::3", "eth1")

POD_VM0 = Host("app", "10.3.0.1", "fd00:3::1", "vm0")
VM_HOST = Host("vm", "10.3.0.5", "fd00:3::5", "vm0")

LOOPBACK = Host("app", "127.0.0.1", "::1", "lo")
# IPv6 has one loopback address only.
OTHER_LOOPBACK = Host("app", "127.0.0.2", "::1", "lo")
# The source from which the proxy delivers what came in.
PASSTHROUGH = Host("app", "127.0.0.6", "::6", "lo")


@dataclass(frozen=True)
class Actor:
    """Who makes calls, and serves where the pod says so: a user in a place."""

    name: str
    place: str = "pod"
    uid: int = 0
    gid: int = 0


APP = Actor("app", uid=1000, gid=1000)
PROXY = Actor("proxy", uid=1337, gid=1337)
# How Istio runs the proxy in TPROXY mode: transparent sockets are root's.
ROOT_PROXY = Actor("proxy", uid=0, gid=1337)
# The proxy's user in another group, another user in the proxy's group, a second proxy.
BY_USER = Actor("by-user", uid=1337, gid=1000)
BY_GROUP = Actor("by-group", uid=1000, gid=1337)
SECOND_PROXY = Actor("second-proxy", uid=1338, gid=1338)
# The application's user in groups of its owner's choice.
MEMBER = Actor("member", uid=1000, gid=2000)
OTHER_MEMBER = Actor("other-member", uid=1000, gid=2001)
ROOT = Actor("root")
CLIENT = Actor("client", "client")
NEIGHBOUR = Actor("outside", "outside")
VM = Actor("vm", "vm")

# What a call's source is unless it says otherwise.
_SOURCES = {
    ("pod", "pods"): POD,
    ("pod", "eth1"): POD_ETH1,
    ("pod", "lo"): LOOPBACK,
    ("client", "pods"): CLIENT_HOST,
    ("outside", "pods"): OUTSIDE,
    ("outside", "eth1"): OUTSIDE_ETH1,
    ("vm", "pods"): VM_HOST,
    ("vm", "vm0"): VM_HOST,
}

APP_PORTS = (22, 53, 80, 443, 8080, 8081, 8089, 8090, 15009)
OUTSIDE_PORTS = (53, 80, 443, 3306, 8080)
# Outbound, inbound, tunnel; the agent's DNS port is bound to loopback alone.
PROXY_PORTS = (15001, 15006, 15008)
AGENT_PORT = 15053


@dataclass(frozen=True)
class Call:
    """One connection or query."""

    caller: Actor
    to: Host
    port: int
    proto: str = "tcp"
    source: Host | None = None
    source_port: int = 0
    mark: int = 0
    query: Mapping[str, object] = field(default_factory=dict, hash=False)
    seconds: float = CALL_SECONDS

    def peer(self, family: str) -> str:
        """Return the address that the call comes from."""
        own = self.source or _SOURCES[self.caller.place, self.to.network]
        return own.address(family)

    def __str__(self) -> str:
        return f"{self.caller.name} calls {self.to.ipv4} {self.proto} {self.port}"

    def described(self, family: str) -> str:
        """Return the call as a failure and the demonstration show it."""
        marked = f" with mark {self.mark}" if self.mark else ""
        to = self.to.spelled(family, self.port)
        return f"{self.caller.name} calls {to} ({self.proto}) from {self.peer(family)}{marked}"


@dataclass(frozen=True)
class Landing:
    """Who answered a call.

    ``by`` is a name and the port it listens on. ``how`` is direct, redirect,
    tproxy or datagram; where ``by`` is nobody it says why. ``to`` is where the
    call was going as far as the one who answered can tell, ``peer`` where it
    came from. ``relayed`` is who gave the answer that was passed on.
    """

    by: str
    how: str
    to: str
    peer: str
    relayed: str = ""


REFUSED = Landing("nobody", "ECONNREFUSED", "", "")
UNANSWERED = Landing("nobody", "timeout", "", "")


def direct(call: Call, family: str, *, by: str | None = None) -> Landing:
    """Return where a call lands that nothing leads astray."""
    return Landing(
        f"{by or call.to.owner}:{call.port}",
        "direct" if call.proto == "tcp" else "datagram",
        call.to.spelled(family, call.port),
        call.peer(family),
    )


def captured(call: Call, family: str, port: int, *, how: str = "redirect") -> Landing:
    """Return where a call lands that the proxy gets, with what it must know about it."""
    return Landing(f"proxy:{port}", how, call.to.spelled(family, call.port), call.peer(family))


@dataclass(frozen=True)
class Setup:
    """A call of ``istio-init``, and the proxy that goes with it.

    ``transparent`` is the port on which TPROXY hands over connections, 0 without it.
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    families: tuple[str, ...] = FAMILIES
    transparent: int = 0

    @property
    def proxy(self) -> Actor:
        return ROOT_PROXY if self.transparent else PROXY

    def with_env(self, **env: str) -> Setup:
        return replace(self, env=(*self.env, *env.items()))

    def __str__(self) -> str:
        settings = [f"{name}={shlex.quote(value)}" for name, value in self.env]
        return " ".join((*settings, shlex.join(("istio-init", *self.argv))))


def layout_1_0(*flags: str, mode: str = "REDIRECT", users: Sequence[str] = ("-u", "1337")) -> Setup:
    """Return a set-up of layout 1.0, in which only IPv4 is captured."""
    argv = ("-p", "15001", *users, "-m", mode, *flags)
    transparent = 15001 if mode == "TPROXY" else 0
    return Setup(argv, families=("ipv4",), transparent=transparent)


def layout_1_30(
    *flags: str, mode: str = "REDIRECT", users: Sequence[str] = ("-u", "1337", "-g", "1337")
) -> Setup:
    """Return a set-up of layout 1.30 in a pod with addresses of both families."""
    argv = ("istio-iptables", "-p", "15001", "-z", "15006", *users, "-m", mode, "--dual-stack")
    return Setup((*argv, *flags), transparent=15006 if mode == "TPROXY" else 0)


class Server(Protocol):
    """Who serves in one of the places, and needs a moment to come up."""

    def wait_until_ready(self) -> None:
        """Return once it can be reached."""


class Standin:
    """A running stand-in; gone with its ``close``."""

    def __init__(
        self,
        actor: Actor,
        namespace: Namespace,
        *,
        tcp: Sequence[tuple[str, int, bool]] = (),
        udp: Sequence[tuple[str, int]] = (),
    ) -> None:
        self._name = actor.name
        spec = {"name": actor.name, "uid": actor.uid, "gid": actor.gid, "tcp": tcp, "udp": udp}
        # It becomes that user itself, once it has read its own text: a user may
        # not be able to read the checkout, or the interpreter it came with.
        argv = [sys.executable, "-I", "-S", str(STANDIN), json.dumps(spec)]
        self._process = subprocess.Popen(
            namespace.command(argv),
            env=namespace.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait_until_ready(self) -> None:
        said = self._line()
        assert said == "ready\n", f"{self._name} did not start: {said!r}"

    def ask(self, order: Mapping[str, object]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._line())
        return answer

    def close(self) -> None:
        self._process.kill()
        # Closes the pipes too, and leaves no process behind.
        self._process.communicate(timeout=PATIENCE)

    def _line(self) -> str:
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        assert readable, f"{self._name} says nothing"
        return self._process.stdout.readline()


class Pod:
    """The pod with its surroundings and, unless ``setup`` is None, its rules."""

    def __init__(self, setup: Setup | None = None) -> None:
        self.setup = setup
        self.proxy = setup.proxy if setup else PROXY
        self._stack = ExitStack()
        self._places: dict[str, Namespace] = {}
        self._actors: dict[Actor, Standin] = {}

    @property
    def namespace(self) -> Namespace:
        """The pod's own network namespace."""
        return self._places["pod"]

    def __enter__(self) -> Self:
        with self._stack:
            for place in ("pod", "client", "outside", "vm"):
                self._places[place] = self._stack.enter_context(Namespace())
            self._connect()
            servers = self._servers()
            # The rules are put in place while the servers come up.
            if self.setup:
                self._lead(self.setup)
            for server in servers:
                server.wait_until_ready()
            self._wait_for_links()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def call(self, call: Call, family: str) -> Landing:
        """Make a call and return where it landed."""
        answer = self._actor(call.caller).ask(self._order(call, family))
        return Landing(**answer)

    def expect(self, call: Call, family: str, landing: Landing) -> None:
        """Make a call that must land there; show the rules where it does not."""
        __tracebackhide__ = True
        found = self.call(call, family)
        assert found == landing, "\n".join(
            (
                call.described(family),
                f"  landed:   {found}",
                f"  expected: {landing}",
                self.rules(),
            )
        )

    def resets(self, call: Call, family: str, *, within: bool) -> bool:
        """Return whether a segment that fits no connection is answered with a reset.

        ``within`` sends it on the four addresses and ports of a connection that
        exists, outside of its window.
        """
        order = {**self._order(call, family), "do": "intrude", "within": within}
        answer = self._actor(call.caller).ask(order)
        landed = Landing(**answer["after"])
        assert landed.by != "nobody", f"{call.described(family)}: {landed}\n\n{self.rules()}"
        reset: bool = answer["reset"]
        return reset

    def rules(self) -> str:
        """Return the pod's rules as a person wants to see them beside a failure."""
        shown = [str(self.setup or "no rules")]
        for family in FAMILIES:
            for table in TABLES:
                rules = [line for line in self.namespace.rules(family, table) if line[:2] == "-A"]
                shown += [f"# {TOOLS[family]} -t {table} -S", *rules] if rules else []
        for family in ("-4", "-6"):
            shown.append(self.namespace.run("ip", family, "rule").stdout)
        return "\n".join(shown)

    def _order(self, call: Call, family: str) -> dict[str, object]:
        source = call.source
        if call.source_port and not source:
            source = _SOURCES[call.caller.place, call.to.network]
        return {
            "do": "call",
            "proto": call.proto,
            "to": [call.to.address(family), call.port],
            "source": [source.address(family), call.source_port] if source else None,
            "mark": call.mark,
            "query": call.query,
            "timeout": call.seconds,
        }

    def _actor(self, actor: Actor) -> Standin:
        # The proxy is whoever runs as such in this set-up.
        actor = self.proxy if actor.name == "proxy" else actor
        if actor not in self._actors:
            self._start(actor).wait_until_ready()
        return self._actors[actor]

    def _start(
        self,
        actor: Actor,
        tcp: Sequence[tuple[str, int, bool]] = (),
        udp: Sequence[tuple[str, int]] = (),
    ) -> Standin:
        started = Standin(actor, self._places[actor.place], tcp=tcp, udp=udp)
        self._stack.callback(started.close)
        self._actors[actor] = started
        return started

    def _servers(self) -> Sequence[Server]:
        """Start everybody who serves."""
        return [self._start_app(), self._start_proxy(), self._start_outside()]

    def _lead(self, setup: Setup) -> None:
        """Put the rules in place."""
        self.namespace.init(*setup.argv, env=dict(setup.env))

    def _start_app(self) -> Standin:
        return self._start(APP, _everywhere(APP_PORTS))

    def _start_proxy(self) -> Standin:
        transparent = self.setup.transparent if self.setup else 0
        agent = [(LOOPBACK.address(family), AGENT_PORT) for family in FAMILIES]
        tcp = _everywhere(PROXY_PORTS, transparent)
        return self._start(self.proxy, [*tcp, *((*one, False) for one in agent)], agent)

    def _start_outside(self) -> Standin:
        resolvers = [
            (host.address(family), 53) for host in (RESOLVER, OTHER_RESOLVER) for family in FAMILIES
        ]
        return self._start(NEIGHBOUR, _everywhere(OUTSIDE_PORTS), resolvers)

    def _connect(self) -> None:
        names = {place: namespace.name for place, namespace in self._places.items()}
        mac = _link_layer_addresses()
        self._ip(
            "outside",
            # A multicast snooping bridge may hold back what it has not learnt yet.
            f"link add br0 address {mac[OUTSIDE]} type bridge mcast_snooping 0",
            f"link add pod type veth peer name eth0 address {mac[POD]} netns {names['pod']}",
            f"link add client type veth"
            f" peer name eth0 address {mac[CLIENT_HOST]} netns {names['client']}",
            f"link add eth1 address {mac[OUTSIDE_ETH1]} type veth"
            f" peer name eth1 address {mac[POD_ETH1]} netns {names['pod']}",
            "link set pod master br0",
            "link set client master br0",
            "link set pod up",
            "link set client up",
            *_addresses("br0", OUTSIDE, more=_OUTSIDE),
            *_addresses("eth1", OUTSIDE_ETH1),
            *_neighbours("br0", mac, POD, CLIENT_HOST),
            *_neighbours("eth1", mac, POD_ETH1),
            f"route add 10.3.0.0/24 via {POD.ipv4}",
            f"route add fd00:3::/64 via {POD.ipv6}",
        )
        self._ip(
            "pod",
            f"link add vm0 address {mac[POD_VM0]} type veth"
            f" peer name eth0 address {mac[VM_HOST]} netns {names['vm']}",
            *_addresses("eth0", POD),
            *_addresses("eth1", POD_ETH1),
            *_addresses("vm0", POD_VM0),
            *_neighbours("eth0", mac, CLIENT_HOST, OUTSIDE),
            *_neighbours("eth0", dict.fromkeys(_OUTSIDE, mac[OUTSIDE]), *_OUTSIDE),
            *_neighbours("eth1", mac, OUTSIDE_ETH1),
            *_neighbours("vm0", mac, VM_HOST),
        )
        self._ip("client", *_addresses("eth0", CLIENT_HOST), *_neighbours("eth0", mac, POD))
        self._ip(
            "vm",
            *_addresses("eth0", VM_HOST),
            *_neighbours("eth0", mac, POD_VM0),
            f"route add default via {POD_VM0.ipv4}",
            f"route add default via {POD_VM0.ipv6}",
        )
        # As a container's runtime leaves it; the pod forwards what its VM sends.
        settings = {
            "ipv4/ip_unprivileged_port_start": 0,
            "ipv4/ip_forward": 1,
            "ipv6/conf/all/forwarding": 1,
        }
        written = [f"echo {value} > /proc/sys/net/{name}" for name, value in settings.items()]
        self.namespace.run("sh", "-ec", "\n".join(written))

    def _ip(self, place: str, *lines: str) -> None:
        self._places[place].run("ip", "-batch", "-", text="".join(f"{line}\n" for line in lines))

    def _wait_for_links(self) -> None:
        """Wait until every interface sends: the kernel makes it so a little after ``up``."""
        waiting = list(self._places.values())
        # A try takes some milliseconds, so this ends, one way or the other.
        for _ in range(1000):
            waiting = [namespace for namespace in waiting if not _sends(namespace)]
            if not waiting:
                return
        raise AssertionError(f"not all links came up in {[one.name for one in waiting]}")


_OUTSIDE = (ELSEWHERE, RESOLVER, OTHER_RESOLVER)


def _sends(namespace: Namespace) -> bool:
    """Whether every interface that is up has found its other end."""
    links = namespace.run("ip", "-o", "link", "show", "up").stdout.splitlines()
    # Until then there is no queue, and what is sent is lost. The loopback
    # interface, which has no other end, is always in state UNKNOWN.
    return all(
        " qdisc noqueue " in link and (" state UP " in link or " state UNKNOWN " in link)
        for link in links
    )


def _everywhere(ports: Sequence[int], transparent: int = 0) -> list[tuple[str, int, bool]]:
    return [(host, port, port == transparent) for host in ("0.0.0.0", "::") for port in ports]


def _link_layer_addresses() -> dict[Host, str]:
    hosts = (POD, CLIENT_HOST, OUTSIDE, POD_ETH1, OUTSIDE_ETH1, POD_VM0, VM_HOST)
    return {host: f"02:00:00:00:00:{number:02x}" for number, host in enumerate(hosts, 1)}


def _addresses(interface: str, host: Host, more: Sequence[Host] = ()) -> list[str]:
    """Return the commands that give an interface its addresses, usable at once.

    Calls come from ``host``: IPv4 takes the first address, IPv6 none that is deprecated.
    """
    given = [f"addr add {host.ipv4}/24 dev {interface}"]
    given += [f"addr add {host.ipv6}/64 dev {interface} nodad"]
    for other in more:
        given += [f"addr add {other.ipv4}/24 dev {interface}"]
        given += [f"addr add {other.ipv6}/64 dev {interface} nodad preferred_lft 0"]
    return [*given, f"link set {interface} up"]


def _neighbours(interface: str, mac: Mapping[Host, str], *hosts: Host) -> list[str]:
    return [
        f"neigh add {address} lladdr {mac[host]} dev {interface} nud permanent"
        for host in hosts
        for address in (host.ipv4, host.ipv6)
    ]
