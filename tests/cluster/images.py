"""Images of programs that are on this machine, for pods to run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tarfile
import tempfile
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.process import ClusterError, call

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SOCKET = "/run/containerd/containerd.sock"
PAUSE = "localhost/pause:1"
BUSYBOX = "localhost/busybox:1"
# As Go calls what the kernel calls otherwise.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# Keeps a pod's namespaces, and does nothing.
_PAUSE_SOURCE = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n"


def load(archive: Path, name: str) -> None:
    """Import an archive of one image, and call it by the name that pods have for it."""
    if not archive.exists():
        raise ClusterError(f"{archive} is missing; `make image` builds the project's own images")
    ctr = ("ctr", "--address", SOCKET, "--namespace", "k8s.io", "images", "import")
    call(*ctr, "--all-platforms", "--index-name", full_name(name), archive)


def full_name(name: str) -> str:
    """Return a name of an image with its registry, as the kubelet completes it."""
    first, slash, _ = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return name
    return f"docker.io/{name}" if slash else f"docker.io/library/{name}"


def load_pause() -> None:
    """Make and load the image of a pod's first process."""
    with _root() as root:
        call(
            "gcc", "-Os", "-s", "-static", "-x", "c", "-", "-o", root / "pause", given=_PAUSE_SOURCE
        )
        _load_folder(root, ["/pause"], PAUSE)


def load_busybox() -> None:
    """Make and load an image of Debian's busybox-static, with all of its commands."""
    with _root() as root:
        (root / "bin").mkdir()
        shutil.copy("/bin/busybox", root / "bin/busybox")
        for command in call("busybox", "--list").split():
            if command != "busybox":
                (root / "bin" / command).symlink_to("busybox")
        (root / "tmp").mkdir()
        (root / "tmp").chmod(0o1777)
        _load_folder(root, ["/bin/sh"], BUSYBOX)


def load_program(program: Path, name: str) -> None:
    """Make and load an image of a program and the shared libraries that it is linked with."""
    with _root() as root:
        place = root / "usr/local/bin" / program.name
        place.parent.mkdir(parents=True)
        shutil.copy(program, place)
        place.chmod(0o755)
        for library in re.findall(r"(/\S+) \(0x", call("ldd", program)):
            target = root / library.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            # Of a link, the file that it leads to.
            shutil.copy(library, target)
        (root / "tmp").mkdir()
        (root / "tmp").chmod(0o1777)
        _load_folder(root, [f"/usr/local/bin/{program.name}"], name)


@contextmanager
def _root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        yield root


def _load_folder(root: Path, entrypoint: Sequence[str], name: str) -> None:
    """Load a folder as an image, by way of an archive in the form of ``docker save``."""
    with tempfile.TemporaryDirectory() as folder:
        layer, archive = Path(folder, "layer.tar"), Path(folder, "image.tar")
        with tarfile.open(layer, "w") as tar:
            tar.add(root, "/")
        with layer.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        config = {
            "architecture": ARCHITECTURES[os.uname().machine],
            "os": "linux",
            "config": {
                "Entrypoint": entrypoint,
                "Env": ["PATH=/usr/local/bin:/bin:/usr/bin:/sbin:/usr/sbin"],
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
        manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": [layer.name]}]
        with tarfile.open(archive, "w") as tar:
            for file, document in (("config.json", config), ("manifest.json", manifest)):
                text = json.dumps(document).encode()
                entry = tarfile.TarInfo(file)
                entry.size = len(text)
                tar.addfile(entry, BytesIO(text))
            tar.add(layer, layer.name)
        load(archive, name)
