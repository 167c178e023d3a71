"""Who opts out learns of it, where that is wanted, and waits for nobody."""

from __future__ import annotations

import json

from tests.cluster.injector import restored_registrations
from tests.cluster.kubectl import namespace, run
from tests.cluster.local import local_webhook
from tests.cluster.process import wait_until
from tests.cluster.workloads import pod

OPTED_OUT = pod("web", {"labels": {"sidecar.istio.io/inject": "false"}})
CREATE = ("create", "--dry-run=server", "-f", "-")


def test_a_pod_that_has_opted_out() -> None:
    with restored_registrations(), namespace(istio_injection="enabled") as where:
        with local_webhook() as webhook:
            webhook.register("advice")

            def is_warned() -> bool:
                done = run(*CREATE, "-n", where, given=OPTED_OUT)
                assert done.returncode == 0
                return "Warning: not injected: the label sidecar.istio.io/inject" in done.stderr

            wait_until("the webhook is asked", is_warned)
            registration = run("get", "mutatingwebhookconfiguration", "local", "-o", "json").stdout
        # It has ended, and is registered still.
        assert run("create", "-f", "-", given=loads(registration)).returncode == 0
        done = run(*CREATE, "-n", where, given=OPTED_OUT)
        assert done.returncode == 0
        assert "Warning" not in done.stderr
        run("delete", "mutatingwebhookconfiguration", "local")


def loads(text: str) -> object:
    """Return what is registered, as it is created."""
    found = json.loads(text)
    found["metadata"] = {"name": "local"}
    return found
