"""A program that stands in for a pod's proxy, its application, or a host elsewhere.

It serves, and says to whoever reaches it how they got there; and it makes the
calls that it is told to make, as the user that it runs as. It is started as

    python -I -S standin.py SPEC

where SPEC is a JSON object: ``name``, ``uid``, ``gid``, ``tcp`` (a list of host,
port, transparent) and ``udp`` (a list of host, port). ``ready`` on its standard
output says that it listens. From then on each line of its standard input is an
order, a JSON object, and each line that it prints the JSON answer to one; it
ends with its input.

It imports little: a test waits for several of these to start.
"""

from __future__ import annotations

import errno
import json
import os
import selectors
import socket
import struct
import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    # What the socket module calls an address: host, port and, for IPv6, two more.
    Address = tuple[Any, ...]
    Answer = dict[str, Any]

# From linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h, linux/in.h and
# linux/in6.h; the socket module does not name them.
SO_ORIGINAL_DST = 80
IP6T_SO_ORIGINAL_DST = 80
IP_TRANSPARENT = 19
IPV6_TRANSPARENT = 75

FIN = 0x01
SYN = 0x02
RST = 0x04
ACK = 0x10

LONGEST_LINE = 65536
# Farther ahead than any window reaches, so that connection tracking calls it invalid.
BEYOND_ANY_WINDOW = 1 << 30


def spelled(address: Address) -> str:
    """Return an address with its port as one text."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def be_transparent(own: socket.socket) -> None:
    """Let a socket have, and accept connections to, addresses that are not this host's."""
    if own.family == socket.AF_INET6:
        own.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    else:
        own.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)


def original_destination(connection: socket.socket) -> Address | None:
    """Return where a connection was going before it was redirected, None if it is untracked."""
    try:
        if connection.family == socket.AF_INET6:
            raw = connection.getsockopt(socket.IPPROTO_IPV6, IP6T_SO_ORIGINAL_DST, 28)
            port, packed = struct.unpack_from("!2xH4x16s", raw)
        else:
            raw = connection.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, 16)
            port, packed = struct.unpack_from("!2xH4s", raw)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return None
    return socket.inet_ntop(connection.family, packed), port


