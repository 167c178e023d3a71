"""The pod as it was before its injection, and what is recorded for that."""

from __future__ import annotations

import json

import pytest

from istio_init.inject.containers import annotations_of, metadata_map, named
from istio_init.inject.overrides import (
    apply_overrides,
    follow_proxy_user,
    move_proxy,
    read_overrides,
    record_overrides,
)
from istio_init.inject.problems import InjectionError
from istio_init.inject.recover import (
    is_injected,
    older_proxy,
    recover_original,
    recover_with_proxy,
)
from istio_init.inject.status import old_status_text, read_status, status_text
from tests.unit.inject.pods import PROXY, Json, container, pod, status

INIT: Json = {"name": "istio-init", "image": "init:1"}


def test_a_pod_that_was_not_injected_is_its_own_original() -> None:
    original = pod(container(), PROXY, labels={"security.istio.io/tlsMode": "istio"})
    assert not is_injected(original)
    assert recover_original(original) is original
    assert recover_with_proxy(original) is original


def test_what_was_added_by_name_goes() -> None:
    injected = pod(
        container(),
        PROXY,
        initContainers=[container("i"), INIT],
        volumes=[{"name": "own"}, {"name": "istio-data"}],
        imagePullSecrets=[{"name": "s"}],
        annotations=status(
            initContainers=["istio-init"],
            containers=["istio-proxy"],
            volumes=["istio-data"],
            imagePullSecrets=["s"],
        ),
    )
    assert is_injected(injected)
    assert recover_original(injected) == pod(
        container(), initContainers=[container("i")], volumes=[{"name": "own"}]
    )


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "null", "[" * 100_000, '{"containers": "x"}'])
def test_a_record_that_cannot_be_read_takes_the_usual_names(text: str) -> None:
    injected = pod(
        container(),
        PROXY,
        initContainers=[INIT],
        volumes=[{"name": "istio-envoy"}],
        annotations={"sidecar.istio.io/status": text},
    )
    assert recover_original(injected) == pod(container())


def test_records_of_both_releases_are_read() -> None:
    spec = {"containers": [PROXY], "volumes": [{"name": "v"}]}
    new = read_status(pod(annotations={"sidecar.istio.io/status": status_text(spec, "canary")}))
    old = read_status(pod(annotations={"sidecar.istio.io/status": old_status_text(spec, "ab")}))
    assert new is not None
    assert old is not None
    assert (new.version, new.revision, new.own) == ("", "canary", False)
    assert (old.version, old.revision, old.own) == ("ab", "", True)
    for record in (new, old):
        assert record.of("containers") == ("istio-proxy",)
        assert record.of("initContainers") == ()
        assert record.of("volumes") == ("v",)
    assert read_status(pod()) is None


@pytest.mark.parametrize("native", [True, False])
def test_a_users_own_proxy_is_put_back_where_it_was(native: bool) -> None:  # noqa: FBT001
    own = {"name": "istio-proxy", "image": "auto", "env": [{"name": "A", "value": "b"}]}
    field = "initContainers" if native else "containers"
    template = {"metadata": {}, "spec": {field: [{**PROXY, "args": ["x"]}]}}
    original = pod(container(), own)
    merged, given = apply_overrides(
        move_proxy(original) if native else original, original, template
    )
    assert given == {field: [{"name": "istio-proxy", "env": own["env"], "resources": {}}]}
    injected = record_overrides(merged, given)
    injected["metadata"]["annotations"].update(status(**{field: ["istio-proxy"]}))
    recovered = recover_original(injected)
    assert recovered["spec"]["containers"] == [container(), own]
    assert not recovered["spec"].get("initContainers")
    assert annotations_of(recovered) == {}


def test_a_proxy_that_its_user_made_an_init_container_stays_one() -> None:
    own = {"name": "istio-proxy", "image": "mine", "restartPolicy": "Always"}
    injected = record_overrides(pod(container()), {"initContainers": [own]})
    injected["metadata"]["annotations"].update(status(initContainers=["istio-proxy"]))
    assert recover_original(injected) == pod(container(), initContainers=[own])


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "5",
        "[" * 100_000,
        '{"containers": {"a": 1}}',
        '{"containers": [1]}',
        '{"containers": [{"name": 5}]}',
    ],
)
def test_overrides_that_cannot_be_read_are_refused_by_their_annotation(text: str) -> None:
    broken = pod(container(), annotations={"proxy.istio.io/overrides": text})
    with pytest.raises(InjectionError) as refused:
        read_overrides(broken)
    places = {problem.where.annotation for problem in refused.value.problems}
    assert places == {"proxy.istio.io/overrides"}


