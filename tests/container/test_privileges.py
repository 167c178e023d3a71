"""With how little the container does its work, and what it says where that is too little."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.container.runtime import PYTHON, ROOT, Context, Sandbox
from tests.expected import expected
from tests.namespace import BACKENDS, Namespace
from tests.snapshot import snapshot

if TYPE_CHECKING:
    from subprocess import CompletedProcess

    from tests.container.runtime import Runtime

# Every table, policy rules, routes and the address on lo.
EVERYTHING = (
    *("istio-iptables", "-p", "15001", "-z", "15006", "-u", "0", "-g", "1337", "-m", "TPROXY"),
    *("-i", "*", "-b", "*", "-d", "15090,15021,15020", "--ipv6", "--redirect-dns"),
    *("--capture-all-dns", "--drop-invalid"),
)
NET_ADMIN = ("NET_ADMIN",)
BOTH = ("NET_ADMIN", "NET_RAW")

# As many as do the work. The legacy tables are libiptc's, which opens a raw socket.
ENOUGH = [
    *((backend, Context(BOTH)) for backend in BACKENDS),
    *((backend, Context(BOTH, 1337, ambient=True)) for backend in BACKENDS),
    *((backend, Context(NET_ADMIN)) for backend in ("nft", "nftables")),
    *((backend, Context(NET_ADMIN, 1337, ambient=True)) for backend in ("nft", "nftables")),
]


def fails(done: CompletedProcess[str], *words: str) -> None:
    """Assert that a container failed with words for people."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(("backend", "context"), ENOUGH, ids=str)
def test_enough(runtime: Runtime, backend: str, context: Context) -> None:
    with Namespace() as pod:
        done = runtime.run(*EVERYTHING, "--backend", backend, pod=pod, context=context)
        assert done.returncode == 0, done.stderr
        found = snapshot(pod)

    assert found == expected(EVERYTHING, backend)


@pytest.mark.parametrize("context", [Context(NET_ADMIN), Context(NET_ADMIN, 1337, ambient=True)])
def test_legacy_tables_take_net_raw(runtime: Runtime, context: Context) -> None:
    with Namespace() as pod:
        before = snapshot(pod)
        done = runtime.run(*EVERYTHING, "--backend", "legacy", pod=pod, context=context)
        after = snapshot(pod)

    fails(done, "backend legacy", "NET_RAW", "--backend nft", "nothing was changed")
    assert after == before


def test_without_net_raw_the_choice_is_one_that_works(runtime: Runtime) -> None:
    with Namespace() as pod:
        done = runtime.run(*EVERYTHING, pod=pod, context=Context(NET_ADMIN))
        assert done.returncode == 0, done.stderr
        found = snapshot(pod)

    assert found == expected(EVERYTHING, "nft")


def test_who_may_not_see_whether_legacy_tables_are_in_use_has_to_say(runtime: Runtime) -> None:
    """The kernel tells nobody but root."""
    context = Context(NET_ADMIN, 1337, ambient=True)
    with Namespace() as pod:
        before = snapshot(pod)
        refused = runtime.run(*EVERYTHING, pod=pod, context=context)
        after = snapshot(pod)
        done = runtime.run(*EVERYTHING, "--backend", "nft", pod=pod, context=context)
        found = snapshot(pod)

    fails(refused, "NET_RAW", "--backend nft", "nothing was changed")
    assert after == before
    assert done.returncode == 0, done.stderr
    assert found == expected(EVERYTHING, "nft")


def test_without_net_raw_legacy_tables_in_use_are_not_passed_over(runtime: Runtime) -> None:
    """They may hold rules of ours, which would then stand in two backends."""
    with Namespace() as pod:
        pod.init(*EVERYTHING, "--backend", "legacy")
        before = snapshot(pod)
        done = runtime.run(*EVERYTHING, pod=pod, context=Context(NET_ADMIN))
        after = snapshot(pod)

    fails(done, "legacy", "NET_RAW", "nothing was changed")
    assert after == before


# The second is what Kubernetes makes of `runAsUser: 1337` and capabilities that are added.
@pytest.mark.parametrize("context", [Context(()), Context(BOTH, 1337)], ids=str)
@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
def test_without_net_admin(runtime: Runtime, backend: str, context: Context) -> None:
    with Namespace() as pod:
        done = runtime.run(*EVERYTHING, "--backend", backend, pod=pod, context=context)

    fails(done, "NET_ADMIN", "nothing was changed")


@pytest.mark.parametrize(
    ("backend", "context"),
    [("legacy", Context(BOTH)), ("nft", Context(NET_ADMIN)), ("nftables", Context(NET_ADMIN))],
    ids=str,
)
def test_users_of_the_pods_own(runtime: Runtime, backend: str, context: Context) -> None:
    """What ``hostUsers: false`` gives a pod."""
    arguments = (*EVERYTHING, "--backend", backend)
    with Sandbox(runtime) as pod:
        done = runtime.run(*arguments, pod=pod, context=context)
        assert done.returncode == 0, done.stderr
        found = snapshot(pod)
        again = runtime.run(*arguments, pod=pod, context=context)

    assert found == expected(EVERYTHING, backend)
    assert "already in place" in again.stderr


def test_a_user_that_the_pod_does_not_have(runtime: Runtime) -> None:
    with Sandbox(runtime) as pod:
        done = runtime.run("istio-iptables", "-u", "70000", "-i", "*", "--no-ipv6", pod=pod)

    fails(done, "uid", "user namespace", "rolled back")


def test_nothing_can_be_written(runtime: Runtime) -> None:
    """The runs above prove little unless this holds for them."""
    tried = """if True:
        import os
        for folder, _, _ in os.walk("/"):
            if folder.startswith(("/proc", "/sys")):
                continue
            try:
                os.close(os.open(f"{folder}/new", os.O_CREAT | os.O_WRONLY))
            except OSError as error:
                assert error.errno == 30, (folder, error)
            else:
                raise SystemExit(folder)
    """
    with Namespace() as pod:
        done = runtime.run(tried, pod=pod, program=PYTHON, context=ROOT)

    assert done.returncode == 0, done.stderr


def test_the_filter_is_in_force(runtime: Runtime) -> None:
    status = "print(open('/proc/self/status').read())"
    with Namespace() as pod:
        done = runtime.run(status, pod=pod, program=PYTHON)

    lines = dict(line.split(":\t", 1) for line in done.stdout.splitlines() if line)
    assert lines["Seccomp"] == "2"
    assert lines["NoNewPrivs"] == "1"
    # NET_ADMIN is the twelfth bit, NET_RAW the thirteenth.
    assert int(lines["CapBnd"], 16) == int(lines["CapEff"], 16) == 1 << 12 | 1 << 13
