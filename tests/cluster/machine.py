"""What a cluster changes on the machine outside of its own namespaces, and puts back.

Processes, mounts and links of a cluster end with its namespaces. Three things do not: six
sysctls that the kubelet insists on, cgroups, and the folders that a file system is mounted on.
Their state from before is kept in one file for all clusters of a machine. The last cluster
restores it; when a cluster was killed, the next one does.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

STATE = Path("/run/istio-init-clusters.json")
CGROUPS = Path("/sys/fs/cgroup")
PREFIX = "istio-init-cluster-"
# In seconds: a cgroup can be removed once the kernel has buried the last of its processes.
PATIENCE = 10

# Source: Kubernetes, pkg/kubelet/cm, setupKernelTunables.
SYSCTLS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
# containerd and the kubelet have these paths compiled in.
MOUNT_POINTS = ("/run", "/var/log", "/var/lib/kubelet", "/var/lib/cni")


@contextmanager
def borrowed() -> Iterator[str]:
    """Make a cgroup for a cluster, and give its name; restore the machine afterwards."""
    with _join() as state:
        cgroup = f"{PREFIX}{secrets.token_hex(4)}"
        try:
            _make_cgroups(cgroup)
            for folder in MOUNT_POINTS:
                Path(folder).mkdir(parents=True, exist_ok=True)
            yield cgroup
        finally:
            _remove_cgroups(cgroup)
            if _lock(state) and _is_current(state):
                _restore(state)
                STATE.unlink()


def _join() -> IO[str]:
    """Return the file of all clusters, locked for as long as it is open.

    Every cluster holds the lock together with the others. Who gets it alone is the first or the
    last one. A change of the lock is not atomic, and the last one removes the file: only a
    locked file that is still in its place will do.
    """
    while True:
        file = STATE.open("a+", encoding="utf-8")
        if _lock(file) and _is_current(file):
            _restore(file)
            _record(file)
        fcntl.flock(file, fcntl.LOCK_SH)
        if _is_current(file):
            return file
        file.close()


def _lock(state: IO[str]) -> bool:
    """Take the lock alone; return False where another cluster holds it."""
    with suppress(BlockingIOError):
        fcntl.flock(state, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _is_current(state: IO[str]) -> bool:
    with suppress(FileNotFoundError):
        return STATE.stat().st_ino == os.fstat(state.fileno()).st_ino
    return False


def _record(state: IO[str]) -> None:
    sysctls = {name: Path("/proc/sys", name).read_text(encoding="ascii") for name in SYSCTLS}
    missing = [folder for folder in MOUNT_POINTS if not Path(folder).exists()]
    state.truncate(0)
    json.dump({"sysctls": sysctls, "folders": missing}, state)
    state.flush()


def _restore(state: IO[str]) -> None:
    """Put back what was recorded, if anything was; remove what a killed cluster has left."""
    state.seek(0)
    text = state.read()
    if not text:
        return
    before = json.loads(text)
    for name, value in before["sysctls"].items():
        file = Path("/proc/sys", name)
        if file.read_text(encoding="ascii") != value:
            file.write_text(value, encoding="ascii")
    for path in {path.name for path in CGROUPS.glob(f"**/{PREFIX}*")}:
        _remove_cgroups(path)
    for folder in before["folders"]:
        with suppress(OSError):
            Path(folder).rmdir()


def is_unified() -> bool:
    """Say whether the machine has version 2 of cgroups alone."""
    return (CGROUPS / "cgroup.controllers").exists()


def _make_cgroups(name: str) -> None:
    """Make a cgroup in each hierarchy."""
    if is_unified():
        (CGROUPS / name).mkdir()
        return
    for hierarchy in CGROUPS.iterdir():
        # Of two controllers in one hierarchy each has a link to it.
        if not hierarchy.is_symlink() and (hierarchy / "tasks").exists():
            (hierarchy / name).mkdir()
            for file in ("cpuset.cpus", "cpuset.mems"):
                # Nothing can run in a cgroup before these are set.
                if (hierarchy / file).exists():
                    value = (hierarchy / file).read_text(encoding="ascii")
                    (hierarchy / name / file).write_text(value, encoding="ascii")


def _remove_cgroups(name: str) -> None:
    """Remove a cluster's cgroups, as soon as their processes have ended."""
    end = time.monotonic() + PATIENCE
    while tops := [path for path in (CGROUPS / name, *CGROUPS.glob(f"*/{name}")) if path.is_dir()]:
        for top in tops:
            for folder, _, _ in os.walk(top, topdown=False):
                with suppress(OSError):
                    Path(folder).rmdir()
        if time.monotonic() > end:
            return
        time.sleep(0.05)
