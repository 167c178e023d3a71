"""The injection of whole pods, for both releases."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from istio_init.inject.containers import (
    annotations_of,
    metadata_map,
    named,
    with_metadata_map,
    without_annotations,
)
from istio_init.inject.pod import inject_pod
from istio_init.inject.problems import InjectionError
from istio_init.inject.recover import recover_original
from istio_init.inject.request import PodRequest
from tests.injection.compare import comparable
from tests.unit.inject.pods import PROXY, Json, container, pod, variables
from tests.unit.inject.samples import admitted, by_hand, new, old
from tests.unit.settings import tried

if TYPE_CHECKING:
    from istio_init.inject.settings import Settings


def proxy_of(result: Json) -> Json:
    proxy = named(result, "istio-proxy")
    assert proxy is not None
    return proxy


def names(result: Json, field: str = "containers") -> list[str]:
    return [one["name"] for one in result["spec"].get(field, ())]


def record(result: Json) -> Json:
    return dict(json.loads(annotations_of(result)["sidecar.istio.io/status"]))


# Release 1.30


def test_a_plain_pod_gets_an_init_container_a_proxy_and_volumes() -> None:
    result = by_hand(pod(container(), labels={"app": "web"}), new())
    assert names(result) == ["app", "istio-proxy"]
    assert names(result, "initContainers") == ["istio-init"]
    assert names(result, "volumes") == ["istio-data", "istio-token"]
    assert result["spec"]["volumes"][0] == {"name": "istio-data"}
    assert metadata_map(result, "labels") == {"app": "web", "security.istio.io/tlsMode": "istio"}
    assert record(result) == {
        "initContainers": ["istio-init"],
        "containers": ["istio-proxy"],
        "volumes": ["istio-data", "istio-token"],
        "imagePullSecrets": None,
        "revision": "default",
    }


def test_a_native_proxy_is_an_init_container_before_the_users() -> None:
    result = by_hand(pod(container(), initContainers=[container("i")]), new(native=True))
    assert names(result) == ["app"]
    assert names(result, "initContainers") == ["istio-init", "istio-proxy", "i"]
    assert proxy_of(result)["restartPolicy"] == "Always"


@pytest.mark.parametrize(("wish", "native"), [("true", True), ("false", False)])
@pytest.mark.parametrize("setting", [True, False])
def test_the_annotation_decides_about_native_sidecars(
    *, wish: str, native: bool, setting: bool
) -> None:
    given = {"sidecar.istio.io/nativeSidecar": wish}
    own = {"name": "istio-proxy", "image": "auto", "env": [{"name": "A", "value": "1"}]}
    result = by_hand(pod(container(), own, annotations=given), new(native=setting))
    assert ("istio-proxy" in names(result, "initContainers")) is native
    assert ("istio-proxy" in names(result)) is not native
    assert variables(proxy_of(result))["A"] == "1"


def test_the_workload_is_told_to_the_template() -> None:
    assert variables(proxy_of(by_hand(pod(container()), new())))["OWNER"] == "Deployment/shop/web"
    alone = pod(container())
    alone["metadata"]["name"] = "solo"
    assert variables(proxy_of(admitted(alone, new())))["OWNER"] == "Pod/ns/solo"
    assert "namespace" not in admitted(alone, new())["metadata"]


@pytest.mark.parametrize(
    ("wish", "added"),
    [
        ("gateway", ["app", "istio-proxy"]),
        (" custom ", ["app"]),
        ("both", ["app", "istio-proxy"]),
        ("gateway,custom", ["app", "istio-proxy"]),
    ],
)
def test_templates_by_name(wish: str, added: list[str]) -> None:
    original = pod(container(), annotations={"inject.istio.io/templates": wish})
    result = admitted(original, new())
    assert names(result) == added
    app = named(result, "app")
    assert app is not None
    assert ("ADDED" in variables(app)) is (wish != "gateway")


def test_a_default_template_is_the_webhooks_alone() -> None:
    chosen = new(default="gateway")
    assert not names(admitted(pod(container()), chosen), "initContainers")
    assert names(by_hand(pod(container()), chosen), "initContainers") == ["istio-init"]


def test_additional_annotations_are_the_webhooks_alone() -> None:
    assert annotations_of(admitted(pod(container()), new()))["by"] == "webhook"
    assert "by" not in annotations_of(by_hand(pod(container()), new()))


def test_every_unknown_template_is_named() -> None:
    original = pod(container(), annotations={"inject.istio.io/templates": "one,sidecar,two"})
    with pytest.raises(InjectionError) as refused:
        by_hand(original, new())
    text = str(refused.value)
    assert '"one"' in text
    assert '"two"' in text
    assert "custom, gateway, sidecar" in text


def test_all_bad_annotations_are_named_at_once() -> None:
    given = {
        "sidecar.istio.io/interceptionMode": "X",
        "traffic.sidecar.istio.io/excludeInboundPorts": "a",
        "proxy.istio.io/config": "concurrency: many\ndrainDuration: 5",
    }
    with pytest.raises(InjectionError) as refused:
        by_hand(pod(container(), annotations=given), new())
    text = str(refused.value)
    for word in (*given, "concurrency", "drainDuration"):
        assert word in text


@pytest.mark.parametrize("text", ["a: [", "- a", "a: b\na: c"])
def test_a_proxy_config_that_is_none_is_named_by_its_annotation(text: str) -> None:
    with pytest.raises(InjectionError, match=r"proxy.istio.io/config"):
        by_hand(pod(container(), annotations={"proxy.istio.io/config": text}), new())


def test_the_annotations_proxy_config_is_laid_over_the_meshs() -> None:
    mesh = "defaultConfig: {proxyMetadata: {A: mesh, B: mesh}, statusPort: 15050}"
    given = {"proxy.istio.io/config": "proxyMetadata: {B: pod}\nconcurrency: 0"}
    result = by_hand(pod(container(), annotations=given), new(mesh=mesh))
    config = json.loads(variables(proxy_of(result))["CONFIG"])
    assert config == {
        "concurrency": 0,
        "proxyMetadata": {"A": "mesh", "B": "pod"},
        "statusPort": 15050,
    }
    assert annotations_of(result)["prometheus.io/port"] == "15050"


@pytest.mark.parametrize(
    ("mesh", "values", "given"),
    [
        ("defaultConfig: {holdApplicationUntilProxyStarts: true}", "{}", {}),
        ("{}", '{"global": {"proxy": {"holdApplicationUntilProxyStarts": true}}}', {}),
        ("{}", "{}", {"proxy.istio.io/config": "holdApplicationUntilProxyStarts: true"}),
    ],
)
def test_applications_are_held_by_mesh_value_or_annotation(
    mesh: str, values: str, given: dict[str, str]
) -> None:
    result = by_hand(pod(container(), annotations=given), new(mesh=mesh, values=values))
    assert names(result) == ["istio-proxy", "app"]


@pytest.mark.parametrize(
    ("values", "labels", "environment", "cluster", "network"),
    [
        ("{}", {}, {}, None, None),
        ('{"global": {"multiCluster": {"clusterName": "c"}, "network": "n"}}', {}, {}, "c", "n"),
        ("{}", {"topology.istio.io/network": "own"}, {}, None, "own"),
        ('{"global": {"network": "n"}}', {"topology.istio.io/network": "own"}, {}, None, "own"),
        (
            '{"global": {"multiCluster": {"clusterName": "c"}, "network": "n"}}',
            {},
            {"ISTIO_META_CLUSTER_ID": "u", "ISTIO_META_NETWORK": "m"},
            "u",
            "m",
        ),
    ],
)
def test_cluster_and_network(
    values: str,
    labels: dict[str, str],
    environment: dict[str, str],
    cluster: str | None,
    network: str | None,
) -> None:
    result = admitted(pod(container(), labels=labels), new(values=values), environment=environment)
    found = variables(proxy_of(result))
    assert found["ISTIO_META_CLUSTER_ID"] == cluster or (
        cluster is None and found["ISTIO_META_CLUSTER_ID"] == "Kubernetes"
    )
    assert found.get("ISTIO_META_NETWORK") == network
    assert metadata_map(result, "labels").get("topology.istio.io/network") == network
    if cluster and network:
        assert list(found)[-2:] == ["ISTIO_META_CLUSTER_ID", "ISTIO_META_NETWORK"]


def test_variables_of_the_url_come_last_and_sorted() -> None:
    result = admitted(pod(container()), new(), environment={"ZED": "1", "ABC": "2", "NAMES": "x"})
    assert list(variables(proxy_of(result)).items())[-3:] == [
        ("ABC", "2"),
        ("NAMES", "x"),
        ("ZED", "1"),
    ]


@pytest.mark.parametrize(
    ("value", "wish", "rewritten"),
    [
        ("true", None, True),
        ("false", None, False),
        ("true", "false", False),
        ("false", "true", True),
        ("false", "maybe", False),
        ("true", "maybe", True),
    ],
)
def test_who_decides_about_probes(value: str, wish: str | None, *, rewritten: bool) -> None:
    given = {} if wish is None else {"sidecar.istio.io/rewriteAppHTTPProbers": wish}
    probe = {"httpGet": {"port": 8080}}
    values = f'{{"sidecarInjectorWebhook": {{"rewriteAppHTTPProbe": {value}}}}}'
    original = pod(container(livenessProbe=probe), annotations=given)
    result = by_hand(original, new(values=values))
    app = named(result, "app")
    assert app is not None
    assert (app["livenessProbe"] != probe) is rewritten
    assert ("ISTIO_KUBE_APP_PROBERS" in variables(proxy_of(result))) is rewritten


@pytest.mark.parametrize(("port", "asked"), [("15099", 15099), ("0", 0), (" 15099 ", 15099)])
def test_the_annotated_status_port_is_asked(port: str, asked: int) -> None:
    given = {"status.sidecar.istio.io/port": port}
    original = pod(container(livenessProbe={"httpGet": {"port": 1}}), annotations=given)
    app = named(by_hand(original, new()), "app")
    assert app is not None
    assert app["livenessProbe"]["httpGet"]["port"] == asked


def test_without_a_proxy_there_is_nobody_to_ask() -> None:
    probe = {"httpGet": {"port": 8080}}
    given = {"inject.istio.io/templates": "custom"}
    app = named(by_hand(pod(container(livenessProbe=probe), annotations=given), new()), "app")
    assert app is not None
    assert app["livenessProbe"] == probe


@pytest.mark.parametrize("native", [True, False])
def test_a_users_own_proxy_wins_and_is_recorded(*, native: bool) -> None:
    own = {
        "name": "istio-proxy",
        "image": "auto",
        "args": ["mine"],
        "resources": {"requests": {"cpu": "7m"}},
        "env": [{"name": "FOO", "value": "bar"}],
    }
    result = by_hand(pod(own, container()), new(native=native))
    proxy = proxy_of(result)
    assert proxy["image"] == "hub/proxyv2:1"
    assert proxy["args"] == ["mine"]
    assert proxy["resources"] == {"requests": {"cpu": "7m", "memory": "64Mi"}}
    assert variables(proxy)["FOO"] == "bar"
    field = "initContainers" if native else "containers"
    saved = json.loads(annotations_of(result)["proxy.istio.io/overrides"])
    assert saved == {field: [{**{k: own[k] for k in own if k != "image"}}]}


def test_the_rules_spare_the_user_that_the_proxy_runs_as() -> None:
    own = {**PROXY, "securityContext": {"runAsUser": 2000, "runAsGroup": 2001}}
    init = named(by_hand(pod(container(), own), new()), "istio-init")
    assert init is not None
    assert init["args"][:2] == ["-u", "2000"]
    validation = named(
        by_hand(pod(container(), own), new(values='{"cni": true}')), "istio-validation"
    )
    assert validation is not None
    assert validation["securityContext"] == {"runAsUser": 2000, "runAsGroup": 2001}


@pytest.mark.parametrize("mesh", [True, False])
def test_under_tproxy_the_proxy_is_root(*, mesh: bool) -> None:
    own = {**PROXY, "securityContext": {"runAsUser": 2000}}
    given = {} if mesh else {"sidecar.istio.io/interceptionMode": "TPROXY"}
    text = "defaultConfig: {interceptionMode: TPROXY}" if mesh else "{}"
    result = by_hand(pod(container(), own, annotations=given), new(mesh=text))
    assert proxy_of(result)["securityContext"]["runAsUser"] == 0


def test_openshift_gives_the_proxy_the_last_user_of_the_namespace() -> None:
    ranges = {"openshift.io/sa.scc.uid-range": "1000620000/10000"}
    result = admitted(
        pod(container(securityContext={"runAsUser": 1000620000})),
        new(platform="openshift"),
        namespace_object={"metadata": {"annotations": ranges}},
    )
    assert proxy_of(result)["securityContext"]["runAsUser"] == 1000629999
    elsewhere = admitted(
        pod(container()), new(), namespace_object={"metadata": {"annotations": ranges}}
    )
    assert proxy_of(elsewhere)["securityContext"]["runAsUser"] == 1337


def test_openshift_forgets_a_user_that_every_container_was_given() -> None:
    context = {"securityContext": {"runAsUser": 5}}
    original = pod(container(**context), {**PROXY, **context})
    result = admitted(original, new(platform="openshift"))
    assert proxy_of(result)["securityContext"]["runAsUser"] == 1337


def test_scalars_of_a_manifest_are_texts_where_texts_are_wanted() -> None:
    original = pod(
        container(env=[{"name": "A", "value": 1}]), labels={"a": True, "b": 8, "c": None}
    )
    result = by_hand(original, new())
    assert metadata_map(result, "labels") == {
        "a": "true",
        "b": "8",
        "c": "",
        "security.istio.io/tlsMode": "istio",
    }
    app = named(result, "app")
    assert app is not None
    assert app["env"] == [{"name": "A", "value": "1"}]
    with pytest.raises(InjectionError, match=r"spec.containers\[0\].env\[0\].value"):
        admitted(original, new())


def test_unknown_fields_of_the_user_stay() -> None:
    original = pod(container(own={"x": [1]}), more=1)
    result = by_hand(original, new())
    assert result["spec"]["more"] == 1
    assert result["spec"]["containers"][0]["own"] == {"x": [1]}


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("metadata: {labels: {a: true}}", ["template sidecar", "metadata.labels.a", "text"]),
        ("metadata: {labels: [unclosed", ["template sidecar"]),
        ("- a", ["template sidecar", "mapping"]),
        ("spec: {containers: [{image: x}]}", ["spec.containers[0]", "name"]),
        ("metadata: {labels: {a: {{ .NoSuchField }}}}", ["template sidecar", "NoSuchField"]),
        ('spec: {hostNetwork: "yes"}', ["spec.hostNetwork"]),
    ],
)
def test_a_template_that_gives_no_pod_is_refused_with_its_place(
    template: str, words: list[str]
) -> None:
    with pytest.raises(InjectionError) as refused:
        by_hand(pod(container()), config_of(template))
    for word in words:
        assert word in str(refused.value)


def config_of(template: str) -> Settings:
    from istio_init.inject.settings import SettingsFile, load_settings

    return load_settings(SettingsFile(json.dumps({"templates": {"sidecar": template}}), "config"))


@pytest.mark.parametrize("template", ["", "{{ if false }}x: y{{ end }}", "# nothing", "unknown: 1"])
def test_a_template_may_give_nothing(template: str) -> None:
    result = by_hand(pod(container()), config_of(template))
    assert names(result) == ["app"]
    assert record(result)["containers"] is None


def test_a_record_of_overrides_that_cannot_be_read_is_named() -> None:
    broken = by_hand(pod(container()), new())
    broken["metadata"]["annotations"]["proxy.istio.io/overrides"] = "{"
    with pytest.raises(InjectionError, match=r"proxy.istio.io/overrides"):
        by_hand(broken, new())


@pytest.mark.parametrize(
    ("metadata", "spec"),
    [
        ({}, {}),
        ({}, {"containers": None}),
        ({"labels": None, "annotations": None}, {"volumes": []}),
    ],
)
def test_an_empty_pod_is_injected_too(metadata: Json, spec: Json) -> None:
    for chosen in (new(), old()):
        assert "istio-proxy" in names(by_hand({"metadata": metadata, "spec": spec}, chosen))
        assert "istio-proxy" in names(admitted({"metadata": metadata, "spec": spec}, chosen))


def test_the_proxy_of_an_older_injector_becomes_native_with_what_it_has() -> None:
    record = {"sidecar.istio.io/status": json.dumps({"containers": ["istio-proxy"]})}
    own = {**PROXY, "args": ["older"], "env": [{"name": "OLDER", "value": "1"}]}
    injected = pod(container(), own, annotations=record)
    native = by_hand(injected, new(native=True))
    assert names(native) == ["app"]
    assert proxy_of(native)["args"] == ["older"]
    assert variables(proxy_of(native))["OLDER"] == "1"
    assert "proxy.istio.io/overrides" not in annotations_of(native)
    assert by_hand(injected, new()) == by_hand(pod(container()), new())


# Release 1.0


def test_a_plain_pod_of_1_0() -> None:
    result = by_hand(pod(container(ports=[{"containerPort": 80}])), old())
    init, proxy = named(result, "istio-init"), proxy_of(result)
    assert init is not None
    assert init["args"] == ["-p", "15001", "-u", "1337", "-m", "REDIRECT", "-b", "80,"]
    assert init["securityContext"] == {}
    assert proxy["args"] == ["--drainDuration", "2s", ""]
    assert proxy["env"][1] == {"name": "NUMBER", "value": "5"}
    assert "restartPolicy" not in proxy
    assert "imagePullPolicy" not in proxy
    assert names(result, "imagePullSecrets") == []
    assert record(result) == {
        "version": old().version,
        "initContainers": ["istio-init"],
        "containers": ["istio-proxy"],
        "volumes": ["istio-envoy", "istio-certs"],
        "imagePullSecrets": ["registry"],
    }


def test_by_hand_the_users_lists_come_first() -> None:
    original = pod(
        container(),
        initContainers=[container("i")],
        volumes=[{"name": "v"}],
        imagePullSecrets=[{"name": "own"}],
    )
    result = by_hand(original, old())
    assert names(result) == ["app", "istio-proxy"]
    assert names(result, "initContainers") == ["i", "istio-init"]
    assert names(result, "volumes") == ["v", "istio-envoy", "istio-certs"]
    assert names(result, "imagePullSecrets") == ["own"]


def test_the_webhook_of_1_0_sets_defaults_and_adds_secrets() -> None:
    result = admitted(pod(container(), imagePullSecrets=[{"name": "own"}]), old())
    proxy = proxy_of(result)
    assert names(result, "imagePullSecrets") == ["own", "registry"]
    assert proxy["imagePullPolicy"] == "Always"
    assert proxy["terminationMessagePath"] == "/dev/termination-log"
    assert proxy["terminationMessagePolicy"] == "File"
    assert proxy["env"][0]["valueFrom"]["fieldRef"]["apiVersion"] == "v1"
    assert proxy["ports"] == [{"containerPort": 15090, "protocol": "TCP"}]
    assert proxy["readinessProbe"] == {
        "httpGet": {"port": 15021, "path": "/", "scheme": "HTTP"},
        "timeoutSeconds": 1,
        "periodSeconds": 10,
        "successThreshold": 1,
        "failureThreshold": 3,
    }
    init = named(result, "istio-init")
    assert init is not None
    assert init["imagePullPolicy"] == "IfNotPresent"
    assert result["spec"]["volumes"][1]["secret"]["defaultMode"] == 0o644


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("reg:5000/p", "Always"),
        ("p:latest", "Always"),
        ("p:1", "IfNotPresent"),
        ("p@sha256:ab", "IfNotPresent"),
    ],
)
def test_an_image_without_a_fixed_tag_is_always_pulled(image: str, policy: str) -> None:
    original = pod(container(), annotations={"sidecar.istio.io/proxyImage": image})
    assert proxy_of(admitted(original, old()))["imagePullPolicy"] == policy


def test_bad_annotations_of_1_0_are_named_at_once() -> None:
    given = {
        "sidecar.istio.io/interceptionMode": "NONE",
        "traffic.sidecar.istio.io/includeInboundPorts": "40000",
    }
    with pytest.raises(InjectionError) as refused:
        by_hand(pod(container(), annotations=given), old())
    assert all(key in str(refused.value) for key in given)


def test_a_pod_that_another_program_injected_gets_all_twice_by_hand_and_a_warning() -> None:
    once = by_hand(pod(container()), old())
    compact = json.dumps(record(once), separators=(",", ":"))
    once["metadata"]["annotations"]["sidecar.istio.io/status"] = compact
    request = PodRequest(once["metadata"], once["spec"], by_hand=True)
    injection = inject_pod(request, old())
    assert [one["name"] for one in injection.spec["containers"]] == ["app"] + ["istio-proxy"] * 2
    assert "uninject" in str(injection.warnings[0])
    assert names(admitted(once, old())) == ["app", "istio-proxy"]


def test_defaults_of_what_has_little() -> None:
    from istio_init.inject.settings import SettingsFile, load_settings

    template = (
        "containers: [{name: a, livenessProbe: {exec: {command: [x]}}}]\nvolumes: [{name: v}]"
    )
    chosen = load_settings(SettingsFile(json.dumps({"template": template}), "config"))
    result = admitted(pod(), chosen)
    added = named(result, "a")
    assert added is not None
    assert added["livenessProbe"]["exec"] == {"command": ["x"]}
    assert added["livenessProbe"]["periodSeconds"] == 10
    assert result["spec"]["volumes"] == [{"name": "v", "emptyDir": {}}]
    assert "initContainers" not in result["spec"]


@pytest.mark.parametrize("template", ["[[ .ObjectMeta.Nope ]]", "- a", "a: [", "containers: 5"])
def test_a_template_of_1_0_that_gives_no_containers_is_refused(template: str) -> None:
    from istio_init.inject.settings import SettingsFile, load_settings

    chosen = load_settings(SettingsFile(json.dumps({"template": template}), "config"))
    with pytest.raises(InjectionError, match=r"template|YAML"):
        by_hand(pod(container()), chosen)


# Both releases

ALL: dict[str, Settings] = {
    "old": old(),
    "new": new(),
    "native": new(native=True),
    "canary": new(revision="canary"),
    "cni": new(values='{"cni": true}'),
    "tproxy": new(mesh="defaultConfig: {interceptionMode: TPROXY}"),
    "hold": new(mesh="defaultConfig: {holdApplicationUntilProxyStarts: true}"),
    "no probes": new(values='{"sidecarInjectorWebhook": {}}'),
    "no metrics": new(mesh="enablePrometheusMerge: false"),
    "port": new(mesh="defaultConfig: {statusPort: 15055}", native=True),
}

actions = st.one_of(
    st.builds(lambda port: {"httpGet": {"path": "/p", "port": port}}, st.integers(1, 15000)),
    st.builds(lambda port: {"tcpSocket": {"port": port}}, st.integers(1, 15000)),
    st.just({"exec": {"command": ["true"]}}),
)
labels = st.dictionaries(
    st.sampled_from(["app", "version", "security.istio.io/tlsMode"]),
    st.sampled_from(["a", "disabled"]),
)
given_annotations = st.fixed_dictionaries(
    {},
    optional={
        "prometheus.io/port": st.just("9100"),
        "prometheus.io/scrape": st.sampled_from(["true", "false"]),
        "sidecar.istio.io/nativeSidecar": st.sampled_from(["true", "false"]),
        "sidecar.istio.io/interceptionMode": st.sampled_from(["REDIRECT", "TPROXY"]),
        "inject.istio.io/templates": st.sampled_from(
            ["gateway", "sidecar, custom", "custom", "sidecar"]
        ),
        "sidecar.istio.io/rewriteAppHTTPProbers": st.sampled_from(["true", "false"]),
    },
)


@st.composite
def pods(draw: st.DrawFn) -> Json:
    def one(name: str) -> Json:
        fields: dict[str, Any] = draw(
            st.fixed_dictionaries({}, optional={"livenessProbe": actions, "startupProbe": actions})
        )
        return container(name, **fields)

    containers = [one(name) for name in draw(st.sampled_from(["a", "ab", "ba", "abc"]))]
    if draw(st.booleans()):
        own = {"name": "istio-proxy", "image": draw(st.sampled_from(["auto", "mine:1"]))}
        more = st.fixed_dictionaries(
            {},
            optional={
                "args": st.just(["mine"]),
                "env": st.just([{"name": "OWN", "value": "1"}]),
                "securityContext": st.just({"runAsUser": 2000}),
                "livenessProbe": actions,
            },
        )
        containers.append({**own, **draw(more)})
    fields = {
        key: draw(value) for key, value in (("labels", labels), ("annotations", given_annotations))
    }
    made = pod(*containers, **{key: value for key, value in fields.items() if value})
    if draw(st.booleans()):
        made["spec"]["initContainers"] = [one("i")]
    if draw(st.booleans()):
        made["spec"]["volumes"] = [{"name": "v", "emptyDir": {"medium": "Memory"}}]
    return made


chosen = st.sampled_from(sorted(ALL))


@tried
@given(pods(), chosen, chosen, st.sampled_from([by_hand, admitted]))
def test_an_injection_in_between_by_any_settings_makes_no_difference(
    original: Json,
    first: str,
    second: str,
    inject: Any,  # noqa: ANN401 - one of two functions
) -> None:
    assume(recorded(original, first))
    between = inject(original, ALL[first])
    result, wanted = inject(between, ALL[second]), inject(original, ALL[second])
    assert comparable(unrecorded(result)) == comparable(unrecorded(wanted))


@tried
@given(pods(), chosen, st.sampled_from([by_hand, admitted]))
def test_an_injection_changes_nothing_that_it_is_given(
    original: Json,
    name: str,
    inject: Any,  # noqa: ANN401 - as above
) -> None:
    before = copy.deepcopy(original)
    result = inject(original, ALL[name])
    again = copy.deepcopy(result)
    inject(result, ALL[name])
    assert (original, result) == (before, again)


@tried
@given(pods(), chosen)
def test_the_original_is_recovered(original: Json, name: str) -> None:
    assume(recorded(original, name))
    recovered = unrecorded(recover_original(by_hand(original, ALL[name])))
    assert sorted_proxy(comparable(recovered)) == sorted_proxy(comparable(original))


def recorded(original: Json, name: str) -> bool:
    """Whether an injection records all that it replaces.

    Without a proxy it cannot keep annotations for Prometheus, and what templates write for
    Istio's CNI may be what the user wrote.
    """
    given = annotations_of(original)
    scraped = any(key.startswith("prometheus.io/") for key in given)
    if given.get("inject.istio.io/templates") == "custom" and scraped:
        return False
    return name != "cni" or given.get("sidecar.istio.io/interceptionMode") != "REDIRECT"


def unrecorded(result: Json) -> Json:
    """Return a pod without what a setting adds to the metadata, which nobody records."""
    result = without_annotations(result, ("by",))
    labels = {key: value for key, value in metadata_map(result, "labels").items() if key != "team"}
    return with_metadata_map(result, "labels", labels)


def sorted_proxy(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Move the proxy to the end: where a user had it is not recorded."""
    spec = value.get("spec", {})
    spec["containers"] = sorted(
        spec.get("containers", []), key=lambda one: one["name"] == "istio-proxy"
    )
    return value


