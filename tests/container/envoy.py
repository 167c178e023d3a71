"""The proxy that people run, in a pod with an application and neighbours that speak HTTP.

Envoy is set up as Istio sets it up, cut down to what the rules have to do with.
Each listener adds a header to the response: whoever called learns from it alone
by which ways the request went, and what Envoy knew of it.
"""

from __future__ import annotations

import functools
import http.client
import json
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_IPV6,
    IPV6_V6ONLY,
    SO_REUSEADDR,
    SOL_SOCKET,
)
from typing import TYPE_CHECKING, Any

import envoy

from tests.inside import Process, inside
from tests.namespace import public_folder
from tests.pod import APP, FAMILIES, NEIGHBOUR, PASSTHROUGH, PATIENCE, POD, Pod

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.container.runtime import Runtime
    from tests.namespace import Namespace
    from tests.pod import Actor, Call, Server, Setup

HEADER = "x-proxy"
OUTBOUND_PORT, INBOUND_PORT = 15001, 15006
APP_PORTS, OUTSIDE_PORTS = (80, 8080, 8081), (80, 3306)
# By these names the application calls a service of which it is an endpoint itself.
SELF = {"ipv4": "self.ipv4.example", "ipv6": "self.ipv6.example"}
ANY = {"ipv4": "0.0.0.0", "ipv6": "::"}
_TYPES = "type.googleapis.com/envoy.extensions.filters"
_SAYS = "%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"


@dataclass(frozen=True)
class Answer:
    """What became of a request: who answered, whom he saw, and by which listeners it went.

    ``ways`` holds for each listener its name, where the request was going and
    where it came from, as far as Envoy could tell; the one nearest to the
    server stands first.
    """

    by: str
    peer: str
    ways: tuple[str, ...] = ()


def address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def filter_of(kind: str, name: str, **settings: object) -> dict[str, Any]:
    """Return a filter of ``kind``, network, listener or http, as Envoy wants it."""
    package = name.rpartition(".")[2]
    title = {
        "http_connection_manager": "HttpConnectionManager",
        "tcp_proxy": "TcpProxy",
        "original_dst": "OriginalDst",
        "original_src": "OriginalSrc",
        "router": "Router",
    }[package]
    typed = {"@type": f"{_TYPES}.{kind}.{package}.v3.{title}", **settings}
    return {"name": f"envoy.filters.{kind}.{package}", "typed_config": typed}


def listener(way: str, cluster: str, host: str, port: int, **settings: object) -> dict[str, Any]:
    """Return a listener that sends every request on, and says so."""
    header = {"header": {"key": HEADER, "value": f"{way} {_SAYS}"}}
    to_self = [
        {"name": name, "domains": [name], "routes": [_route(name)]} for name in SELF.values()
    ]
    to_all = {"name": "all", "domains": ["*"], "routes": [_route(cluster)]}
    manager = filter_of(
        "network",
        "http_connection_manager",
        stat_prefix=way,
        http_filters=[filter_of("http", "router")],
        route_config={
            "response_headers_to_add": [header],
            "virtual_hosts": [*to_self, to_all] if way == "outbound" else [to_all],
        },
    )
    # A request for one of Envoy's own ports would be sent to itself for ever.
    nowhere = filter_of("network", "tcp_proxy", stat_prefix="nowhere", cluster="nowhere")
    own = [
        {"filter_chain_match": {"destination_port": one}, "filters": [nowhere]}
        for one in (OUTBOUND_PORT, INBOUND_PORT)
    ]
    return {
        "name": f"{way} {host}",
        "address": address(host, port),
        "filter_chains": [*own, {"filters": [manager]}],
        **settings,
    }


def _route(cluster: str) -> dict[str, Any]:
    return {"match": {"prefix": "/"}, "route": {"cluster": cluster}}


