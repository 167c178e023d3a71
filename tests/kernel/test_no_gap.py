"""Re-applied under load, not one connection passes beside the proxy, and none fails.

A stand-in for the proxy answers with its name on the ports that connections are
led to. Two loops connect without a pause: an application's, outwards, and a
client's from outside, inwards, each over IPv4 and IPv6. Where they wanted to go
somebody listens too and answers with another name, so that an escape is seen.
"""

from __future__ import annotations

import mmap
import os
import selectors
import socket
import struct
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

import pytest

from istio_init.apply import stages
from istio_init.formats.nf_tables import messages
from istio_init.kernel import nfnetlink
from tests.inside import Process, init, inside, run_program
from tests.namespace import BACKENDS, Namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from istio_init.formats.nf_tables.messages import Message

PROXY_UID, APP_UID = 1337, 1000
POD = ("192.0.2.1", "2001:db8::1")
OUTSIDE = ("192.0.2.2", "2001:db8::2")
PORT = 8080
NAMES = (b"outbound", b"inbound_", b"outside_", b"app_____")
OUTBOUND, INBOUND, BESIDE_OUT, BESIDE_IN = NAMES
# Closing with an RST keeps thousands of connections a second from piling up.
AT_ONCE = struct.pack("ii", 1, 0)
# A connection that takes longer has failed; a SYN that was dropped is sent again
# after a second.
SECONDS = 5.0
PAUSE = 0.0003
_IPV6_TRANSPARENT = 75

NEW = ("istio-iptables", "-b", "*", "--ipv6", "-u", "1337")
BASE = (*NEW, "-i", "*")
TPROXY = ("-m", "TPROXY")
# Each captures what the loops do; together they change every chain and, with the
# mode, the table in which inbound connections are captured. Ranges and ports are
# several, so that nf_tables looks them up in sets.
SOME = "192.0.2.0/24,203.0.113.0/25,2001:db8::/64,fd00:1::/32"
OTHERS = "192.0.2.0/25,198.51.100.0/24,100.64.0.0/10,2001:db8::/60,fd00:2::/32"
CALLS = (
    (*NEW, "-i", SOME, "-d", "9999,9990"),
    (*BASE, *TPROXY, "-d", "9999"),
    (*NEW, "-i", OTHERS, "-o", "7777,7779", "-x", "203.0.113.128/25,198.18.0.0/15"),
)
NEW_IPV4 = ("istio-iptables", "-b", "*", "--no-ipv6", "-u", "1337", "-i", "*")
OLD = ("-p", "15001", "-u", "1337", "-i", "*", "-b", "*")
LEAST = 100_000
TURNS = 150


class Tally:
    """Counters that the loops write and the test reads."""

    _FIELDS = ("done", "escaped", "failed")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 4096)

    def add(self, field: str) -> None:
        """Count one more; each field has one writer."""
        start = self._FIELDS.index(field) * 8
        value = int.from_bytes(self._memory[start : start + 8], "little") + 1
        self._memory[start : start + 8] = value.to_bytes(8, "little")

    def __getattr__(self, field: str) -> int:
        start = self._FIELDS.index(field) * 8
        return int.from_bytes(self._memory[start : start + 8], "little")

    @property
    def spoiled(self) -> int:
        """How many connections did not end at the proxy."""
        return self.escaped + self.failed


def listener(port: int) -> socket.socket:
    """Return a socket that takes connections of both families, to any address."""
    found = socket.socket(socket.AF_INET6)
    found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    found.setsockopt(socket.SOL_IP, socket.IP_TRANSPARENT, 1)
    found.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
    found.bind(("::", port))
    found.listen(1024)
    return found


def answer(names: dict[int, bytes], *, uid: int = 0) -> Callable[[Callable[[], None]], None]:
    """Return an action that answers on each port with a name, for ever."""

    def action(ready: Callable[[], None]) -> None:
        waiting = selectors.DefaultSelector()
        for port, name in names.items():
            found = listener(port)
            waiting.register(found, selectors.EVENT_READ, (found, name))
        os.setresuid(uid, uid, uid)
        ready()
        while True:
            for key, _ in waiting.select():
                found, name = key.data
                with found.accept()[0] as one:
                    one.send(name)

    return action


