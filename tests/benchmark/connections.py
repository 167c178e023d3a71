"""How many connections a second leave a pod whose rules stand."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import time
from typing import TYPE_CHECKING

from tests.benchmark.processes import enter_fresh_namespace, run
from tests.benchmark.visits import DEFAULT, SIZES, USE, ranges
from tests.namespace import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Mapping

# The address beyond the pod that connections are made to, in no excluded range
# but the last.
POD_SIDE, OTHER_SIDE, LAST_RANGE = "198.51.100.1", "198.51.100.2", "198.51.100.0/24"
PORT = 8080
CONNECTIONS = 6000
NUMBERS = (1, SIZES[0])


def connection_rates(environment: Mapping[str, str], rounds: int) -> dict[int, list[float]]:
    """Return how many connections a second leave a pod, by how many ranges are excluded.

    All are to the last of the ranges, so that a search through them would show.
    Without any, they would go to the proxy and not be the same connections.
    """
    found: dict[int, list[float]] = {number: [] for number in NUMBERS}
    for _ in range(rounds):
        for number in NUMBERS:
            excluded = ",".join(filter(None, (ranges(number - 1), LAST_RANGE)))
            found[number].append(_rate(excluded, environment))
    return found


def _rate(excluded: str, environment: Mapping[str, str]) -> float:
    """Return the connections a second between two namespaces of their own."""
    reading, writing = os.pipe()
    ending, ended = os.pipe()
    server = os.fork()
    if not server:
        os.close(ended)
        try:
            _serve(writing, ending)
        finally:
            os._exit(0)
    os.close(ending)
    try:
        os.read(reading, 1)
        enter_fresh_namespace()
        _ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(server))
        _ip("addr", "add", f"{POD_SIDE}/24", "dev", "eth0")
        _ip("link", "set", "eth0", "up")
        os.write(ended, b"+")
        os.read(reading, 1)
        rules = (*DEFAULT, *USE["nftables"], "-x", excluded)
        run((PROGRAM, "istio-iptables", *rules), environment)
        started = time.perf_counter()
        for _ in range(CONNECTIONS):
            with socket.create_connection((OTHER_SIDE, PORT), timeout=5) as one:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return CONNECTIONS / (time.perf_counter() - started)
    finally:
        for handle in (reading, writing, ended):
            os.close(handle)
        os.waitpid(server, 0)


def _serve(ready: int, told: int) -> None:
    """Take connections in a namespace of its own until nobody waits for more."""
    enter_fresh_namespace()
    os.write(ready, b"+")
    os.read(told, 1)
    _ip("addr", "add", f"{OTHER_SIDE}/24", "dev", "eth0")
    _ip("link", "set", "eth0", "up")
    with socket.create_server((OTHER_SIDE, PORT), backlog=1024) as listener:
        os.write(ready, b"+")
        for _ in range(CONNECTIONS):
            listener.accept()[0].close()


def _ip(*arguments: str) -> None:
    """Run ip, which says itself what is wrong."""
    subprocess.run(["ip", *arguments], check=True)
