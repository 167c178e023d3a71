"""The injection of a pod as Istio 1.30 makes it, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from istio_init.inject import yaml
from istio_init.inject.annotations import problems as annotation_problems
from istio_init.inject.booleans import parse_boolean
from istio_init.inject.containers import (
    INIT_CONTAINERS,
    annotations_of,
    find,
    metadata_map,
    named,
    with_annotations,
    with_metadata_map,
    with_proxy,
    without_variables,
)
from istio_init.inject.data import data_1_30
from istio_init.inject.generation import NEW
from istio_init.inject.merge import strategic_merge
from istio_init.inject.mesh import proxy_config, with_proxy_config
from istio_init.inject.metrics import merge_metrics
from istio_init.inject.names import (
    CLUSTER_VARIABLE,
    NETWORK,
    NETWORK_VARIABLE,
    PROXY,
    PROXY_CONFIG,
    REWRITE_PROBES,
    STATUS,
    STATUS_PORT,
    TEMPLATES,
)
from istio_init.inject.order import ordered
from istio_init.inject.overrides import (
    apply_overrides,
    follow_proxy_user,
    move_proxy,
    record_overrides,
)
from istio_init.inject.probes import rewrite_probes, save_probes
from istio_init.inject.problems import (
    InjectionError,
    Problem,
    Where,
    error,
    has_errors,
    quoted,
)
from istio_init.inject.proxy_image import (
    openshift_ids,
    proxy_image,
    value_at,
    without_shared_user,
)
from istio_init.inject.recover import older_proxy, recover_original, recover_with_proxy
from istio_init.inject.request import workload_of
from istio_init.inject.settings import OPENSHIFT, SIDECAR
from istio_init.inject.status import status_text
from istio_init.inject.template import TemplateError

if TYPE_CHECKING:
    from istio_init.inject.request import PodRequest
    from istio_init.inject.settings import Settings

JsonMap = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Injector:
    """One injection: the request, the settings, and the mesh as the pod wants it."""

    request: PodRequest
    settings: Settings
    mesh: JsonMap
    environment: dict[str, str]

    @property
    def status_port(self) -> int:
        """The port of the proxy's agent that the mesh says."""
        port = self.mesh["defaultConfig"].get("statusPort")
        return port if isinstance(port, int) else 0


def inject_1_30(
    pod: JsonMap, request: PodRequest, settings: Settings
) -> tuple[JsonMap, tuple[Problem, ...]]:
    """Return the injected pod, and what is odd about the original.

    Raises an InjectionError for bad annotations, all of them, and for a template that
    fails or gives no pod.
    """
    original = _original(recover_original(pod), request, settings)
    found, mesh = _checked(original, settings)
    injector = _Injector(request, settings, mesh, _environment(original, request, settings))
    overlays = _overlays(injector, original)
    becomes_native = any(named(overlay, PROXY, (INIT_CONTAINERS,)) for overlay in overlays)
    older = becomes_native and older_proxy(pod)
    if older:
        original = _original(recover_with_proxy(pod), request, settings)
    merged, template = _merged(original, overlays)
    merged, given = apply_overrides(merged, original, template)
    if not older:
        merged = record_overrides(merged, given)
    tproxy = mesh["defaultConfig"].get("interceptionMode") == "TPROXY"
    merged = follow_proxy_user(merged, original, tproxy=tproxy)
    return _finished(injector, merged, template), found


def _original(pod: JsonMap, request: PodRequest, settings: Settings) -> JsonMap:
    if settings.platform == OPENSHIFT and not request.by_hand:
        return without_shared_user(pod)
    return pod


def _checked(pod: JsonMap, settings: Settings) -> tuple[tuple[Problem, ...], JsonMap]:
    """Return what is odd about the pod's annotations, and the mesh with its ProxyConfig."""
    found = list(annotation_problems(pod["metadata"], NEW))
    mesh = settings.mesh
    text = annotations_of(pod).get(PROXY_CONFIG)
    if text is not None:
        where = Where(annotation=PROXY_CONFIG)
        try:
            mesh = with_proxy_config(mesh, proxy_config(yaml.load(text), where))
        except InjectionError as bad:
            found += bad.within(where).problems
    if has_errors(found):
        raise InjectionError(found)
    return tuple(found), mesh


def _environment(pod: JsonMap, request: PodRequest, settings: Settings) -> dict[str, str]:
    """Return the variables that the proxy gets: of the URL, the values and the pod's label."""
    environment = dict(request.environment)
    global_values = value_at(settings.values, "global") or {}
    cluster = value_at(global_values, "multiCluster", "clusterName")
    network = value_at(global_values, "network")
    cluster = environment.get(CLUSTER_VARIABLE) or cluster
    network = environment.get(NETWORK_VARIABLE) or network
    network = metadata_map(pod, "labels").get(NETWORK, network)
    known = {CLUSTER_VARIABLE: cluster, NETWORK_VARIABLE: network}
    return environment | {
        name: value for name, value in known.items() if value and isinstance(value, str)
    }


def _selected(pod: JsonMap, injector: _Injector) -> list[str]:
    """Return the names of the templates that the pod, or else the settings, ask for."""
    wish = annotations_of(pod).get(TEMPLATES)
    settings, by_hand = injector.settings, injector.request.by_hand
    names = (SIDECAR,) if by_hand else settings.default_templates
    if wish is not None:
        names = tuple(name.strip() for name in wish.split(","))
    aliases = {} if by_hand else settings.aliases
    return [one for name in names for one in aliases.get(name, (name,))]


