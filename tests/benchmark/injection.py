"""What is timed of ``istio-init inject``: one Deployment, and many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.benchmark.visits import Step, Visit
from tests.namespace import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEPLOYMENTS = (1, 500)
BUILT_IN, GIVEN = "built-in configuration", "Istio's configuration"
_DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: app-{number}
  labels:
    app: app-{number}
spec:
  replicas: 2
  selector:
    matchLabels:
      app: app-{number}
  template:
    metadata:
      labels:
        app: app-{number}
        version: v1
      annotations:
        traffic.sidecar.istio.io/excludeInboundPorts: "9090"
    spec:
      serviceAccountName: app-{number}
      containers:
        # What the user asks for.
        - name: app
          image: registry.example/app:1.0
          ports:
            - name: http
              containerPort: 8080
          env:
            - name: NUMBER
              value: "{number}"
          resources:
            requests:
              cpu: 100m
              memory: 64Mi
          readinessProbe:
            httpGet:
              path: /ready
              port: http
"""


@dataclass(frozen=True, slots=True)
class Configuration:
    """The files of an installation, as inject and Istio's kube-inject take them."""

    inject_config: Path
    values: Path
    mesh_config: Path

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags that name the files: Istio's, which are aliases of ours."""
        return (
            *("--injectConfigFile", str(self.inject_config)),
            *("--valuesFile", str(self.values)),
            *("--meshConfigFile", str(self.mesh_config)),
        )


def of_conformance(folder: Path | None) -> Configuration | None:
    """Return Istio 1.30's configuration, from the folder with the data of its cases."""
    if folder is None:
        return None
    own = folder / "1.30"
    return Configuration(
        own / "configs/default.yaml", own / "values/default.json", own / "mesh/default.yaml"
    )


def row(number: int, configuration: str) -> str:
    """Return the name of a row."""
    return f"inject, {number} Deployment{'s' if number > 1 else ''}, {configuration}"


def manifest(number: int) -> str:
    """Return a manifest of that many Deployments."""
    return "---\n".join(_DEPLOYMENT.format(number=one) for one in range(number))


def visits(
    folder: Path, configuration: Configuration | None, peer: tuple[str, ...] = ()
) -> Iterator[Visit]:
    """Yield every call; those with files only where there are files, and the peer's with them.

    A peer is called as ``istioctl`` is: ``PEER kube-inject -f FILE --injectConfigFile ...``.
    """
    for number in DEPLOYMENTS:
        path = folder / f"deployments-{number}.yaml"
        path.write_text(manifest(number), encoding="ascii")
        share = 1 if number == 1 else 5

        def visit(
            kind: str, *command: str, share: int = share, number: int = number, peer: bool = False
        ) -> Visit:
            return Visit((Step(command, row(number, kind)),), share, peer)

        yield visit(BUILT_IN, PROGRAM, "inject", "-f", str(path))
        if configuration:
            flags = ("-f", str(path), *configuration.flags)
            yield visit(GIVEN, PROGRAM, "inject", *flags)
            if peer:
                yield visit(GIVEN, *peer, "kube-inject", *flags, peer=True)
