"""The built image, and containers of it, run by runc as a node's runtime runs them.

Of what runtimes grant a container nothing is taken for granted: each capability
is named by the test, the root is read-only, nothing else can be written to
either, no privileges can be gained, and system calls pass the default filter of
Podman and CRI-O, whose origin is Docker's, as is that of containerd's.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import subprocess
import tarfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.namespace import Namespace, public_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from subprocess import CompletedProcess
    from typing import IO

ARCHIVE = Path(__file__).parents[2] / "build" / "istio-init.tar"
# From Debian's golang-github-containers-common.
SECCOMP_PROFILE = Path("/usr/share/containers/seccomp.json")
# As the profile calls what the kernel calls otherwise.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
PYTHON = ("/usr/bin/python3.11", "-ISc")
# Does nothing, until it is ended.
WAITS = (*PYTHON, "import signal; signal.pause()")
SECONDS = 60

# Mounted in every container; the rest of what runtimes mount can be written to.
MOUNTS = frozenset({"/proc", "/dev", "/sys"})
# Which users of the node stand for those of a pod that is to have its own.
MAPPING = [{"containerID": 0, "hostID": 100000, "size": 65536}]
CAPABILITY_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")

_numbers = itertools.count()


class Image:
    """An image in an archive of OCI's format, and its unpacked file system."""

    def __init__(self, archive: Path = ARCHIVE) -> None:
        assert archive.exists(), f"{archive} is missing: run `make image`"
        self.root = public_folder()
        with tarfile.open(archive) as blobs:
            (self.descriptor,) = _document(blobs, "index.json")["manifests"]
            self.manifest = _document(blobs, _blob(self.descriptor))
            self.config = _document(blobs, _blob(self.manifest["config"]))
            self.layers: list[dict[str, Any]] = self.manifest["layers"]
            self.files: list[tarfile.TarInfo] = []
            for layer in self.layers:
                with tarfile.open(fileobj=_file(blobs, _blob(layer)), mode="r:*") as files:
                    self.files += files.getmembers()
                    files.extractall(self.root)


