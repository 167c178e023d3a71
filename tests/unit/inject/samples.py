"""Inject configs of both releases, small and our own, and what is made of pods with them."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from istio_init.inject import yaml
from istio_init.inject.pod import inject_pod
from istio_init.inject.request import PodRequest, Workload
from istio_init.inject.settings import SettingsFile, load_settings

if TYPE_CHECKING:
    from istio_init.inject.request import Injection
    from istio_init.inject.settings import Settings

Json = dict[str, Any]

SIDECAR = """
{{- $native := ne (index .ObjectMeta.Annotations `sidecar.istio.io/nativeSidecar`
  | default (printf "%t" .NativeSidecars)) "false" }}
{{- $mode := annotation .ObjectMeta `sidecar.istio.io/interceptionMode`
  .ProxyConfig.InterceptionMode }}
metadata:
  labels:
    security.istio.io/tlsMode: {{ index .ObjectMeta.Labels `security.istio.io/tlsMode`
      | default "istio" | quote }}
  annotations:
    istio.io/rev: {{ .Revision | default "default" | quote }}
spec:
  initContainers:
  {{- if ne $mode "NONE" }}
  - name: {{ if .Values.cni }}istio-validation{{ else }}istio-init{{ end }}
    image: "{{ .ProxyImage }}"
    args: ["-u", "{{ .ProxyUID }}", "-m", "{{ $mode }}"]
    securityContext:
      runAsUser: {{ if .Values.cni }}{{ .ProxyUID }}{{ else }}0{{ end }}
  {{- end }}
  {{ if not $native }}
  containers:
  {{ end }}
  - name: istio-proxy
    image: "{{ .ProxyImage }}"
    {{ if $native }}restartPolicy: Always{{ end }}
    args: [proxy, sidecar]
    ports:
    - containerPort: 15090
    env:
    - name: CONFIG
      value: '{{ protoToJSON .ProxyConfig }}'
    - name: OWNER
      value: "{{ .TypeMeta.Kind }}/{{ .DeploymentMeta.Namespace }}/{{ .DeploymentMeta.Name }}"
    - name: NAMES
      value: "{{ range .Spec.Containers }}{{ .Name }} {{ end }}"
    - name: ISTIO_META_CLUSTER_ID
      value: Kubernetes
    {{- range $key, $value := .ProxyConfig.ProxyMetadata }}
    - name: {{ $key }}
      value: "{{ $value }}"
    {{- end }}
    resources:
      requests:
        cpu: 100m
        memory: 64Mi
    securityContext:
      runAsUser: {{ if eq $mode "TPROXY" }}0{{ else }}{{ .ProxyUID }}{{ end }}
    volumeMounts:
    - name: istio-data
      mountPath: /var/lib/istio/data
  volumes:
  - name: istio-data
    emptyDir:
  - name: istio-token
    projected:
      sources:
      - serviceAccountToken:
          path: istio-token
"""

GATEWAY = """
metadata:
  annotations:
    istio.io/rev: {{ .Revision | default "default" | quote }}
spec:
  containers:
  - name: istio-proxy
    image: "{{ .ProxyImage }}"
    args: [proxy, router]
"""

CUSTOM = """
metadata:
  labels:
    team: mesh
spec:
  containers:
  {{- range .Spec.Containers }}
  - name: {{ .Name }}
    env:
    - name: ADDED
      value: "1"
  {{- end }}
"""

OLD = """
initContainers:
- name: istio-init
  image: init:1
  args: ["-p", [[ .MeshConfig.ProxyListenPort ]], "-u", 1337, "-m",
    [[ or (index .ObjectMeta.Annotations "sidecar.istio.io/interceptionMode")
      .ProxyConfig.InterceptionMode.String ]], "-b",
    "[[ range .Spec.Containers ]][[ range .Ports ]][[ .ContainerPort ]],[[ end ]][[ end ]]", ]
  securityContext:
    restartPolicy: Always
containers:
- name: istio-proxy
  image: [[ if isset .ObjectMeta.Annotations "sidecar.istio.io/proxyImage" -]]
    "[[ index .ObjectMeta.Annotations "sidecar.istio.io/proxyImage" ]]"
    [[- else ]]proxy:latest[[ end ]]
  restartPolicy: Always
  args:
  - --drainDuration
  - [[ formatDuration .ProxyConfig.DrainDuration ]]
  -
  env:
  - name: POD_NAME
    valueFrom:
      fieldRef:
        fieldPath: metadata.name
  - name: NUMBER
    value: 5
  ports:
  - containerPort: 15090
  readinessProbe:
    httpGet:
      port: 15021
volumes:
- name: istio-envoy
  emptyDir:
    medium: Memory
- name: istio-certs
  secret:
    secretName: istio.[[ or .Spec.ServiceAccountName "default" ]]
imagePullSecrets:
- name: registry
unknown: true
"""


@cache
def new(
    *,
    native: bool = False,
    values: str = "{}",
    mesh: str = "{}",
    revision: str = "",
    default: str = "sidecar",
    platform: str = "",
) -> Settings:
    """Return settings of release 1.30."""
    config = {
        "policy": "enabled",
        "defaultTemplates": [default],
        "aliases": {"both": ["sidecar", "custom"]},
        "templates": {"sidecar": SIDECAR, "gateway": GATEWAY, "custom": CUSTOM},
        "injectedAnnotations": {"by": "webhook"},
    }
    given = {
        "global": {"hub": "hub", "tag": "1", "proxy": {}},
        "sidecarInjectorWebhook": {"rewriteAppHTTPProbe": True},
    }
    return load_settings(
        SettingsFile(yaml.dump(config), "config"),
        SettingsFile(json.dumps({**given, **json.loads(values)}), "values"),
        SettingsFile(mesh, "mesh"),
        native_sidecars=native,
        revision=revision,
        platform=platform,
    )


@cache
def old(*, mesh: str = "{}") -> Settings:
    """Return settings of release 1.0."""
    config = {"policy": "enabled", "template": OLD}
    return load_settings(
        SettingsFile(yaml.dump(config), "config"), None, SettingsFile(mesh, "mesh")
    )


def by_hand(pod: Json, settings: Settings) -> Json:
    """Return the pod of a Deployment's template after an injection by hand."""
    workload = Workload("apps/v1", "Deployment", "web", "shop")
    request = PodRequest(pod["metadata"], pod["spec"], workload, by_hand=True)
    return as_pod(inject_pod(request, settings))


def admitted(pod: Json, settings: Settings, **fields: Any) -> Json:  # noqa: ANN401 - of the request
    """Return a pod after its admission by the webhook."""
    request = PodRequest(pod["metadata"], pod["spec"], namespace="ns", **fields)
    return as_pod(inject_pod(request, settings))


def as_pod(injection: Injection) -> Json:
    return {"metadata": injection.metadata, "spec": injection.spec}
