"""Real packets through the rules of the nftables backend."""

from __future__ import annotations

import re
import socket
import struct
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

import pytest

from tests.inside import Process, init, inside
from tests.namespace import Namespace

if TYPE_CHECKING:
    from collections.abc import Callable

    Action = Callable[[Callable[[], None]], "list[str]"]

NFTABLES = ("--backend", "nftables")
SIDECAR = ("istio-iptables", "-u", "1337", "-i", "*", "-b", "*")
PROXY, APP = 1337, 1000
# The pod and another host on a wire of their own, which has further addresses.
POD = {"ipv4": "10.20.0.2", "ipv6": "fd20::2"}
HOST = {"ipv4": "10.20.0.1", "ipv6": "fd20::1"}
SERVICE = {"ipv4": "10.30.0.1", "ipv6": "fd30::1"}
POD_MAC, HOST_MAC = "02:00:00:00:00:02", "02:00:00:00:00:01"
DNS_SERVER = "10.30.0.53"
LENGTHS = {"ipv4": (24, 32), "ipv6": (64, 128)}
SO_ORIGINAL_DST = 80
IPV6_TRANSPARENT = 75


# Nothing waits that long, but what would otherwise wait for ever.
SECONDS = 20


class Wire:
    """A pod and a host next to it."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.pod, self.host = (stack.enter_context(Namespace()) for _ in range(2))
            self._connect()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _connect(self) -> None:
        peer = f"type veth peer name eth0 address {HOST_MAC} netns {self.host.name}"
        self.pod.run("ip", "link", "add", "eth0", "address", POD_MAC, *peer.split())
        for family, (wire, single) in LENGTHS.items():
            self.host.run("ip", "address", "add", f"{SERVICE[family]}/{single}", "dev", "lo")
            for side, address in ((self.pod, POD[family]), (self.host, HOST[family])):
                nodad = ("nodad",) if family == "ipv6" else ()
                side.run("ip", "address", "add", f"{address}/{wire}", "dev", "eth0", *nodad)
        self.host.run("ip", "address", "add", f"{DNS_SERVER}/32", "dev", "lo")
        for side in (self.pod, self.host):
            side.run("ip", "link", "set", "eth0", "up")
        for family in LENGTHS:
            version = "-4" if family == "ipv4" else "-6"
            self.pod.run("ip", version, "route", "add", "default", "via", HOST[family])

    def start(self, side: Namespace, action: Action, *, uid: int = 0) -> Process[list[str]]:
        """Start a process that is ready when this returns."""
        process = self._stack.enter_context(Process(side, _in_time(action), uid=uid))
        process.wait_until_ready()
        return process


def _in_time(action: Action) -> Action:
    def limited(ready: Callable[[], None]) -> list[str]:
        # In a process of its own.
        socket.setdefaulttimeout(SECONDS)
        return action(ready)

    return limited


def _bound(
    port: int, kind: int = socket.SOCK_STREAM, *, transparent: bool = False
) -> socket.socket:
    """Return a socket of both families on every address."""
    found = socket.socket(socket.AF_INET6, kind)
    found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if transparent:
        found.setsockopt(socket.SOL_IP, socket.IP_TRANSPARENT, 1)
        found.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    found.bind(("::", port))
    return found


def listen(port: int, *, transparent: bool = False, redirected: bool = False) -> Action:
    """Return an action that takes one connection; it tells where that was going, and whence."""

    def action(ready: Callable[[], None]) -> list[str]:
        with _bound(port, transparent=transparent) as server:
            server.listen()
            ready()
            connection, (client, *_) = server.accept()
            with connection:
                meant = _original(connection) if redirected else _own_address(connection)
                # Both directions, more than once, and an end that this side begins.
                for _ in range(3):
                    connection.sendall(connection.recv(5))
                return [meant, client.removeprefix("::ffff:")]

    return action


def _own_address(connection: socket.socket) -> str:
    host, port = connection.getsockname()[:2]
    return f"{host.removeprefix('::ffff:')} {port}"


def _original(connection: socket.socket) -> str:
    """Return where a connection was going before it was redirected, if it was."""
    host = connection.getsockname()[0]
    if host.startswith("::ffff:"):
        raw = connection.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
        return f"{socket.inet_ntoa(raw[4:8])} {int.from_bytes(raw[2:4], 'big')}"
    raw = connection.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
    return f"{socket.inet_ntop(socket.AF_INET6, raw[8:24])} {int.from_bytes(raw[2:4], 'big')}"


def talk(side: Namespace, address: str, port: int, *, uid: int = 0) -> str:
    """Connect and say something; return the address that the connection came from."""

    def action() -> str:
        with socket.create_connection((address, port), SECONDS) as client:
            _say(client)
            return str(client.getsockname()[0])

    return inside(side, action, uid=uid)


def _say(client: socket.socket) -> None:
    for word in (b"one__", b"two__", b"three"):
        client.sendall(word)
        assert client.recv(5) == word
    assert client.recv(1) == b""


FAMILIES = pytest.mark.parametrize("family", ["ipv4", "ipv6"])


@FAMILIES
def test_what_an_application_calls_goes_to_the_proxy(family: str) -> None:
    with Wire() as wire:
        init(wire.pod, *SIDECAR, "--ipv6", *NFTABLES)
        proxy = wire.start(wire.pod, listen(15001, redirected=True), uid=PROXY)
        talk(wire.pod, SERVICE[family], 80, uid=APP)

        assert proxy.result()[0] == f"{SERVICE[family]} 80"


@FAMILIES
def test_what_the_proxy_calls_goes_where_it_is_going(family: str) -> None:
    with Wire() as wire:
        init(wire.pod, *SIDECAR, "--ipv6", *NFTABLES)
        service = wire.start(wire.host, listen(80))
        talk(wire.pod, SERVICE[family], 80, uid=PROXY)

        assert service.result()[1] == POD[family]


@FAMILIES
def test_what_comes_in_goes_to_the_proxy(family: str) -> None:
    with Wire() as wire:
        init(wire.pod, *SIDECAR, "-d", "9090,9091", "--ipv6", *NFTABLES)
        proxy = wire.start(wire.pod, listen(15006, redirected=True), uid=PROXY)
        application = wire.start(wire.pod, listen(9091), uid=APP)
        talk(wire.host, POD[family], 8080)
        talk(wire.host, POD[family], 9091)

        assert proxy.result()[0] == f"{POD[family]} 8080"
        assert application.result()[1] == HOST[family]


@FAMILIES
def test_left_alone_networks_and_ports_are_reached(family: str) -> None:
    networks = ",".join(f"10.30.{number}.0/24,fd30:{number}::/32" for number in range(0, 100, 2))
    excluded = ("-x", networks, "-o", "7,9,11")
    with Wire() as wire:
        init(wire.pod, *SIDECAR, *excluded, "--ipv6", *NFTABLES)
        proxy = wire.start(wire.pod, listen(15001, redirected=True), uid=PROXY)
        by_network = wire.start(wire.host, listen(80))
        by_port = wire.start(wire.host, listen(9))
        talk(wire.pod, SERVICE[family], 80, uid=APP)
        talk(wire.pod, HOST[family], 9, uid=APP)
        talk(wire.pod, HOST[family], 80, uid=APP)

        assert by_network.result()[1] == POD[family]
        assert by_port.result()[1] == POD[family]
        assert proxy.result()[0] == f"{HOST[family]} 80"


def test_groups_are_told_apart() -> None:
    groups = ("--outbound-owner-groups", "500,502,600-700")
    with Wire() as wire:
        init(wire.pod, *SIDECAR, *groups, "--no-ipv6", *NFTABLES)
        for gid in (502, 650):
            proxy = wire.start(wire.pod, listen(15001, redirected=True), uid=PROXY)
            talk(wire.pod, SERVICE["ipv4"], 80, uid=gid)
            assert proxy.result()[0] == f"{SERVICE['ipv4']} 80"
        service = wire.start(wire.host, listen(80))
        talk(wire.pod, SERVICE["ipv4"], 80, uid=501)
        assert service.result()[1] == POD["ipv4"]


def test_ipv6_is_left_alone_where_it_is_off() -> None:
    with Wire() as wire:
        init(wire.pod, *SIDECAR, "--no-ipv6", *NFTABLES)
        service = wire.start(wire.host, listen(80))
        application = wire.start(wire.pod, listen(8080), uid=APP)
        talk(wire.pod, SERVICE["ipv6"], 80, uid=APP)
        talk(wire.host, POD["ipv6"], 8080)

        assert service.result()[1] == POD["ipv6"]
        assert application.result()[1] == HOST["ipv6"]


def test_inbound_ipv6_is_shut_in_the_old_layout() -> None:
    ipv6 = "ipv6"
    with Wire() as wire:
        init(wire.pod, "-u", "1337", "-i", "*", "-b", "80", *NFTABLES)
        # As with the original rules, neighbours cannot be found any more either.
        wire.pod.run(*f"ip neighbour replace {HOST[ipv6]} lladdr {HOST_MAC} dev eth0".split())
        wire.host.run(*f"ip neighbour replace {POD[ipv6]} lladdr {POD_MAC} dev eth0".split())
        service = wire.start(wire.host, listen(80))
        wire.start(wire.pod, listen(8080), uid=APP)
        talk(wire.pod, SERVICE[ipv6], 80, uid=APP)
        with pytest.raises(AssertionError, match="ConnectionRefusedError"):
            talk(wire.host, POD[ipv6], 8080)

        assert service.result()[1] == POD[ipv6]


# TPROXY keeps both addresses.

MODES = {
    "1.30": (*SIDECAR, "-m", "TPROXY", "--ipv6"),
    "1.30, ports": ("istio-iptables", "-u", "1337", "-b", "8080,8082", "-m", "TPROXY", "--ipv6"),
    "1.0": ("-u", "1337", "-i", "*", "-b", "*", "-m", "TPROXY", "-p", "15006"),
    "1.0, ports": ("-u", "1337", "-b", "8080,8082", "-m", "TPROXY", "-p", "15006"),
}


@pytest.mark.parametrize(
    ("mode", "family"),
    [
        *((mode, "ipv4") for mode in MODES),
        # The old layout captures no IPv6.
        *((mode, "ipv6") for mode in MODES if mode.startswith("1.30")),
    ],
)
def test_tproxy_keeps_both_addresses(mode: str, family: str) -> None:
    with Wire() as wire:
        init(wire.pod, *MODES[mode], *NFTABLES)
        proxy = wire.start(wire.pod, listen(15006, transparent=True))
        client = talk(wire.host, POD[family], 8080)

        assert proxy.result() == [f"{POD[family]} 8080", client]


@FAMILIES
def test_answers_to_the_client_s_address_come_back_to_the_proxy(family: str) -> None:
    with Wire() as wire:
        init(wire.pod, *MODES["1.30"], *NFTABLES)
        application = wire.start(wire.pod, listen(8080), uid=APP)
        inside(wire.pod, lambda: _deliver(family))

        assert application.result() == [f"{POD[family]} 8080", HOST[family]]


def _deliver(family: str) -> None:
    """Call the application as a proxy does that keeps the client's address."""
    kind = socket.AF_INET if family == "ipv4" else socket.AF_INET6
    with socket.socket(kind) as client:
        if family == "ipv4":
            client.setsockopt(socket.SOL_IP, socket.IP_TRANSPARENT, 1)
        else:
            client.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 1337)
        client.settimeout(SECONDS)
        client.bind((HOST[family], 0))
        client.connect((POD[family], 8080))
        _say(client)


