"""`istio-init webhook` as it is called: it serves, reads files again, and ends in order."""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import threading
import time
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from istio_init.cli.click_app import run_with_click
from istio_init.inject import builtin
from istio_init.inject.certificates import Terms, issue_server, renewed
from istio_init.inject.connections import listen

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REVIEW: dict[str, Any] = {
    "apiVersion": "admission.k8s.io/v1",
    "kind": "AdmissionReview",
    "request": {
        "uid": "1",
        "namespace": "shop",
        "object": {
            "metadata": {"name": "web"},
            "spec": {"containers": [{"name": "app", "image": "app:1"}]},
        },
    },
}


def free_ports() -> list[int]:
    with closing(listen(0)) as one, closing(listen(0)) as other:
        return [sock.getsockname()[1] for sock in (one, other)]


class Call:
    """A call of the webhook with files of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.metrics_port = free_ports()
        self.certify()
        (folder / "config").write_text(builtin.text(builtin.INJECT_CONFIG), encoding="utf-8")
        (folder / "values").write_text(builtin.text(builtin.VALUES), encoding="utf-8")

    def certify(self) -> None:
        """Write another certificate, of another authority."""
        authority = renewed(None, datetime.now(UTC), Terms()).current
        pair = issue_server(authority, ["localhost"], datetime.now(UTC), Terms())
        (self.folder / "key").write_bytes(pair.key)
        (self.folder / "certificate").write_bytes(pair.certificate)
        self.client = ssl.create_default_context(cadata=authority.certificate.decode())

    def arguments(self, *more: str) -> list[str]:
        return [
            *("webhook", f"--port={self.port}", f"--metrics-port={self.metrics_port}"),
            *(f"--inject-config={self.folder}/config", f"--values={self.folder}/values"),
            f"--tls-cert-file={self.folder}/certificate",
            *(f"--tls-private-key-file={self.folder}/key", "--drain=300ms", "--workers=1"),
            *more,
        ]

    def post(self) -> dict[str, Any]:
        connection = http.client.HTTPSConnection("localhost", self.port, context=self.client)
        with closing(connection):
            headers = {"content-type": "application/json"}
            connection.request("POST", "/inject", json.dumps(REVIEW), headers)
            found: dict[str, Any] = json.loads(connection.getresponse().read())
            return found

    def get(self, path: str) -> str:
        connection = http.client.HTTPConnection("localhost", self.metrics_port)
        with closing(connection):
            connection.request("GET", path)
            return connection.getresponse().read().decode()


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            if happened():
                return
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def run(call: Call, test: Callable[[], None]) -> int:
    """Serve in this thread, as signals want it, and test in another."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            until(lambda: call.get("/ready").startswith("ready"))
            test()
        except BaseException as error:  # noqa: BLE001 - raised again in the other thread
            failures.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=work)
    thread.start()
    code = run_with_click(call.arguments())
    thread.join()
    for failure in failures:
        raise failure
    return code


def test_it_serves_until_it_is_told_to_end(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    call = Call(tmp_path)

    def test() -> None:
        assert "patch" in call.post()["response"]
        (tmp_path / "config").write_text("policy: disabled\ntemplates: {sidecar: ''}\n")
        until(lambda: "warnings" in call.post()["response"])
        (tmp_path / "config").write_text("templates: {sidecar: '{{'}\n")
        until(lambda: "not reloaded" in call.get("/ready"))
        assert "warnings" in call.post()["response"]
        assert 'sidecar_injection_skip_total{reason="policy-disabled"}' in call.get("/metrics")
        call.certify()
        until(lambda: "warnings" in call.post()["response"])

    assert run(call, test) == 0
    log = capfd.readouterr().err
    for line in ("serving reviews", "configuration: reloaded", "configuration: not reloaded"):
        assert line in log
    assert "Pod shop/web: skipped: not injected: the policy is disabled" in log
    assert "shutting down" in log


def test_a_configuration_that_is_no_good(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    call = Call(tmp_path)
    (tmp_path / "config").write_text("templates: {sidecar: '{{'}\n")

    assert run_with_click(call.arguments()) == 2
    assert str(tmp_path / "config") in capfd.readouterr().err


def test_a_certificate_that_is_none(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    call = Call(tmp_path)
    (tmp_path / "key").unlink()

    assert run_with_click(call.arguments()) == 1
    assert f"{tmp_path}/key" in capfd.readouterr().err


def test_a_port_that_somebody_has(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    call = Call(tmp_path)
    with closing(listen(call.port)):
        assert run_with_click(call.arguments()) == 1
    assert f"cannot listen on port {call.port}" in capfd.readouterr().err


USAGE = {
    "no certificate": (["--port=1"], "--manage-certificates"),
    "both": (["--manage-certificates", "--tls-cert-file=a"], "exclude each other"),
    "no namespace": (["--manage-certificates"], "POD_NAMESPACE"),
    "one port": (["--port=1", "--metrics-port=1"], "are the same"),
    "no duration": (["--drain=1"], "like 1h30m"),
    "no time": (["--drain=0s"], "like 1h30m"),
    "terms": (
        ["--manage-certificates", "--namespace=a", "--ca-lifetime=1h", "--ca-overlap=30m"],
        "--ca-overlap",
    ),
}


@pytest.mark.parametrize("name", USAGE)
def test_calls_that_make_no_sense(
    name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POD_NAMESPACE", raising=False)
    arguments, why = USAGE[name]

    assert run_with_click(["webhook", *arguments]) == 2
    assert why in capfd.readouterr().err
