"""Lead a pod's traffic through its sidecar proxy, as Istio's init container does."""

__version__ = "0.1.0"