def cluster(name: str, *, source: str | None = None, to: str | None = None) -> dict[str, Any]:
    """Return a cluster of the original destination, or of port 80 of the host ``to``."""
    found: dict[str, Any] = {"name": name, "connect_timeout": "5s"}
    if to is None:
        found |= {"type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"}
    else:
        endpoint = {"endpoint": {"address": address(to, 80)}}
        endpoints = [{"lb_endpoints": [endpoint]}]
        found |= {
            "type": "STATIC",
            "load_assignment": {"cluster_name": name, "endpoints": endpoints},
        }
    if source:
        bound = {"address": source, "port_value": 0}
        found["upstream_bind_config"] = {"source_address": bound}
    return found


def layout_1_30(setup: Setup) -> dict[str, Any]:
    """Return what Istio's agent tells Envoy since there are two ports."""
    listeners, clusters = [], [{"name": "nowhere", "type": "STATIC"}, cluster("passthrough")]
    original = filter_of("listener", "original_dst")
    # The mark by which the rules know what goes on in the client's name.
    as_client = filter_of("listener", "original_src", mark=1337)
    for family in FAMILIES:
        inbound = f"inbound {family}"
        listeners += [
            listener("outbound", "passthrough", ANY[family], OUTBOUND_PORT, use_original_dst=True),
            listener(
                "inbound",
                inbound,
                ANY[family],
                INBOUND_PORT,
                listener_filters=[original, as_client] if setup.transparent else [original],
                transparent=bool(setup.transparent),
            ),
        ]
        source = None if setup.transparent else PASSTHROUGH.address(family)
        clusters.append(cluster(inbound, source=source))
        clusters.append(cluster(SELF[family], to=POD.address(family)))
    return {"static_resources": {"listeners": listeners, "clusters": clusters}}


def layout_1_0(_: Setup) -> dict[str, Any]:
    """Return what Istio told Envoy when there was one port.

    Which way a connection goes is told by its destination: for each port of the
    pod there is a listener that is bound to none.
    """
    listeners = [
        listener("outbound", "passthrough", ANY["ipv4"], OUTBOUND_PORT, use_original_dst=True),
        listener("inbound", "app", POD.ipv4, 80, bind_to_port=False),
    ]
    clusters = [
        {"name": "nowhere", "type": "STATIC"},
        cluster("passthrough"),
        cluster("app", to="127.0.0.1"),
        *(cluster(name, to=POD.address(family)) for family, name in SELF.items()),
    ]
    return {"static_resources": {"listeners": listeners, "clusters": clusters}}


@functools.cache
def binary() -> str:
    """Return Envoy's program, where every user can run it."""
    return str(shutil.copy(Path(envoy.__file__).parent / "_bin" / "envoy", public_folder()))


def arguments(config: dict[str, Any]) -> tuple[str, ...]:
    """Return the arguments that make Envoy run with a configuration."""
    own = ("--concurrency", "1", "--log-level", "warning", "--disable-hot-restart")
    # JSON is YAML; on the command line it needs no file that the user may read.
    return (*own, "--config-yaml", json.dumps(config))


def bound_ports(config: dict[str, Any]) -> list[int]:
    """Return the ports that Envoy listens on, each once for every address."""
    listeners = [
        one for one in config["static_resources"]["listeners"] if one.get("bind_to_port", True)
    ]
    addresses = [
        address for one in listeners for address in (one, *one.get("additional_addresses", ()))
    ]
    return [one["address"]["socket_address"]["port_value"] for one in addresses]


class Envoy:
    """A running Envoy that listens on ``ports``; gone with its ``close``."""

    def __init__(
        self, pod: Namespace, user: Actor, argv: Sequence[str], ports: Sequence[int]
    ) -> None:
        self._pod, self._ports = pod, ports
        self._process = subprocess.Popen(
            pod.command([binary(), *argv], uid=user.uid, gid=user.gid),
            env=pod.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE
        wanted = " or ".join(f"sport = :{port}" for port in self._ports)
        while time.monotonic() < deadline and self._process.poll() is None:
            lines = self._pod.run("ss", "-Hltn", wanted).stdout.splitlines()
            # Each of Envoy's threads has a socket of its own for the same address.
            if len({line.split()[3] for line in lines}) == len(self._ports):
                return
            time.sleep(0.05)
        self._process.kill()
        raise AssertionError(f"Envoy did not come up: {self._process.communicate()[1]}")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=PATIENCE)