class Server:
    """Answers every connection and datagram with one line that says how it came here."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._selector = selectors.DefaultSelector()

    def listen(self, host: str, port: int, *, transparent: bool) -> None:
        listener = self._bound(socket.SOCK_STREAM, host, port, transparent=transparent)
        listener.listen(64)
        self._watch(listener, lambda: self._accept(listener, port))

    def take_datagrams(self, host: str, port: int) -> None:
        own = self._bound(socket.SOCK_DGRAM, host, port, transparent=False)
        self._watch(own, lambda: self._answer_datagram(own, port))

    def serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                key.data()

    def _bound(
        self, kind: socket.SocketKind, host: str, port: int, *, transparent: bool
    ) -> socket.socket:
        own = socket.socket(family_of(host), kind)
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if own.family == socket.AF_INET6:
            own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if transparent:
            be_transparent(own)
        own.bind((host, port))
        return own

    def _watch(self, own: socket.socket, act: Callable[[], None]) -> None:
        self._selector.register(own, selectors.EVENT_READ, act)

    def _accept(self, listener: socket.socket, port: int) -> None:
        connection, peer = listener.accept()
        try:
            connection.sendall(line(self._landing(connection, port, peer)))
        except ConnectionError:
            # The caller has gone; it will say so itself.
            connection.close()
            return
        # The caller closes first: its port then stays taken for a while, and no
        # later call can be mistaken for this one.
        self._watch(connection, lambda: self._until_closed(connection))

    def _until_closed(self, connection: socket.socket) -> None:
        try:
            if connection.recv(LONGEST_LINE):
                return
        except ConnectionError:
            pass
        self._selector.unregister(connection)
        connection.close()

    def _landing(self, connection: socket.socket, port: int, peer: Address) -> Answer:
        here = connection.getsockname()[:2]
        if here[1] != port:
            # Only a transparent socket gets connections to other ports than its own.
            how, to = "tproxy", here
        else:
            to = original_destination(connection) or here
            how = "direct" if to == here else "redirect"
        return {"by": f"{self._name}:{port}", "how": how, "to": spelled(to), "peer": peer[0]}

    def _answer_datagram(self, own: socket.socket, port: int) -> None:
        query, peer = own.recvfrom(LONGEST_LINE)
        answer = {
            "by": f"{self._name}:{port}",
            "how": "datagram",
            "to": spelled(own.getsockname()),
            "peer": peer[0],
        }
        order = json.loads(query)
        if "relay" in order:
            self._relay(order, lambda real: own.sendto(line({**answer, **real}), peer), peer)
        else:
            own.sendto(line(answer), peer)

    def _relay(self, order: Answer, answer: Callable[[Answer], object], peer: Address) -> None:
        """Ask the server of ``order`` from the very address and port that asked here.

        Nothing waits meanwhile: where connection tracking takes the query for
        the application's own, it comes straight back to this server.
        """
        host, port = order["relay"]
        upstream = socket.socket(family_of(host), socket.SOCK_DGRAM)
        upstream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Being connected, it gets the answer before the application's socket, which is not.
        upstream.bind(peer[:2])
        upstream.connect((host, port))

        def finish() -> None:
            real = json.loads(upstream.recv(LONGEST_LINE))
            self._selector.unregister(upstream)
            # Before it answers: what comes to this port now is the application's.
            upstream.close()
            answer({"relayed": real["by"]})

        self._watch(upstream, finish)
        upstream.send(line({}))


def line(answer: Answer) -> bytes:
    return json.dumps(answer).encode() + b"\n"


def call(order: Answer) -> Answer:
    """Return what whoever was reached had to say, or why nobody was."""
    try:
        with prepared(order) as own:
            if order["proto"] == "tcp":
                return greeting(own, order)
            return reply(own, order)
    except OSError as error:
        why = errno.errorcode[error.errno] if error.errno else "timeout"
        return {"by": "nobody", "how": why, "to": "", "peer": ""}


def prepared(order: Answer) -> socket.socket:
    host = order["to"][0]
    kind = socket.SOCK_STREAM if order["proto"] == "tcp" else socket.SOCK_DGRAM
    own = opened(family_of(host), kind, order.get("owner"))
    own.settimeout(order["timeout"])
    if order["mark"]:
        # Only what delivers in the client's name marks its packets.
        own.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, order["mark"])
        be_transparent(own)
    if order["source"]:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        own.bind(tuple(order["source"]))
    return own


def opened(
    family: socket.AddressFamily, kind: socket.SocketKind, owner: list[int] | None
) -> socket.socket:
    """Return a socket of this user's or, for root, of the user and group of ``owner``.

    Whose a socket is does not change after it was made.
    """
    if owner is None:
        return socket.socket(family, kind)
    os.setegid(owner[1])
    os.seteuid(owner[0])
    try:
        return socket.socket(family, kind)
    finally:
        os.seteuid(0)
        os.setegid(0)


def greeting(own: socket.socket, order: Answer) -> Answer:
    own.connect(tuple(order["to"]))
    with own.makefile("rb") as stream:
        said = stream.readline(LONGEST_LINE)
    if not said:
        raise ConnectionResetError(errno.ECONNRESET, "closed without a word")
    answer: Answer = json.loads(said)
    return answer


def reply(own: socket.socket, order: Answer) -> Answer:
    # Not connected: beside a connected socket the agent's would be its equal
    # where both have the same address, port and server.
    own.sendto(line(order["query"]), tuple(order["to"]))
    while True:
        said, sender = own.recvfrom(LONGEST_LINE)
        if list(sender[:2]) == order["to"]:
            answer: Answer = json.loads(said)
            return answer


def intrude(order: Answer) -> Answer:
    """Send one segment that fits no tracked connection; say whether a reset came back.

    ``within`` is a connection of this host whose window the segment misses, or
    else there is no connection at all.
    """
    # Packets that one processor sends do not overtake each other.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    host, port = order["to"]
    wire = socket.socket(family_of(host), socket.SOCK_RAW, socket.IPPROTO_TCP)
    held = socket.socket(family_of(host), socket.SOCK_STREAM)
    with wire, held:
        wire.settimeout(0)
        wire.connect((host, 0))
        here = wire.getsockname()[0]
        held.settimeout(order["timeout"])
        held.bind((here, 0))
        own_port = held.getsockname()[1]
        sequence, flags = 1, FIN | ACK
        if order["within"]:
            greeting(held, order)
            sequence = next_sequence(wire, own_port) + BEYOND_ANY_WINDOW
            flags = ACK
        wire.send(segment((here, own_port), (host, port), sequence, flags))
        # Once this call is answered, an answer to the segment has come too.
        after = call(order)
        resets = [
            flags for _, to, _, flags in waiting_segments(wire) if to == own_port and flags & RST
        ]
        return {"reset": bool(resets), "after": after}


def segment(source: Address, to: Address, sequence: int, flags: int) -> bytes:
    """Return a TCP segment without data; sequence numbers wrap around."""
    sequence &= 0xFFFFFFFF
    header = struct.pack("!HHIIBBHHH", source[1], to[1], sequence, 1, 5 << 4, flags, 1024, 0, 0)
    family = family_of(to[0])
    pseudo = socket.inet_pton(family, source[0]) + socket.inet_pton(family, to[0])
    pseudo += struct.pack("!II", len(header), socket.IPPROTO_TCP)
    total = sum(struct.unpack(f"!{(len(pseudo) + len(header)) // 2}H", pseudo + header))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return header[:16] + struct.pack("!H", ~total & 0xFFFF) + header[18:]


def next_sequence(wire: socket.socket, own_port: int) -> int:
    """Return the sequence number that the other side expects next on a new connection."""
    for _, to, acknowledged, flags in waiting_segments(wire):
        if to == own_port and flags & SYN:
            return acknowledged
    raise AssertionError("the connection's SYN-ACK was not seen")


def waiting_segments(wire: socket.socket) -> Iterator[tuple[int, int, int, int]]:
    """Yield source port, destination port, acknowledgement and flags of what has come."""
    while True:
        try:
            packet = wire.recv(LONGEST_LINE)
        except BlockingIOError:
            return
        # An IPv4 raw socket hands over the IP header too, an IPv6 one does not.
        start = (packet[0] & 0x0F) * 4 if wire.family == socket.AF_INET else 0
        source, to, _, acknowledged, _, flags = struct.unpack_from("!HHIIBB", packet, start)
        yield source, to, acknowledged, flags


def main() -> None:
    spec = json.loads(sys.argv[1])
    # Before the first socket is made: whose it is, is what the rules ask.
    os.setgroups([])
    os.setresgid(spec["gid"], spec["gid"], spec["gid"])
    os.setresuid(spec["uid"], spec["uid"], spec["uid"])
    server = Server(spec["name"])
    for host, port, transparent in spec["tcp"]:
        server.listen(host, port, transparent=transparent)
    for host, port in spec["udp"]:
        server.take_datagrams(host, port)
    # Beside the calls, because the application may call itself.
    threading.Thread(target=server.serve, daemon=True).start()
    out = sys.stdout.buffer
    out.write(b"ready\n")
    out.flush()
    for asked in sys.stdin.buffer:
        order = json.loads(asked)
        answer = intrude(order) if order["do"] == "intrude" else call(order)
        out.write(line(answer))
        out.flush()


if __name__ == "__main__":
    main()
