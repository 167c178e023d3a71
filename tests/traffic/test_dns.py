"""DNS queries: who answers them, and that two askers are not taken for one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.namespace import TOOLS
from tests.pod import (
    AGENT_PORT,
    APP,
    FAMILIES,
    LOOPBACK,
    OTHER_LOOPBACK,
    OTHER_RESOLVER,
    POD,
    PROXY,
    RESOLVER,
    UNANSWERED,
    Actor,
    Call,
    Landing,
    Pod,
    captured,
    direct,
    layout_1_30,
)
from tests.traffic.rows import Row, table

if TYPE_CHECKING:
    from tests.pod import Setup
    from tests.traffic.conftest import Pods

SERVERS = f"{RESOLVER.ipv4},{RESOLVER.ipv6}"
NAMED = layout_1_30("--redirect-dns", "--dns-servers", SERVERS)
ALL = layout_1_30("--redirect-dns", "--capture-all-dns")
LOCAL = layout_1_30(
    "--redirect-dns", "--dns-servers", f"{OTHER_LOOPBACK.ipv4},{OTHER_LOOPBACK.ipv6}"
)
SPARED = layout_1_30("--redirect-dns", "--capture-all-dns", "-o", "53")
GROUPS = ALL.with_env(ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE="2000")
OFF = layout_1_30()

MEMBER = Actor("member", uid=1000, gid=2000)


def by_agent(call: Call, family: str, *, relayed: str = "") -> Landing:
    """Return where a query lands that the agent gets."""
    if call.proto == "tcp":
        return captured(call, family, AGENT_PORT)
    # A datagram has lost its destination; the agent answers for every server.
    heard = LOOPBACK.spelled(family, AGENT_PORT)
    return Landing(f"proxy:{AGENT_PORT}", "datagram", heard, call.peer(family), relayed)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("proto", ["tcp", "udp"])
@pytest.mark.parametrize(
    ("setup", "query"),
    [
        pytest.param(NAMED, Call(APP, RESOLVER, 53), id="named server"),
        pytest.param(ALL, Call(APP, RESOLVER, 53), id="any server"),
        pytest.param(ALL, Call(APP, OTHER_RESOLVER, 53), id="any other server"),
        pytest.param(ALL, Call(APP, LOOPBACK, 53), id="any server, on loopback"),
        pytest.param(LOCAL, Call(APP, OTHER_LOOPBACK, 53), id="named server on loopback"),
        pytest.param(GROUPS, Call(APP, RESOLVER, 53), id="group not excluded"),
    ],
)
def test_the_agent_answers(pods: Pods, setup: Setup, query: Call, proto: str, family: str) -> None:
    call = replace(query, proto=proto)

    pods.of(setup).expect(call, family, by_agent(call, family))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("proto", ["tcp", "udp"])
@pytest.mark.parametrize(
    ("setup", "query"),
    [
        pytest.param(NAMED, Call(PROXY, RESOLVER, 53), id="the agent asks"),
        pytest.param(NAMED, Call(APP, OTHER_RESOLVER, 53), id="another server"),
        pytest.param(ALL, Call(PROXY, RESOLVER, 53), id="the agent asks any server"),
        pytest.param(SPARED, Call(APP, RESOLVER, 53), id="-o"),
        pytest.param(GROUPS, Call(MEMBER, RESOLVER, 53), id="excluded group"),
        pytest.param(OFF, Call(APP, RESOLVER, 53), id="off"),
    ],
)
def test_the_server_answers(pods: Pods, setup: Setup, query: Call, proto: str, family: str) -> None:
    call = replace(query, proto=proto)

    pods.of(setup).expect(call, family, direct(call, family))


@pytest.mark.parametrize("proto", ["tcp", "udp"])
@pytest.mark.parametrize("served", FAMILIES)
def test_only_the_family_of_the_servers_is_captured(pods: Pods, served: str, proto: str) -> None:
    pod = pods.of(layout_1_30("--redirect-dns", "--dns-servers", RESOLVER.address(served)))
    call = Call(APP, RESOLVER, 53, proto)

    for family in FAMILIES:
        landing = by_agent if family == served else direct
        pod.expect(call, family, landing(call, family))


WITH_OUTBOUND = layout_1_30("-i", "*", "--redirect-dns", "--dns-servers", SERVERS)
PROXY_TO_SELF = Call(PROXY, POD, 80)

# With DNS on, the rules for what stays in the pod are worded differently.
WITHIN = (
    Row("the application", WITH_OUTBOUND, Call(APP, POD, 80), PROXY_TO_SELF, 15006),
    Row("the proxy, DNS", WITH_OUTBOUND, Call(PROXY, POD, 53), PROXY_TO_SELF, 15006),
    Row(
        "the proxy, tunnel",
        WITH_OUTBOUND,
        Call(PROXY, POD, 15008),
        PROXY_TO_SELF,
        15006,
        spared_by="proxy",
    ),
)


@pytest.mark.parametrize(("row", "family"), table(WITHIN))
def test_calls_within_the_pod(pods: Pods, row: Row, family: str) -> None:
    row.check(pods.of(row.setup), family)


def relayed(family: str, port: int) -> Call:
    """Return a query that the agent passes on from the very port it came from."""
    query = {"relay": [RESOLVER.address(family), 53]}
    return Call(APP, RESOLVER, 53, "udp", source_port=port, query=query)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("setup", [NAMED, ALL], ids=["named server", "any server"])
def test_the_agent_may_ask_from_the_port_it_was_asked_from(setup: Setup, family: str) -> None:
    with Pod(setup) as pod:
        call = relayed(family, 40000)
        pod.expect(call, family, by_agent(call, family, relayed="outside:53"))

        # Without the zones its query is the application's, and comes back to it.
        pod.namespace.run(TOOLS[family], "-t", "raw", "-F")
        call = relayed(family, 40001)
        pod.expect(call, family, by_agent(call, family, relayed=f"proxy:{AGENT_PORT}"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("setup", [NAMED, ALL], ids=["named server", "any server"])
def test_an_answer_belongs_to_the_agents_query(setup: Setup, family: str) -> None:
    query = Call(PROXY, RESOLVER, 53, "udp")
    with Pod(setup) as pod:
        # A firewall that lets nothing in but answers.
        tool = TOOLS[family]
        only_answers = ["-p", "udp", "-m", "conntrack", "--ctstate", "NEW", "-j", "DROP"]
        pod.namespace.run(tool, "-A", "INPUT", "-i", "eth0", *only_answers)
        pod.expect(query, family, direct(query, family))

        # Looked for in another zone than the query's, the same answer is a stranger.
        pod.namespace.run(tool, "-t", "raw", "-F", "ISTIO_INBOUND")
        pod.expect(replace(query, seconds=0.5), family, UNANSWERED)