def counted(pod: Namespace, needle: str) -> int:
    """Return how many packets the lines with this in them have seen."""
    lines = pod.run("nft", "list", "ruleset").stdout.splitlines()
    counts = [re.search(r"packets (\d+)", line) for line in lines if needle in line]
    assert counts
    return sum(int(count[1]) for count in counts if count)


def wait_for_more(pod: Namespace, needle: str, before: int) -> None:
    """Return when these lines have seen a further packet."""
    looks = (counted(pod, needle) for _ in range(500))
    assert any(count > before for count in looks), needle


@pytest.mark.parametrize("mode", MODES)
def test_nothing_gets_past_a_proxy_that_does_not_listen(mode: str) -> None:
    with Wire() as wire:
        init(wire.pod, *MODES[mode], *NFTABLES)
        application = wire.start(wire.pod, _accept_nothing(8080))
        before = counted(wire.pod, " drop")
        inside(wire.host, lambda: _knock(POD["ipv4"], 8080))
        wait_for_more(wire.pod, " drop", before)
        inside(wire.pod, lambda: _knock("127.0.0.1", 8080))

        assert application.result() == ["127.0.0.1"]


def _accept_nothing(port: int) -> Action:
    """Return an action that tells who connects first."""

    def action(ready: Callable[[], None]) -> list[str]:
        with _bound(port) as server:
            server.listen()
            ready()
            return [str(server.accept()[1][0]).removeprefix("::ffff:")]

    return action