def test_a_user_wins_field_by_field() -> None:
    own = {
        "name": "istio-proxy",
        "image": "auto",
        "args": ["mine"],
        "env": [{"name": "A", "value": "2"}],
        "resources": {"limits": {"cpu": "1"}},
        "tty": False,
    }
    template = {
        **PROXY,
        "args": ["a", "b"],
        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "1"}],
        "resources": {"limits": {"cpu": "9", "memory": "1Gi"}},
    }
    merged, _ = apply_overrides(
        pod(template), pod(own), {"metadata": {}, "spec": {"containers": [PROXY]}}
    )
    result = named(merged, "istio-proxy")
    assert result == {
        "name": "istio-proxy",
        "image": "proxy:1",
        "args": ["mine"],
        "env": [{"name": "A", "value": "2"}, {"name": "B", "value": "1"}],
        "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
    }


def with_user(user: object, group: object = None) -> Json:
    context = {
        key: one for key, one in (("runAsUser", user), ("runAsGroup", group)) if one is not None
    }
    return pod({**PROXY, "securityContext": context})


@pytest.mark.parametrize(
    ("name", "user", "group", "flag", "context"),
    [
        ("istio-init", 2000, None, "2000", None),
        ("istio-init", 0, None, "1337", None),
        ("istio-init", None, 5, "1337", None),
        ("istio-validation", 2000, 5, "2000", {"runAsUser": 2000, "runAsGroup": 5}),
        ("istio-validation", 0, None, "1337", {"runAsUser": 0}),
        ("istio-validation", None, 5, "1337", {"runAsGroup": 5}),
    ],
)
def test_the_rules_follow_the_proxys_user(
    name: str, user: int | None, group: int | None, flag: str, context: Json | None
) -> None:
    changed, _ = followed(name, user, group, tproxy=False)
    assert changed["args"] == ["-p", "1", "-u", flag]
    assert changed.get("securityContext") == context


@pytest.mark.parametrize("name", ["istio-init", "istio-validation"])
def test_under_tproxy_the_proxy_stays_root(name: str) -> None:
    changed, proxy = followed(name, 2000, 5, tproxy=True)
    assert changed["args"] == ["-p", "1", "-u", "2000"]
    assert "securityContext" not in changed
    assert proxy["securityContext"] == {"runAsUser": 0, "runAsGroup": 5}


def followed(name: str, user: int | None, group: int | None, *, tproxy: bool) -> tuple[Json, Json]:
    init = {"name": name, "args": ["-p", "1", "-u", "1337"]}
    original = with_user(user, group)
    injected = pod(*original["spec"]["containers"], initContainers=[init])
    result = follow_proxy_user(injected, original, tproxy=tproxy)
    changed, proxy = named(result, name), named(result, "istio-proxy")
    assert changed is not None
    assert proxy is not None
    return changed, proxy


def test_without_a_user_or_an_init_container_nothing_follows() -> None:
    init = [{"name": "istio-init", "args": ["-u"]}]
    for original, injected in (
        (pod(container()), pod(container(), initContainers=init)),
        (with_user(None), pod(PROXY, initContainers=init)),
        (with_user(5), pod(PROXY)),
    ):
        assert follow_proxy_user(injected, original, tproxy=False) is injected
    result = follow_proxy_user(pod(PROXY, initContainers=init), with_user(5), tproxy=False)
    assert result["spec"]["initContainers"] == init


def test_a_group_alone_and_a_pod_without_a_proxy() -> None:
    changed, proxy = followed("istio-init", None, 5, tproxy=True)
    assert changed["args"][-1] == "1337"
    assert proxy["securityContext"] == {"runAsGroup": 5}
    alone = pod(initContainers=[{**INIT, "args": ["-u", "1337"]}])
    result = follow_proxy_user(alone, with_user(2000), tproxy=True)
    assert result["spec"]["initContainers"][0]["args"] == ["-u", "2000"]


def test_the_annotation_says_tproxy_too() -> None:
    given = {"sidecar.istio.io/interceptionMode": "TPROXY"}
    injected = pod(PROXY, initContainers=[INIT], annotations=given)
    result = follow_proxy_user(injected, with_user(2000), tproxy=False)
    proxy = named(result, "istio-proxy")
    assert proxy is not None
    assert proxy["securityContext"] == {"runAsUser": 0}


