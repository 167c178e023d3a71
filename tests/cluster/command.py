"""Runs a command in a Kubernetes cluster that lives as long as the command does."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tests.cluster.control_plane import ControlPlane
from tests.cluster.images import load
from tests.cluster.machine import MOUNT_POINTS, borrowed
from tests.cluster.node import Node, make_network
from tests.cluster.process import ClusterError, call, end
from tests.cluster.programs import Programs

if TYPE_CHECKING:
    from collections.abc import Sequence

PROJECT = Path(__file__).parents[2]
FOLDER = Path("/run/cluster")
# The word by which the script knows that it runs within the namespaces.
INSIDE = "--inside-of-cluster"
DESCRIPTION = """\
Runs COMMAND in a Kubernetes cluster of its own, which ends with it: `bash` to look around.

The cluster has network, process and mount namespaces of its own, and nothing of it stays behind.
KUBECONFIG is set, kubectl is on the PATH. Takes root, and the packages that `make cluster`
installs. The first call builds Kubernetes, which takes 6 to 15 minutes."""


def main(arguments: Sequence[str], script: str) -> int:
    """Run the command line; return its exit code."""
    if arguments[:1] == [INSIDE]:
        return _run_inside(arguments[1], int(arguments[2]), _read(arguments[3:]))
    options = _read(arguments)
    if os.geteuid() != 0:
        sys.stderr.write("cluster: making namespaces takes root: run it with sudo\n")
        return 1
    if options.kube is None:
        built = subprocess.run(
            [PROJECT / "scripts/kubernetes"], stdout=subprocess.PIPE, text=True, check=False
        )
        if built.returncode:
            return built.returncode
        arguments = [f"--kube={built.stdout.strip()}", *arguments]
    with borrowed() as cgroup:
        return _run_namespaces(script, cgroup, arguments)


def _read(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="cluster",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--node", action="store_true", help="with a node, which runs pods; else they stay pending"
    )
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="ARCHIVE=NAME",
        help="an image for the node, by the name that pods have for it; may be repeated",
    )
    parser.add_argument(
        "--logs", type=Path, metavar="FOLDER", help="where the programs' logs go (default: nowhere)"
    )
    parser.add_argument(
        "--kube", type=Path, metavar="FILE", help="what `scripts/kubernetes` has built"
    )
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    return parser.parse_args(arguments)


def _run_namespaces(script: str, cgroup: str, arguments: Sequence[str]) -> int:
    """Run the script once more, in new namespaces, and tell it when to end."""
    # As long as this process has the one end, the cluster, at the other end, goes on.
    there, here = os.pipe()
    process = subprocess.Popen(
        [
            # Not `ip netns exec`, which hides the cgroups behind a new /sys.
            *("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *(sys.executable, script, INSIDE, cgroup, str(there), *arguments),
        ],
        pass_fds=[there],
    )
    os.close(there)
    # A key that interrupts reaches the command, which knows what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os.close(here))
    signal.signal(signal.SIGHUP, lambda *_: os.close(here))
    return process.wait()


def _run_inside(cgroup: str, lifeline: int, options: argparse.Namespace) -> int:
    """Be the first process in the namespace: bury what others leave; return the exit code."""
    os.set_inheritable(lifeline, False)  # noqa: FBT003 - Python's
    worker = os.fork()
    if not worker:
        _run_worker(cgroup, options)

    def watch() -> None:
        os.read(lifeline, 1)
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGTERM)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()
    while True:
        process, status = os.wait()
        if process == worker:
            return os.waitstatus_to_exitcode(status)


def _run_worker(cgroup: str, options: argparse.Namespace) -> NoReturn:
    """Run the cluster and the command, and end the process with the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    code = 1
    try:
        with ExitStack() as stack:
            code = _run_command(cgroup, options, stack)
    except ClusterError as error:
        sys.stderr.write(f"cluster: {error}\n")
    except SystemExit as error:
        code = int(str(error.code))
    os._exit(code)


def _run_command(cgroup: str, options: argparse.Namespace, stack: ExitStack) -> int:
    images = [image.rpartition("=") for image in options.image]
    archives = [(Path(archive).resolve(), name) for archive, _, name in images]
    logs = options.logs.resolve() if options.logs else None
    _make_mounts()
    make_network()
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        # There is no way to one from in here.
        del os.environ[name]
    os.environ["KUBECACHEDIR"] = str(FOLDER / "kubectl")
    programs = Programs(FOLDER, options.kube.resolve(), logs, stack)
    control_plane = ControlPlane(programs)
    control_plane.start()
    programs.say("the API server is ready")
    if options.node:
        Node(programs, control_plane, cgroup).start()
        for archive, name in archives:
            load(archive, name)
        programs.say("the node is ready")
    os.environ["KUBECONFIG"] = str(control_plane.kubeconfig("admin"))
    command = subprocess.Popen(options.command)
    stack.callback(end, command)
    # A key that interrupts is the command's affair.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return command.wait()


def _make_mounts() -> None:
    """Give the programs folders of their own in the place of the machine's."""
    # Nothing that is mounted from here on is seen outside; pods may share what is mounted here.
    call("mount", "--make-rprivate", "/")
    call("mount", "--make-rshared", "/")
    for folder in MOUNT_POINTS:
        call("mount", "-t", "tmpfs", "-o", "mode=755", "cluster", folder)
    FOLDER.mkdir()
