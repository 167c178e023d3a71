"""Names that Istio's injector gives, and looks for, in a pod."""

from __future__ import annotations

PROXY = "istio-proxy"
INIT = "istio-init"
VALIDATION = "istio-validation"
CORE_DUMP = "enable-core-dump"

# Annotations of a pod.
STATUS = "sidecar.istio.io/status"
OVERRIDES = "proxy.istio.io/overrides"
PROXY_CONFIG = "proxy.istio.io/config"
TEMPLATES = "inject.istio.io/templates"
REVISION = "istio.io/rev"
INTERCEPTION_MODE = "sidecar.istio.io/interceptionMode"
NATIVE_SIDECAR = "sidecar.istio.io/nativeSidecar"
REWRITE_PROBES = "sidecar.istio.io/rewriteAppHTTPProbers"
STATUS_PORT = "status.sidecar.istio.io/port"
MERGE_METRICS = "prometheus.istio.io/merge-metrics"
IMAGE_TYPE = "sidecar.istio.io/proxyImageType"

# Labels.
NETWORK = "topology.istio.io/network"

# Environment of the proxy's container.
CLUSTER_VARIABLE = "ISTIO_META_CLUSTER_ID"
NETWORK_VARIABLE = "ISTIO_META_NETWORK"
PROBES_VARIABLE = "ISTIO_KUBE_APP_PROBERS"
METRICS_VARIABLE = "ISTIO_PROMETHEUS_ANNOTATIONS"

# The image that a user gives the proxy's container to mean the template's.
AUTO_IMAGE = "auto"
