"""What the image does beside writing rules: validation, reasons of failures, a node's audit."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.container.runtime import WAITS, Context
from tests.container.test_drop_in import NEW, NEW_CONTEXT
from tests.container.test_kubernetes import context_of, documents
from tests.container.test_privileges import BOTH, ENOUGH, NET_ADMIN
from tests.namespace import BACKENDS, Namespace, public_folder
from tests.pod import PATIENCE
from tests.snapshot import snapshot

if TYPE_CHECKING:
    from subprocess import CompletedProcess

    from tests.container.runtime import Runtime

# As the CNI plugin's users have it: the rules are somebody else's, the pod only asks.
VALIDATION = (*NEW, "--run-validation", "--skip-rule-apply")
VALIDATION_CONTEXT = Context((), 1337)


@pytest.mark.parametrize("backend", BACKENDS)
def test_validation_takes_no_capability(runtime: Runtime, backend: str) -> None:
    with Namespace() as pod:
        pod.init(*NEW, "--backend", backend)
        before = snapshot(pod)
        done = runtime.run(*VALIDATION, pod=pod, context=VALIDATION_CONTEXT)
        after = snapshot(pod)

    assert done.returncode == 0, done.stderr
    assert "the connection arrived" in done.stderr
    assert after == before


def test_validation_fails_as_the_cni_plugin_expects(runtime: Runtime) -> None:
    with Namespace() as pod:
        done = runtime.run(*VALIDATION, pod=pod, context=VALIDATION_CONTEXT)

    assert done.returncode == 126
    assert "127.0.0.6:15002" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("backend", BACKENDS)
def test_rules_and_validation_in_one_run(runtime: Runtime, backend: str) -> None:
    """As root it becomes the proxy's user, whom the rules know."""
    context = Context(("NET_ADMIN", "NET_RAW", "SETUID", "SETGID"))
    with Namespace() as pod:
        arguments = (*NEW, "--run-validation", "--backend", backend)
        done = runtime.run(*arguments, pod=pod, context=context)

    assert done.returncode == 0, done.stderr
    assert "the connection arrived" in done.stderr


def doctor(runtime: Runtime, backend: str, context: Context) -> CompletedProcess[str]:
    with Namespace() as pod:
        return runtime.run("doctor", *NEW, "--backend", backend, pod=pod, context=context)


@pytest.mark.parametrize(("backend", "context"), ENOUGH, ids=str)
def test_the_doctor_agrees_that_it_is_enough(
    runtime: Runtime, backend: str, context: Context
) -> None:
    done = doctor(runtime, backend, context)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("backend", "context", "missing"),
    [
        ("legacy", Context(NET_ADMIN), ["NET_RAW"]),
        ("auto", Context(()), ["NET_ADMIN"]),
        ("nft", Context(BOTH, 1337), ["NET_ADMIN"]),
        ("nftables", Context(()), ["NET_ADMIN"]),
    ],
    ids=str,
)
def test_the_doctor_says_what_is_missing(
    runtime: Runtime, backend: str, context: Context, missing: list[str]
) -> None:
    done = doctor(runtime, backend, context)

    problems = [line for line in done.stdout.splitlines() if line.startswith("problem")]
    assert done.returncode == 1
    for name in missing:
        assert any(f"{name} is missing" in line for line in problems), done.stdout
    # What is there is not said to be missing.
    assert "this kernel has nothing" not in done.stdout


def test_kubernetes_is_told_the_reason(runtime: Runtime) -> None:
    log = public_folder() / "termination-log"
    log.touch(0o666)
    context = replace(NEW_CONTEXT, capabilities=(), mounts=((log, "/dev/termination-log"),))
    with Namespace() as pod:
        done = runtime.run(*NEW, pod=pod, context=context)

    assert done.returncode == 1
    reason = log.read_text(encoding="utf-8")
    assert "NET_ADMIN" in reason
    assert reason.strip() in done.stderr


def verdicts(text: str) -> dict[int, int]:
    """Return whether there is drift, by the inode of the network namespace."""
    found = re.findall(r'^istio_init_pod_drift\{netns="(\d+)",.*\} ([01])$', text, re.MULTILINE)
    return {int(inode): int(drift) for inode, drift in found}


def test_a_nodes_audit(runtime: Runtime) -> None:
    """The DaemonSet's container, until it has written once, on a node of two pods."""
    (manifest,) = documents("audit.yaml")
    spec = manifest["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    (mount,) = container["volumeMounts"]
    folder = public_folder()
    nothing = Context(())
    with ExitStack() as stack:
        node, own, good, bad = (stack.enter_context(Namespace()) for _ in range(4))
        # The first process of its PID namespace is the node's.
        first = stack.enter_context(runtime.running(WAITS, pod=node, context=nothing))
        for pod in (good, bad):
            pod.init(*NEW)
            other = replace(nothing, uid=1000, beside=first)
            stack.enter_context(runtime.running(WAITS, pod=pod, context=other))
        bad.run("iptables-legacy", "-t", "nat", "-I", "OUTPUT", "-j", "RETURN")
        assert spec["hostPID"]
        context = replace(
            context_of(container), beside=first, mounts=((folder, mount["mountPath"]),)
        )
        program = [*container["command"], *container["args"]]
        stack.enter_context(runtime.running(program, pod=own, context=context))
        text = contents(folder / "istio_init.prom")
        inodes = [Path(pod.path).stat().st_ino for pod in (good, bad)]

    assert [verdicts(text)[inode] for inode in inodes] == [0, 1]
    assert list(folder.iterdir()) == [folder / "istio_init.prom"]


def contents(file: Path) -> str:
    """Return what a file holds, as soon as it is there."""
    deadline = time.monotonic() + PATIENCE
    while not file.exists():
        assert time.monotonic() < deadline, f"nobody has written {file.name}"
        time.sleep(0.05)
    return file.read_text(encoding="utf-8")
