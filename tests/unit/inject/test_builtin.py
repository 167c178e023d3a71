"""The built-in configuration, as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from istio_init import __version__
from istio_init.inject import builtin, yaml
from istio_init.inject.annotations import TABLE
from istio_init.inject.generation import NEW
from istio_init.inject.pod import inject_pod
from istio_init.inject.preflight import preflight
from istio_init.inject.request import PodRequest
from istio_init.inject.settings import SettingsFile, load_settings

if TYPE_CHECKING:
    from typing import Any

PROJECT = Path(__file__).parents[3]


def test_every_file_is_read_as_release_1_30() -> None:
    files = [SettingsFile(builtin.text(name), name) for name in builtin.FILES]

    settings = load_settings(*files)

    assert settings.generation == NEW
    assert list(settings.templates) == list(settings.default_templates) == ["sidecar"]
    assert settings.policy.policy == "enabled"
    assert settings.mesh["enablePrometheusMerge"] is False


def test_the_config_map_can_be_given_back() -> None:
    text = builtin.config_map()
    ours = SettingsFile(text, "ours.yaml")
    files = [SettingsFile(builtin.text(name), name) for name in builtin.FILES]

    given_back, built_in = load_settings(ours, ours, ours), load_settings(*files)

    assert given_back.values == built_in.values
    assert given_back.mesh == built_in.mesh
    assert given_back.policy == built_in.policy
    assert yaml.load(text)["data"] == dict(
        zip(("config", "values", "mesh"), map(builtin.text, builtin.FILES), strict=True)
    )


def test_the_init_containers_image_is_of_this_version() -> None:
    values = yaml.load(builtin.text(builtin.VALUES))

    assert values["global"]["proxy_init"]["image"] == f"istio-init:{__version__}"


def inject(
    annotations: dict[str, str] | None = None,
    *,
    native: bool = False,
    values: str = "",
    spec: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the spec of a plain pod after its injection; ``values`` are changed ones."""
    files = [SettingsFile(builtin.text(name), name) for name in builtin.FILES]
    given = yaml.load(values) if values else {}
    own = yaml.load(files[1].text)
    for section, fields in (given or {}).items():
        if isinstance(fields, dict):
            own["global"][section] = {**own["global"][section], **fields}
        else:
            own["global"][section] = fields
    settings = load_settings(
        files[0], SettingsFile(yaml.dump(own)), files[2], native_sidecars=native
    )
    plain = {"containers": [{"name": "app", "image": "app"}], **(spec or {})}
    return inject_pod(PodRequest({"annotations": annotations or {}}, plain), settings).spec


