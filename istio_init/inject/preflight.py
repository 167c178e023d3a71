"""Problems of an injected pod, before a cluster has it.

Each check looks at the pod as it would be created. An error keeps the pod from
starting; a warning lets it start, but not work as it is most probably meant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from istio_init.config.model import TPROXY
from istio_init.inject import init_container
from istio_init.inject.problems import InjectionError, Where, error, note, quoted, warning
from istio_init.rules.names import AGENT_DNS_PORT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from istio_init.config.model import Config
    from istio_init.config.resolve import Resolved
    from istio_init.inject.problems import Problem
    from istio_init.rules.ranges import IdRange, Network, PortRange

PROXY = "istio-proxy"
_INJECTED = (PROXY, init_container.INIT, init_container.VALIDATION, "enable-core-dump")
_NET_ADMIN = "NET_ADMIN"
_KINDS_THAT_END = ("Job", "CronJob")
# Ports of Istio's sidecar beside those of the flags, by what listens there.
_PROXY_PORTS = {
    15000: "its administration",
    15020: "its merged metrics and probes",
    15021: "its readiness",
    AGENT_DNS_PORT: "its DNS",
    15090: "its metrics",
}
_TRAFFIC = "traffic.sidecar.istio.io/"


@dataclass(frozen=True, slots=True)
class _Pod:
    """An injected pod: typed views of what the checks look at."""

    kind: str
    where: Where
    spec: Mapping[str, Any]
    annotations: Mapping[str, Any]
    containers: tuple[Mapping[str, Any], ...]
    init_containers: tuple[Mapping[str, Any], ...]

    @property
    def proxy(self) -> Mapping[str, Any] | None:
        """The proxy's container, native or not."""
        return next((one for one in self.everyone if one.get("name") == PROXY), None)

    @property
    def everyone(self) -> tuple[Mapping[str, Any], ...]:
        return (*self.init_containers, *self.containers)

    @property
    def native(self) -> bool:
        """Whether the proxy is an init container that keeps running."""
        return any(one.get("name") == PROXY for one in self.init_containers)

    def at(self, section: str, container: Mapping[str, Any]) -> Where:
        """Return the place of a container."""
        return Where(path=f"{section} {quoted(container.get('name'))}").filled(self.where)

    def setting(self, container: Mapping[str, Any], key: str) -> object:
        """Return a field of the security context; the container's beats the pod's."""
        for owner in (container, self.spec):
            context = owner.get("securityContext")
            if isinstance(context, dict) and context.get(key) is not None:
                return context[key]
        return None


def preflight(
    metadata: Mapping[str, Any],
    spec: Mapping[str, Any],
    *,
    kind: str = "Pod",
    where: Where | None = None,
) -> tuple[Problem, ...]:
    """Return everything that is wrong with an injected pod.

    ``kind`` is that of the workload whose pod it is.
    """
    annotations = metadata.get("annotations")
    pod = _Pod(
        kind,
        where or Where(),
        spec,
        annotations if isinstance(annotations, dict) else {},
        _mappings(spec.get("containers")),
        _mappings(spec.get("initContainers")),
    )
    found = init_container.find(spec)
    problems = [*_host_network(pod), *_never_ends(pod), *_hold(pod)]
    if found is None:
        return tuple(problems)
    place, container = found
    problems += _waits_without_network(pod, place, container)
    try:
        settings = init_container.settings_of(container, pod.at("init container", container))
    except InjectionError as bad:
        return (*problems, *bad.problems)
    for check in (_rights, _same_user, _transparent, _ports_twice, _ranges_twice, _taken_ports):
        problems += check(pod, container, settings)
    return tuple(dict.fromkeys(problems))


def _mappings(data: object) -> tuple[Mapping[str, Any], ...]:
    return tuple(one for one in data if isinstance(one, dict)) if isinstance(data, list) else ()


def _host_network(pod: _Pod) -> Iterator[Problem]:
    if pod.spec.get("hostNetwork") is True and pod.proxy is not None:
        yield error(
            "a pod of the host network has a sidecar",
            pod.where,
            why="its rules would be the node's",
            remedy="remove hostNetwork, or do not inject it",
        )


