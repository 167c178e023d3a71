"""``doctor``: what keeps this machine from the plan is named, with what to do about it."""

from __future__ import annotations

import fcntl
import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.inside import init
from tests.kernel.test_choice import NEVER_TOUCHED, footprint, foreign
from tests.namespace import BACKENDS, PROGRAM, Namespace, program_for_all

if TYPE_CHECKING:
    from pathlib import Path

NEW = ("istio-iptables", "-u", "1337", "-i", "*", "-b", "*", "--ipv6")
EVERYTHING = (
    *(*NEW, "-m", "TPROXY", "--drop-invalid", "--redirect-dns", "--capture-all-dns"),
    *("-k", "eth1", "-c", "eth2", "-q", "90"),
)
OLD = ("apply", "-u", "1337", "-i", "*", "-b", "*", "-m", "TPROXY")


def checks(text: str) -> list[dict[str, str]]:
    found: dict[str, Any] = json.loads(text)
    bad = any(one["verdict"] == "problem" for one in found["checks"])
    assert found["version"] == 1
    assert (found["verdict"], found["code"]) == (("problem", 1) if bad else ("ok", 0))
    assert all(one["remedy"] for one in found["checks"] if one["verdict"] == "problem")
    listed: list[dict[str, str]] = found["checks"]
    return listed


def doctor(pod: Namespace, *argv: str, code: int = 0) -> list[dict[str, str]]:
    return checks(init(pod, "doctor", *argv, "--format", "json", code=code).out)


def problems(found: list[dict[str, str]]) -> list[tuple[str, str]]:
    return [(one["name"], one["text"]) for one in found if one["verdict"] == "problem"]