def _knock(address: str, port: int) -> None:
    """Send a SYN, and do not wait for an answer."""
    with socket.socket() as client:
        client.settimeout(0)
        client.connect_ex((address, port))


def test_a_socket_in_time_wait_is_a_socket() -> None:
    with Wire() as wire:
        init(wire.pod, *MODES["1.0"], *NFTABLES)
        service = wire.start(wire.host, _end_second(80))
        port = inside(wire.pod, _end_first, uid=PROXY)
        service.result()
        assert f":{port} " in wire.pod.run("ss", "-Htan", "state", "time-wait").stdout
        matched, dropped = counted(wire.pod, "socket transparent"), counted(wire.pod, " drop")
        inside(wire.host, lambda: _send_late(SERVICE["ipv4"], 80, POD["ipv4"], port))
        wait_for_more(wire.pod, "socket transparent", matched)

        assert counted(wire.pod, " drop") == dropped


def _end_second(port: int) -> Action:
    def action(ready: Callable[[], None]) -> list[str]:
        with _bound(port) as server:
            server.listen()
            ready()
            connection, _ = server.accept()
            with connection:
                assert connection.recv(1) == b""
            return []

    return action


def _end_first() -> int:
    """Connect and hang up, so that this side is the one to wait; return its port."""
    with socket.create_connection((SERVICE["ipv4"], 80)) as client:
        port = int(client.getsockname()[1])
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
        return port


