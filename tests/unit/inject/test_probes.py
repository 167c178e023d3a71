"""Probes and hooks of the application through the proxy's agent."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.inject.containers import named, variable
from istio_init.inject.probes import (
    read_saved_probes,
    restore_probes,
    rewrite_probes,
    save_probes,
    without_saved_probes,
)
from tests.unit.inject.pods import PROXY, Json, container, pod
from tests.unit.settings import tried

if TYPE_CHECKING:
    from typing import Any

PORT = 15020
VARIABLE = "ISTIO_KUBE_APP_PROBERS"


def rewritten(original: Json, port: int = PORT) -> Json:
    return rewrite_probes(original, save_probes(original, PORT), port)


@pytest.mark.parametrize(
    ("field", "word"),
    [("readinessProbe", "readyz"), ("livenessProbe", "livez"), ("startupProbe", "startupz")],
)
@pytest.mark.parametrize(
    ("action", "saved"),
    [
        ({"httpGet": {"path": "/p", "port": 80}}, {"httpGet": {"path": "/p", "port": 80}}),
        ({"httpGet": {"port": "http"}}, {"httpGet": {"port": 8080}}),
        ({"tcpSocket": {"port": "http"}}, {"tcpSocket": {"port": 8080}}),
        ({"grpc": {"port": 7, "service": "s"}}, {"grpc": {"port": 7, "service": "s"}}),
        (
            {"httpGet": {"port": 1}, "timeoutSeconds": 4},
            {"httpGet": {"port": 1}, "timeoutSeconds": 4},
        ),
    ],
)
def test_a_probe_is_asked_of_the_agent_and_saved(
    field: str, word: str, action: Json, saved: Json
) -> None:
    ports = [{"name": "http", "containerPort": 8080}]
    probe = {**action, "periodSeconds": 7}
    result = rewritten(pod(container(ports=ports, **{field: probe}), PROXY))
    path = f"/app-health/app/{word}"
    new = named(result, "app")
    assert new is not None
    assert new[field]["httpGet"] == {"path": path, "port": PORT}
    assert new[field]["periodSeconds"] == 7
    assert not {"tcpSocket", "grpc"} & new[field].keys()
    proxy = named(result, "istio-proxy")
    assert proxy is not None
    assert json.loads(variable(proxy, VARIABLE) or "") == {path: saved}


@pytest.mark.parametrize(("hook", "word"), [("preStop", "prestopz"), ("postStart", "poststartz")])
@pytest.mark.parametrize("action", [{"httpGet": {"port": 1}}, {"tcpSocket": {"port": 1}}])
def test_a_hook_is_asked_of_the_agent_and_saved(hook: str, word: str, action: Json) -> None:
    result = rewritten(pod(container(lifecycle={hook: action}), PROXY))
    path = f"/app-lifecycle/app/{word}"
    new = named(result, "app")
    assert new is not None
    assert new["lifecycle"] == {hook: {"httpGet": {"path": path, "port": PORT}}}
    assert save_probes(pod(container(lifecycle={hook: action})), PORT) == {path: action}


@pytest.mark.parametrize(
    "fields",
    [
        {"livenessProbe": {"exec": {"command": ["true"]}}},
        {"lifecycle": {"preStop": {"exec": {"command": ["true"]}}}},
        {"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}},
        {"lifecycle": {}},
        {"livenessProbe": None},
        {},
    ],
)
def test_other_actions_stay_and_nothing_is_saved(fields: Json) -> None:
    original = pod(container(**fields), PROXY)
    assert rewritten(original) is original
    assert not save_probes(original, PORT)


def test_https_becomes_http_and_headers_stay() -> None:
    action = {"port": 1, "scheme": "HTTPS", "httpHeaders": [{"name": "X", "value": "v"}]}
    new = named(rewritten(pod(container(livenessProbe={"httpGet": action}), PROXY)), "app")
    assert new is not None
    assert new["livenessProbe"]["httpGet"] == {
        "path": "/app-health/app/livez",
        "port": PORT,
        "scheme": "HTTP",
        "httpHeaders": [{"name": "X", "value": "v"}],
    }


def test_init_containers_too_but_not_the_proxy() -> None:
    probe = {"httpGet": {"port": 1}}
    original = pod(
        container("a", livenessProbe=probe),
        {**PROXY, "livenessProbe": probe},
        initContainers=[container("b", startupProbe=probe)],
    )
    saved = save_probes(original, PORT)
    assert list(saved) == ["/app-health/a/livez", "/app-health/b/startupz"]
    proxy = named(rewritten(original), "istio-proxy")
    assert proxy is not None
    assert proxy["livenessProbe"] == probe


def test_an_unknown_port_is_not_saved_but_rewritten() -> None:
    original = pod(container(livenessProbe={"httpGet": {"port": "none"}}), PROXY)
    assert not save_probes(original, PORT)
    new = named(rewritten(original), "app")
    assert new is not None
    assert new["livenessProbe"]["httpGet"]["port"] == PORT


def test_a_probe_of_the_agent_is_not_saved() -> None:
    assert not save_probes(pod(container(livenessProbe={"httpGet": {"port": PORT}})), PORT)


def test_another_port_can_be_asked() -> None:
    new = named(rewritten(pod(container(livenessProbe={"httpGet": {"port": 1}}), PROXY), 0), "app")
    assert new is not None
    assert new["livenessProbe"]["httpGet"]["port"] == 0


actions = st.one_of(
    st.fixed_dictionaries(
        {
            "httpGet": st.fixed_dictionaries(
                {"path": st.text(min_size=1), "port": st.integers(1, 15000)}
            )
        }
    ),
    st.fixed_dictionaries({"tcpSocket": st.fixed_dictionaries({"port": st.integers(1, 15000)})}),
)
grpc = st.fixed_dictionaries({"grpc": st.fixed_dictionaries({"port": st.integers(1, 15000)})})
names = st.lists(st.sampled_from(["a", "b", "c-d"]), unique=True, max_size=3)


@st.composite
def probed(draw: st.DrawFn) -> Json:
    def one(name: str) -> Json:
        probe = st.one_of(actions, grpc, st.just({"exec": {"command": ["x"]}}))
        fields: dict[str, Any] = draw(
            st.fixed_dictionaries({}, optional={"readinessProbe": probe, "startupProbe": probe})
        )
        if draw(st.booleans()):
            fields["lifecycle"] = {"preStop": draw(actions)}
        return container(name, **fields)

    init = [one(f"i{name}") for name in draw(names)]
    return pod(*(one(name) for name in draw(names)), PROXY, initContainers=init)


@tried
@given(probed())
def test_what_was_saved_is_restored(original: Json) -> None:
    before = copy.deepcopy(original)
    result = rewritten(original)
    proxy = named(result, "istio-proxy")
    assert proxy is not None
    restored = restore_probes(result, proxy)
    place = [one["name"] for one in restored["spec"]["containers"]].index("istio-proxy")
    restored["spec"]["containers"][place] = without_saved_probes(proxy)
    assert restored == original == before


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "5", "[" * 100_000, '{"/other/a/livez":{}}', '{"/app-health/a/livez":1}'],
)
def test_a_record_that_cannot_be_read_has_no_probes(text: str) -> None:
    proxy = {**PROXY, "env": [{"name": VARIABLE, "value": text}]}
    assert not read_saved_probes(proxy)
    original = pod(container(livenessProbe={"httpGet": {"path": "/app-health/app/livez"}}), proxy)
    assert restore_probes(original, proxy) == original


def test_a_probe_that_was_changed_since_stays() -> None:
    result = rewritten(pod(container(livenessProbe={"httpGet": {"port": 1}}), PROXY))
    proxy = named(result, "istio-proxy")
    assert proxy is not None
    for probe in ({"httpGet": {"path": "/mine", "port": 2}}, {"exec": {"command": ["x"]}}):
        changed = pod(container(livenessProbe=probe), proxy)
        assert restore_probes(changed, proxy) is changed
