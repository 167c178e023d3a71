"""``audit --all``: every pod of a node, told from /proc alone, and none disturbs another."""

from __future__ import annotations

import json
import re
import shlex
import sys
from typing import TYPE_CHECKING, Any

from istio_init.operate.audit import DRIFT
from istio_init.operate.fleet import VERDICTS
from tests.namespace import PROGRAM, Namespace

if TYPE_CHECKING:
    from pathlib import Path

PODS = 30
APPLY = f"{shlex.quote(PROGRAM)} istio-iptables -u 1337 -i '*' -b '*' --log_output_level none"
HARM = """
iptables-legacy -t nat -I OUTPUT -j RETURN
iptables-legacy -t nat -F ISTIO_IN_REDIRECT
"""
# By the pod's number modulo 6: what stands in it, and the verdict.
KINDS = (
    (f"{APPLY} --backend legacy", "ok"),
    (f"{APPLY} --backend nft -m TPROXY", "ok"),
    (f"{APPLY} --backend nftables -i 10.0.0.0/8 -b 80,8080", "ok"),
    (
        f"{APPLY} --backend legacy; {HARM}",
        "drift",
    ),
    ("true", "none"),
    (f"{shlex.quote(PROGRAM)} -u 1337 -b 80 --log_output_level none", "ok"),
)
# A node in a PID namespace of its own: its /proc shows no one else.
NODE = """
set -e
cd "$1"
pod() {{
    unshare --net --uts sh -ec 'hostname "$0"; ip link set lo up; eval "$1"; echo $$ >"$0.ready"
        exec sleep 1000' "$1" "$2" &
}}
{pods}
sleep 1000 &
hosted=$!
for name in {names}; do
    until test -s "$name.ready"; do sleep 0.02; done
done
{then}
"""