def notes(found: list[dict[str, str]]) -> list[tuple[str, str]]:
    return [(one["name"], one["text"]) for one in found if one["verdict"] == "note"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("call", [EVERYTHING, OLD, ()], ids=["1.30", "1.0", "usual"])
def test_where_a_run_works_there_is_no_problem_and_nothing_is_touched(
    call: tuple[str, ...], backend: str
) -> None:
    with Namespace() as pod:
        shown = init(pod, "doctor", *call, "--backend", backend)
        found = doctor(pod, *call, "--backend", backend)
        touched = footprint(pod)
        init(pod, *(call or NEW), "--backend", backend)

    assert touched == NEVER_TOUCHED
    assert problems(found) == []
    assert ("backend", f"{backend}, as --backend says") in [
        (one["name"], one["text"]) for one in found
    ]
    assert shown.out.endswith("ok: this host can apply the plan\n")


def bounded(pod: Namespace, *argv: str, drop: str, uid: int = 0) -> list[dict[str, str]]:
    """Return what the doctor finds as somebody who lacks capabilities."""
    done = pod.run(
        *(
            "setpriv",
            f"--reuid={uid}",
            "--clear-groups",
            "--inh-caps=-all",
            f"--bounding-set={drop}",
        ),
        *(program_for_all(), "doctor", *argv, "--format", "json"),
        check=False,
    )
    found = checks(done.stdout)
    assert done.returncode == int(bool(problems(found))), done.stderr
    return found


def test_missing_capabilities_are_named_for_what_they_are_needed() -> None:
    with Namespace() as pod:
        none = bounded(pod, *NEW, drop="-all", uid=1337)
        raw = bounded(pod, *NEW, "--backend", "legacy", drop="-net_raw")
        nft = bounded(pod, *NEW, "--backend", "nft", drop="-net_raw")
        node = bounded(
            pod,
            *NEW,
            "--backend",
            "nft",
            "--network-namespace",
            pod.path,
            "--run-validation",
            drop="-setuid",
        )

    missing = [text for name, text in problems(none) if name == "capabilities"]
    assert missing[0] == "NET_ADMIN is missing, for every backend (this is uid 1337)"
    assert "run it as root" in none[0]["remedy"]
    assert problems(raw)[0] == (
        "capabilities",
        "NET_RAW is missing, for the legacy backend (this is uid 0)",
    )
    assert problems(nft) == []
    assert problems(node) == [
        ("capabilities", "SETUID is missing, for --run-validation as root (this is uid 0)")
    ]


def test_ids_that_a_user_namespace_does_not_know() -> None:
    with Namespace() as pod:
        done = pod.run(
            *("unshare", "--user", "--map-root-user", "--net"),
            *(PROGRAM, "doctor", *NEW, "--backend", "nft", "--format", "json"),
            check=False,
        )
        known = pod.run(
            *("unshare", "--user", "--map-root-user", "--net"),
            *(PROGRAM, "doctor", *NEW, "-u", "0", "--backend", "nft", "--format", "json"),
        )

    refused = "the kernel refuses rules that name it"
    assert problems(checks(done.stdout)) == [
        ("user namespace", f"this user namespace does not know uid 1337: {refused}"),
        ("user namespace", f"this user namespace does not know gid 1337: {refused}"),
    ]
    assert problems(checks(known.stdout)) == []


def test_a_lock_that_is_held_or_cannot_be_opened_is_noted(tmp_path: Path) -> None:
    with Namespace() as pod, open(pod.lock_file, "w", encoding="ascii") as held:
        free = doctor(pod, *NEW)
        fcntl.flock(held, fcntl.LOCK_EX)
        taken = doctor(pod, *NEW)
        nowhere = pod.run(
            *(PROGRAM, "doctor", *NEW, "--format", "json"),
            env={"XTABLES_LOCKFILE": f"{tmp_path}/no/such/lock"},
        )

    assert not notes(free)
    assert [name for name, text in notes(taken) if "is held by pid" in text] == ["lock"]
    (said,) = [text for name, text in notes(checks(nowhere.stdout)) if name == "lock"]
    assert said.startswith(f"{tmp_path}/no/such/lock cannot be opened: the network namespace's own")


def changed(pod: Namespace, script: str, *argv: str) -> list[dict[str, str]]:
    """Return what the doctor finds in a mount namespace that a script has changed."""
    text = f'mount --make-rprivate / && {script} && exec "$0" doctor "$@" --format json'
    done = pod.run("unshare", "--mount", "sh", "-ec", text, PROGRAM, *argv, check=False)
    found = checks(done.stdout)
    assert done.returncode == int(bool(problems(found))), done.stderr
    return found


def test_a_read_only_root_will_do() -> None:
    with Namespace() as pod:
        found = changed(pod, "mount -o remount,bind,ro /", *NEW)

    assert ("root file system", "read-only, which will do") in [
        (one["name"], one["text"]) for one in found
    ]
    assert problems(found) == []


def test_no_program_is_needed() -> None:
    programs = "nft iptables-nft-restore ip6tables-nft-restore iptables-nft-save"
    hide = f"for one in {programs}; do mount --bind /dev/null /usr/sbin/$one; done"
    with Namespace() as pod:
        found = {one: changed(pod, hide, *NEW, "--backend", one) for one in BACKENDS}

    for backend, some in found.items():
        assert problems(some) == []
        said = ("tools", f"backend {backend} needs no program and no library")
        assert (said in [(one["name"], one["text"]) for one in some]) == (backend != "legacy")


@pytest.mark.parametrize(
    ("option", "backend", "lacking"),
    [
        ("NETFILTER_XT_TARGET_TPROXY", "legacy", "the target TPROXY (xt_TPROXY)"),
        ("NETFILTER_XT_MATCH_OWNER", "nft", "the match owner (xt_owner)"),
        ("NFT_COMPAT", "nft", "the matches and targets of iptables (nft_compat)"),
        ("IP6_NF_NAT", "legacy", "the ipv6 table nat (ip6table_nat)"),
        ("NFT_REDIR", "nftables", "REDIRECT (nft_redir)"),
        ("IP_MULTIPLE_TABLES", "nft", ""),
    ],
)
def test_what_the_kernel_lacks_is_named_with_its_module(
    option: str, backend: str, lacking: str, tmp_path: Path
) -> None:
    with gzip.open("/proc/config.gz", "rt", encoding="utf-8") as handle:
        lines = handle.readlines()
    kept = [line for line in lines if not line.startswith(f"CONFIG_{option}=")]
    assert len(kept) == len(lines) - 1
    (tmp_path / "less.gz").write_bytes(gzip.compress("".join(kept).encode()))
    hide = f"mount --bind {tmp_path}/less.gz /proc/config.gz"
    with Namespace() as pod:
        found = changed(pod, hide, *EVERYTHING, "--backend", backend)

        elsewhere = changed(pod, hide, *EVERYTHING, "--backend", "nftables")

    if lacking:
        assert problems(found) == [("kernel", f"lacks {lacking}")]
        if backend != "nftables":
            note = f"{backend} could not do it: lacks {lacking}"
            assert problems(elsewhere) == []
            assert ("kernel", note) in notes(elsewhere)
    else:
        assert problems(found) == [("policy routing", "this kernel has no ipv4 rules by mark")]


def test_what_nft_has_no_words_for_is_written_all_the_same() -> None:
    odd = (*NEW, "-c", "a\\+", "--backend", "nftables")
    with Namespace() as pod:
        assert problems(doctor(pod, *odd)) == []
        pod.init(*odd)
        assert pod.init("audit", *odd, check=False).returncode == 0
        script = pod.init(*odd[:-2], "--dry-run", "--format", "nft", check=False)

    assert script.returncode == 1
    assert "nft cannot express the interface" in script.stderr


def test_what_nothing_tells_is_said_to_be_unknown() -> None:
    with Namespace() as pod:
        found = changed(pod, "mount --bind /dev/null /proc/config.gz", *NEW, "--backend", "nft")

    assert problems(found) == []
    (said,) = [text for name, text in notes(found) if name == "kernel"]
    assert said.startswith("nothing here tells whether it has nf_tables (nf_tables), the matches")
    assert said.endswith("the target REDIRECT (xt_REDIRECT), the match owner (xt_owner)")


def test_a_kernel_that_is_too_old_for_native_tables() -> None:
    with Namespace() as pod:
        done = pod.run(
            *("setarch", "--uname-2.6", PROGRAM, "doctor", *NEW, "--backend", "nftables"),
            *("--format", "json"),
            check=False,
        )

    assert ("kernel", "Linux 2.6 is too old for nftables") in problems(checks(done.stdout))


def test_rules_elsewhere_are_noted() -> None:
    with Namespace() as pod:
        init(pod, *NEW, "--backend", "nftables")
        foreign(pod, "nft")
        stays = doctor(pod, *NEW)
        moves = doctor(pod, *NEW, "--backend", "legacy")

    theirs = "other programs have rules in nft, which every packet meets too"
    assert ("backend", "nftables, it holds rules of istio-init already") in [
        (one["name"], one["text"]) for one in stays
    ]
    assert notes(stays) == [("backend", theirs)]
    assert notes(moves) == [
        ("backend", theirs),
        ("backend", "nftables holds rules of istio-init too; a run removes them"),
    ]


def test_ipv6_that_is_switched_off_on_lo_or_not_captured() -> None:
    with Namespace() as pod:
        pod.run("ip", "address", "add", "10.0.0.5/32", "dev", "lo")
        pod.run("ip", "address", "add", "fd00::5/128", "dev", "lo")
        open_to_it = doctor(pod, *NEW[:-1])
        pod.run("sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/lo/disable_ipv6")
        off = doctor(pod, *NEW, code=1)
        spared = doctor(pod, *NEW[:-1], "--no-ipv6")

    assert notes(open_to_it) == [("IPv6", "is not captured, and this pod has fd00::5")]
    assert problems(off) == [("IPv6", "is switched off on lo, which needs ::6/128")]
    assert problems(spared) == []


def test_people_see_problems_with_their_remedies() -> None:
    with Namespace() as pod:
        pod.run("sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/lo/disable_ipv6")
        out = init(pod, "doctor", *NEW, code=1).out

    lines = out.splitlines()
    at = lines.index("problem  IPv6              is switched off on lo, which needs ::6/128")
    assert lines[at + 1].strip().startswith("-> set net.ipv6.conf.lo.disable_ipv6=0 for the pod")
    assert lines[-1] == "1 problem"


def test_it_looks_in_the_namespace_named() -> None:
    with Namespace() as pod, Namespace() as node:
        pod.run("sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/lo/disable_ipv6")
        found = doctor(node, *NEW, "--network-namespace", pod.name, code=1)
        gone = init(node, "doctor", *NEW, "--network-namespace", "no-such-pod", code=1)
        bad = init(node, "doctor", *NEW, "-p", "0", code=2)

    assert [name for name, _ in problems(found)] == ["IPv6"]
    assert "cannot open the network namespace no-such-pod" in gone.err
    assert "-p --envoy-port: '0': expected a number 1-65535" in bad.err
