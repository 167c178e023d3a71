"""What a run tells machines: one JSON object, and a line for Kubernetes."""

from __future__ import annotations

import json
import shlex
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.inside import init, inside, run_program
from tests.namespace import BACKENDS, CLEAN_ENVIRONMENT, PROGRAM, Namespace
from tests.steps import Steps, fail

if TYPE_CHECKING:
    from pathlib import Path

CALL = ("istio-iptables", "-u", "1337", "-i", "*", "-b", "*", "--ipv6", "--format", "json")
TPROXY = (*CALL, "-m", "TPROXY", "--drop-invalid")
EVERYTHING = {
    *("version", "command", "outcome", "code", "layout", "backend", "tables", "routes", "emptied"),
    *("validated", "duration", "warnings", "error"),
}
NOTHING: dict[str, object] = {
    **dict.fromkeys(("backend", "family", "table", "rule", "flag", "remedy"), ""),
    "rolled_back": None,
    "problems": [],
}


def result(pod: Namespace, *argv: str, code: int = 0) -> dict[str, Any]:
    """Return the object that a run prints, which has to be all that it prints."""
    found: dict[str, Any] = json.loads(init(pod, *argv, code=code).out)
    assert found.keys() == EVERYTHING
    assert (found["version"], found["code"]) == (1, code)
    assert 0 < found["duration"] < 60
    return found