def _never_ends(pod: _Pod) -> Iterator[Problem]:
    ends = pod.kind in _KINDS_THAT_END or pod.spec.get("restartPolicy") in ("Never", "OnFailure")
    if ends and pod.proxy is not None and not pod.native:
        yield warning(
            "the pod never completes",
            pod.where,
            why=f"its container {PROXY} keeps running when the others have ended",
            remedy="use --native-sidecars true (Kubernetes 1.29), or let the application end it",
        )


def _hold(pod: _Pod) -> Iterator[Problem]:
    """Look whether the application waits for a proxy that was put first so that it does."""
    if len(pod.containers) < 2 or pod.containers[0].get("name") != PROXY:
        return
    lifecycle = pod.containers[0].get("lifecycle")
    if not isinstance(lifecycle, dict) or not lifecycle.get("postStart"):
        yield warning(
            "the application does not wait for the proxy",
            pod.where,
            why=f"{PROXY} comes first, but a lifecycle of its own took the place of the hook that "
            "holds the others back",
            remedy="give that lifecycle the postStart hook `pilot-agent wait`, or use native "
            "sidecars",
        )


def _waits_without_network(
    pod: _Pod, place: int, container: Mapping[str, Any]
) -> Iterator[Problem]:
    """Look for init containers that start when the rules are there and the proxy is not."""
    # A CNI plugin has written the rules before the first of them.
    first = 0 if container.get("name") == init_container.VALIDATION else place + 1
    for other in pod.init_containers[first:]:
        if other.get("name") == PROXY:
            return
        if other.get("name") not in _INJECTED:
            yield note(
                "its connections fail",
                pod.at("init container", other),
                why="it runs after the rules and before the proxy",
                remedy="if it needs the network use native sidecars, run it as the proxy's user, "
                "or exclude its ports or destinations",
            )


def _rights(pod: _Pod, container: Mapping[str, Any], settings: Resolved) -> Iterator[Problem]:
    if settings.run.skip_rule_apply:
        return
    where = pod.at("init container", container)
    if not _may_change_network(container):
        yield warning(
            f"it lacks the capability {_NET_ADMIN}",
            where,
            remedy=f"add {_NET_ADMIN} (and NET_RAW for the legacy backend) to its securityContext",
        )
    user = pod.setting(container, "runAsUser")
    if user not in (None, 0):
        yield warning(
            f"it runs as user {quoted(user)}",
            where,
            why="Kubernetes gives added capabilities to root alone",
            remedy="set runAsUser: 0 and runAsNonRoot: false in its securityContext",
        )


def _may_change_network(container: Mapping[str, Any]) -> bool:
    context = container.get("securityContext")
    context = context if isinstance(context, dict) else {}
    capabilities = context.get("capabilities")
    added = capabilities.get("add") if isinstance(capabilities, dict) else None
    names = added if isinstance(added, list) else ()
    return context.get("privileged") is True or any(
        one in names for one in (_NET_ADMIN, f"CAP_{_NET_ADMIN}", "ALL")
    )


def _same_user(pod: _Pod, _: Mapping[str, Any], settings: Resolved) -> Iterator[Problem]:
    """Look for applications whose traffic the rules take for the proxy's."""
    config = settings.config
    for section, containers in (
        ("container", pod.containers),
        ("init container", pod.init_containers),
    ):
        for one in containers:
            if one.get("name") in _INJECTED:
                continue
            for key, what, flag, ids in (
                ("runAsUser", "user", "-u", config.proxy_uids),
                ("runAsGroup", "group", "-g", config.proxy_gids),
            ):
                number = pod.setting(one, key)
                if isinstance(number, int) and _holds(ids, number):
                    yield _bypass(pod, one, section, f"{what} {number}", flag)
                    break


def _bypass(pod: _Pod, container: Mapping[str, Any], section: str, who: str, flag: str) -> Problem:
    say = note if section == "init container" else warning
    return say(
        "its outbound traffic bypasses the proxy",
        pod.at(section, container),
        why=f"it runs as {who}, which is the proxy's ({flag} of {init_container.INIT})",
        remedy="run it as another one",
    )


def _holds(ids: Sequence[IdRange], number: int) -> bool:
    return any(one.low <= number <= one.high for one in ids)