def named(spec: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [
        one for one in (*spec.get("initContainers", ()), *spec["containers"]) if one["name"] == name
    ]
    return dict(found)


T, S = "traffic.sidecar.istio.io/", "sidecar.istio.io/"
PLAIN = "istio-iptables -p 15001 -z 15006 -u 1337 -g 1337 -m REDIRECT -i * -b * -d 15021"


@pytest.mark.parametrize(
    ("annotations", "arguments"),
    [
        ({}, PLAIN),
        ({f"{S}interceptionMode": "TPROXY"}, PLAIN.replace("REDIRECT", "TPROXY")),
        ({f"{T}includeOutboundIPRanges": "10.0.0.0/8"}, PLAIN.replace("-i *", "-i 10.0.0.0/8")),
        ({f"{T}excludeOutboundIPRanges": "10.0.0.0/8"}, f"{PLAIN} -x 10.0.0.0/8"),
        ({f"{T}includeInboundPorts": "80,81"}, PLAIN.replace("-b *", "-b 80,81")),
        ({f"{T}excludeInboundPorts": "80"}, PLAIN.replace("-d 15021", "-d 80,15021")),
        ({f"{T}includeOutboundPorts": "80"}, f"{PLAIN} -q 80"),
        ({f"{T}excludeOutboundPorts": "80"}, f"{PLAIN} -o 80"),
        ({f"{T}excludeInterfaces": "eth1"}, f"{PLAIN} -c eth1"),
        ({f"{T}kubevirtInterfaces": "net1"}, f"{PLAIN} -k net1"),
        (
            {f"{T}kubevirtInterfaces": "net1", "istio.io/reroute-virtual-interfaces": "net2"},
            f"{PLAIN} -k net2",
        ),
        ({f"status.{S}port": "15020"}, PLAIN.replace("15021", "15020")),
    ],
)
def test_flags_come_from_the_annotations(annotations: dict[str, str], arguments: str) -> None:
    init = named(inject(annotations), "istio-init")

    assert " ".join(init["args"]) == f"{arguments} --log_output_level default:info"


def test_every_annotation_of_the_table_that_ends_in_a_flag_is_read() -> None:
    text = builtin.text(builtin.INJECT_CONFIG)
    # DNS is the agent's, and this pod has none.
    ends_in_a_flag = {row.key for row in TABLE if row.flag} - {"proxy.istio.io/config"}

    assert {key for key in ends_in_a_flag if f'"{key}"' in text} == ends_in_a_flag


def test_the_init_container_has_the_proven_rights() -> None:
    context = named(inject(), "istio-init")["securityContext"]
    manifest = PROJECT / "container" / "kubernetes" / "pod.yaml"
    (_, pod) = yaml.load_documents(manifest.read_text(encoding="utf-8"))
    (proven,) = pod.value["spec"]["initContainers"]

    assert context.pop("seccompProfile") == pod.value["spec"]["securityContext"]["seccompProfile"]
    assert context == proven["securityContext"]


def test_without_interception_there_is_no_init_container_and_the_users_stay() -> None:
    own = [{"name": "migrate", "image": "app"}]

    spec = inject({f"{S}interceptionMode": "NONE"}, spec={"initContainers": own})

    assert [one["name"] for one in spec["initContainers"]] == ["migrate"]


def test_a_native_sidecar_is_an_init_container_that_the_rest_waits_for() -> None:
    spec = inject(native=True, spec={"initContainers": [{"name": "migrate", "image": "app"}]})

    names = [one["name"] for one in spec["initContainers"]]
    proxy = named(spec, "istio-proxy")
    assert names == ["istio-init", "istio-proxy", "migrate"]
    assert proxy["restartPolicy"] == "Always"
    assert proxy["startupProbe"]["httpGet"]["port"] == 15021
    assert "lifecycle" not in proxy
    assert [one["name"] for one in spec["containers"]] == ["app"]


def test_the_application_can_be_held() -> None:
    held = inject({"proxy.istio.io/config": "holdApplicationUntilProxyStarts: true"})
    plain = inject()

    assert [one["name"] for one in held["containers"]] == ["istio-proxy", "app"]
    assert (
        "/dev/tcp/localhost/15021"
        in held["containers"][0]["lifecycle"]["postStart"]["exec"]["command"][-1]
    )
    assert [one["name"] for one in plain["containers"]] == ["app", "istio-proxy"]
    assert set(plain["containers"][1]["lifecycle"]) == {"preStop"}


@pytest.mark.parametrize(
    ("grace", "drains"),
    [(None, True), (30, True), (6, True), (5, False), (1, False), (0, False)],
)
def test_the_proxy_outlives_the_order_to_end_where_the_pod_has_the_time(
    grace: int | None, *, drains: bool
) -> None:
    """Kubernetes refuses a sleep that is not shorter than the pod's grace period."""
    spec = {} if grace is None else {"terminationGracePeriodSeconds": grace}

    proxy = named(inject(spec=spec), "istio-proxy")

    lifecycle = {"preStop": {"sleep": {"seconds": 5}}} if drains else None
    assert proxy.get("lifecycle") == lifecycle


def test_the_time_to_drain_is_a_value() -> None:
    proxies = [
        named(inject(values=f"proxy: {{drainSeconds: {seconds}}}"), "istio-proxy")
        for seconds in (0, 12)
    ]

    assert "lifecycle" not in proxies[0]
    assert proxies[1]["lifecycle"]["preStop"]["sleep"]["seconds"] == 12


def test_without_a_port_for_readiness_there_is_no_probe() -> None:
    proxy = named(inject({f"status.{S}port": "0"}), "istio-proxy")

    assert "readinessProbe" not in proxy
    assert "15021" not in proxy["args"][-1]


@pytest.mark.parametrize(
    ("annotations", "resources"),
    [
        ({}, {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}),
        ({f"{S}proxyCPU": "1"}, {"requests": {"cpu": "1"}}),
        (
            {f"{S}proxyMemory": "1Gi", f"{S}proxyCPULimit": "2", f"{S}proxyMemoryLimit": "2Gi"},
            {"requests": {"memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}},
        ),
    ],
)
def test_resources(annotations: dict[str, str], resources: dict[str, object]) -> None:
    assert named(inject(annotations), "istio-proxy")["resources"] == resources


@pytest.mark.parametrize(
    ("families", "addresses", "dual_stack"),
    [
        ("IPv4", ["0.0.0.0"], False),
        ("IPv6", ["::"], False),
        ("IPv4,IPv6", ["0.0.0.0", "::"], True),
    ],
)
def test_families(families: str, addresses: list[str], *, dual_stack: bool) -> None:
    spec = inject(values=f'ipFamilies: "{families}"')

    config = yaml.load(named(spec, "istio-proxy")["args"][-1])
    for listener in config["static_resources"]["listeners"]:
        both = [listener, *listener.get("additional_addresses", ())]
        assert [one["address"]["socket_address"]["address"] for one in both] == addresses
    assert ("--dual-stack" in named(spec, "istio-init")["args"]) is dual_stack


@pytest.mark.parametrize("annotations", [{}, {f"{S}interceptionMode": "TPROXY"}])
@pytest.mark.parametrize("native", [False, True])
def test_preflight_has_nothing_to_say(annotations: dict[str, str], *, native: bool) -> None:
    assert preflight({}, inject(annotations, native=native)) == ()


@pytest.mark.parametrize(("word", "native"), [("true", True), ("false", False)])
def test_a_pod_chooses_for_itself_whether_its_sidecar_is_native(word: str, *, native: bool) -> None:
    spec = inject({f"{S}nativeSidecar": word}, native=not native)

    names = [one["name"] for one in spec["initContainers"]]
    assert ("istio-proxy" in names) is native
