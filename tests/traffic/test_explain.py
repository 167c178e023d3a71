"""What explain says is what the kernel does, for random packets under random rules."""

from __future__ import annotations

import random
import re
import socket
import struct
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self, TypeVar

from istio_init.config.model import LAYOUT_1_30
from istio_init.config.values import address
from istio_init.diagnose.packet import Packet, holds
from istio_init.diagnose.text import lines
from istio_init.diagnose.trace import NATIVE, Routes, Rules, Trace, trace
from istio_init.formats.save_reader import parse_save
from istio_init.operate import live
from istio_init.rules import matches as m
from istio_init.rules.model import BUILTIN_CHAINS, Rule
from istio_init.rules.ranges import FAMILIES, IPV4, IPV6, IdRange
from tests.inside import init, inside
from tests.namespace import BACKENDS
from tests.plans import plan_of
from tests.pod import (
    AGENT_PORT,
    APP_PORTS,
    CLIENT,
    CLIENT_HOST,
    ELSEWHERE,
    LOOPBACK,
    NEIGHBOUR,
    OTHER_LOOPBACK,
    OTHER_RESOLVER,
    OUTSIDE,
    OUTSIDE_ETH1,
    OUTSIDE_PORTS,
    PASSTHROUGH,
    POD,
    POD_ETH1,
    POD_VM0,
    RESOLVER,
    ROOT,
    ROOT_PROXY,
    VM,
    VM_HOST,
    Call,
    Landing,
    Pod,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from istio_init.rules.model import Plan
    from istio_init.rules.ranges import Family
    from tests.namespace import Namespace
    from tests.pod import Actor, Standin

T = TypeVar("T")

SEED = 15001
CONFIGURATIONS = 45
PACKETS = 46

OUTBOUND, OTHER_OUTBOUND = 15001, 15011
INBOUND, OTHER_INBOUND = 15006, 15016
TUNNEL, OTHER_TUNNEL = 15008, 15018
PROXY_PORTS = (OUTBOUND, OTHER_OUTBOUND, INBOUND, OTHER_INBOUND, TUNNEL, OTHER_TUNNEL)
MARK, OTHER_MARK, SELF_MARK = 1337, 0x10, 1338

IDS = (0, 1000, 1001, 1337, 1338, 2000)
OWN = (POD, POD_ETH1, POD_VM0, LOOPBACK, OTHER_LOOPBACK)
RESOLVERS = (RESOLVER, OTHER_RESOLVER)
ABROAD = (OUTSIDE, ELSEWHERE, *RESOLVERS, OUTSIDE_ETH1)
HOSTS = (*OWN, *ABROAD, CLIENT_HOST, VM_HOST)
# Nobody listens on the last.
PORTS = (22, 53, 80, 443, 8080, 8089, 15009, 9999)
CAPTURED_OR_NOT = ("redirected", "tproxy", "untouched")
# What there has to be at least some of, lest the test prove less than it says.
KINDS = (
    *(f"{family} tcp {fate}" for family in FAMILIES for fate in CAPTURED_OR_NOT),
    *(f"{family} udp {fate}" for family in FAMILIES for fate in ("redirected", "untouched")),
    "ipv6 tcp rejected",
)
INTERFACES = {"pods": "eth0", "eth1": "eth1", "vm0": "vm0", "lo": "lo"}
# Enough for any answer; what gets none is waited for that long.
SECONDS = 2.0
NO_ANSWER = 0.05
REFUSAL = ("nobody", "ECONNREFUSED")
SILENCE = ("nobody", "")


@dataclass(frozen=True)
class Sent:
    """A call, who makes it, and what explain makes of it."""

    call: Call
    family: Family
    packet: Packet
    routes: Routes


class AnyPod(Pod):
    """A pod whose proxy serves every port that any of the set-ups may choose."""

    def __init__(self) -> None:
        super().__init__()
        self.proxy = ROOT_PROXY

    def __enter__(self) -> Self:
        super().__enter__()
        # One error a second would be all that a caller hears of.
        self.namespace.run("sh", "-c", "echo 0 > /proc/sys/net/ipv6/icmp/ratelimit")
        return self

    def place(self, name: str) -> Namespace:
        """Return one of the namespaces around the pod."""
        return self._places[name]

    def reaches(self, sent: Sent, whom: tuple[str, str]) -> bool:
        """Whether a call lands where it is expected to."""
        if whom == SILENCE:
            # What is rejected may be told so, or not: the answer is a packet as any other.
            return self.send(sent, NO_ANSWER).by == "nobody"
        landing = self.send(sent, SECONDS)
        says_how = landing.by == "nobody" or landing.how == "datagram"
        return (landing.by, landing.how if says_how else landing.to) == whom

    def send(self, sent: Sent, seconds: float) -> Landing:
        """Make a call with the sockets of its caller's user and group."""
        call = replace(sent.call, seconds=seconds)
        order = self._order(call, sent.family)
        if call.caller.place != "pod":
            return Landing(**self._actor(call.caller).ask(order))
        order["owner"] = [call.caller.uid, call.caller.gid]
        return Landing(**self._actor(ROOT).ask(order))

    def _start_proxy(self) -> Standin:
        agent = [(LOOPBACK.address(family), AGENT_PORT) for family in FAMILIES]
        tcp = [(host, port, True) for host in ("0.0.0.0", "::") for port in PROXY_PORTS]
        return self._start(self.proxy, [*tcp, *((*one, False) for one in agent)], agent)


class Draw:
    """Random set-ups and packets; the same seed gives the same ones."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._source_port = 20_000

    def chance(self, percent: int) -> bool:
        return self._random.randrange(100) < percent

    def setup(self) -> tuple[str, ...]:
        """Return the arguments of a call of the program."""
        if self.chance(25):
            return self._layout_1_0()
        more: list[str] = []
        dns = self.chance(65)
        for percent, flag, value in (
            # The agent's answers find their way only if it is one of the proxy's.
            (100 if dns else 60, "-g", f"{self._ids()},{ROOT_PROXY.gid}" if dns else self._ids()),
            (20, "-e", str(OTHER_TUNNEL)),
            (40, "-q", self._ports()),
            (25, "-o", self._ports()),
            (25, "-c", self._pick(("eth1", "eth+", "vm0", "lo", "nothere,eth0"))),
            (25, "-k", self._pick(("vm0", "eth1", "vm0,eth1", "lo"))),
            (15, "--outbound-owner-groups", self._ids()),
            (20, "--outbound-owner-groups-exclude", self._ids()),
            (20, "--outbound-ipv4-loopback-cidr", "127.0.0.0/8"),
        ):
            if self.chance(percent):
                more += [flag, value]
        if dns:
            more.append("--redirect-dns")
            servers = [self._pick(RESOLVERS).address(family) for family in FAMILIES]
            if self.chance(50):
                more.append("--capture-all-dns")
            else:
                kept = self._pick((servers, servers[:1], servers[1:]))
                more += ["--dns-servers", ",".join(kept)]
        if self.chance(20):
            more.append("--drop-invalid")
        more.append(self._pick((*["--ipv6"] * 4, "--no-ipv6")))
        return ("istio-iptables", *self._common(), *more)

    def _layout_1_0(self) -> tuple[str, ...]:
        more = ["-g", self._ids()] if self.chance(60) else []
        return (*self._common(), *more, *(["--ipv6"] if self.chance(50) else []))

    def _common(self) -> tuple[str, ...]:
        found = ["-p", str(self._pick((OUTBOUND, OTHER_OUTBOUND)))]
        found += ["-u", self._ids(), "-m", self._pick(("REDIRECT", "TPROXY"))]
        for percent, flag, value in (
            (50, "-z", str(self._pick((INBOUND, OTHER_INBOUND)))),
            (90, "-i", "*" if self.chance(70) else self._cidrs()),
            (35, "-x", self._cidrs()),
            (85, "-b", "*" if self.chance(65) else self._ports()),
            (30, "-d", self._ports()),
            (20, "-t", str(OTHER_MARK)),
            (10, "-r", "200"),
        ):
            if self.chance(percent):
                found += [flag, value]
        return tuple(found)

    def _pick(self, of: Sequence[T]) -> T:
        return self._random.choice(of)

    def _ids(self) -> str:
        chosen = self._random.sample((*IDS, "1000-1001", "1337-2000"), self._pick((1, 1, 2)))
        return ",".join(str(one) for one in chosen)

    def _ports(self) -> str:
        chosen = self._random.sample((*PORTS, "8000:8100", "1-100"), self._pick((1, 2, 3)))
        return ",".join(str(one) for one in chosen)

    def _cidrs(self) -> str:
        hosts = self._random.sample(HOSTS, self._pick((1, 2, 3)))
        four = [f"{host.ipv4}/{self._pick((8, 16, 24, 29, 30, 31, 32))}" for host in hosts]
        six = [f"{host.ipv6}/{self._pick((16, 32, 64, 125, 126, 127, 128))}" for host in hosts]
        kept = self._pick(([*four, *six], four, six))
        return ",".join(kept)

    def packet(self, plan: Plan) -> Sent:
        """Return a call, and the packet that begins it."""
        family = self._pick((IPV4, IPV4, IPV6))
        self._source_port += 1
        draw = self._inbound if self.chance(35) else self._outbound
        return draw(family, plan)

    def _inbound(self, family: Family, plan: Plan) -> Sent:
        caller, source, to = self._pick(
            (
                (CLIENT, CLIENT_HOST, POD),
                (NEIGHBOUR, OUTSIDE, POD),
                (NEIGHBOUR, OUTSIDE_ETH1, POD_ETH1),
                (VM, VM_HOST, POD_VM0),
                # TPROXY takes the answers to what is forwarded for answers to the proxy.
                (VM, VM_HOST, POD_VM0 if plan.routes else OUTSIDE),
            )
        )
        call = Call(
            caller,
            to,
            self._pick((*PORTS, *PROXY_PORTS)),
            source=source,
            source_port=self._source_port,
        )
        interface = "vm0" if caller is VM else INTERFACES[to.network]
        packet = replace_ends(
            Packet(family, "PREROUTING", "tcp", None, None, iif=interface, owned=False),
            call,
            family,
        )
        return Sent(call, family, packet, Routes(plan.routes, "eth0", local=to.owner == "app"))

    def _outbound(self, family: Family, plan: Plan) -> Sent:
        proto = "udp" if self.chance(30) else "tcp"
        to = self._pick((*OWN, *ABROAD))
        port = self._pick((*PORTS, *PROXY_PORTS))
        if proto == "udp":
            to, port = self._pick(RESOLVERS), 53
            if self.chance(25) and not plan.ruleset(family).table("raw"):
                # With zones the agent's answer to this would begin a connection of its own.
                to, port = LOOPBACK, AGENT_PORT
        elif self.chance(20):
            port = 53
        caller = replace(ROOT, name="caller", uid=self._pick(IDS), gid=self._pick(IDS))
        source = LOOPBACK if to.network == "lo" else to if to in OWN else NEAR[to.network]
        mark = 0
        own_mark = {route.mark for route in plan.routes if route.family == family}
        if to in OWN and proto == "tcp":
            if plan.layout == LAYOUT_1_30 and own_mark and self.chance(30):
                mark = self._pick((*own_mark, SELF_MARK))
            if mark in own_mark and (to.network == "lo" or _spares_interfaces(plan, family)):
                # The answer to a client would find no way to whoever speaks in its name.
                mark = 0
            elif mark in own_mark:
                source = CLIENT_HOST
            elif self.chance(25) and (family == "ipv4" or plan.addresses):
                source = PASSTHROUGH
        call = Call(
            caller,
            to,
            port,
            proto,
            source=source,
            source_port=self._source_port,
            mark=mark,
        )
        interface = "lo" if to in OWN or mark in own_mark else INTERFACES[to.network]
        packet = Packet(
            family,
            "OUTPUT",
            proto,
            None,
            None,
            oif=interface,
            uid=caller.uid,
            gid=caller.gid,
            mark=mark,
        )
        routes = Routes(plan.routes, "lo" if to in OWN else interface)
        return Sent(call, family, replace_ends(packet, call, family), routes)


ADDRESS_OF = {"eth0": POD, "eth1": POD_ETH1, "vm0": POD_VM0}
NEAR = {"pods": POD, "eth1": POD_ETH1, "vm0": POD_VM0}


def _spares_interfaces(plan: Plan, family: Family) -> bool:
    return any(
        rule.reason.flag == "-c"
        for table in plan.ruleset(family).tables
        for chain in table.chains
        for rule in chain.rules
        if isinstance(rule, Rule)
    )


def replace_ends(packet: Packet, call: Call, family: Family) -> Packet:
    assert call.source is not None
    return packet.replace(
        source=address(call.source.address(family)).packed,
        destination=address(call.to.address(family)).packed,
        sport=call.source_port,
        dport=call.port,
        # Everybody listens on all addresses, not on a certain one.
        socket=False,
    )


def expected(sent: Sent, found: Trace) -> tuple[str, str]:
    """Return who answers, and where the call was going as far as that one can tell."""
    call, family = sent.call, sent.family
    to = call.to.spelled(family, call.port)
    if found.outcome.fate == "tproxy":
        # A transparent listener sees no more than where the packet goes now.
        moved = found.end.destination is None
        here = ADDRESS_OF[found.packet.iif or ""] if moved else call.to
        to = here.spelled(family, found.end.dport or 0)
    in_clients_name = call.source is CLIENT_HOST and call.mark > 0 and family == IPV4
    match found.outcome.fate:
        case "redirected" if in_clients_name:
            # It does arrive, as the counters tell, but 127.0.0.1 has no way back to a client.
            return SILENCE
        case "redirected" | "tproxy":
            by = f"proxy:{found.outcome.port}"
        case "untouched":
            by = f"{owner(call)}:{call.port}"
            if by.startswith("nobody"):
                return REFUSAL
        case "rejected":
            return SILENCE
        case _:
            raise AssertionError(found.outcome)
    if call.proto == "udp":
        return by, "datagram"
    return by, to


def owner(call: Call) -> str:
    """Return who serves at the destination of a call."""
    if call.to.owner == "outside":
        ports = OUTSIDE_PORTS if call.proto == "tcp" else (53,)
        return "outside" if call.port in ports else "nobody"
    if call.port in (*PROXY_PORTS, AGENT_PORT):
        return "proxy"
    return "app" if call.port in APP_PORTS else "nobody"


def shown(sent: Sent, found: Trace, setup: tuple[str, ...], backend: str) -> str:
    told = "\n".join("".join(text for text, _ in line) for line in lines(found, {}))
    return f"seed {SEED}: {' '.join(setup)} --backend {backend}\n{sent.call} {sent.family}\n{told}"


def read_live() -> dict[Family, tuple[Rules, ...]]:
    return {family: live.read(family).rules for family in FAMILIES}


def test_explain_says_what_the_kernel_does() -> None:
    draw = Draw(SEED)
    tried: Counter[str] = Counter()
    with AnyPod() as pod:
        claim: tuple[str, ...] = ()
        for number in range(CONFIGURATIONS):
            backend = BACKENDS[number % len(BACKENDS)]
            setup = draw.setup()
            plan = plan_of(*setup)
            # What anybody could have written goes only where a flag names it.
            init(pod.namespace, "clean", *claim, "--log_output_level", "error")
            claim = setup[setup.index("-c") :][:2] if "-c" in setup else ()
            init(pod.namespace, *setup, "--backend", backend, "--log_output_level", "error")
            standing = inside(pod.namespace, read_live)
            counts = Counts(pod, backend)
            for _ in range(PACKETS):
                sent = draw.packet(plan)
                of_plan = (Rules(plan.ruleset(sent.family)),)
                found = trace(of_plan, sent.packet, sent.routes)
                assert found.certain, shown(sent, found, setup, backend)
                by_live = trace(standing[sent.family], sent.packet, sent.routes)
                assert by_live.outcome == found.outcome, shown(sent, by_live, setup, backend)
                reached = pod.reaches(sent, expected(sent, found))
                assert reached, shown(sent, found, setup, backend)
                counts.add(sent.family, found)
                tried[f"{sent.family} {sent.call.proto} {found.outcome.fate}"] += 1
            counts.check(setup)
            if "-k" in setup:
                # Without its flags a later run could not tell some of its rules from others'.
                init(pod.namespace, "clean", *setup[1:])
    assert tried.total() >= 2000
    for kind in KINDS:
        assert tried[kind] >= 5, tried


# Every kind of match, in every hook where it may stand.

SENDINGS = 60
RULES_A_CHAIN = 6
HOOKS = {table: BUILTIN_CHAINS[table] for table in ("raw", "mangle", "nat", "filter")}
SENDER = ("-p", "udp", "-m", "multiport", "--dports", f"53,9999,{AGENT_PORT}")


class RuleDraw:
    """Random rules about one packet: each of their matches holds, or just does not."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def pick(self, of: Sequence[T]) -> T:
        return self._random.choice(of)

    def text(self, family: Family, redirect: int) -> str:
        """Return the input of iptables-restore; ``redirect`` is a port, 0 for none."""
        lines = []
        for table, chains in HOOKS.items():
            lines += [f"*{table}", *(f":{chain} ACCEPT" for chain in chains)]
            for chain in chains:
                lines += [self._rule(family, table, chain) for _ in range(RULES_A_CHAIN)]
            if table == "nat" and redirect:
                # On the way in the destination would become an address that is not known.
                lines.append(
                    f"-A OUTPUT -p udp -m udp --dport 53 -j REDIRECT --to-ports {redirect}"
                )
            lines.append("COMMIT")
        return "".join(f"{line}\n" for line in lines)

    def _rule(self, family: Family, table: str, chain: str) -> str:
        headers = [*self._addresses(family), *self._interfaces(chain)]
        kinds = [self._marks, self._ports, self._states]
        if chain in ("OUTPUT", "POSTROUTING"):
            kinds.append(self._owners)
        more = [
            word for kind in self._random.sample(kinds, self.pick((0, 1, 2))) for word in kind()
        ]
        return " ".join(("-A", chain, *headers, *SENDER, *more, *self._target(table)))

    def _bang(self) -> list[str]:
        return ["!"] if self._random.randrange(4) == 0 else []

    def _addresses(self, family: Family) -> list[str]:
        if self._random.randrange(3):
            return []
        host = self.pick((POD, RESOLVER, CLIENT_HOST, LOOPBACK)).address(family)
        length = self.pick((8, 24, 31, 32) if family == IPV4 else (16, 64, 127, 128))
        return [*self._bang(), self.pick(("-s", "-d")), f"{host}/{length}"]

    def _interfaces(self, chain: str) -> list[str]:
        if self._random.randrange(3):
            return []
        flags = {"PREROUTING": "-i", "INPUT": "-i", "OUTPUT": "-o", "POSTROUTING": "-o"}
        flag = flags.get(chain) or self.pick(("-i", "-o"))
        return [*self._bang(), flag, self.pick(("lo", "eth0", "eth+", "vm0"))]

    def _marks(self) -> list[str]:
        kind = self.pick(("mark", "connmark"))
        return ["-m", kind, *self._bang(), "--mark", self.pick(("0x0", "0x1", "0x0/0x2", "0x5"))]

    def _ports(self) -> list[str]:
        side = self.pick(("--sport", "--dport"))
        return ["-m", "udp", *self._bang(), side, self.pick(("53", "1:30000", "15053", "9999"))]

    def _states(self) -> list[str]:
        states = self.pick(("NEW", "INVALID", "ESTABLISHED", "RELATED,ESTABLISHED", "INVALID,NEW"))
        return ["-m", "conntrack", *self._bang(), "--ctstate", states]

    def _owners(self) -> list[str]:
        kind = self.pick(("--uid-owner", "--gid-owner"))
        return ["-m", "owner", *self._bang(), kind, self.pick(("1000", "0-999", "1337-2000"))]

    def _target(self, table: str) -> list[str]:
        targets: list[str] = []
        if table == "mangle":
            targets = ["MARK --set-xmark 0x1/0xffffffff", "MARK --set-xmark 0x4/0x4"]
            targets += ["CONNMARK --save-mark", "CONNMARK --restore-mark"]
        if table == "raw":
            targets = ["CT --zone 3", "CT --zone 4"]
        # Most rules only count.
        wanted = self.pick((*targets, *["ACCEPT", "RETURN"], *[""] * 12))
        return ["-j", *wanted.split()] if wanted else []


def test_every_match_in_every_hook_is_as_in_the_kernel() -> None:
    draw = RuleDraw(SEED)
    matched: Counter[str] = Counter()
    with AnyPod() as pod:
        for number in range(SENDINGS):
            family = draw.pick(FAMILIES)
            tool = "iptables-legacy" if family == IPV4 else "ip6tables-legacy"
            text = draw.text(family, draw.pick((0, AGENT_PORT)))
            pod.namespace.run(f"{tool}-restore", text=text)
            standing = pod.namespace.run(f"{tool}-save").stdout
            sent = datagram(draw, family, 30_000 + number)
            rules = (Rules(parse_save(standing, family), "legacy"),)
            found = trace(rules, sent.packet, sent.routes)
            pod.send(sent, NO_ANSWER)
            assert all(step.tried != "unknown" for step in found.steps), found
            tried = {(step.table, step.chain, step.number): step.tried for step in found.steps}
            for (_, table, chain, position), count in hits(pod, family, f"{tool}-save"):
                hit = tried.get((table, chain, position)) == "yes"
                place = (table, chain, position)
                assert count == hit, wrong(sent, found, standing, place, count)
                matched[f"{table} {chain}"] += hit
    # FORWARD needs two hosts more, and is none of a pod's.
    forward = {("mangle", "FORWARD"), ("filter", "FORWARD")}
    for table, chains in HOOKS.items():
        for chain in chains:
            assert matched[f"{table} {chain}"] or (table, chain) in forward, matched


ECHO = ("-p", "icmp", "-m", "owner", "!", "--uid-owner", "1337")


def test_whose_an_answer_of_the_kernels_own_is() -> None:
    owner = m.Owner("uid", IdRange(1337, 1337), negated=True)
    answer = Packet(IPV4, "OUTPUT", "icmp", None, None, owned=False)
    with AnyPod() as pod:
        for backend in ("legacy", "nft"):
            pod.namespace.run(f"iptables-{backend}", "-t", "mangle", "-A", "OUTPUT", *ECHO)
        pod.namespace.run(
            "nft",
            "add table inet t; add chain inet t o { type filter hook output priority 0; };"
            "add rule inet t o meta l4proto icmp meta skuid != 1337 counter",
        )
        inside(pod.place("client"), echo)

        for backend in ("legacy", "nft"):
            counted = dict(hits(pod, IPV4, f"iptables-{backend}-save"))
            assert counted[IPV4, "mangle", "OUTPUT", 1] == holds(owner, answer) == 1
        assert "packets 0 " in pod.namespace.run("nft", "list", "table", "inet", "t").stdout
        assert not holds(owner, answer, native=True)


def echo() -> None:
    """Have the pod's kernel answer an echo request."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as wire:
        wire.settimeout(SECONDS)
        # Type 8 (echo request), the checksum of type, number and sequence, number, sequence.
        wire.sendto(struct.pack("!BBHHH", 8, 0, 0xFFFF - 0x0802, 1, 1), (POD.ipv4, 0))
        assert wire.recv(100)


def datagram(draw: RuleDraw, family: Family, source_port: int) -> Sent:
    """Return a datagram, out of the pod, within it or into it."""
    caller: Actor = replace(ROOT, name="caller", uid=draw.pick(IDS), gid=draw.pick(IDS))
    source, to, port, interface = draw.pick(
        (
            (POD, RESOLVER, 53, "eth0"),
            (POD, OUTSIDE, 9999, "eth0"),
            (POD, POD, 9999, "lo"),
            (LOOPBACK, LOOPBACK, AGENT_PORT, "lo"),
            (CLIENT_HOST, POD, 9999, "eth0"),
            (CLIENT_HOST, POD, 53, "eth0"),
        )
    )
    inward = source is CLIENT_HOST
    call = Call(
        CLIENT if inward else caller, to, port, "udp", source=source, source_port=source_port
    )
    packet = (
        Packet(family, "PREROUTING", "udp", None, None, iif=interface, owned=False)
        if inward
        else Packet(
            family, "OUTPUT", "udp", None, None, oif=interface, uid=caller.uid, gid=caller.gid
        )
    )
    away = "eth0" if interface == "eth0" else "lo"
    return Sent(call, family, replace_ends(packet, call, family), Routes((), away))


def wrong(sent: Sent, found: Trace, standing: str, place: tuple[str, str, int], count: int) -> str:
    told = "\n".join("".join(text for text, _ in line) for line in lines(found, {}))
    return f"seed {SEED}: {place} has {count}\n{sent.call} {sent.family}\n{told}\n{standing}"


def hits(pod: Pod, family: Family, tool: str) -> Iterator[tuple[tuple[str, str, str, int], int]]:
    """Yield each rule, by family, table, chain and number, and how often it has matched."""
    table = ""
    numbers: Counter[str] = Counter()
    for line in pod.namespace.run(tool, "-c").stdout.splitlines():
        if line.startswith("*"):
            table = line[1:]
            numbers.clear()
        elif rule := re.match(r"\[(\d+):\d+\] -A (\S+)", line):
            numbers[rule[2]] += 1
            yield (family, table, rule[2], numbers[rule[2]]), int(rule[1])


class Counts:
    """How often each rule has to have matched, and how often it has."""

    def __init__(self, pod: Pod, backend: str) -> None:
        self._pod = pod
        self._backend = backend
        self._expected: Counter[tuple[str, str, str, int]] = Counter()
        self._astray = 0
        for tool in ("iptables", "ip6tables") if backend != NATIVE else ():
            for table in ("raw", "mangle", "nat"):
                pod.namespace.run(f"{tool}-{backend}", "-t", table, "-Z")

    def add(self, family: Family, found: Trace) -> None:
        for step in found.steps:
            if step.tried == "yes":
                self._expected[family, step.table, step.chain, step.number] += 1
        # The server's answer is looked for in the agent's zone, and is new there.
        self._astray += found.outcome.fate == "untouched" and found.end.zone > 0

    def check(self, setup: tuple[str, ...]) -> None:
        if self._backend == NATIVE:
            return
        for family in FAMILIES:
            tool = f"{'iptables' if family == 'ipv4' else 'ip6tables'}-{self._backend}-save"
            for place, count in hits(self._pod, family, tool):
                wanted = self._expected[place]
                # Only nat sees the first packet of a connection alone.
                most = wanted + self._astray if place[1] == "nat" else count
                right = wanted <= count <= most
                assert right, f"{place}: {count} packets, not {wanted}: {' '.join(setup)}"
