"""Where a namespace says which users its pods may have."""

from __future__ import annotations

import json

from tests.cluster.injector import restored_registrations
from tests.cluster.kubectl import container, kubectl, namespace, run
from tests.cluster.local import local_webhook
from tests.cluster.process import wait_until
from tests.cluster.workloads import pod

RANGES = {
    "openshift.io/sa.scc.uid-range": "1000620000/10000",
    "openshift.io/sa.scc.supplemental-groups": "1000620000/10000",
}
# The last of the range.
USER = "1000629999"


def test_the_proxy_has_a_user_of_the_namespaces_range() -> None:
    with (
        restored_registrations(),
        local_webhook({"PLATFORM": "openshift"}) as webhook,
        namespace(istio_injection="enabled") as where,
    ):
        webhook.register("default")
        annotations = [f"{key}={value}" for key, value in RANGES.items()]
        kubectl("annotate", "namespace", where, *annotations)
        create = ("create", "--dry-run=server", "-n", where, "-o", "json", "-f", "-")

        def is_known() -> bool:
            done = run(*create, given=pod())
            return done.returncode == 0 and USER in done.stdout

        wait_until("the webhook knows the namespace", is_known)
        created = json.loads(kubectl(*create, given=pod()))
        arguments = container(created, "istio-init")["args"]
        assert arguments[arguments.index("-u") + 1] == USER
        assert arguments[arguments.index("-g") + 1] == USER