def _overlays(injector: _Injector, pod: JsonMap) -> list[JsonMap]:
    """Return the patches that the pod's templates render to."""
    settings, known = injector.settings, injector.settings.templates
    names = _selected(pod, injector)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InjectionError(
            error(
                f"there is no template {quoted(name)}",
                Where(annotation=TEMPLATES) if TEMPLATES in annotations_of(pod) else Where(),
                remedy=f"the inject config has {', '.join(sorted(known))}",
            )
            for name in unknown
        )
    data = _data(injector, pod)
    return [_overlay(settings, name, data) for name in names]


def _merged(pod: JsonMap, overlays: list[JsonMap]) -> tuple[JsonMap, JsonMap]:
    """Return the pod with the patches laid over it, and the patches alone."""
    template: JsonMap = {"metadata": {}, "spec": {}}
    for overlay in overlays:
        template = _laid_over(template, overlay)
        if find(template, PROXY, (INIT_CONTAINERS,)) is not None:
            pod = move_proxy(pod)
        pod = _laid_over(pod, overlay)
    return pod, template


def _data(injector: _Injector, pod: JsonMap) -> Any:  # noqa: ANN401 - the engine's own
    request, settings, mesh = injector.request, injector.settings, injector.mesh
    metadata = pod["metadata"]
    if request.namespace and not request.by_hand and not metadata.get("namespace"):
        metadata = {**metadata, "namespace": request.namespace}
    namespace = request.namespace_object if settings.platform == OPENSHIFT else None
    user, group = openshift_ids(namespace)
    workload = workload_of(request)
    return data_1_30(
        metadata=metadata,
        spec=pod["spec"],
        mesh=mesh,
        proxy_config=mesh["defaultConfig"],
        values=settings.values,
        kind=workload.kind,
        api_version=workload.api_version,
        deployment_name=workload.name,
        deployment_namespace=workload.namespace,
        revision=settings.revision,
        native_sidecars=settings.native_sidecars,
        proxy_image=proxy_image(settings.values, mesh["defaultConfig"], pod),
        proxy_uid=user,
        proxy_gid=group,
        environment=settings.environment,
    )


def _overlay(settings: Settings, name: str, data: Any) -> JsonMap:  # noqa: ANN401 - as above
    """Return what a template renders to: a strategic merge patch of metadata and spec."""
    where = Where(path=f"template {name}")
    try:
        text = settings.templates[name].render(data)
    except TemplateError as bad:
        raise InjectionError([error("it cannot be rendered", where, why=str(bad))]) from None
    try:
        return settings.readers[name].read(text)
    except InjectionError as bad:
        raise _of_template(bad, where) from None


def _of_template(bad: InjectionError, where: Where) -> InjectionError:
    return InjectionError(
        error(
            "what it renders to is no pod",
            where,
            why=": ".join(filter(None, (one.where.path or one.where.position, one.what, one.why))),
            remedy=one.remedy,
        )
        for one in bad.problems
    )


def _laid_over(pod: JsonMap, overlay: JsonMap) -> JsonMap:
    merged = strategic_merge(pod, overlay)
    return {**merged, "metadata": merged.get("metadata") or {}, "spec": merged.get("spec") or {}}


def _finished(injector: _Injector, pod: JsonMap, template: JsonMap) -> JsonMap:
    """Return the merged pod after what no template can do: steps 6 to 10."""
    settings, environment = injector.settings, injector.environment
    if environment:
        pod = with_proxy(pod, lambda proxy: _with_environment(proxy, environment))
    merge = injector.mesh.get("enablePrometheusMerge", True)
    pod = merge_metrics(pod, injector.status_port, enabled=merge is not False)
    pod = _with_probes(injector, pod)
    if NETWORK_VARIABLE in environment:
        labels = metadata_map(pod, "labels") | {NETWORK: environment[NETWORK_VARIABLE]}
        pod = with_metadata_map(pod, "labels", labels)
    pod = with_annotations(pod, {STATUS: status_text(template["spec"], settings.revision)})
    if not injector.request.by_hand:
        pod = with_annotations(pod, settings.injected_annotations)
    hold = injector.mesh["defaultConfig"].get("holdApplicationUntilProxyStarts")
    hold = hold or value_at(settings.values, "global", "proxy", "holdApplicationUntilProxyStarts")
    return ordered(pod, hold=hold is True)


def _with_environment(proxy: JsonMap, environment: dict[str, str]) -> JsonMap:
    rest = without_variables(proxy, environment).get("env") or []
    added = [{"name": name, "value": environment[name]} for name in sorted(environment)]
    return {**proxy, "env": [*rest, *added]}


def _with_probes(injector: _Injector, pod: JsonMap) -> JsonMap:
    wish = parse_boolean(annotations_of(pod).get(REWRITE_PROBES, ""))
    if wish is None:
        value = value_at(injector.settings.values, "sidecarInjectorWebhook", "rewriteAppHTTPProbe")
        wish = value is True
    if not wish or find(pod, PROXY) is None:
        return pod
    port = injector.status_port
    own = annotations_of(pod).get(STATUS_PORT)
    saved = save_probes(pod, port)
    return rewrite_probes(pod, saved, _port(own) if own is not None else port)


def _port(text: str) -> int:
    text = text.strip()
    return int(text) if text.isdecimal() else 0