def connect_for_ever(
    addresses: tuple[str, ...], wanted: bytes, tally: Tally
) -> Callable[[Callable[[], None]], None]:
    """Return an action that connects to each address in turn and counts who answered."""

    def action(ready: Callable[[], None]) -> None:
        ready()
        while True:
            for address in addresses:
                tally.add(_ask(address, wanted))
            # Leaves the processor to those who make the gap, if there is one.
            time.sleep(PAUSE)

    return action


def _ask(address: str, wanted: bytes) -> str:
    try:
        with socket.create_connection((address, PORT), timeout=SECONDS) as one:
            name = one.recv(len(wanted), socket.MSG_WAITALL)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
    except OSError:
        return "failed"
    if name == wanted:
        return "done"
    return "escaped" if name in NAMES else "failed"


class Traffic:
    """A pod under load: its namespace, and the counters of both loops."""

    def __init__(self, inbound: bytes = INBOUND, addresses: int = 2) -> None:
        self.tallies = (Tally(), Tally())
        # The old layout leads all to one port, and knows IPv4 alone.
        self._inbound, self._addresses = inbound, addresses

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.pod = stack.enter_context(Namespace())
            self._outside = stack.enter_context(Namespace())
            self._connect()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _connect(self) -> None:
        pod, outside = self.pod, self._outside
        pod.run(*f"ip link add eth0 type veth peer name eth0 netns {outside.name}".split())
        for here, (ipv4, ipv6) in ((pod, POD), (outside, OUTSIDE)):
            here.run("ip", "address", "add", f"{ipv4}/24", "dev", "eth0")
            here.run("ip", "address", "add", f"{ipv6}/64", "dev", "eth0", "nodad")
            here.run("ip", "link", "set", "eth0", "up")
            here.run("sh", "-c", "echo 1 > /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close")

    def start(self) -> None:
        """Start everybody who answers, then the loops."""
        pod, outside, (outwards, inwards) = self.pod, self._outside, self.tallies
        self._begin(pod, answer({15001: OUTBOUND, 15006: self._inbound}, uid=PROXY_UID))
        self._begin(pod, answer({PORT: BESIDE_IN}))
        self._begin(outside, answer({PORT: BESIDE_OUT}))
        there, here = OUTSIDE[: self._addresses], POD[: self._addresses]
        self._begin(pod, connect_for_ever(there, OUTBOUND, outwards), uid=APP_UID)
        self._begin(outside, connect_for_ever(here, self._inbound, inwards))

    def _begin(
        self, pod: Namespace, action: Callable[[Callable[[], None]], None], uid: int = 0
    ) -> None:
        self._stack.enter_context(Process(pod, action, uid=uid)).wait_until_ready()

    @property
    def spoiled(self) -> int:
        """How many connections did not end at the proxy."""
        return sum(tally.spoiled for tally in self.tallies)

    @property
    def done(self) -> int:
        """How many connections ended where they should."""
        return sum(tally.done for tally in self.tallies)

    @property
    def counts(self) -> tuple[int, int]:
        """How many connections escaped and how many failed."""
        return sum(one.escaped for one in self.tallies), sum(one.failed for one in self.tallies)

    def wait_for_more(self, count: int) -> None:
        """Return when each loop has had that many more answers."""
        goals = [tally.done + tally.spoiled + count for tally in self.tallies]
        while any(
            tally.done + tally.spoiled < goal
            for tally, goal in zip(self.tallies, goals, strict=True)
        ):
            time.sleep(0.0005)


def cycle(
    traffic: Traffic,
    turns: Sequence[Sequence[tuple[str, ...]]],
    times: int,
    *,
    least: int = 0,
    more: int = 1,
) -> int:
    """Take turns until a connection is spoiled, or ``times``; return how many were taken.

    The calls of a turn follow each other at once. ``least`` connections are spread
    over all turns, ``more`` are made in each direction after each.
    """
    before = traffic.done
    for taken in range(times):
        if traffic.spoiled:
            return taken
        for call in turns[taken % len(turns)]:
            done = run_program(*call)
            assert done.code == 0, done
        traffic.wait_for_more(more)
        while traffic.done - before < least * (taken + 1) // times and not traffic.spoiled:
            time.sleep(0.001)
    return times


def for_backend(backend: str) -> list[tuple[str, ...]]:
    return [(*argv, "--backend", backend) for argv in CALLS]


