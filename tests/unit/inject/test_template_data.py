"""What templates see of pods, the mesh and the settings."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from istio_init.inject.kubernetes_types import KUBERNETES
from istio_init.inject.schema import MESSAGES_1_0, MESSAGES_1_30, Messages, kubernetes_type
from istio_init.inject.template import TemplateError
from istio_init.inject.template.goyaml import yaml_text
from istio_init.inject.template.library import SPRIG, library
from istio_init.inject.template.plain import json_text
from istio_init.inject.template.values import Struct
from tests.unit.inject.templates import MESH, METADATA, SPEC, Json, render, render_old

if TYPE_CHECKING:
    from typing import Any

CASES = [
    ("{{ .ObjectMeta.Name }}/{{ .ObjectMeta.GetName }}", "web-1/web-1"),
    ("{{ .ObjectMeta.GetLabels.app }}", "web"),
    ("{{ .ObjectMeta.Labels.nope }}|{{ index .ObjectMeta.Labels `nope` }}", "<no value>|"),
    ("{{ .ObjectMeta.GenerateName }}|{{ .ObjectMeta.Generation }}", "|0"),
    ("{{ .Spec.HostNetwork }} {{ .Spec.DNSPolicy }} {{ .Spec.NodeSelector }}", "false  map[]"),
    ("{{ .Spec.TerminationGracePeriodSeconds }}", "<nil>"),
    ("{{ if .Spec.TerminationGracePeriodSeconds }}y{{ else }}n{{ end }}", "n"),
    ("{{ if .Spec.SecurityContext }}y{{ else }}n{{ end }}", "n"),
    ("{{ eq .Spec.SecurityContext nil }} {{ ne .Spec.SecurityContext nil }}", "true false"),
    ("{{ (index .Spec.Containers 0).SecurityContext.RunAsUser }}", "7"),
    ("{{ (index .Spec.Containers 0).Resources.Limits.cpu }}", "1500m"),
    ("{{ (index .Spec.Containers 0).ReadinessProbe.HTTPGet.Port }}", "http"),
    ("{{ (index .Spec.Containers 0).ReadinessProbe.HTTPGet.Port.StrVal }}", "http"),
    ("{{ (index .Spec.Containers 0).ReadinessProbe.HTTPGet.Port.IntVal }}", "0"),
    ("{{ (index .Spec.Containers 0).ReadinessProbe.ProbeHandler.HTTPGet.Path }}", "/ready"),
    ("{{ (index .Spec.Volumes 0).EmptyDir.SizeLimit }}", "1Gi"),
    ("{{ (index .Spec.Volumes 0).VolumeSource.EmptyDir.SizeLimit.String }}", "1Gi"),
    ("{{ range .Spec.Containers }}{{ .Name }}:{{ len .Ports }};{{ end }}", "web:2;istio-proxy:1;"),
    ("{{ kindOf (index (index .Spec.Containers 0).Ports 0).ContainerPort }}", "int32"),
    (
        "{{ typeOf .Spec.Containers }} {{ kindOf .Spec }} {{ typeOf .Spec }}",
        "[]v1.Container struct v1.PodSpec",
    ),
    ("{{ typeOf .MeshConfig }} {{ kindOf .MeshConfig }}", "*v1alpha1.MeshConfig ptr"),
    (
        "{{ structToJSON (index (index .Spec.Containers 0).Ports 0) }}",
        '{"name":"http","containerPort":80}',
    ),
    ("{{ toYaml (index .Spec.Volumes 0) }}", "emptyDir:\n  sizeLimit: 1Gi\nname: v\n"),
    (
        "{{ structToJSON nil }} {{ protoToJSON nil }} {{ protoToJSON .ProxyConfig.Image }}",
        "{} {} {}",
    ),
    (
        "{{ .TypeMeta.Kind }} {{ .TypeMeta.APIVersion }} {{ .DeploymentMeta }}",
        "Deployment apps/v1 shop/web",
    ),
    ("{{ .DeploymentMeta.String }} {{ .NativeSidecars }} {{ .ProxyUID }}", "shop/web false 1337"),
    ("{{ .InboundTrafficPolicyMode }} [{{ .CompliancePolicy }}]", "passthrough []"),
    (
        "{{ .Values.global.port }} {{ .Values.global.big }} {{ .Values.global.frac }}",
        "15020 1e+06 0.5",
    ),
    (
        "{{ .ProxyConfig.InterceptionMode }} {{ .ProxyConfig.InterceptionMode.String }}",
        "TPROXY TPROXY",
    ),
    (
        "{{ eq .ProxyConfig.InterceptionMode 1 }} {{ printf `%d` .ProxyConfig.InterceptionMode }}",
        "true 1",
    ),
    (
        "{{ .ProxyConfig.GetInterceptionMode }} {{ .ProxyConfig.ControlPlaneAuthPolicy }}",
        "TPROXY NONE",
    ),
    ("{{ .ProxyConfig.HoldApplicationUntilProxyStarts.GetValue }}", "true"),
    ("{{ .ProxyConfig.HoldApplicationUntilProxyStarts.Value }}", "true"),
    ("{{ .ProxyConfig.HoldApplicationUntilProxyStarts }}", "value:true"),
    (
        "{{ .ProxyConfig.StatsCompression.GetValue }} {{ .ProxyConfig.Concurrency.GetValue }}",
        "false 2",
    ),
    ("{{ .ProxyConfig.GatewayTopology.GetNumTrustedProxies }}", "0"),
    ("{{ .ProxyConfig.GetTracing.GetTlsSettings.GetCaCertificates }}|", "|"),
    ("{{ .ProxyConfig.GetTracing.GetZipkin.GetAddress }}", "z:9411"),
    ("{{ .ProxyConfig.GetServiceCluster }}|{{ .ProxyConfig.Tracing.Sampling }}", "|12.5"),
    (
        (
            "{{ .ProxyConfig.ProxyMetadata.A }}"
            "{{ range $k, $v := .ProxyConfig.ProxyMetadata }}{{ $k }}{{ $v }}{{ end }}"
        ),
        "1A1B2",
    ),
    (
        (
            "{{ formatDuration .ProxyConfig.DrainDuration }} "
            "{{ .ProxyConfig.DrainDuration.GetSeconds }}"
        ),
        "1m15s 75",
    ),
    (
        "{{ .ProxyConfig.DrainDuration }} {{ .ProxyConfig.DrainDuration.AsDuration }}",
        "seconds:75 1m15s",
    ),
    ("{{ formatDuration .ProxyConfig.FileFlushInterval }}", "0s"),
    ("{{ .MeshConfig.TrustDomain }} {{ .MeshConfig.DefaultConfig.StatusPort }}", "td 0"),
    ("{{ .MeshConfig.GetDefaultConfig.GetConfigPath }}", "./etc/istio/proxy"),
    (
        "{{ .MeshConfig.DefaultProviders.GetMetrics }} {{ len .MeshConfig.ExtensionProviders }}",
        "[] 0",
    ),
    (
        "{{ protoToJSON .ProxyConfig }}",
        (
            '{"drainDuration":"75s","concurrency":2,"interceptionMode":"TPROXY",'
            '"tracing":{"zipkin":{"address":"z:9411"},"sampling":12.5},'
            '"proxyMetadata":{"A":"1","B":"2"},"holdApplicationUntilProxyStarts":true}'
        ),
    ),
    ("{{ len (printf `%v` .ProxyConfig.Tracing) | lt 10 }}", "true"),
    ("{{ printf `%.2s` .ObjectMeta.Labels }}", "map[ap:we em:]"),
]


@pytest.mark.parametrize(("template", "expected"), CASES)
def test_go_names_over_plain_data(template: str, expected: str) -> None:
    assert render(template) == expected


def test_the_old_generation() -> None:
    assert (
        render_old("[[ .MeshConfig.ProxyListenPort ]] [[ .ProxyConfig.Concurrency ]]") == "15001 0"
    )
    assert render_old("[[ if gt .ProxyConfig.Concurrency 0 ]]y[[ else ]]n[[ end ]]") == "n"
    assert render_old("[[ formatDuration .ProxyConfig.ConnectTimeout ]]") == "1s"
    assert render_old("[[ .ProxyConfig.ControlPlaneAuthPolicy ]]") == "NONE"
    assert render_old("[[ isset .ObjectMeta.Annotations `a` ]]") == "true"


def test_localhost_and_other_settings() -> None:
    mesh = {**MESH, "inboundTrafficPolicy": {"mode": "LOCALHOST"}}
    assert render("{{ .InboundTrafficPolicyMode }}", mesh=mesh) == "localhost"
    assert render("{{ .MeshConfig.InboundTrafficPolicy.Mode }}", mesh=mesh) == "LOCALHOST"
    environment = {"ISTIO_HUB": "h", "ISTIO_TAG": ""}
    template = "{{ env `ISTIO_HUB` `d` }} {{ env `ISTIO_TAG` `d` }} {{ env `NO_SUCH` `d` }}"
    assert render(template, environment=environment) == "h d d"


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("{{ .ObjectMeta.Name }}", {"metadata": {"name": 5}}, "metadata.name must be a string, not 5"),
    (
        "{{ .ObjectMeta.Labels }}",
        {"metadata": {"labels": {"a": True}}},
        "label a must be a string, not True",
    ),
    ("{{ .ObjectMeta.Annotations }}", {"metadata": {"annotations": []}}, "must be a map, not []"),
    (
        "{{ .Spec.HostNetwork }}",
        {"spec": {"hostNetwork": "yes"}},
        "spec.hostNetwork must be a boolean",
    ),
    ("{{ .Spec.Containers }}", {"spec": {"containers": {}}}, "spec.containers must be a list"),
    ("{{ .Spec.Containers }}", {"spec": {"containers": ["x"]}}, "spec.containers[0] must be a map"),
    (
        "{{ .Spec.Priority }}",
        {"spec": {"priority": "high"}},
        "spec.priority must be a whole number",
    ),
    (
        "{{ .Spec.NodeSelector }}",
        {"spec": {"nodeSelector": {"a": 1}}},
        "spec.nodeSelector.a must be a string",
    ),
    ("{{ .Spec.Overhead }}", {"spec": {"overhead": {"cpu": []}}}, "spec.overhead.cpu must be a"),
    (
        "{{ .ProxyConfig.InterceptionMode }}",
        {"proxy_config": {"interceptionMode": "X"}},
        "one of REDIRECT",
    ),
    (
        "{{ .ProxyConfig.DrainDuration }}",
        {"proxy_config": {"drainDuration": 5}},
        "duration such as 45s",
    ),
    (
        "{{ .ProxyConfig.Tracing.Sampling }}",
        {"proxy_config": {"tracing": {"sampling": "x"}}},
        "a number, not",
    ),
]


@pytest.mark.parametrize(("template", "changes", "message"), WRONG)
def test_data_of_a_wrong_type_is_named(
    template: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TemplateError) as caught:
        render(template, **changes)
    assert message in str(caught.value)


def _types(table: str) -> list[str]:
    return [name for name in re.findall(r"^([^\s=]\S*)", table, re.MULTILINE) if name]


@pytest.mark.parametrize("name", _types(KUBERNETES))
def test_every_field_of_kubernetes_can_be_read_when_it_is_absent(name: str) -> None:
    kind = kubernetes_type(name)
    struct = Struct(kind, {}, "x")
    for member in kind.members:
        struct.member(member)
    assert yaml_text(struct)


@pytest.mark.parametrize("messages", [MESSAGES_1_0, MESSAGES_1_30], ids=["1.0", "1.30"])
def test_every_getter_of_the_mesh_works_on_nil_and_on_nothing(messages: Messages) -> None:
    for name in messages.entries:
        if name.startswith("="):
            continue
        kind = messages.type(name)
        struct = Struct(kind, {}, "")
        for method in kind.methods.values():
            method(None)
            method(struct)
        for member in kind.members:
            struct.member(member)
        assert json_text(struct) == "{}"


def test_sprig_is_complete_and_each_function_is_where_the_table_says() -> None:
    names = {name for words in SPRIG.values() for name in words.split()}
    functions = library("1.30")
    assert names <= functions.names
    for module, words in SPRIG.items():
        found = __import__(f"istio_init.inject.template.sprig.{module}", fromlist=["x"]).FUNCTIONS
        assert [*found] == words.split() or set(found) == set(words.split()), module
    for name in functions.names:
        assert functions[name].name == name


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4)
    ),
    max_leaves=12,
)
FORBIDDEN = re.compile("[\x7f-\x9f\ufffe\uffff\ud800-\udfff]")


class _Loader(yaml.CSafeLoader):
    """Reads numbers as YAML 1.1 does in Go: an exponent needs no point."""


_Loader.yaml_implicit_resolvers = {
    key: [(tag, pattern) for tag, pattern in known if not tag.endswith((":timestamp", ":value"))]
    for key, known in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


@settings(deadline=None)
@given(JSON)
def test_to_yaml_is_read_as_what_it_was(value: Json) -> None:
    text = json.dumps(value, ensure_ascii=False)
    if FORBIDDEN.search(text):
        return
    read = yaml.load(yaml_text(value), _Loader)
    assert _strings(read) == _strings(value)


def _strings(value: Json) -> Json:
    """Return a value whose numbers do not count, because go-yaml reads more spellings of them."""
    if isinstance(value, dict):
        return {key: _strings(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_strings(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return "number"
    return "number" if _is_number(value) else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_the_pod_is_not_changed() -> None:
    before = json.dumps([METADATA, SPEC, MESH])
    render("{{ toYaml .Spec }}{{ toYaml .ObjectMeta }}{{ protoToJSON .ProxyConfig }}")
    assert json.dumps([METADATA, SPEC, MESH]) == before