class Handler(BaseHTTPRequestHandler):
    """Answers with its name, its port and the address of whoever asks."""

    name = ""

    def do_GET(self) -> None:
        _, port, *_ = self.connection.getsockname()
        body = json.dumps([f"{self.name}:{port}", self.client_address[0]]).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: a test shows what it got."""


class WebServer(ThreadingHTTPServer):
    """Listens in one family alone."""

    def __init__(self, family: str, port: int, handler: type[Handler]) -> None:
        self.address_family = AF_INET if family == "ipv4" else AF_INET6
        super().__init__((ANY[family], port), handler, bind_and_activate=False)
        if family == "ipv6":
            self.socket.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1)
        self.server_bind()
        self.server_activate()

    def server_bind(self) -> None:
        """Bind, without asking anybody for the host's name."""
        self.socket.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()


def serve(name: str, ports: Sequence[int]) -> Callable[[Callable[[], None]], None]:
    """Return an action that serves on these ports, in both families, until it is ended."""

    def action(ready: Callable[[], None]) -> None:
        handler = type("Named", (Handler,), {"name": name})
        servers = [WebServer(family, port, handler) for family in FAMILIES for port in ports]
        for server in servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        ready()
        threading.Event().wait()

    return action


class EnvoyPod(Pod):
    """A pod with Envoy for its proxy, whose rules can be put in place again and again.

    Envoy is set up for the layout of ``setup``, unless ``config`` says how.
    """

    def __init__(
        self, setup: Setup, runtime: Runtime | None = None, config: dict[str, Any] | None = None
    ) -> None:
        super().__init__(setup)
        self._runtime = runtime
        self._config = config

    def apply(self, backend: str, by: str) -> None:
        """Put the rules in place in this backend, by the ``image`` or by the ``program``."""
        assert self.setup
        arguments = (*self.setup.argv, "--backend", backend)
        if by == "image":
            assert self._runtime
            done = self._runtime.run(*arguments, pod=self.namespace)
            assert done.returncode == 0, done.stderr
        else:
            self.namespace.init(*arguments)

    def get(self, call: Call, family: str, host: str = "") -> Answer:
        """Make a request; return what became of it."""
        to = call.to.address(family)

        def action() -> Answer:
            connection = http.client.HTTPConnection(to, call.port, timeout=call.seconds)
            connection.request("GET", "/", headers={"host": host} if host else {})
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200, (response.status, body, response.getheaders())
            by, peer = json.loads(body)
            return Answer(by, peer, tuple(response.headers.get_all(HEADER, ())))

        return inside(self._places[call.caller.place], action, uid=call.caller.uid)

    def expect_answer(self, call: Call, family: str, answer: Answer, host: str = "") -> None:
        """Make a request that must get this answer; show the rules where it does not."""
        __tracebackhide__ = True
        found = self.get(call, family, host)
        assert found == answer, f"{call.described(family)}\n{found}\n{answer}\n{self.rules()}"

    def _servers(self) -> Sequence[Server]:
        assert self.setup
        layout = layout_1_30 if self.setup.argv[0] == "istio-iptables" else layout_1_0
        config = self._config or layout(self.setup)
        self.envoy = self._envoy(arguments(config), bound_ports(config))
        return [
            self.envoy,
            self._web(APP, APP_PORTS),
            self._web(NEIGHBOUR, OUTSIDE_PORTS),
        ]

    def _envoy(self, argv: Sequence[str], ports: Sequence[int]) -> Envoy:
        assert self.setup
        envoy = Envoy(self.namespace, self.setup.proxy, argv, ports)
        self._stack.callback(envoy.close)
        return envoy

    def _web(self, actor: Actor, ports: Sequence[int]) -> Server:
        process = Process(self._places[actor.place], serve(actor.name, ports), uid=actor.uid)
        return self._stack.enter_context(process)

    def _lead(self, setup: Setup) -> None:
        """Leave that to the test."""