def _transparent(pod: _Pod, _: Mapping[str, Any], settings: Resolved) -> Iterator[Problem]:
    proxy = pod.proxy
    if settings.config.mode != TPROXY or proxy is None:
        return
    where = pod.at("container", proxy)
    if not _may_change_network(proxy):
        yield warning(
            f"it lacks the capability {_NET_ADMIN}",
            where,
            why="TPROXY takes a socket that may accept for other addresses",
            remedy=f"add {_NET_ADMIN} to its securityContext, or use mode REDIRECT",
        )
    user = pod.setting(proxy, "runAsUser")
    if isinstance(user, int) and user != 0:
        yield warning(
            f"it runs as user {user}",
            where,
            why="Kubernetes gives added capabilities to root alone"
            + (
                ", and in mode TPROXY a user of -u catches the proxy's own connections"
                if _holds(settings.config.proxy_uids, user)
                else ""
            ),
            remedy="run it as user 0 with a group of -g, or use mode REDIRECT",
        )


def _ports_twice(pod: _Pod, container: Mapping[str, Any], settings: Resolved) -> Iterator[Problem]:
    config, where = settings.config, pod.at("init container", container)
    excluded = f"{_TRAFFIC}excludeInboundPorts"
    if pod.annotations.get(excluded) and not config.inbound_all:
        yield warning(
            "has no effect",
            Where(annotation=excluded).filled(pod.where),
            why="inbound ports are left alone only where all others are captured (-b '*')",
            remedy=f"remove the ports from {_TRAFFIC}includeInboundPorts",
        )
    for port in _shared(config.inbound_ports, config.inbound_exclude_ports):
        yield warning(
            f"inbound port {port} is both included and excluded",
            where,
            why="the list of included ports wins",
            remedy="remove it from one of the lists (-b, -d)",
        )
    for port in _shared(config.outbound_ports, config.outbound_exclude_ports):
        yield warning(
            f"outbound port {port} is both included and excluded",
            where,
            why="the list of excluded ports wins",
            remedy="remove it from one of the lists (-q, -o)",
        )


def _shared(some: Sequence[PortRange], others: Sequence[PortRange]) -> Iterator[PortRange]:
    """Yield what two lists of ports have in common, once."""
    seen = set()
    for one in some:
        for other in others:
            both = one.replace(low=max(one.low, other.low), high=min(one.high, other.high))
            if both.low <= both.high and both not in seen:
                seen.add(both)
                yield both


def _ranges_twice(pod: _Pod, container: Mapping[str, Any], settings: Resolved) -> Iterator[Problem]:
    config, where = settings.config, pod.at("init container", container)
    for excluded in config.outbound_exclude_cidrs:
        if excluded.everything:
            yield warning(
                f"no outbound traffic of its family is captured but to ports of -q: -x {excluded}",
                where,
                remedy="exclude less",
            )
    for included in config.outbound_cidrs:
        for excluded in config.outbound_exclude_cidrs:
            if included != excluded and not _inside(included, excluded):
                continue
            yield warning(
                f"{included} is included, but lies in the excluded {excluded}",
                where,
                why="the list of excluded ranges wins",
                remedy="remove it from one of the lists (-i, -x)",
            )


def _inside(inner: Network, outer: Network) -> bool:
    if inner.family != outer.family or inner.prefix < outer.prefix:
        return False
    shift = len(inner.packed) * 8 - outer.prefix
    return int.from_bytes(inner.packed) >> shift == int.from_bytes(outer.packed) >> shift


def _taken_ports(pod: _Pod, _: Mapping[str, Any], settings: Resolved) -> Iterator[Problem]:
    if pod.proxy is None:
        return
    taken = _ports_of_proxy(settings.config)
    for section, containers in (
        ("container", pod.containers),
        ("init container", pod.init_containers),
    ):
        for one in containers:
            if one.get("name") in _INJECTED:
                continue
            for port in _mappings(one.get("ports")):
                number, protocol = port.get("containerPort"), port.get("protocol") or "TCP"
                if protocol == "TCP" and isinstance(number, int) and number in taken:
                    yield warning(
                        f"its port {number} is the proxy's",
                        pod.at(section, one),
                        why=f"the proxy listens there for {taken[number]}",
                        remedy="give the application another port",
                    )


def _ports_of_proxy(config: Config) -> dict[int, str]:
    return {
        **_PROXY_PORTS,
        config.tunnel_port: "HBONE",
        config.inbound_port: "inbound traffic",
        config.outbound_port: "outbound traffic",
    }
