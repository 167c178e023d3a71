"""--run-validation: a real connection, and the name of the path by which it does not arrive."""

from __future__ import annotations

import re
import socket
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.inside import Done, init, inside, run_program
from tests.namespace import BACKENDS, Namespace, program_for_all

if TYPE_CHECKING:
    from collections.abc import Callable

USERS = ("-u", "1337", "-g", "1337")
BASE = ("istio-iptables", *USERS, "-i", "*", "-b", "*")
NEW = (*BASE, "--ipv6")
IPV4 = (*BASE, "--no-ipv6")
SETUPS = {
    "1.0": ((*USERS, "-i", "*", "-b", "*"), ("ipv4",), "15001"),
    "1.0-tproxy": ((*USERS, "-i", "*", "-b", "*", "-m", "TPROXY"), ("ipv4",), "15001"),
    "1.30": (NEW, ("ipv4", "ipv6"), "15006"),
    "1.30-tproxy": ((*NEW, "-m", "TPROXY"), ("ipv4", "ipv6"), "15006"),
    "1.30-ipv4": (IPV4, ("ipv4",), "15006"),
    "1.30-dns": ((*NEW, "--redirect-dns", "--capture-all-dns"), ("ipv4", "ipv6"), "15006"),
    "1.30-ports": ((*NEW, "-p", "15011", "-z", "15016"), ("ipv4", "ipv6"), "15016"),
    "1.30-users": ((*NEW, "-u", "1337,1338", "-g", "1338,1337"), ("ipv4", "ipv6"), "15006"),
}
SKIP = ("--skip-rule-apply", "--run-validation")
TO_SELF = "! -d 127.0.0.1/32 -o lo -p tcp ! --dport 15008"
REACHED = re.compile(r"validation: the connection arrived \((\w+), .* to .*:(\d+)\)")


def validated(pod: Namespace, *argv: str, code: int = 0) -> Done:
    return init(pod, *argv, *SKIP, code=code)


def broken(pod: Namespace, *argv: str) -> str:
    """Return why the validation fails."""
    said = validated(pod, *argv, code=126).err
    assert said.count("validation failed") == 1
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("setup", SETUPS)
def test_good_rules_lead_the_connection_to_the_proxy(setup: str, backend: str) -> None:
    argv, families, port = SETUPS[setup]
    with Namespace() as pod:
        applied = init(pod, *argv, "--backend", backend, "--run-validation")
        later = validated(pod, *argv)

    expected = [(family, port) for family in families]
    assert REACHED.findall(applied.err) == expected
    assert REACHED.findall(later.err) == expected
    assert "in place; wrote" in applied.err
    assert "nothing was written" in later.err


@pytest.mark.parametrize("setup", SETUPS)
def test_without_rules_every_path_is_named(setup: str) -> None:
    argv, families, port = SETUPS[setup]
    with Namespace() as pod:
        said = broken(pod, *argv)

    assert [family for family in ("ipv4", "ipv6") if f"{family}, " in said] == list(families)
    assert f"127.0.0.6:15002 to 127.0.0.1:{port}: Connection refused" in said
    if "ipv6" in families:
        assert f"[::6]:15002 to [::1]:{port}: Network is unreachable" in said


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_the_family_that_is_broken_is_named_and_no_other(family: str) -> None:
    other = {"ipv4": "ipv6", "ipv6": "ipv4"}[family]
    tool = {"ipv4": "iptables-legacy", "ipv6": "ip6tables-legacy"}[family]
    with Namespace() as pod:
        init(pod, *NEW, "--backend", "legacy")
        pod.run(tool, "-t", "nat", "-D", "OUTPUT", "-j", "ISTIO_OUTPUT")
        said = broken(pod, *NEW)

    assert f"{family}, " in said
    assert f"{other}, " not in said
    assert "Connection refused, no rule led it to the proxy" in said


def test_rules_that_lead_elsewhere_are_found() -> None:
    with Namespace() as pod:
        init(pod, *IPV4)
        assert "Connection refused" in broken(pod, *IPV4, "-z", "15007")
        # The listener at the outbound port would be right in layout 1.0.
        assert REACHED.findall(validated(pod, *IPV4, "-p", "15006").err) == [("ipv4", "15006")]
        pod.run("iptables-legacy", "-t", "nat", "-I", "OUTPUT", "-p", "tcp", "-j", "RETURN")
        assert "Connection refused" in broken(pod, *IPV4)


def test_packets_that_are_dropped_are_waited_for_as_long_as_asked() -> None:
    with Namespace() as pod:
        init(pod, *IPV4)
        pod.run("iptables-legacy", "-A", "INPUT", "-p", "tcp", "--dport", "15006", "-j", "DROP")
        said = broken(pod, *IPV4, "--probe-timeout", "300ms")

    assert "no answer, something drops the packets, for 0.3 s" in said


def test_a_port_that_the_rules_leave_to_the_proxy_does_not_arrive() -> None:
    with Namespace() as pod:
        init(pod, *IPV4)
        validated(pod, *IPV4, "--iptables-probe-port", "15009")
        said = broken(pod, *IPV4, "--iptables-probe-port", "15008")

    assert "127.0.0.6:15008 to 127.0.0.1:15006: Connection refused" in said