def on_node(folder: Path, then: str, *, pods: int = PODS) -> list[str]:
    """Run commands on a node with pods; return the parts of the output, after each ``next``."""
    started = [f"pod pod-{n} {shlex.quote(KINDS[n % len(KINDS)][0])}" for n in range(pods)]
    names = " ".join(f"pod-{n}" for n in range(pods))
    script = NODE.format(pods="\n".join(started), names=names, then=then)
    with Namespace() as node:
        done = node.run(
            *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("sh", "-c", script, "sh", str(folder)),
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("next\n")


def expected() -> dict[str, str]:
    return {f"pod-{n}": KINDS[n % len(KINDS)][1] for n in range(PODS)}


AUDIT = f"{shlex.quote(PROGRAM)} audit --all"


def test_thirty_pods(tmp_path: Path) -> None:
    # One node for all formats: making it takes longer than looking at it.
    people, machines, file, flags = on_node(
        tmp_path,
        f"""
        {AUDIT} || code=$?; echo "code $code"; echo next
        {AUDIT} --format json || code=$?; echo "code $code"; echo next
        {AUDIT} --format prometheus --output pods.prom || echo "code $?"; ls -A | grep prom
        echo next
        {AUDIT} istio-iptables -u 1337 -i '*' -b '*' --format json || echo "code $?"
        """,
    )

    each_pod_is_one_line_for_people(people)
    each_pod_is_one_object_for_machines(machines)
    # Nothing unfinished is left behind.
    assert file.splitlines() == [f"code {DRIFT}", "pods.prom"]
    assert (tmp_path / "pods.prom").stat().st_mode & 0o777 == 0o644
    metrics_are_as_the_textfile_collector_wants_them((tmp_path / "pods.prom").read_text())
    flags_hold_for_every_pod(flags)


def rows(part: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in part.splitlines() if line.startswith("{")]


def each_pod_is_one_line_for_people(part: str) -> None:
    head, *lines = part.splitlines()
    cells = {line.split()[1]: line.split() for line in lines[:PODS]}

    assert head.split() == [
        *("PID", "POD", "BACKEND", "LAYOUT", "MODE", "INBOUND", "OUTBOUND", "VERDICT")
    ]
    assert cells.keys() == expected().keys()
    assert cells["pod-0"][2:] == ["legacy", "1.30", "REDIRECT", "*", "*", "ok"]
    assert cells["pod-1"][2:] == ["nft", "1.30", "TPROXY", "*", "*", "ok"]
    assert cells["pod-2"][2:] == ["nftables", "1.30", "REDIRECT", "80,8080", "10.0.0.0/8", "ok"]
    assert cells["pod-4"][2:] == ["-", "-", "-", "-", "-", "none"]
    assert cells["pod-5"][2:] == ["legacy", "1.0", "REDIRECT", "80", "-", "ok"]
    told = " ".join(cells["pod-3"][7:])
    assert told == "drift: inbound TCP does not reach the proxy (and 1 more)"
    assert lines[PODS].startswith(f"{PODS} namespaces in ")
    assert lines[PODS].endswith(": 20 ok, 5 drift, 5 none, 0 error")
    assert lines[PODS + 1] == f"code {DRIFT}"


def each_pod_is_one_object_for_machines(part: str) -> None:
    found = {row["pod"]: row for row in rows(part)}

    assert {name: row["verdict"] for name, row in found.items()} == expected()
    assert len({row["netns"] for row in found.values()}) == PODS
    assert all(row["error"] == "" and row["version"] == 1 for row in found.values())
    assert [one["kind"] for one in found["pod-3"]["findings"]] == ["missing", "shadowed"]
    assert found["pod-1"]["mode"] == "TPROXY"
    assert found["pod-2"]["call"][:3] == ["istio-iptables", "-p", "15001"]
    assert f"code {DRIFT}" in part


SAMPLE = re.compile(r'^([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (-?[\d.]+)$')


def metrics_are_as_the_textfile_collector_wants_them(text: str) -> None:
    assert text.endswith("\n")
    declared: list[str] = []
    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    for line in text.splitlines():
        if line.startswith("# HELP "):
            declared.append(line.split()[2])
        elif line.startswith("# TYPE "):
            assert line.split()[2:] == [declared[-1], "gauge"]
        else:
            found = SAMPLE.match(line)
            assert found, line
            # A metric's samples stand together, behind what declares it.
            assert found[1] == declared[-1]
            labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', found[2] or ""))
            samples.setdefault(found[1], []).append((labels, float(found[3])))
    assert len(set(declared)) == len(declared)
    assert all(name.startswith("istio_init_") for name in declared)
    by_pod = {labels["pod"]: value for labels, value in samples["istio_init_pod_drift"]}
    assert by_pod == {
        name: float(verdict == "drift") for name, verdict in expected().items() if verdict != "none"
    }
    counts = {labels["verdict"]: value for labels, value in samples["istio_init_pods"]}
    assert counts == dict(zip(VERDICTS, (20, 5, 5, 0), strict=True))
    kinds = {labels["kind"]: value for labels, value in samples["istio_init_findings"]}
    assert kinds == {"missing": 5, "shadowed": 5}


def flags_hold_for_every_pod(part: str) -> None:
    found = {row["pod"]: row["verdict"] for row in rows(part)}

    assert found == {f"pod-{n}": "ok" if n % len(KINDS) == 0 else "drift" for n in range(PODS)}


# One that hangs, one that dies, one whose rules cannot be shown, one with a mistake; then
# a pod that ends between the listing and the look, and one of which a process ends there.
BAD = """
cat >bad.py <<'END'
import os, signal, sys, time
from istio_init.cli import audit, main
from istio_init.errors import ApplyError
from istio_init.kernel import netns
from istio_init.operate import fleet
here = audit.audit_here
def bad(*given):
    name = os.uname().nodename
    if name == "pod-0":
        time.sleep(1000)
    if name == "pod-1":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "pod-2":
        raise ApplyError("cannot look", where="here", why="to see it told")
    if name == "pod-3":
        raise ValueError("a mistake")
    return here(*given)
audit.audit_here = bad
fleet._PATIENCE = 2
listdir = os.listdir
def vanishing(path="."):
    names = listdir(path)
    if path == "/proc":
        for name in ("pod-4", "pod-5"):
            pid = int(open(f"{name}.ready").read())
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            while os.path.exists(f"/proc/{pid}/ns/net"):
                time.sleep(0.01)
    return names
os.listdir = vanishing
sys.exit(main(sys.argv[1:]))
END
"""


def test_one_bad_namespace_does_not_stop_the_rest(tmp_path: Path) -> None:
    call = f"{shlex.quote(sys.executable)} bad.py audit --all --format json"
    other = 'nsenter -t "$(cat pod-5.ready)" -n -u sleep 1000 &'
    (said,) = on_node(tmp_path, f"{BAD}\n{other}\nsleep 0.2\n{call} || echo code $?", pods=12)

    found = {row["pid"]: row for row in rows(said)}
    errors = [row["error"] for _, row in sorted(found.items()) if row["verdict"] == "error"]
    assert errors == [
        "did not answer within 2 s",
        "the process that audited it ended with code -9",
        "cannot look (here): to see it told; nothing was changed",
        "the process that audited it ended with code 1",
    ]
    # One of twelve has gone; of the seven that are left one drifts.
    verdicts = sorted(row["verdict"] for row in found.values())
    assert verdicts == ["drift", *["error"] * 4, "none", *["ok"] * 5]
    assert [row["verdict"] for row in found.values() if row["pod"] == "pod-5"] == ["ok"]
    assert said.endswith(f"code {DRIFT}\n")


MOST_SECONDS = 25
HOSTILE = """
cat >name.py <<'END'
import socket
socket.sethostname(b'evil\\xff\\x1b]0;x\\x07"}},\\n{{a="b" \\\\')
END
nsenter -t "$(cat pod-0.ready)" -u {python} name.py
cat >many.py <<'END'
print("*nat")
for port in range(1, 60001):
    print(f"-A PREROUTING -s 10.0.0.1 -p tcp --dport {{port}} -j RETURN")
print("COMMIT")
END
{python} many.py | nsenter -t "$(cat pod-1.ready)" -n iptables-legacy-restore --noflush
cat >hang.py <<'END'
import os, sys, time
from istio_init.cli import audit, main
from istio_init.operate import fleet
here = audit.audit_here
def slow(*given):
    if os.uname().nodename >= "pod-3":
        time.sleep(1000)
    return here(*given)
audit.audit_here = slow
fleet._PATIENCE = 5
sys.exit(main(sys.argv[1:]))
END
"""


def test_hostile_namespaces_cost_a_row_each_and_one_patience_together(tmp_path: Path) -> None:
    script = HOSTILE.format(python=shlex.quote(sys.executable))
    call = f"{shlex.quote(sys.executable)} hang.py audit --all"
    timed, file = on_node(
        tmp_path,
        f"""{script}
        began=$(date +%s); {call} --format json || true; echo "took $(($(date +%s) - began))"
        echo next
        timeout 60 {AUDIT} --format prometheus --output pods.prom || echo code $?
        """,
        pods=30,
    )

    found = rows(timed)
    assert len(found) == 30
    late = [row for row in found if row["error"] == "did not answer within 5 s"]
    # pod-3 to pod-9: the names are compared as text.
    assert len(late) == 7
    (evil,) = [row for row in found if row["pod"].startswith("evil")]
    assert evil["pod"] == 'evil\\udcff\\x1b]0;x\\x07"},\\n{a="b" \\'
    assert evil["verdict"] == "ok"
    (many,) = [row for row in found if row["error"] and row not in late]
    assert "MiB" in many["error"]
    assert int(timed.rpartition("took ")[2]) < MOST_SECONDS
    assert file == f"code {DRIFT}\n"
    text = (tmp_path / "pods.prom").read_text(encoding="utf-8")
    # Of thirty, five without rules of ours and one in error.
    assert text.count("istio_init_pod_drift{") == 24


def test_nobody_can_plant_the_name_of_the_unfinished_file(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious\n", encoding="utf-8")
    (tmp_path / "pods.prom").symlink_to("target")
    (said,) = on_node(
        tmp_path,
        f"""
        for n in $(seq 1 400); do ln -s target .pods.prom.$n.unfinished; done
        {AUDIT} --format prometheus --output pods.prom || echo code $?
        """,
        pods=1,
    )

    assert said == ""
    assert (tmp_path / "target").read_text(encoding="utf-8") == "precious\n"
    assert not (tmp_path / "pods.prom").is_symlink()


def test_a_file_that_cannot_be_written_is_told_and_the_old_one_stays(tmp_path: Path) -> None:
    (tmp_path / "old.prom").write_text("old\n", encoding="utf-8")
    (said,) = on_node(
        tmp_path,
        f"{AUDIT} --format prometheus --output no-such/pods.prom 2>&1 || echo code $?",
        pods=1,
    )

    assert "cannot write the output (no-such/" in said
    assert said.endswith("code 1\n")
    assert "Traceback" not in said


def test_who_cannot_see_every_pod_is_warned(tmp_path: Path) -> None:
    # As in a container without hostPID, where no pod is to be seen.
    (said,) = on_node(tmp_path, f"{AUDIT} 2>&1", pods=0)

    first, _, last = said.splitlines()
    assert first.split("\t")[1] == "warn"
    assert "this PID namespace is not the machine's" in first
    assert "hostPID: true" in first
    assert last.startswith("0 namespaces in ")


def test_one_pod_and_all_exclude_each_other() -> None:
    with Namespace() as node:
        done = node.init("audit", "--all", "--network-namespace", "1", "-p", "0", check=False)

    assert done.returncode == 2
    assert "2 bad values, nothing was changed" in done.stderr
    assert "--network-namespace: '1': names one namespace; --all means every pod" in done.stderr
    assert "-p --envoy-port: '0': expected a number 1-65535" in done.stderr
