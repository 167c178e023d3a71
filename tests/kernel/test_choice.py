"""The backend is chosen by what is there, and nothing comes into being by looking."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from istio_init.apply import detect
from istio_init.kernel import host, nfnetlink
from istio_init.rules.ranges import FAMILIES
from tests.inside import Done, init, inside, run_program
from tests.namespace import BACKENDS, Namespace, program_for_all
from tests.snapshot import snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

CALL = ("istio-iptables", "-i", "*", "-b", "*", "--ipv6")
NEVER_TOUCHED: tuple[list[str], list[str], str] = ([], [], "")


def footprint(pod: Namespace) -> tuple[list[str], list[str], str]:
    """Return which legacy tables exist, by family, and everything in nf_tables."""
    return inside(pod, _footprint)


def _footprint() -> tuple[list[str], list[str], str]:
    legacy = [sorted(host.legacy_tables(family) or ()) for family in FAMILIES]
    listed = subprocess.run(
        ["nft", "list", "ruleset"], capture_output=True, text=True, check=True, timeout=60
    )
    return legacy[0], legacy[1], listed.stdout


def backend_of(done: Done) -> str:
    """Return the backend that a run says it used."""
    return done.err.partition("through backend ")[2].partition(":")[0]


def foreign(pod: Namespace, tool: str) -> None:
    for family in ("iptables", "ip6tables"):
        pod.run(f"{family}-{tool}", "-t", "nat", "-A", "OUTPUT", "-j", "LOG")


def test_looking_creates_nothing() -> None:
    with Namespace() as pod:
        inside(pod, detect.look)
        looked = footprint(pod)
        init(pod, *CALL, "--dry-run")
        init(pod, "clean")
        init(pod, *CALL, "--skip-rule-apply")
        cleaned = footprint(pod)

    assert looked == NEVER_TOUCHED
    assert cleaned == NEVER_TOUCHED


def test_an_unused_namespace_gets_legacy_tables_every_time() -> None:
    with Namespace() as pod:
        used = [backend_of(init(pod, *CALL)) for _ in range(2)]
        after = footprint(pod)
        init(pod, "clean")
        used.append(backend_of(init(pod, *CALL)))

    assert used == ["legacy"] * 3
    assert after == (["nat"], ["nat"], "")


def test_foreign_rules_of_iptables_nft_lead_to_nft_and_legacy_is_never_touched() -> None:
    with Namespace() as pod:
        foreign(pod, "nft")
        used = []
        touched: list[list[str]] = []
        for argv in (
            (*CALL, "--dry-run"),
            CALL,
            CALL,
            (*CALL, "-m", "TPROXY"),
            ("clean",),
            CALL,
            ("clean",),
        ):
            used.append(backend_of(init(pod, *argv)))
            touched += footprint(pod)[:2]

    assert [one for one in used if one] == ["nft"] * 4
    assert touched == [[]] * len(touched)


@pytest.mark.parametrize("backend", BACKENDS)
def test_where_ours_stand_they_stay(backend: str) -> None:
    with Namespace() as pod:
        init(pod, *CALL, "--backend", backend)
        before = snapshot(pod)
        again = init(pod, *CALL)
        after = snapshot(pod)
        foreign(pod, "nft")
        foreign(pod, "legacy")
        last = init(pod, *CALL)

    assert [backend_of(again), backend_of(last)] == [backend, backend]
    assert "already in place" in again.err
    assert "already in place" in last.err
    assert after == before


@pytest.mark.parametrize(
    ("present", "backend"),
    [(("legacy",), "legacy"), (("legacy", "nft"), "legacy"), (("nft",), "nft"), ((), "legacy")],
)
def test_foreign_rules_decide_where_none_of_ours_stand(
    present: tuple[str, ...], backend: str
) -> None:
    with Namespace() as pod:
        for tool in present:
            foreign(pod, tool)
        used = [backend_of(init(pod, *CALL)) for _ in range(2)]

    assert used == [backend, backend]


def test_tables_without_rules_speak_for_nobody() -> None:
    with Namespace() as pod:
        foreign(pod, "nft")
        for family in ("iptables", "ip6tables"):
            pod.run(f"{family}-nft", "-t", "nat", "-F")
        done = init(pod, *CALL)

    assert backend_of(done) == "legacy"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_move_that_was_asked_for_is_remembered(backend: str) -> None:
    with Namespace() as pod:
        for one in BACKENDS:
            init(pod, *CALL, "--backend", one)
        init(pod, *CALL, "--backend", backend)
        done = init(pod, *CALL)
        found = inside(pod, detect.look)

    assert backend_of(done) == backend
    assert found.ours == {backend}


def without_legacy() -> None:
    """Let this process take its kernel for one without ip_tables."""
    for family in FAMILIES:
        host.LEGACY_TABLES[family] = "/nonexistent"


def without_nf_tables() -> None:
    """Let this process take its kernel for one without nf_tables."""
    nfnetlink._dump = lambda *_: None


@pytest.mark.parametrize(
    ("missing", "argv", "said"),
    [
        ((without_legacy,), (), "through backend nft"),
        ((without_legacy,), ("--backend", "legacy"), "load the module ip_tables on the node"),
        ((without_nf_tables,), (), "through backend legacy"),
        ((without_nf_tables,), ("--backend", "nft"), "load the module nf_tables on the node"),
        ((without_nf_tables,), ("--backend", "nftables"), "load the module nf_tables on the node"),
        ((without_legacy, without_nf_tables), (), "neither ip_tables nor nf_tables"),
    ],
)
def test_what_the_kernel_lacks_is_not_chosen_and_named_when_asked_for(
    missing: tuple[Callable[[], None], ...], argv: tuple[str, ...], said: str
) -> None:
    def run() -> Done:
        for one in missing:
            one()
        return run_program(*CALL, *argv)

    with Namespace() as pod:
        done = inside(pod, run)
        after = footprint(pod)

    assert said in done.err
    assert done.code == (0 if said.startswith("through") else 1)
    if done.code:
        assert after == NEVER_TOUCHED


def test_a_namespace_that_hides_its_legacy_tables() -> None:
    script = " && ".join(
        [
            "ip link set lo up",
            "! cat /proc/net/ip_tables_names",
            f"{program_for_all()} {' '.join(CALL[:1])} -i 10.0.0.0/8 -u 0",
            f"{program_for_all()} {' '.join(CALL[:1])} -i 10.0.0.0/8 -u 0",
            "iptables-legacy -t nat -S ISTIO_OUTPUT >&2",
            f"{program_for_all()} clean",
            "! iptables-legacy -t nat -S ISTIO_OUTPUT",
        ]
    )
    # What a container runtime does: the maps are written when the namespaces exist.
    holder = subprocess.Popen(["unshare", "--user", "--net", "cat"], stdin=subprocess.PIPE)
    try:
        own = os.stat("/proc/self/ns/user").st_ino
        while os.stat(f"/proc/{holder.pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino:
            assert holder.poll() is None
        assert os.stat(f"/proc/{holder.pid}/ns/user").st_ino != own
        for kind in ("uid", "gid"):
            with open(f"/proc/{holder.pid}/{kind}_map", "w", encoding="ascii") as file:
                file.write("0 100000 65536")
        done = subprocess.run(
            ["nsenter", f"--target={holder.pid}", "--user", "--net", "sh", "-c", script],
            env={"PATH": os.environ["PATH"], "XTABLES_LOCKFILE": "/proc/self/ns/net"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        holder.communicate()

    assert done.returncode == 0, done.stderr
    assert "already in place" in done.stderr
    assert done.stderr.count("through backend legacy") == 2
    assert "-j ISTIO_REDIRECT" in done.stderr
