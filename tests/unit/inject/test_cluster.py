"""What becomes of a cluster that cannot be asked, or answers what it should not.

A cluster that answers as it should is the affair of the tests in a cluster.
"""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from istio_init.inject import cluster as module
from istio_init.inject.cluster import Cluster, ClusterError
from tests.unit.calls import call

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def kubeconfig(folder: Path, port: int, host: str = "127.0.0.1") -> str:
    file = folder / "kubeconfig"
    config = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "clusters": [{"name": "here", "cluster": {"server": f"http://{host}:{port}"}}],
        "users": [{"name": "me", "user": {"token": "x"}}],
    }
    file.write_text(json.dumps(config), encoding="utf-8")
    return str(file)


@contextmanager
def answering(answer: bytes | None) -> Iterator[int]:
    """Serve one answer to whoever connects, None for none at all; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(20):
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connection.settimeout(5)
                with connection:
                    try:
                        connection.recv(65536)
                        if answer is None:
                            connection.recv(65536)
                        else:
                            connection.sendall(answer)
                    except OSError:
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=10)


def response(status: str, body: bytes, kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body


def status(code: int, message: str) -> bytes:
    return json.dumps({"kind": "Status", "code": code, "message": message}).encode()


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        (None, "not found"),
        ("", "kubeconfig"),
        ("[]", "kubeconfig"),
        ("a: [", "kubeconfig"),
        ("\x00", "kubeconfig"),
        ("clusters: []\ncontexts: []\n", "context"),
        ("clusters: [{}]\ncontexts: [{}]\n", "kubeconfig"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used(text: str | None, mentions: str, tmp_path: Path) -> None:
    file = tmp_path / "config"
    if text is not None:
        file.write_text(text)

    with pytest.raises(ClusterError) as refused:
        Cluster(kubeconfig=str(file))

    assert mentions in str(refused.value)
    assert "--kubeconfig" in str(refused.value)
    assert refused.value.exit_code == 1


def test_a_context_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="there' not found"):
        Cluster(kubeconfig=kubeconfig(tmp_path, 1), context="there")


def test_nobody_listens(tmp_path: Path) -> None:
    asked = Cluster(kubeconfig=kubeconfig(tmp_path, 1))

    with pytest.raises(ClusterError, match="look whether kubectl reaches the cluster"):
        asked.namespace_labels("shop")


HTML = b"<html>" + b"x" * 1000
DEEP = b'{"metadata":' + b"[" * 20_000


@pytest.mark.parametrize(
    ("answer", "mentions"),
    [
        (response("404 Not Found", status(404, 'namespaces "shop" not found')), "look for it"),
        (response("403 Forbidden", status(403, "no\x1b[31m")), "ask for the right"),
        (response("401 Unauthorized", status(401, "who?")), "ask for the right"),
        (response("500 Oops", status(500, "oops")), "oops"),
        (response("500 Oops", HTML, "text/html"), "cannot read the namespace"),
        (response("503 Oops", b""), "cannot read the namespace"),
        (response("200 OK", HTML, "text/html"), "cannot read the namespace"),
        (response("200 OK", DEEP), "cannot read the namespace"),
        (response("200 OK", b"[]"), "cannot read the namespace"),
        (response("200 OK", b'{"metadata": 1}'), "cannot read the namespace"),
        (response("200 OK", b'{"metadata": {"labels": []}}'), "cannot read the namespace"),
        (b"SSH-2.0-OpenSSH\r\n", "look whether kubectl"),
        (b"", "look whether kubectl"),
    ],
)
def test_answers_of_something_else(answer: bytes, mentions: str, tmp_path: Path) -> None:
    with answering(answer) as port:
        asked = Cluster(kubeconfig=kubeconfig(tmp_path, port))

        with pytest.raises(ClusterError) as refused:
            asked.namespace_labels("shop")

    assert mentions in str(refused.value)
    assert str(refused.value).isprintable()


def test_one_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    with answering(None) as port:
        asked = Cluster(kubeconfig=kubeconfig(tmp_path, port))

        with pytest.raises(ClusterError, match="cannot list the webhook configurations"):
            asked.webhooks()


def test_a_config_map_without_the_key(tmp_path: Path) -> None:
    with answering(response("200 OK", b'{"data": {"other": "x"}}')) as port:
        asked = Cluster(kubeconfig=kubeconfig(tmp_path, port))

        with pytest.raises(ClusterError, match="its keys are other"):
            asked.settings()


def test_the_command_says_so_and_ends_with_1(tmp_path: Path) -> None:
    flags = ("--from-cluster", "--kubeconfig", kubeconfig(tmp_path, 1))

    done = call("check-inject", "--table", *flags)

    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("cannot read the ConfigMap (istio-system/istio-sidecar-injector in ")


def test_without_the_flag_no_cluster_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path, port))
        (tmp_path / "app.yaml").write_text("kind: Pod\napiVersion: v1\nspec: {}\n")

        done = call("check-inject", "-f", str(tmp_path / "app.yaml"))

        with pytest.raises(TimeoutError):
            server.accept()
    assert done.code == 0