def test_somebody_who_listens_at_the_probe_port_is_not_taken_for_the_proxy() -> None:
    def listening() -> Done:
        with closing(socket.create_server(("127.0.0.6", 15002))):
            return run_program(*IPV4, *SKIP, "--probe-timeout", "300ms")

    with Namespace() as pod:
        done = inside(pod, listening)

    assert done.code == 126
    assert "somebody else answered, at none of the proxy's ports, for 0.3 s" in done.err


@pytest.mark.parametrize("port", [15001, 15006])
def test_a_proxy_that_runs_already_is_said(port: int) -> None:
    def listening() -> Done:
        with closing(socket.create_server(("127.0.0.1", port))):
            return run_program(*IPV4, *SKIP)

    with Namespace() as pod:
        init(pod, *IPV4)
        done = inside(pod, listening)

    assert done.code == 126
    assert f"cannot listen at 127.0.0.1:{port}: Address already in use" in done.err
    assert "a proxy runs already: validate before it starts" in done.err


def test_lo_that_is_down_is_said() -> None:
    with Namespace() as pod:
        pod.run("ip", "link", "set", "lo", "down")
        said = broken(pod, *NEW)

    assert "is lo up" in said


def test_after_a_failure_the_rules_stay() -> None:
    flags = (*IPV4, "--backend", "legacy")
    with Namespace() as pod:
        pod.run("iptables-legacy", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-j", "ACCEPT")
        done = init(pod, *flags, "--run-validation", code=126)
        rules = pod.rules("ipv4", "nat")

    assert "outbound TCP does not reach the proxy" in done.err
    assert "-A OUTPUT -j ISTIO_OUTPUT" in rules


# As Kubernetes starts it beside istio-cni: nothing may be written, and nothing is permitted.
HARDENED = """
mount --make-rprivate / && mount -o remount,bind,ro / && ! touch /in-the-root 2>/dev/null &&
exec setpriv --reuid={uid} --regid={uid} --clear-groups --no-new-privs \
    --inh-caps=-all --ambient-caps=-all --bounding-set=-all "$@"
"""


def hardened(pod: Namespace, uid: int, *argv: str, code: int) -> str:
    done = pod.run(
        *("unshare", "--mount", "sh", "-c", HARDENED.format(uid=uid), "sh"),
        *(program_for_all(), *argv),
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stderr


def test_it_needs_no_capability_no_root_and_nothing_writable() -> None:
    with Namespace() as pod:
        init(pod, *NEW)
        good = hardened(pod, 1337, *NEW, *SKIP, code=0)
        other = hardened(pod, 1000, *NEW, *SKIP, code=126)
        root = hardened(pod, 0, *NEW, *SKIP, code=126)
        init(pod, "clean")
        bad = hardened(pod, 1337, *NEW, *SKIP, code=126)

    assert REACHED.findall(good) == [("ipv4", "15006"), ("ipv6", "15006")]
    assert "as uid 1000, gid 1000, though the proxy's connections are those of uid 1337" in other
    assert "cannot become that user: Operation not permitted; run the validation as uid" in root
    assert "validation failed (as uid 1337, gid 1337): ipv4" in bad


def test_no_backend_is_probed() -> None:
    def loaded() -> tuple[Done, list[str]]:
        # Those that this process brought along are no matter here.
        for name in [name for name in sys.modules if name.startswith("istio_init.apply")]:
            del sys.modules[name]
        done = run_program(*NEW, *SKIP)
        return done, [name for name in sys.modules if name.startswith("istio_init.apply")]

    with Namespace() as pod:
        init(pod, *NEW)
        done, names = inside(pod, loaded)

    assert (done.code, names) == (0, [])


def test_it_is_the_proxys_group_too_that_is_tried_as_root() -> None:
    flags = ("istio-iptables", "-u", "1000", "-g", "1338", "-i", "*", "--no-ipv6")

    with Namespace() as pod:
        init(pod, *flags)
        # Without the user's rules the group alone can lead the connection in.
        for rule in (
            f"{TO_SELF} -m owner --uid-owner 1000 -j ISTIO_IN_REDIRECT",
            "-m owner --uid-owner 1000 -j RETURN",
        ):
            pod.run("iptables-legacy", "-t", "nat", "-D", "ISTIO_OUTPUT", *rule.split())
        validated(pod, *flags)
        said = broken(pod, *flags, "-g", "1339")

    assert "as uid 1000, gid 1339" in said


@pytest.mark.parametrize(
    "argv",
    [("clean",), (*NEW, "--dry-run"), (*NEW, "--skip-rule-apply")],
    ids=["clean", "dry-run", "skip"],
)
def test_it_is_not_done_where_no_rules_are_put_in_place(argv: tuple[str, ...]) -> None:
    validation: tuple[str, ...] = () if "--skip-rule-apply" in argv else ("--run-validation",)
    with Namespace() as pod:
        done = init(pod, *argv, *validation)

    assert "validation" not in done.err


def test_it_goes_into_the_namespace_named() -> None:
    run: Callable[..., Done] = init
    with Namespace() as pod, Namespace() as node:
        named = ("--network-namespace", pod.path)
        run(node, *NEW, *named, "--run-validation")
        run(node, *NEW, *named, *SKIP)
        run(node, *NEW, *SKIP, code=126)
