"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler."""

from __future__ import annotations

import csv
import json
import secrets
import ssl
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.cluster.process import call, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.programs import Programs

NODE = "node"
# Addresses that are kept free for documentation (RFC 5737): nobody else has them.
NODE_IP = "192.0.2.1"
POD_CIDR = "198.51.100.0/24"
SERVICE_CIDR = "203.0.113.0/24"
# The first address of the services is that of the API server itself. The server listens there:
# pods reach it although no kube-proxy runs.
API_IP = "203.0.113.1"
API = f"https://{API_IP}:443"
ETCD = "http://127.0.0.1:2379"
ISSUER = "https://kubernetes.default.svc"
# Each program's user and its groups. Tokens are good enough for a cluster of a few minutes.
USERS = {
    "admin": ("admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "kubelet": (f"system:node:{NODE}", "system:nodes"),
}


class ControlPlane:
    """The programs that store objects and act on them; no pod runs without a node."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        self._folder = programs.folder
        self._tokens = {name: secrets.token_hex(16) for name in USERS}
        self._key = self._folder / "service-accounts.key"
        self._certificate = self._folder / "certificates/apiserver.crt"

    def kubeconfig(self, user: str) -> Path:
        """Return the file by which a user reaches the API server."""
        return self._folder / f"{user}.kubeconfig"

    def start(self) -> None:
        """Start everything; return when a pod can be created."""
        self._write_users()
        call(
            *("openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
            *("-out", self._key),
        )
        etcd = self._programs.start(
            # Of what a crash would lose nothing is missed.
            *("etcd", "--unsafe-no-fsync", f"--data-dir={self._folder}/etcd"),
            *(f"--listen-client-urls={ETCD}", f"--advertise-client-urls={ETCD}"),
        )
        apiserver = self._programs.start("kube-apiserver", *self._apiserver_flags())
        etcd.wait_until("etcd answers", lambda: answer(f"{ETCD}/health"))
        apiserver.wait_until("kube-apiserver is ready", lambda: self.get("/readyz"))
        local = ("--bind-address=127.0.0.1", "--leader-elect=false")
        self._programs.start(
            *("kube-controller-manager", *local),
            f"--kubeconfig={self.kubeconfig('controller-manager')}",
            f"--service-account-private-key-file={self._key}",
            f"--root-ca-file={self._certificate}",
            "--use-service-account-credentials",
            # At its usual 20 requests a second it takes 5 s to start its controllers.
            *("--kube-api-qps=1000", "--kube-api-burst=1000"),
        )
        self._programs.start(
            *("kube-scheduler", *local, f"--kubeconfig={self.kubeconfig('scheduler')}"),
            *("--kube-api-qps=1000", "--kube-api-burst=1000"),
        )
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        wait_until("the default service account is there", lambda: self.get(account))

    def get(self, path: str) -> bytes:
        """Return what the API server has at a path, or nothing where it does not answer."""
        return answer(f"{API}{path}", self._tokens["admin"])

    def _write_users(self) -> None:
        with (self._folder / "tokens.csv").open("w", encoding="ascii", newline="") as file:
            for name, (user, groups) in USERS.items():
                csv.writer(file).writerow((self._tokens[name], user, name, groups))
        for name, token in self._tokens.items():
            cluster = {"server": API, "certificate-authority": str(self._certificate)}
            document = {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "cluster",
                "contexts": [{"name": "cluster", "context": {"cluster": "cluster", "user": name}}],
                "clusters": [{"name": "cluster", "cluster": cluster}],
                "users": [{"name": name, "user": {"token": token}}],
            }
            self.kubeconfig(name).write_text(json.dumps(document), encoding="ascii")

    def _apiserver_flags(self) -> tuple[str, ...]:
        return (
            f"--etcd-servers={ETCD}",
            *("--secure-port=443", "--bind-address=0.0.0.0", f"--advertise-address={NODE_IP}"),
            # It signs a certificate of its own, for API_IP too.
            f"--cert-dir={self._certificate.parent}",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-key-file={self._key}",
            f"--service-account-signing-key-file={self._key}",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            f"--token-auth-file={self._folder}/tokens.csv",
            *("--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"),
            "--allow-privileged",
            # A Service's webhook is called at the address of a pod: no kube-proxy is needed.
            "--enable-aggregator-routing",
            "--endpoint-reconciler-type=none",
            "--kubelet-preferred-address-types=InternalIP",
        )


def answer(url: str, token: str = "") -> bytes:
    """Return what is answered to a request, or nothing if that is no success."""
    # It is the cluster's own, on this machine; its certificate is a minute old.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with (
        suppress(OSError),
        opener.open(urllib.request.Request(url, headers=headers), timeout=2) as a,
    ):
        content: bytes = a.read()
        return content
    return b""