@pytest.mark.parametrize(
    ("labels", "left"),
    [
        ({"security.istio.io/tlsMode": "istio"}, {}),
        ({"security.istio.io/tlsMode": "disabled"}, {"security.istio.io/tlsMode": "disabled"}),
        ({"app": "web", "service.istio.io/canonical-name": "web"}, {"app": "web"}),
        ({"service.istio.io/canonical-name": "workload"}, {}),
        (
            {"app": "web", "service.istio.io/canonical-name": "other"},
            {"app": "web", "service.istio.io/canonical-name": "other"},
        ),
        ({"version": "v2", "service.istio.io/canonical-revision": "v2"}, {"version": "v2"}),
        ({"service.istio.io/canonical-revision": "latest"}, {}),
        ({"networking.istio.io/tunnel": "http"}, {"networking.istio.io/tunnel": "http"}),
    ],
)
def test_labels_of_the_templates_values_go(labels: dict[str, str], left: dict[str, str]) -> None:
    proxy = {**PROXY, "env": [{"name": "ISTIO_META_WORKLOAD_NAME", "value": "workload"}]}
    injected = pod(
        container(), proxy, labels=labels, annotations=status(containers=["istio-proxy"])
    )
    assert metadata_map(recover_original(injected), "labels") == left


def test_the_label_of_a_tunnel_goes_with_its_variable() -> None:
    proxy = {**PROXY, "env": [{"name": "ISTIO_META_ENABLE_HBONE", "value": "true"}]}
    injected = pod(
        container(),
        proxy,
        labels={"networking.istio.io/tunnel": "http"},
        annotations=status(containers=["istio-proxy"]),
    )
    assert recover_original(injected) == pod(container())


def test_annotations_of_the_templates_values_go() -> None:
    given = {
        "kubectl.kubernetes.io/default-container": "app",
        "kubectl.kubernetes.io/default-logs-container": "mine",
        "sidecar.istio.io/interceptionMode": "REDIRECT",
        "traffic.sidecar.istio.io/includeInboundPorts": "*",
        "traffic.sidecar.istio.io/excludeInboundPorts": "22",
    }
    names = {"containers": ["istio-proxy"]}
    plain = pod(container(), PROXY, annotations={**given, **status(**names)})
    left = {key: value for key, value in given.items() if value != "app"}
    assert annotations_of(recover_original(plain)) == left
    names["initContainers"] = ["istio-validation"]
    with_cni = pod(container(), PROXY, annotations={**given, **status(**names)})
    assert annotations_of(recover_original(with_cni)) == {
        "kubectl.kubernetes.io/default-logs-container": "mine",
        "traffic.sidecar.istio.io/excludeInboundPorts": "22",
    }


def test_the_proxy_of_an_older_injector_is_kept_for_the_next_injection() -> None:
    record = {"sidecar.istio.io/status": json.dumps({"containers": ["istio-proxy"]})}
    saved = {"name": "ISTIO_KUBE_APP_PROBERS", "value": "{}"}
    proxy = {**PROXY, "env": [{"name": "OWN", "value": "1"}, saved]}
    injected = pod(container(), proxy, annotations=record)
    assert older_proxy(injected)
    kept = {**PROXY, "env": [{"name": "OWN", "value": "1"}]}
    assert recover_with_proxy(injected) == pod(container(), kept)
    assert recover_original(injected) == pod(container())
    assert not older_proxy(pod(container(), PROXY, annotations=status(containers=["istio-proxy"])))


@pytest.mark.parametrize(
    ("key", "injected", "left"),
    [
        ("traffic.sidecar.istio.io/excludeInboundPorts", "15020", None),
        ("traffic.sidecar.istio.io/excludeInboundPorts", "22,15020", "22"),
        ("traffic.sidecar.istio.io/excludeInboundPorts", "22", "22"),
        ("k8s.v1.cni.cncf.io/networks", "default/istio-cni", None),
        ("k8s.v1.cni.cncf.io/networks", "own, default/istio-cni", "own"),
        ("k8s.v1.cni.cncf.io/networks", "own", "own"),
        (
            "k8s.v1.cni.cncf.io/networks",
            '[{"name": "own"}, {"name": "istio-cni", "namespace": "default"}]',
            '[{"name": "own"}]',
        ),
        ("k8s.v1.cni.cncf.io/networks", '[{"name": "istio-cni", "namespace": "default"}]', "[]"),
    ],
)
def test_what_was_appended_to_a_list_for_istios_cni_goes(
    key: str, injected: str, left: str | None
) -> None:
    names = {"containers": ["istio-proxy"], "initContainers": ["istio-validation"]}
    given = {key: injected, **status(**names)}
    recovered = recover_original(pod(container(), PROXY, annotations=given))
    assert annotations_of(recovered).get(key) == left
