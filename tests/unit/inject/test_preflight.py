"""Problems of injected pods, found before a cluster has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.formats import listing
from istio_init.inject import init_container
from istio_init.inject.preflight import preflight
from istio_init.inject.problems import InjectionError, Severity, Where

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

T = "traffic.sidecar.istio.io/"
ARGS = ["istio-iptables", "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT"]
RIGHTS = {"runAsUser": 0, "capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}}
EVERYTHING = ("-i", "*", "-b", "*", "-d", "15090,15021,15020")


def init(*args: str, name: str = "istio-init", **fields: object) -> dict[str, Any]:
    return {"name": name, "args": [*ARGS, *args], "securityContext": RIGHTS, **fields}


def proxy(**fields: object) -> dict[str, Any]:
    return {"name": "istio-proxy", "securityContext": {"runAsUser": 1337}, **fields}


def app(**fields: object) -> dict[str, Any]:
    return {"name": "app", "image": "app", **fields}


def pod(
    *containers: dict[str, Any],
    first: list[dict[str, Any]] | None = None,
    **fields: object,
) -> dict[str, Any]:
    return {
        "initContainers": [init(*EVERYTHING)] if first is None else first,
        "containers": [*containers, proxy()] if containers else [app(), proxy()],
        **fields,
    }


def reported(
    spec: dict[str, Any], *, kind: str = "Pod", annotations: dict[str, str] | None = None
) -> list[tuple[str, str]]:
    metadata = {"annotations": annotations}
    return [(str(one.severity), one.what) for one in preflight(metadata, spec, kind=kind)]


def test_a_plain_pod_has_no_problem() -> None:
    assert reported(pod()) == []


def test_nothing_is_wrong_with_a_pod_that_is_not_injected() -> None:
    assert reported({"containers": [app()], "restartPolicy": "Never"}, kind="Job") == []
    assert reported({}) == []
    assert reported({"containers": 1, "initContainers": ["x"]}) == []


@pytest.mark.parametrize(
    ("args", "flags"),
    [
        (("-b", "http-alt,80", "-i", "10.0.0.0/40"), ["-b", "-i"]),
        (("-m", "NONE"), ["-m"]),
        (("-q", "x", "-o", "1-0", "-c", "a" * 16), ["-o", "-q", "-c"]),
    ],
)  # fmt: skip
def test_every_bad_value_of_the_final_arguments(args: tuple[str, ...], flags: list[str]) -> None:
    problems = preflight({}, pod(first=[init(*args)]), where=Where("app.yaml"))

    assert {one.what.rpartition(" of ")[2].split()[0] for one in problems} == set(flags)
    assert {one.where.file for one in problems} == {"app.yaml"}
    assert all('init container "istio-init"' in one.where.path for one in problems)


def test_a_bad_value_names_the_annotation() -> None:
    (problem,) = preflight({}, pod(first=[init("-b", "0")]))

    assert problem.where.annotation == f"{T}includeInboundPorts"
    assert problem.severity is Severity.ERROR


def test_names_that_only_the_image_knows_are_no_error() -> None:
    (problem,) = preflight({}, pod(first=[init("-u", "envoy")]))

    assert problem.severity is Severity.WARNING
    assert preflight({}, pod(first=[init("-u", "istio-proxy", "-g", "root", "-b", "http")])) == ()


@pytest.mark.parametrize(
    "container",
    [
        {"name": "istio-init", "args": ["my", "custom", "args"]},
        {"name": "istio-init", "args": ["--new-flag", "x"]},
        {"name": "istio-init", "command": ["/bin/sh", "-c", "true"]},
        {"name": "istio-init", "args": ["-p"]},
    ],
)
def test_what_it_cannot_read_is_a_warning(container: dict[str, Any]) -> None:
    assert reported(pod(first=[container])) == [
        ("warning", "its arguments are none that istio-init takes")
    ]


@pytest.mark.parametrize(
    ("container", "command", "flags"),
    [
        ({"args": ["-p", 15001, "-x", None]}, "apply", {"envoy-port": "15001"}),
        ({"args": ["istio-iptables", "-p=1"]}, "istio-iptables", {"envoy-port": "1"}),
        ({"command": ["/usr/local/bin/istio-iptables"]}, "istio-iptables", {}),
        ({"command": ["istio-init", "clean"]}, "clean", {}),
    ],
)
def test_every_way_of_calling(
    container: dict[str, Any], command: str, flags: dict[str, str]
) -> None:
    call = init_container.call_of(container)

    assert call is not None
    assert call.command == command
    assert flags.items() <= call.flags.items()


def test_the_environment_counts() -> None:
    container = {
        "args": ["istio-iptables"],
        "env": [
            {"name": "ISTIO_INBOUND_PORTS", "value": "80"},
            {"name": "PROXY_UID", "valueFrom": {"fieldRef": {}}},
            {"name": "DROP_INVALID", "value": True},
            "x",
        ],
    }

    config = init_container.settings_of(container).config

    assert [str(one) for one in config.inbound_ports] == ["80"]
    assert config.drop_invalid
    assert [str(one) for one in config.proxy_uids] == ["1337"]


def test_files_of_this_machine_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cluster.env"
    file.write_text("ISTIO_INBOUND_PORTS=99\n")
    monkeypatch.setenv("ISTIO_CLUSTER_CONFIG", str(file))
    container = {"env": [{"name": "ISTIO_CLUSTER_CONFIG", "value": str(file)}]}

    assert init_container.settings_of(container).config.inbound_ports == ()


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["-b", "80"], "-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -j ISTIO_REDIRECT"),
        (
            ["istio-iptables", "-b", "80"],
            "-A ISTIO_INBOUND -p tcp -m tcp --dport 80 -j ISTIO_IN_REDIRECT",
        ),
    ],
)
def test_rules_of_both_layouts(args: list[str], line: str) -> None:
    text = listing.render(init_container.rules_of({"args": args}))

    assert line in text.splitlines()


def test_rules_for_both_families() -> None:
    one = listing.render(init_container.rules_of(init(*EVERYTHING)))
    both = listing.render(init_container.rules_of(init(*EVERYTHING), ipv6=True))

    assert "ip6tables" not in one
    assert "# ip6tables -t nat -S" in both.splitlines()


def test_rules_of_something_else() -> None:
    with pytest.raises(InjectionError, match="its arguments are none"):
        init_container.rules_of({"command": ["sh"]})


@pytest.mark.parametrize(
    ("container", "fields", "severity"),
    [
        (app(securityContext={"runAsUser": 1337}), {}, "warning"),
        (app(securityContext={"runAsUser": 1000, "runAsGroup": 1337}), {}, "warning"),
        (app(), {"securityContext": {"runAsUser": 1337}}, "warning"),
        (app(securityContext={"runAsUser": 1000}), {"securityContext": {"runAsUser": 1337}}, ""),
        (app(securityContext={"runAsUser": "1337"}), {}, ""),
        (app(securityContext={}), {}, ""),
    ],
)
def test_an_application_that_runs_as_the_proxy(
    container: dict[str, Any], fields: dict[str, Any], severity: str
) -> None:
    expected = [(severity, "its outbound traffic bypasses the proxy")] if severity else []

    assert reported(pod(container, **fields)) == expected


def test_the_proxys_user_is_the_one_of_the_flag() -> None:
    spec = pod(app(securityContext={"runAsUser": 2000}), first=[init(*EVERYTHING, "-u", "2000")])

    assert reported(spec) == [("warning", "its outbound traffic bypasses the proxy")]


def test_an_init_container_may_run_as_the_proxy_on_purpose() -> None:
    spec = pod(first=[{"name": "x", "securityContext": {"runAsUser": 1337}}, init(*EVERYTHING)])

    assert reported(spec) == [("note", "its outbound traffic bypasses the proxy")]


def test_host_network() -> None:
    assert reported(pod(hostNetwork=True)) == [("error", "a pod of the host network has a sidecar")]


NATIVE = [init(*EVERYTHING), proxy(restartPolicy="Always")]


@pytest.mark.parametrize(
    ("kind", "spec", "ends"),
    [
        ("Job", pod(), False),
        ("CronJob", pod(), False),
        ("Pod", pod(restartPolicy="Never"), False),
        ("Pod", pod(restartPolicy="OnFailure"), False),
        ("Deployment", pod(restartPolicy="Always"), True),
        ("Job", {"initContainers": NATIVE, "containers": [app()]}, True),
    ],
)
def test_a_job_whose_sidecar_keeps_it_running(
    kind: str, spec: dict[str, Any], *, ends: bool
) -> None:
    expected = [] if ends else [("warning", "the pod never completes")]

    assert reported(spec, kind=kind) == expected


@pytest.mark.parametrize(
    ("context", "problems"),
    [
        (RIGHTS, []),
        ({"privileged": True}, []),
        ({"capabilities": {"add": ["ALL"]}}, []),
        ({}, ["it lacks the capability NET_ADMIN"]),
        ({"capabilities": {"add": "NET_ADMIN"}}, ["it lacks the capability NET_ADMIN"]),
        ({"runAsUser": 1000, "capabilities": {"add": ["NET_ADMIN"]}}, ["it runs as user 1000"]),
    ],
)
def test_rights_of_the_init_container(context: dict[str, Any], problems: list[str]) -> None:
    spec = pod(first=[init(*EVERYTHING, securityContext=context)])

    assert reported(spec) == [("warning", one) for one in problems]


def test_validation_takes_no_rights() -> None:
    validation = init(
        *EVERYTHING, "--run-validation", "--skip-rule-apply", name="istio-validation",
        securityContext={"runAsUser": 1337},
    )  # fmt: skip

    assert reported(pod(first=[validation])) == []


@pytest.mark.parametrize(
    ("context", "problems"),
    [
        ({"runAsUser": 0, "runAsGroup": 1337, "capabilities": {"add": ["NET_ADMIN"]}}, []),
        ({"runAsGroup": 1337, "capabilities": {"add": ["NET_ADMIN"]}}, []),
        ({"runAsUser": 1337}, ["it lacks the capability NET_ADMIN", "it runs as user 1337"]),
    ],
)
def test_rights_of_a_transparent_proxy(context: dict[str, Any], problems: list[str]) -> None:
    spec = {
        "initContainers": [init(*EVERYTHING, "-m", "TPROXY")],
        "containers": [app(), proxy(securityContext=context)],
    }

    assert reported(spec) == [("warning", one) for one in problems]


@pytest.mark.parametrize(
    ("args", "problems"),
    [
        (("-b", "80,81", "-d", "81,15090"), ["inbound port 81 is both included and excluded"]),
        (("-b", "*", "-d", "81"), []),
        (
            ("-q", "8000:9000", "-o", "8080,9000:9999"),
            [f"outbound port {port} is both included and excluded" for port in ("8080", "9000")],
        ),
        (("-q", "80", "-o", "81"), []),
        (
            ("-i", "10.1.0.0/16,10.1.0.0/16,fd00::/64", "-x", "10.0.0.0/8,11.0.0.0/8"),
            ["10.1.0.0/16 is included, but lies in the excluded 10.0.0.0/8"],
        ),
        (("-i", "10.0.0.0/8", "-x", "10.1.0.0/16"), []),
        (("-i", "*", "-x", "10.0.0.0/8"), []),
        (
            ("-i", "*", "-x", "0.0.0.0/0"),
            ["no outbound traffic of its family is captured but to ports of -q: -x 0.0.0.0/0"],
        ),
    ],
)
def test_included_and_excluded(args: tuple[str, ...], problems: list[str]) -> None:
    assert reported(pod(first=[init(*args)])) == [("warning", one) for one in problems]


def test_excluded_ports_count_only_where_all_are_included() -> None:
    spec = pod(first=[init("-b", "80", "-d", "15090,9000")])
    (problem,) = preflight({"annotations": {f"{T}excludeInboundPorts": "9000"}}, spec)

    assert problem.where.annotation == f"{T}excludeInboundPorts"
    assert problem.what == "has no effect"
    assert reported(pod(), annotations={f"{T}excludeInboundPorts": "9000"}) == []


@pytest.mark.parametrize("port", [15000, 15001, 15006, 15008, 15020, 15021, 15053, 15090])
def test_ports_of_the_proxy(port: int) -> None:
    spec = pod(app(ports=[{"containerPort": 8080}, {"containerPort": port}]))

    assert reported(spec) == [("warning", f"its port {port} is the proxy's")]


def test_ports_that_are_free() -> None:
    ports = [{"containerPort": 15053, "protocol": "UDP"}, {"containerPort": "15001"}, {}, 7]

    assert reported(pod(app(ports=ports))) == []


@pytest.mark.parametrize(
    ("lifecycle", "waits"),
    [
        ({"postStart": {"exec": {"command": ["pilot-agent", "wait"]}}}, True),
        ({"preStop": {"exec": {"command": ["sleep", "5"]}}}, False),
        (None, False),
    ],
)
def test_a_lifecycle_that_drops_the_hold_hook(
    lifecycle: dict[str, Any] | None, *, waits: bool
) -> None:
    spec = {
        "initContainers": [init(*EVERYTHING)],
        "containers": [proxy(lifecycle=lifecycle), app()],
    }

    expected = [] if waits else [("warning", "the application does not wait for the proxy")]
    assert reported(spec) == expected


MIGRATE = {"name": "migrate"}


@pytest.mark.parametrize(
    ("containers", "noted"),
    [
        ([MIGRATE, init(*EVERYTHING)], False),
        ([init(*EVERYTHING), MIGRATE], True),
        ([*NATIVE, MIGRATE], False),
        ([init(*EVERYTHING), {"name": "enable-core-dump"}], False),
        ([MIGRATE, init(*EVERYTHING, "--skip-rule-apply", name="istio-validation")], True),
    ],
)
def test_init_containers_between_the_rules_and_the_proxy(
    containers: list[dict[str, Any]], *, noted: bool
) -> None:
    expected = [("note", "its connections fail")] if noted else []

    assert reported(pod(first=containers)) == expected


scalars = st.none() | st.booleans() | st.integers() | st.text()
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
containers = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["istio-init", "istio-proxy", "app"]) | anything},
        optional={
            "args": st.lists(st.sampled_from([*ARGS, "*", "-b", "x"]) | anything) | anything,
            "command": anything,
            "env": anything,
            "ports": anything | st.lists(st.fixed_dictionaries({"containerPort": anything})),
            "lifecycle": anything,
            "securityContext": anything,
        },
    ),
    max_size=3,
)


@given(containers | anything, containers | anything, anything)
def test_no_pod_is_too_odd(some: object, others: object, annotations: object) -> None:
    spec = {"initContainers": some, "containers": others}

    assert all(str(one).isprintable() for one in preflight({"annotations": annotations}, spec))