def _send_late(source: str, sport: int, destination: str, dport: int) -> None:
    """Send a segment of a connection that is over."""
    segment = struct.pack(">HHIIBBHHH", sport, dport, 1, 1, 5 << 4, 0x11, 1024, 0, 0)
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    pseudo = addresses + struct.pack(">BBH", 0, socket.IPPROTO_TCP, len(segment))
    total = sum(word for (word,) in struct.iter_unpack(">H", pseudo + segment))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    segment = segment[:16] + struct.pack(">H", total ^ 0xFFFF) + segment[18:]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        raw.bind((source, 0))
        raw.sendto(segment, (destination, 0))


# DNS.


def test_the_agent_is_asked_and_gets_the_answer_to_its_own_question() -> None:
    dns = ("--redirect-dns", "--dns-servers", f"{DNS_SERVER},10.30.0.54")
    with Wire() as wire:
        init(wire.pod, *SIDECAR, *dns, "--no-ipv6", *NFTABLES)
        wire.start(wire.host, _upstream)
        agent = wire.start(wire.pod, _agent, uid=PROXY)
        inside(wire.pod, lambda: _send(b"question", (DNS_SERVER, 53), CLIENT), uid=APP)
        inside(wire.pod, lambda: _send(b"go", AGENT, ("127.0.0.1", 0)), uid=PROXY)

        assert agent.result() == ["question", "answer to question"]


AGENT = ("127.0.0.1", 15053)
CLIENT = (POD["ipv4"], 40000)


def _datagrams(address: tuple[str, int]) -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    found.bind(address)
    return found


def _send(text: bytes, to: tuple[str, int], source: tuple[str, int]) -> None:
    with _datagrams(source) as client:
        client.sendto(text, to)


def _upstream(ready: Callable[[], None]) -> list[str]:
    """Answer one question."""
    with _datagrams((DNS_SERVER, 53)) as server:
        ready()
        question, client = server.recvfrom(100)
        server.sendto(b"answer to " + question, client)
        return []


def _agent(ready: Callable[[], None]) -> list[str]:
    """Pass one question on, from the port from which it came; tell question and answer.

    Only conntrack zones tell the two connections apart: in one zone this question
    would be taken for one more of the application's, and led back to the agent.
    """
    with _datagrams(AGENT) as server:
        ready()
        question = server.recv(100)
        # By then the application has left its port.
        assert server.recv(100) == b"go"
        with _datagrams(CLIENT) as client:
            client.sendto(question, (DNS_SERVER, 53))
            return [question.decode(), client.recv(100).decode()]