@pytest.mark.parametrize("backend", BACKENDS)
def test_reapplied_150_times_without_an_escape(backend: str) -> None:
    calls = for_backend(backend)
    with Traffic() as traffic:
        init(traffic.pod, *calls[-1])
        traffic.start()
        turns = [[call] for call in calls]
        taken = inside(traffic.pod, lambda: cycle(traffic, turns, TURNS, least=LEAST))
        # And as a container would: the program itself, from its start.
        for call in calls:
            traffic.pod.init(*call)
            traffic.wait_for_more(1)
        counts, made = traffic.counts, traffic.done

    assert counts == (0, 0), counts
    assert taken == TURNS
    assert made >= LEAST


# Rules that stand when a run begins, and those that it is to put in their place.
MODES = {
    "from one mode to the other": (OLD, (*OLD, *TPROXY)),
    "from one layout to the other": (OLD, NEW_IPV4),
    "and with TPROXY": ((*OLD, *TPROXY), (*NEW_IPV4, *TPROXY)),
    "and from TPROXY to REDIRECT": ((*OLD, *TPROXY), NEW_IPV4),
}


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_old_layout_changes_without_an_escape(backend: str, modes: str) -> None:
    calls = [(*call, "--backend", backend) for call in MODES[modes]]
    with Traffic(OUTBOUND, addresses=1) as traffic:
        init(traffic.pod, *calls[-1])
        traffic.start()
        turns = [[call] for call in calls]
        taken = inside(traffic.pod, lambda: cycle(traffic, turns, 30, more=50))
        counts = traffic.counts

    assert counts == (0, 0), counts
    assert taken == 30


MOVES = {"redirect": (BASE, INBOUND, 2), "tproxy": ((*BASE, *TPROXY), INBOUND, 2)}
MOVES |= {"old redirect": (OLD, OUTBOUND, 1), "old tproxy": ((*OLD, *TPROXY), OUTBOUND, 1)}


@pytest.mark.parametrize("mode", MOVES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_moved_between_backends_without_an_escape(backend: str, mode: str) -> None:
    base, inbound, addresses = MOVES[mode]
    others = [other for other in BACKENDS if other != backend]
    calls = [(*base, "--backend", one) for other in others for one in (other, backend)]
    with Traffic(inbound, addresses) as traffic:
        init(traffic.pod, *calls[-1])
        traffic.start()
        turns = [[call] for call in calls]
        taken = inside(traffic.pod, lambda: cycle(traffic, turns, 20, more=50))
        counts = traffic.counts

    assert counts == (0, 0), counts
    assert taken == 20


@pytest.mark.parametrize("backend", BACKENDS)
def test_deleting_first_is_seen_as_a_gap(backend: str) -> None:
    build = for_backend(backend)[0]
    with Traffic() as traffic:
        init(traffic.pod, *build)
        traffic.start()
        taken = inside(traffic.pod, lambda: cycle(traffic, [[("clean",), build]], 200))
        counts = traffic.counts

    assert counts != (0, 0), f"deleted and built again {taken} times, and nobody noticed"


def test_sets_made_with_the_rules_that_use_them_are_seen_as_a_gap() -> None:
    calls = for_backend("nftables")[::2]
    with Traffic() as traffic:
        init(traffic.pod, *calls[-1])
        traffic.start()
        taken = inside(traffic.pod, lambda: _all_in_one_transaction(traffic, calls))
        counts = traffic.counts

    assert counts != (0, 0), f"applied {taken} times, and nobody noticed"


def _all_in_one_transaction(traffic: Traffic, calls: Sequence[tuple[str, ...]]) -> int:
    commit = nfnetlink.commit
    waiting: list[Message] = []

    def at_once(batch: Sequence[Message], made_for: int | None = None) -> None:
        sets = {messages.NEW_TABLE, messages.NEW_SET, messages.NEW_ELEMENT}
        waiting.extend(batch)
        if not {one.kind for one in batch} <= sets:
            commit(tuple(waiting), made_for)
            waiting.clear()

    nfnetlink.commit = at_once
    return cycle(traffic, [[call] for call in calls], 2000)


def test_both_modes_at_once_are_seen_as_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "between_modes", lambda _before, _after: ())
    calls = [(*call, "--backend", "legacy") for call in (OLD, (*OLD, *TPROXY))]
    with Traffic(OUTBOUND, addresses=1) as traffic:
        init(traffic.pod, *calls[-1])
        traffic.start()
        taken = inside(traffic.pod, lambda: cycle(traffic, [[call] for call in calls], 500))
        counts = traffic.counts

    assert counts != (0, 0), f"changed {taken} times, and nobody noticed"
