"""The webhook's image: it serves without a shell, rights or a place to write to."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.container.runtime import Context, Image, Runtime
from tests.documents import DOCS
from tests.namespace import Namespace

ROOT = Path(__file__).parents[2]
ARCHIVE = ROOT / "build" / "istio-init-webhook.tar"
NOBODY = Context(capabilities=(), uid=65534)
MEGABYTE = 10**6


@pytest.fixture(scope="module")
def webhook_image() -> Image:
    return Image(ARCHIVE)


def test_nothing_but_the_program(webhook_image: Image) -> None:
    found = {
        Path(file.name).name
        for file in webhook_image.files
        if file.isreg() and file.mode & 0o111 and ".so" not in file.name
    }
    names = [file.name for file in webhook_image.files]

    assert found == {"istio-init", "istio-iptables", "python3.11"}
    assert not [name for name in names if re.search(r"(^|/)(pip|setuptools|iptc)(/|$)", name)]
    assert not [file.name for file in webhook_image.files if file.isreg() and file.mode & 0o222]
    config = webhook_image.config["config"]
    assert config["User"] == "65534:65534"
    assert config["Entrypoint"] == ["/usr/bin/istio-init", "webhook"]


def test_it_has_every_module_that_it_imports(webhook_image: Image) -> None:
    """Those too that only a cluster needs, and the codec that error texts are escaped with."""
    modules = ("server", "authority", "events", "namespaces", "admission", "check")
    program = "".join(f"import istio_init.inject.{name}\n" for name in modules)
    program += "import ssl, lightkube\nprint(ssl.OPENSSL_VERSION, '\\x1b'.encode('unicode_escape'))"
    with Namespace() as pod:
        done = Runtime(webhook_image).run(
            "-ISc", program, pod=pod, context=NOBODY, program=("/usr/bin/python3.11",)
        )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("OpenSSL 3")


def test_it_refuses_a_call_that_cannot_serve(webhook_image: Image) -> None:
    with Namespace() as pod:
        done = Runtime(webhook_image).run(pod=pod, context=NOBODY)

    assert done.returncode == 2
    assert "--manage-certificates" in done.stderr


def test_its_size_is_what_the_documentation_says(webhook_image: Image) -> None:
    whole = sum(file.size for file in webhook_image.files) / MEGABYTE
    compressed = sum(layer["size"] for layer in webhook_image.layers) / MEGABYTE
    text = (DOCS / "container.md").read_text(encoding="utf-8")
    (said,) = re.findall(r"The webhook's image takes (\d+) MB, (\d+) MB compressed", text)

    assert whole == pytest.approx(int(said[0]), abs=2)
    assert compressed == pytest.approx(int(said[1]), abs=1)


def test_another_build_gives_the_same(webhook_image: Image, tmp_path: Path) -> None:
    archive = tmp_path / "again.tar"
    built = subprocess.run(
        [ROOT / "scripts/image", "--target", "webhook", "--no-cache", "--output", archive],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr

    assert Image(archive).descriptor["digest"] == webhook_image.descriptor["digest"]
