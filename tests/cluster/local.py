"""The webhook as a process beside the cluster, for tests with a configuration of their own."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml

from istio_init.inject import builtin
from istio_init.inject.certificates import Terms, issue_server, renewed
from tests.cluster.control_plane import answer
from tests.cluster.kubectl import kubectl
from tests.cluster.process import call, end, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.kubectl import Object

KUBERNETES = Path(__file__).parents[2] / "container/kubernetes"
PROGRAM = str(Path(sys.executable).with_name("istio-init"))
PORT, METRICS_PORT = 15117, 15114
ADDRESS = "localhost"
NAME = "local"
FOLDERS = {"default": "injector", "canary": "injector-revision"}
COMPONENTS = ("by-default", "advice")


def registration(installation: str) -> Object:
    """Return the registration of an installation, as kustomize makes it of the manifests."""
    if installation in COMPONENTS:
        with TemporaryDirectory(dir=KUBERNETES) as folder:
            text = f"resources: [../injector]\ncomponents: [../injector-{installation}]\n"
            Path(folder, "kustomization.yaml").write_text(text, encoding="ascii")
            rendered = call("kubectl", "kustomize", folder)
    else:
        rendered = call("kubectl", "kustomize", KUBERNETES / FOLDERS[installation])
    (found,) = [
        document
        for document in yaml.safe_load_all(rendered)
        if document["kind"] == "MutatingWebhookConfiguration"
    ]
    return dict(found)


class LocalWebhook:
    """A webhook that serves on the node, and is registered by its address."""

    def __init__(self, authority: bytes, config: Path) -> None:
        self._bundle = base64.b64encode(authority).decode()
        self._config = config

    def configure(self, **changes: Any) -> None:  # noqa: ANN401 - of an inject config
        """Give it the built-in configuration with some changes, and wait until it has read it."""
        config = yaml.safe_load(builtin.text(builtin.INJECT_CONFIG)) | changes
        before = self._reloads()
        text = yaml.safe_dump(config)
        if text != self._config.read_text(encoding="utf-8"):
            self._config.write_text(text, encoding="utf-8")
            wait_until("the webhook has read it", lambda: self._reloads() > before)

    def _reloads(self) -> int:
        """Return how often it has read a configuration anew."""
        metrics = answer(f"http://{ADDRESS}:{METRICS_PORT}/metrics").decode()
        line = 'istio_init_webhook_reloads_total{result="success",what="configuration"} '
        found = [one.removeprefix(line) for one in metrics.splitlines() if one.startswith(line)]
        return round(float(found[0])) if found else 0

    def register(self, installation: str) -> Object:
        """Register it in the place of whatever is registered; return the registration."""
        kubectl("delete", "mutatingwebhookconfigurations", "--all")
        found = registration(installation)
        found["metadata"] = {"name": NAME}
        for webhook in found["webhooks"]:
            webhook["clientConfig"] = {
                "url": f"https://{ADDRESS}:{PORT}/inject",
                "caBundle": self._bundle,
            }
        kubectl("create", "-f", "-", given=found)
        return found


@contextmanager
def local_webhook(
    environment: dict[str, str] | None = None,
    **changes: Any,  # noqa: ANN401 - of an inject config
) -> Iterator[LocalWebhook]:
    """Serve with the built-in configuration and some changes for the length of a block."""
    authority = renewed(None, datetime.now(UTC), Terms()).current
    pair = issue_server(authority, [ADDRESS], datetime.now(UTC), Terms())
    config = yaml.safe_load(builtin.text(builtin.INJECT_CONFIG)) | changes
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tls.crt").write_bytes(pair.certificate)
        (folder / "tls.key").write_bytes(pair.key)
        (folder / "config").write_text(yaml.safe_dump(config), encoding="utf-8")
        (folder / "values").write_text(builtin.text(builtin.VALUES), encoding="utf-8")
        (folder / "mesh").write_text(builtin.text(builtin.MESH_CONFIG), encoding="utf-8")
        process = subprocess.Popen(
            [
                *(PROGRAM, "webhook", f"--port={PORT}", f"--metrics-port={METRICS_PORT}"),
                *(f"--tls-cert-file={folder}/tls.crt", f"--tls-private-key-file={folder}/tls.key"),
                *(f"--inject-config={folder}/config", f"--values={folder}/values"),
                *(f"--mesh-config={folder}/mesh", "--drain=100ms", "--log_output_level=error"),
            ],
            env=os.environ | (environment or {}),
        )
        try:
            ready = f"http://{ADDRESS}:{METRICS_PORT}/ready"
            wait_until("the webhook serves", lambda: answer(ready))
            yield LocalWebhook(authority.certificate, folder / "config")
        finally:
            end(process)
            kubectl("delete", "mutatingwebhookconfigurations", NAME, "--ignore-not-found")