@tried
@given(pods(), chosen)
def test_the_order_of_keys_makes_no_difference(original: Json, name: str) -> None:
    def turned(value: Any) -> Any:  # noqa: ANN401 - JSON
        if isinstance(value, dict):
            return {key: turned(one) for key, one in reversed(value.items())}
        return [turned(one) for one in value] if isinstance(value, list) else value

    assert by_hand(turned(original), ALL[name]) == by_hand(original, ALL[name])


anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 70000), st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["name", "containers", "initContainers", "httpGet", "port", "path", "env", "x"]
            ),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)


@tried
@given(
    pods(), chosen, st.tuples(anything, anything, anything), st.sampled_from([by_hand, admitted])
)
def test_no_record_is_too_odd(
    original: Json,
    name: str,
    records: tuple[object, object, object],
    inject: Any,  # noqa: ANN401 - as above
) -> None:
    status, overrides, probes = records
    original["metadata"].setdefault("annotations", {}).update(
        {
            "sidecar.istio.io/status": json.dumps(status),
            "proxy.istio.io/overrides": json.dumps(overrides),
        }
    )
    variable = {
        "name": "ISTIO_KUBE_APP_PROBERS",
        "value": json.dumps({"/app-health/a/livez": probes}),
    }
    saved = {"httpGet": {"path": "/app-health/a/livez", "port": 15020}}
    original["spec"]["containers"][0]["livenessProbe"] = saved
    original["spec"]["containers"].append({**PROXY, "env": [variable]})
    try:
        inject(original, ALL[name])
    except InjectionError as refused:
        assert refused.problems  # noqa: PT017 - either is good


@tried
@given(st.dictionaries(st.sampled_from(["containers", "volumes", "hostNetwork"]), anything), chosen)
def test_no_spec_is_too_odd(spec: Json, name: str) -> None:
    for inject in (by_hand, admitted):
        try:
            inject({"metadata": {}, "spec": spec}, ALL[name])
        except InjectionError as refused:
            assert refused.problems  # noqa: PT017 - either is good


@tried
@given(st.fixed_dictionaries({"global": anything, "sidecarInjectorWebhook": anything}))
def test_no_values_are_too_odd(values: Json) -> None:
    by_hand(pod(container(livenessProbe={"httpGet": {"port": 1}})), new(values=json.dumps(values)))


def test_a_pod_may_not_be_nested_without_end() -> None:
    deep: object = {}
    for _ in range(5000):
        deep = {"x": deep}
    original = pod({**PROXY, "own": deep})
    with pytest.raises(InjectionError, match="nested too deeply"):
        by_hand(original, new())