def _file(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    found = archive.extractfile(name)
    assert found is not None
    return found


def _document(archive: tarfile.TarFile, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.load(_file(archive, name))
    return found


def _blob(descriptor: Mapping[str, Any]) -> str:
    return "blobs/" + str(descriptor["digest"]).replace(":", "/")


@dataclass(frozen=True)
class Context:
    """What a container may do, as a pod's ``securityContext`` says it.

    With ``ambient`` the capabilities reach a process that is not root, which
    Kubernetes cannot ask for yet.
    """

    capabilities: tuple[str, ...] = ("NET_ADMIN", "NET_RAW")
    uid: int = 0
    ambient: bool = False
    env: tuple[str, ...] = ()
    # In bytes; 0 is no limit.
    memory: int = 0
    # Files and folders of the node, each with the path at which it can be written to.
    mounts: tuple[tuple[Path, str], ...] = ()
    # A process among whose own it is, instead of being alone; 0 is none.
    beside: int = 0

    def sets(self) -> dict[str, list[str]]:
        """Return the sets of capabilities that a runtime gives the process."""
        names = [f"CAP_{name}" for name in self.capabilities]
        if self.ambient:
            return dict.fromkeys(CAPABILITY_SETS, names)
        # What becomes of the others when a process that is not root is executed.
        own = [] if self.uid else names
        return {"bounding": names, "effective": own, "permitted": own}

    def __str__(self) -> str:
        ambient = " ambient" if self.ambient else ""
        return f"uid {self.uid}{ambient} {'+'.join(self.capabilities) or 'no capabilities'}"


ROOT = Context()


class Sandbox(Namespace):
    """A pod with users of its own: its network namespace belongs to its user namespace."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__()
        self._running = runtime.running(WAITS, pod=None, context=Context(capabilities=()))
        self.process = 0

    def __enter__(self) -> Self:
        self.process = self._running.__enter__()
        self.path = f"/proc/{self.process}/ns/net"
        self.run("ip", "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        self._running.__exit__(None, None, None)

    def command(self, argv: Sequence[str], *, uid: int = 0, gid: int | None = None) -> list[str]:
        """Return the command that runs ``argv`` in here, as root of its users."""
        assert (uid, gid) == (0, None), "nobody has needed another user yet"
        return ["nsenter", f"--target={self.process}", "--user", "--net", *argv]


class Runtime:
    """runc, with everything that it keeps in a folder of the test's."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self._folder = public_folder()

    def run(
        self,
        *args: str,
        pod: Namespace,
        context: Context = ROOT,
        program: Sequence[str] | None = None,
    ) -> CompletedProcess[str]:
        """Run a container in a pod to its end, with ``program`` in place of the image's own."""
        namespaces = {"network": pod.path}
        if isinstance(pod, Sandbox):
            namespaces["user"] = f"/proc/{pod.process}/ns/user"
        name, command = self.prepared(
            *args, namespaces=namespaces, context=context, program=program
        )
        try:
            return subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
        finally:
            # There is nothing left, unless it took too long.
            self._remove(name)

    def prepared(
        self,
        *args: str,
        namespaces: Mapping[str, str | None],
        context: Context = ROOT,
        program: Sequence[str] | None = None,
    ) -> tuple[str, list[str]]:
        """Return the name of a container, and the command that runs it to its end."""
        entry = self.image.config["config"]["Entrypoint"] if program is None else program
        name = _name()
        bundle = self._bundle(name, [*entry, *args], context, namespaces)
        return name, self._runc("run", "--bundle", str(bundle), name)

    @contextmanager
    def running(
        self, program: Sequence[str], *, pod: Namespace | None, context: Context
    ) -> Iterator[int]:
        """Give the process of a container that runs for the length of a ``with`` block.

        Without a pod its network and its users are its own.
        """
        namespaces = {"network": pod.path} if pod else {"network": None, "user": None}
        name = _name()
        bundle = self._bundle(name, program, context, namespaces)
        try:
            subprocess.run(
                self._runc("run", "--detach", "--bundle", str(bundle), name),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=True,
            )
            shown = subprocess.run(
                self._runc("state", name), capture_output=True, text=True, check=True
            )
            yield int(json.loads(shown.stdout)["pid"])
        finally:
            self._remove(name)

    def _remove(self, name: str) -> None:
        """End a container, if it is there."""
        subprocess.run(self._runc("delete", "--force", name), check=True, capture_output=True)

    def _runc(self, *argv: str) -> list[str]:
        return ["runc", "--root", str(self._folder / "state"), *argv]

    def _bundle(
        self,
        name: str,
        argv: Sequence[str],
        context: Context,
        namespaces: Mapping[str, str | None],
    ) -> Path:
        """Return a new folder with what runc wants to know about a container."""
        bundle = self._folder / name
        bundle.mkdir()
        subprocess.run(["runc", "spec", "--bundle", str(bundle)], check=True)
        file = bundle / "config.json"
        spec = json.loads(file.read_text(encoding="utf-8"))
        spec["root"] = {"path": str(self.image.root), "readonly": True}
        spec["mounts"] = [one for one in spec["mounts"] if one["destination"] in MOUNTS]
        for mount in spec["mounts"]:
            if mount["destination"] == "/dev":
                mount["options"].append("ro")
        process = spec["process"]
        process["terminal"] = False
        process["args"] = list(argv)
        process["env"] = [*self.image.config["config"]["Env"], *context.env]
        process["user"] = {"uid": context.uid, "gid": context.uid}
        process["capabilities"] = context.sets()
        assert process["noNewPrivileges"]
        linux = spec["linux"]
        linux["seccomp"] = seccomp(context.capabilities)
        if context.memory:
            linux["resources"]["memory"] = {"limit": context.memory}
        spec["mounts"] += [
            {"destination": to, "type": "bind", "source": str(path), "options": ["bind", "rw"]}
            for path, to in context.mounts
        ]
        entered = dict(namespaces)
        if context.beside:
            entered["pid"] = f"/proc/{context.beside}/ns/pid"
        own = [one for one in linux["namespaces"] if one["type"] not in {"network", *entered}]
        linux["namespaces"] = [*own, *_entered(entered)]
        if "user" in namespaces:
            linux["uidMappings"] = linux["gidMappings"] = MAPPING
        file.write_text(json.dumps(spec), encoding="utf-8")
        return bundle


def _name() -> str:
    """Return a name that no other test's container has: its cgroup is called after it."""
    return f"istio-init-{os.getpid()}-{next(_numbers)}"


def _entered(namespaces: Mapping[str, str | None]) -> Iterator[dict[str, str]]:
    for kind, path in namespaces.items():
        yield {"type": kind, "path": path} if path else {"type": kind}


def seccomp(capabilities: Sequence[str]) -> dict[str, Any]:
    """Return the default profile in the form of OCI's specification.

    A profile says of some system calls that they go with a capability, or are
    of one architecture, which the engines resolve before a runtime sees it.

    Source: containers/common, pkg/seccomp, setupSeccomp.
    """
    profile = json.loads(SECCOMP_PROFILE.read_text(encoding="utf-8"))
    held = {f"CAP_{name}" for name in capabilities}
    machine = ARCHITECTURES[platform.machine()]

    def applies(rule: Mapping[str, Any]) -> bool:
        wanted, unwanted = rule.get("includes") or {}, rule.get("excludes") or {}
        return (
            set(wanted.get("caps", ())) <= held
            and machine in wanted.get("arches", (machine,))
            and held.isdisjoint(unwanted.get("caps", ()))
            and machine not in unwanted.get("arches", ())
        )

    kept = ("names", "action", "errnoRet", "args")
    rules = [rule for rule in profile["syscalls"] if applies(rule)]
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "syscalls": [{key: rule[key] for key in kept if rule.get(key)} for rule in rules],
    }
