"""--network-namespace: the rules stand in the namespace named, and nowhere else."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.namespace import PROGRAM, Namespace
from tests.snapshot import counted, tables_in_use

if TYPE_CHECKING:
    from collections.abc import Iterator

FLAGS = ("istio-iptables", "-m", "TPROXY", "-i", "*", "-b", "*", "--ipv6")


@contextmanager
def sleeper(pod: Namespace) -> Iterator[str]:
    """Keep a process in a namespace, by whose PID it can be named."""
    process = subprocess.Popen(pod.command(("sleep", "600")), env=pod.environment())
    try:
        # nsenter has entered the namespace once it has become sleep.
        while pod.run("cat", f"/proc/{process.pid}/comm").stdout != "sleep\n":
            pass
        yield str(process.pid)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("spelling", ["path", "name", "pid", "environment"])
def test_rules_land_in_the_namespace_named(spelling: str) -> None:
    with Namespace() as pod, Namespace() as node, Namespace() as expected, sleeper(pod) as pid:
        named = {"path": pod.path, "name": pod.name, "pid": pid}.get(spelling, pod.name)
        flags = () if spelling == "environment" else ("--network-namespace", named)
        env = {"NETWORK_NAMESPACE": named} if spelling == "environment" else {}
        expected.init(*FLAGS)
        # Without a PATH no program could be started in between.
        node.run(PROGRAM, *FLAGS, *flags, env=env)
        assert tables_in_use(node) == ""
        assert counted(pod) == counted(expected)
        node.run(PROGRAM, "clean", *flags, env=env)
        node.run(PROGRAM, "clean", *flags, env=env)
        cleaned, never_used = counted(pod), counted(node)

    assert cleaned == never_used


def test_the_addresses_that_count_are_those_of_the_namespace_named() -> None:
    flags = ("istio-iptables", "-i", "*")
    with Namespace() as pod, Namespace() as node:
        pod.run("ip", "address", "add", "fd00::5/128", "dev", "lo")
        node.run("ip", "address", "add", "10.0.0.5/32", "dev", "lo")
        node.init(*flags, "--network-namespace", pod.name)
        pods = tables_in_use(pod)
        pod.init(*flags, "--network-namespace", node.name)
        nodes = tables_in_use(node)

    # The pod with an IPv6 address has rules of both families.
    assert pods == "nat\nnat\n"
    assert nodes == "nat\n"


def test_no_program_is_needed_on_the_way() -> None:
    with Namespace() as pod, Namespace() as node:
        node.run("env", "PATH=", PROGRAM, *FLAGS, "--network-namespace", pod.name)
        assert tables_in_use(node) == ""
        assert "-A OUTPUT -j ISTIO_OUTPUT" in pod.rules("ipv4", "nat")


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("no-such-pod", "/run/netns/no-such-pod): No such file"),
        ("/no/such/path", "(/no/such/path): No such file"),
        ("4194305", "/proc/4194305/ns/net): No such file"),
        ("/etc/passwd", "(/etc/passwd): "),
        ("/proc/self/ns/mnt", "(/proc/self/ns/mnt): "),
        ("/", "(/): "),
    ],
)
def test_an_unknown_namespace_is_refused(named: str, why: str) -> None:
    with Namespace() as node:
        done = node.init(*FLAGS, "--network-namespace", named, check=False)
        clean = node.init("clean", "--network-namespace", named, check=False)
        tables = tables_in_use(node)

    for one in (done, clean):
        assert one.returncode == 1, one.stderr
        assert f"the network namespace {named} " in one.stderr
        assert why in one.stderr
        assert "ip netns lists" in one.stderr
        assert "Traceback" not in one.stderr
    assert tables == ""


def test_entering_takes_a_capability() -> None:
    limits = ("setpriv", "--bounding-set=-all,+net_admin,+net_raw", "--inh-caps=-all")
    with Namespace() as pod, Namespace() as node:
        flags = (*FLAGS, "--network-namespace", pod.name)
        done = node.run(*limits, PROGRAM, *flags, check=False)
        tables = tables_in_use(node) + tables_in_use(pod)

    assert done.returncode == 1
    assert "SYS_ADMIN" in done.stderr
    assert "Traceback" not in done.stderr
    assert tables == ""
