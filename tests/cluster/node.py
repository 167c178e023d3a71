"""containerd and the kubelet: what runs the pods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.cluster.control_plane import API_IP, NODE, NODE_IP, POD_CIDR
from tests.cluster.images import PAUSE, SOCKET, load_pause
from tests.cluster.process import call, succeeds

if TYPE_CHECKING:
    from tests.cluster.control_plane import ControlPlane
    from tests.cluster.programs import Programs

# Debian's containernetworking-plugins.
CNI_PROGRAMS = "/usr/lib/cni"
NETWORK = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            # A pod may call itself by an address that leads to it.
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": POD_CIDR}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
    ],
}


def make_network() -> None:
    """Give the cluster's network namespace the addresses of the node and of the API server."""
    call("ip", "link", "set", "lo", "up")
    # Both ends stay in here. There is no default route: what leads nowhere fails at once.
    call("ip", "link", "add", "eth0", "type", "veth", "peer", "outside")
    call("ip", "address", "add", f"{NODE_IP}/24", "dev", "eth0")
    call("ip", "address", "add", f"{API_IP}/32", "dev", "lo")
    for device in ("eth0", "outside"):
        call("ip", "link", "set", device, "up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="ascii")


class Node:
    """The one node of the cluster."""

    def __init__(self, programs: Programs, control_plane: ControlPlane, cgroup: str) -> None:
        self._programs, self._control_plane = programs, control_plane
        self._folder = programs.folder
        self._cgroup = cgroup

    def start(self) -> None:
        """Start it; return when it can run pods."""
        (self._folder / "cni").mkdir()
        (self._folder / "cni/pods.conflist").write_text(json.dumps(NETWORK), encoding="ascii")
        (self._folder / "containerd.toml").write_text(self._containerd(), encoding="ascii")
        containerd = self._programs.start("containerd", f"--config={self._folder}/containerd.toml")
        asked = ("ctr", "--address", SOCKET, "version")
        containerd.wait_until("containerd answers", lambda: succeeds(*asked))
        load_pause()
        (self._folder / "kubelet.json").write_text(json.dumps(self._kubelet()), encoding="ascii")
        kubelet = self._programs.start(
            *("kubelet", f"--config={self._folder}/kubelet.json"),
            f"--kubeconfig={self._control_plane.kubeconfig('kubelet')}",
            *(f"--hostname-override={NODE}", f"--node-ip={NODE_IP}"),
        )
        kubelet.wait_until("the node is ready", self._is_ready)

    def _is_ready(self) -> bool:
        answer = self._control_plane.get(f"/api/v1/nodes/{NODE}")
        if not answer:
            return False
        conditions = json.loads(answer)["status"]["conditions"]
        return ("Ready", "True") in {(one["type"], one["status"]) for one in conditions}

    def _containerd(self) -> str:
        # overlayfs cannot lie on an overlayfs, which a container has; on a tmpfs it can.
        return f"""\
version = 2
root = "{self._folder}/containerd"
state = "/run/containerd"
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{self._folder}/opt"
[plugins."io.containerd.gc.v1.scheduler"]
  # A collection in the middle of an import takes what is not yet named.
  startup_delay = "24h"
  schedule_delay = "24h"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # Without CAP_SYS_RESOURCE a process cannot be made less likely to be killed.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PROGRAMS}"
    conf_dir = "{self._folder}/cni"
"""

    def _kubelet(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": NODE_IP,
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": f"unix://{SOCKET}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self._cgroup}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "resolvConf": "",
            # Tests that replace a ConfigMap do not wait for a minute.
            "syncFrequency": "1s",
            "configMapAndSecretChangeDetectionStrategy": "Watch",
            # Pods stay, however full the disk is.
            "evictionHard": {
                "imagefs.available": "0%",
                "nodefs.available": "0%",
                "nodefs.inodesFree": "0%",
            },
            "imageGCHighThresholdPercent": 100,
        }
