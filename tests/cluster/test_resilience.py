"""What users notice of a webhook that is down, replaced, reconfigured, or has new certificates."""

from __future__ import annotations

import base64
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from lightkube import ApiError, Client
from lightkube.models.core_v1 import Container, PodSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Pod

from tests.cluster.injector import NAME, NAMESPACE
from tests.cluster.kubectl import get, kubectl, names, namespace, pods, run
from tests.cluster.process import wait_until
from tests.cluster.workloads import pod

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.injector import Injector

OPTED_OUT = {"labels": {"sidecar.istio.io/inject": "false"}}
REGISTRATION = "mutatingwebhookconfiguration"
# Short enough for an authority to pass through all of its stages while pods are created.
TERMS = ["--ca-lifetime=40s", "--ca-overlap=8s", "--certificate-lifetime=12s", "--drain=5s"]
PODS = 500
SECONDS = 60


@pytest.fixture
def restored(injector: Injector) -> Iterator[Injector]:
    """Give the webhook, and put it back as its manifests say."""
    yield injector
    injector.install()


def scale(replicas: int) -> None:
    kubectl("scale", "deployment", NAME, "-n", NAMESPACE, f"--replicas={replicas}")
    wait_until("replicas have gone", lambda: len(pods(NAMESPACE, "-l", f"app={NAME}")) == replicas)


def test_the_webhook_is_down(restored: Injector) -> None:
    scale(0)
    wait_until("nobody answers", lambda: not restored.is_called())
    with namespace(istio_injection="enabled") as where, namespace() as unlabelled:
        refused = run("create", "-n", where, "-f", "-", given=pod())
        assert refused.returncode == 1
        assert "failed calling webhook" in refused.stderr
        # Nobody else waits for it.
        kubectl("create", "-n", where, "-f", "-", given=pod("opted-out", OPTED_OUT))
        kubectl("create", "-n", unlabelled, "-f", "-", given=pod())
        kubectl("label", "namespace", "kube-system", NAMESPACE, "istio-injection=enabled")
        dry_run = ("create", "--dry-run=server", "-f", "-")
        kubectl(*dry_run, "-n", "kube-system", given=pod())
        kubectl("label", "namespace", "kube-system", "istio-injection-")
        # The webhook comes back by itself, in a namespace that somebody has labelled.
        scale(2)
        restored.wait()
        kubectl("label", "namespace", NAMESPACE, "istio-injection-")
        wait_until("pods are injected again", lambda: restored.injects(where))


def test_the_webhook_is_down_and_does_not_matter(restored: Injector) -> None:
    operation = '{"op": "replace", "path": "/webhooks/%d/failurePolicy", "value": "Ignore"}'
    patch = f"[{','.join(operation % number for number in range(4))}]"
    kubectl("patch", REGISTRATION, NAME, "--type=json", f"--patch={patch}")
    scale(0)
    wait_until("nobody answers", lambda: not restored.is_called())
    with namespace(istio_injection="enabled") as where:

        def is_let_through() -> bool:
            return run("create", "-n", where, "-f", "-", given=pod()).returncode == 0

        wait_until("the API server knows the policy", is_let_through)
        assert names(get("pod", "web", where)) == ["app"]


class Creator(threading.Thread):
    """Creates pods that nobody schedules, at an even pace."""

    def __init__(self, where: str) -> None:
        super().__init__(daemon=True)
        self._where = where
        self.failures: list[str] = []
        self.missed: list[str] = []
        self.proxies: list[list[str]] = []

    def run(self) -> None:
        """Create them all, whatever happens."""
        with closing(Client(namespace=self._where)) as client:
            self._create(client)

    def _create(self, client: Client) -> None:
        start = time.monotonic()
        for number in range(PODS):
            time.sleep(max(0.0, start + SECONDS * number / PODS - time.monotonic()))
            own = Pod(
                metadata=ObjectMeta(name=f"pod-{number}"),
                spec=PodSpec(
                    schedulerName="nobody", containers=[Container(name="app", image="app:1")]
                ),
            )
            try:
                created = client.create(own)
            except ApiError as error:
                self.failures.append(f"{time.monotonic() - start:.1f} s: {error}")
                continue
            assert created.spec is not None
            containers = {one.name: one.args or [] for one in created.spec.containers}
            if "istio-proxy" not in containers:
                self.missed.append(f"pod-{number}")
            self.proxies.append(containers.get("istio-proxy", []))


def authority() -> bytes:
    """Return the authority that signs now, which every registration has to know."""
    data = get("secret", f"{NAME}-ca", NAMESPACE)["data"]
    current = base64.b64decode(data["ca.crt"])
    for webhook in get(REGISTRATION, NAME)["webhooks"]:
        assert current in base64.b64decode(webhook["clientConfig"]["caBundle"])
    return current


def with_log_level(level: str) -> dict[str, Any]:
    """Return the webhook's configuration with another level of the proxy's log."""
    config_map = get("configmap", NAME, NAMESPACE)
    values = yaml.safe_load(config_map["data"]["values"])
    values["global"]["proxy"]["logLevel"] = level
    config_map["data"]["values"] = yaml.safe_dump(values)
    return config_map


def test_nobody_notices_maintenance(restored: Injector) -> None:
    """A rolling update, new certificates and authorities, a bad and a good configuration."""
    append = [
        {"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": one}
        for one in TERMS
    ]
    operations = yaml.safe_dump(append, default_flow_style=True, width=10_000)
    kubectl("patch", "deployment", NAME, "-n", NAMESPACE, "--type=json", f"--patch={operations}")
    restored.wait()
    with namespace(istio_injection="enabled") as where:
        wait_until("pods are injected", lambda: restored.injects(where))
        before = authority()
        creator = Creator(where)
        creator.start()
        time.sleep(2)
        kubectl("rollout", "restart", "deployment", NAME, "-n", NAMESPACE)
        restored.wait()
        broken = with_log_level("warning")
        broken["data"]["config"] += "}}"
        kubectl("replace", "-f", "-", given=broken)
        wait_until("both say what is wrong", lambda: all_ready_texts(restored, "not reloaded"))
        good = with_log_level("error")
        good["data"]["config"] = restored.configuration()["config"]
        kubectl("replace", "-f", "-", given=good)
        wait_until("both use it", lambda: all_ready_texts(restored, "ready\n", whole=True))
        # Somebody spoils the registration, and somebody the Secret.
        spoil = '[{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]'
        kubectl("patch", REGISTRATION, NAME, "--type=json", f"--patch={spoil}")
        kubectl("delete", "secret", f"{NAME}-ca", "-n", NAMESPACE)
        creator.join()
        # Each lives for 40 s.
        assert authority() != before

    assert creator.failures == []
    assert creator.missed == []
    assert len(creator.proxies) == PODS
    assert "error" in creator.proxies[-1]
    assert "warning" in creator.proxies[0]


def all_ready_texts(injector: Injector, text: str, *, whole: bool = False) -> bool:
    """Say whether every replica says something of itself."""
    found = [injector.get(replica, "/ready") for replica in injector.replicas()]
    return all(one == text if whole else text in one for one in found)
