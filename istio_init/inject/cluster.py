"""What a cluster knows about injection, read through lightkube; nothing is written.

lightkube takes 205 ms and 30 MB to load: only who asks a cluster imports it, and
only ``--from-cluster`` asks one. An answer that takes longer than ``TIMEOUT``
seconds is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from istio_init.errors import IstioInitError, printable
from istio_init.inject.problems import InjectionError
from istio_init.inject.webhooks import entries_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from lightkube import Client

    from istio_init.inject.webhooks import WebhookEntry

    T = TypeVar("T")

TIMEOUT = 10.0
ISTIO_NAMESPACE = "istio-system"
INJECT_CONFIG_MAP = "istio-sidecar-injector"
MESH_CONFIG_MAP = "istio"
# Namespace and ConfigMap of container/kubernetes/injector.
OWN_INJECTOR = ("istio-init", "istio-init-injector")
_NOT_FOUND = 404
# What lightkube raises for text of another form than it expects.
_WRONG_FORM = (AttributeError, KeyError, TypeError, ValueError)


class ClusterError(IstioInitError):
    """The cluster could not be asked, or did not answer; nothing was written."""

    def __init__(self, what: str, *, where: str, why: str, remedy: str = "") -> None:
        self.remedy = remedy
        text = f"{what} ({where}): {why}"
        super().__init__(printable(f"{text}; {remedy}" if remedy else text))


class NotInClusterError(ClusterError):
    """The cluster has no object of that name."""


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """The texts of the injector's ConfigMaps, None where a key is missing, and the first's name."""

    name: str
    inject_config: str
    values: str | None
    mesh: str | None


class Cluster:
    """One cluster, by kubeconfig file and context; both default as kubectl's do.

    Raises:
        ClusterError: the library or the configuration is missing or bad. So do
            all methods when the cluster does not answer.
    """

    def __init__(self, *, kubeconfig: str = "", context: str = "") -> None:
        self._name = context or kubeconfig or "current context"
        self._client = self._connected(kubeconfig, context)

    def settings(
        self,
        *,
        namespace: str = "",
        revision: str = "",
        inject_config_map: str = "",
        mesh_config_map: str = "",
    ) -> ClusterSettings:
        """Return what the injector's ConfigMaps hold.

        They are Istio's, whose names end in ``-REVISION`` for a named one, unless
        the arguments name others; else those of this project's own injector,
        which has the mesh configuration in the same ConfigMap.
        """
        suffix = f"-{revision}" if revision and revision != "default" else ""
        place = namespace or ISTIO_NAMESPACE
        name = inject_config_map or INJECT_CONFIG_MAP + suffix
        try:
            injector = self._config_map(name, place)
        except NotInClusterError:
            if namespace or inject_config_map:
                raise
            place, own = OWN_INJECTOR
            name = own + suffix
            injector = self._config_map(name, place)
        config = injector.get("config")
        if config is None:
            raise ClusterError(
                "the injector's ConfigMap has no key config",
                where=f"{place}/{name}",
                why=f"its keys are {', '.join(sorted(injector)) or 'none'}",
                remedy="name another with --injectConfigMapName",
            )
        mesh = injector.get("mesh")
        if mesh is None or mesh_config_map:
            mesh = self._config_map(mesh_config_map or MESH_CONFIG_MAP + suffix, place).get("mesh")
        return ClusterSettings(f"{place}/{name}", config, injector.get("values"), mesh)

    def namespace_labels(self, name: str) -> dict[str, str]:
        """Return the labels of a namespace."""
        from lightkube.resources.core_v1 import Namespace

        what = "cannot read the namespace"
        got = self._ask(what, name, lambda: self._client.get(Namespace, name))
        return dict((got.metadata.labels if got.metadata else None) or {})

    def webhooks(self) -> tuple[WebhookEntry, ...]:
        """Return the entries of all injectors that are registered.

        Raises:
            InjectionError: a configuration is not what Kubernetes accepts.
        """
        from lightkube.resources.admissionregistration_v1 import MutatingWebhookConfiguration

        what = "cannot list the webhook configurations"
        configurations = self._ask(
            what,
            "MutatingWebhookConfiguration",
            lambda: list(self._client.list(MutatingWebhookConfiguration)),
        )
        entries: list[WebhookEntry] = []
        for configuration in configurations:
            # The API server leaves the kind of a list's items out.
            data = {**configuration.to_dict(), "kind": "MutatingWebhookConfiguration"}
            of_one, problems = entries_of(data)
            if problems:
                raise InjectionError(problems)
            entries += of_one
        return tuple(sorted(entries, key=lambda entry: entry.configuration))

    def _config_map(self, name: str, namespace: str) -> dict[str, str]:
        from lightkube.resources.core_v1 import ConfigMap

        got = self._ask(
            "cannot read the ConfigMap",
            f"{namespace}/{name}",
            lambda: self._client.get(ConfigMap, name, namespace=namespace),
        )
        return dict(got.data or {})

    def _connected(self, kubeconfig: str, context: str) -> Client:
        try:
            import httpx2
            import yaml
            from lightkube import Client, KubeConfig
            from lightkube.core.exceptions import ConfigError
        except ImportError as missing:
            raise ClusterError(
                "cannot ask a cluster",
                where=self._name,
                why=f"the library {missing.name} is missing",
                remedy="pip install 'istio-init[inject]'",
            ) from missing
        try:
            config = KubeConfig.from_file(kubeconfig) if kubeconfig else KubeConfig.from_env()
            return Client(config.get(context or None), timeout=httpx2.Timeout(TIMEOUT))
        except (ConfigError, yaml.YAMLError, OSError, *_WRONG_FORM) as bad:
            raise ClusterError(
                "the kubeconfig cannot be used",
                where=self._name,
                why=str(bad) or type(bad).__name__,
                remedy="name another with --kubeconfig or --context",
            ) from bad

    def _ask(self, what: str, name: str, question: Callable[[], T]) -> T:
        import httpx2
        from lightkube import ApiError
        from msgspec import MsgspecError

        where = f"{name} in {self._name}"
        try:
            return question()
        except ApiError as refused:
            status = refused.response.status_code if refused.response is not None else 0
            kind = NotInClusterError if status == _NOT_FOUND else ClusterError
            why = refused.status.message or str(status)
            raise kind(what, where=where, why=why, remedy=_remedy(status)) from refused
        except httpx2.HTTPError as failed:
            raise ClusterError(
                what,
                where=where,
                why=str(failed) or type(failed).__name__,
                remedy="look whether kubectl reaches the cluster",
            ) from failed
        except (MsgspecError, RecursionError, *_WRONG_FORM) as strange:
            raise ClusterError(
                what,
                where=where,
                why=f"the answer is not the API server's: {strange}",
                remedy="look at the server that the kubeconfig names",
            ) from strange


def _remedy(status: int) -> str:
    match status:
        case 404:
            return "look for it with kubectl; is Istio in another namespace (--istioNamespace)?"
        case 401 | 403:
            return "ask for the right to get it, or give files in its place"
        case _:
            return ""