def tables(found: dict[str, Any]) -> list[tuple[str, str, bool]]:
    return [(one["family"], one["table"], one["changed"]) for one in found["tables"]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_table_is_changed_once_and_not_again(backend: str) -> None:
    with Namespace() as pod:
        first = result(pod, *TPROXY, "--backend", backend)
        again = result(pod, *TPROXY)
        gone = result(pod, "clean", "--format", "json")
        nothing = result(pod, "clean", "--format", "json")

    names = [(family, table) for family in ("ipv4", "ipv6") for table in ("mangle", "nat")]
    assert (first["outcome"], first["backend"], first["layout"]) == ("changed", backend, "1.30")
    assert tables(first) == [(*name, True) for name in names]
    assert first["routes"] == [
        {"verb": "add", "item": item}
        for item in (
            "the address ::6/128 on lo",
            "the ipv4 local default route of table 133",
            "the ipv6 local default route of table 133",
            "the ipv4 rule fwmark 0x539 lookup 133",
            "the ipv6 rule fwmark 0x539 lookup 133",
        )
    ]
    assert len(first["warnings"]) == 1
    assert "catches its own upstream connections" in first["warnings"][0]
    assert first["error"] is None
    assert (again["outcome"], again["backend"], again["routes"]) == ("unchanged", backend, [])
    assert tables(again) == [(*name, False) for name in names]
    assert (gone["command"], gone["outcome"], gone["backend"]) == ("clean", "changed", backend)
    assert sorted(tables(gone)) == [(*name, True) for name in sorted(names)]
    assert len(gone["routes"]) == 5
    assert (nothing["outcome"], nothing["tables"]) == ("unchanged", [])


def test_rules_that_move_to_another_backend_are_told() -> None:
    with Namespace() as pod:
        init(pod, *CALL, "--backend", "nft")
        found = result(pod, *CALL, "--backend", "legacy")
        preview = result(pod, "clean", "--dry-run", "--format", "json")

    assert (found["backend"], found["emptied"]) == ("legacy", ["nft"])
    assert preview["outcome"] == "would-change"


def test_a_rule_of_others_before_ours_is_a_warning() -> None:
    with Namespace() as pod:
        pod.run("iptables-legacy", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-j", "ACCEPT")
        found = result(pod, *CALL)

    assert [one for one in found["warnings"] if "outbound TCP does not reach the proxy" in one]


def test_bad_input_is_listed() -> None:
    with Namespace() as pod:
        found = result(pod, *CALL, "--ipv6", "--no-ipv6", "-p", "0", "-b", "80,x y", code=2)

    assert (found["outcome"], found["layout"], found["backend"]) == ("failed", None, None)
    message = found["error"].pop("message")
    assert "3 bad values, nothing was changed" in message
    assert found["error"] == {
        **NOTHING,
        "code": 2,
        "flag": "-p --envoy-port",
        "problems": [
            {
                "flag": "-p --envoy-port",
                "value": "0",
                "expected": "a number 1-65535",
                "annotation": "",
                "reason": "expected a number 1-65535",
            },
            {
                "flag": "-b --istio-inbound-ports",
                "value": "80,x y",
                "expected": found["error"]["problems"][1]["expected"],
                "annotation": "traffic.sidecar.istio.io/includeInboundPorts",
                "reason": f"expected {found['error']['problems'][1]['expected']}",
            },
            {
                "flag": "--no-ipv6",
                "value": "true",
                "expected": "",
                "annotation": "",
                "reason": "contradicts --ipv6 'true'",
            },
        ],
    }


def test_validation_that_fails_leaves_what_was_changed() -> None:
    with Namespace() as pod:
        found = result(pod, *CALL, "--run-validation", "--iptables-probe-port", "15008", code=126)
        good = result(pod, *CALL, "--run-validation")

    assert (found["outcome"], found["backend"], found["validated"]) == ("failed", "legacy", [])
    assert ("ipv4", "nat", True) in tables(found)
    assert found["error"]["code"] == 126
    assert "127.0.0.6:15008 to 127.0.0.1:15006" in found["error"]["message"]
    assert good["validated"] == [
        "ipv4, 127.0.0.6:15002 to 127.0.0.1:15006",
        "ipv6, [::6]:15002 to [::1]:15006",
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_dry_run_prints_the_plan_alone(backend: str) -> None:
    with Namespace() as pod:
        done = init(pod, *CALL, "--backend", backend, "--dry-run")

    assert json.loads(done.out).keys() == {
        *("version", "layout", "families", "routes", "addresses", "warnings")
    }


def failing(backend: str, tmp_path: Path) -> dict[str, Any]:
    """Return the result of a run in a user namespace that knows no other user than root."""
    call = (PROGRAM, *CALL, "--drop-invalid", "--backend", backend)
    done = subprocess.run(
        [
            *("unshare", "--user", "--map-root-user", "--net", "sh", "-c"),
            f"ip link set lo up; {shlex.join(call)}",
        ],
        env=CLEAN_ENVIRONMENT | {"XTABLES_LOCKFILE": f"{tmp_path}/lock"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert (found["outcome"], found["code"]) == ("failed", 1)
    return found


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_what_the_kernel_refused_is_located(backend: str, tmp_path: Path) -> None:
    error = failing(backend, tmp_path)["error"]

    assert (error["backend"], error["family"], error["table"]) == (backend, "ipv4", "nat")
    assert error["rolled_back"] is True
    assert "user namespace" in error["remedy"]
    assert error["remedy"] in error["message"]
    if backend == "nft":
        assert error["flag"] == "-u"
        assert error["rule"].startswith("-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp")


def test_a_failure_in_the_middle_tells_what_was_put_back() -> None:
    with Namespace() as pod:

        def failing_run() -> tuple[int, str]:
            steps = Steps()
            steps.arm(2, "before", fail, "table")
            done = run_program(*CALL)
            return done.code, done.out

        code, out = inside(pod, failing_run)
        found = json.loads(out)

    assert code == found["code"] == found["error"]["code"] == 1
    assert (found["backend"], found["error"]["backend"]) == (None, "legacy")
    assert (found["error"]["family"], found["error"]["table"]) == ("ipv6", "nat")
    assert found["error"]["rolled_back"] is True


# A container's /dev: Kubernetes mounts a file of its own over the termination log.
CONTAINER = """
mount --make-rprivate / && mkdir "$1" && mount --bind /dev "$1" && mount -t tmpfs dev /dev &&
for node in null zero urandom; do touch /dev/$node && mount --bind "$1/$node" /dev/$node; done
{given}
shift
"$@"
code=$?
cat /dev/termination-log 2>/dev/null
exit $code
"""
EMPTY = "echo of an earlier run, and longer than any reason >/dev/termination-log"
EARLIER = "of an earlier run, and longer than any reason\n"


def reason(pod: Namespace, tmp_path: Path, *argv: str, code: int, given: str = EMPTY) -> str:
    """Return what a run leaves in the termination log of a container."""
    (tmp_path / "dev").mkdir(exist_ok=True)
    script = CONTAINER.format(given=given).replace("mkdir", "mkdir -p")
    done = pod.run(
        *("unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path / "dev"), PROGRAM, *argv),
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def test_a_failing_run_leaves_its_reason_for_kubernetes(tmp_path: Path) -> None:
    with Namespace() as pod:
        bad = reason(pod, tmp_path, "-p", "0", "-b", "x y", code=2)
        unknown = reason(pod, tmp_path, "--no-such-flag", code=2)
        unsafe = reason(pod, tmp_path, *CALL[:-2], "--network-namespace", "no-such", code=1)
        untrue = reason(pod, tmp_path, "--skip-rule-apply", "--run-validation", code=126)

    assert bad.startswith("2 bad values, nothing was changed: -p --envoy-port: '0': expected a ")
    assert "; -b --istio-inbound-ports: 'x y': expected a port 1-65535" in bad
    assert unknown == "No such option '--no-such-flag'."
    assert unsafe.startswith("cannot open the network namespace no-such (/run/netns/no-such)")
    assert untrue.startswith("validation failed (as uid 1337, gid 1337): ipv4, 127.0.0.6:15002")
    assert "\n" not in bad + unsafe + untrue


def test_a_good_run_leaves_the_termination_log_alone(tmp_path: Path) -> None:
    with Namespace() as pod:
        said = reason(pod, tmp_path, *CALL[:-2], code=0)

    assert said == EARLIER


@pytest.mark.parametrize(
    "given",
    [
        "",
        "mkdir /dev/termination-log",
        "ln -s /dev/elsewhere /dev/termination-log; echo >/dev/elsewhere",
        (
            "echo mine >/dev/file; touch /dev/termination-log;"
            " mount --bind /dev/file /dev/termination-log;"
            " mount -o remount,bind,ro /dev/termination-log"
        ),
        "mkfifo /dev/termination-log",
    ],
    ids=["absent", "folder", "link", "read-only", "fifo"],
)
def test_what_is_no_termination_log_disturbs_nothing(given: str, tmp_path: Path) -> None:
    # Whoever reads the pipe would wait for ever.
    given = given and f"{given}; cat() {{ test -f /dev/file && command cat /dev/file; }}"
    with Namespace() as pod:
        said = reason(pod, tmp_path, "-p", "0", code=2, given=given)

    assert said == ("mine\n" if "mine" in given else "")
