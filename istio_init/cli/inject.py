"""``istio-init inject``: manifests in, the same manifests with the sidecar out."""

from __future__ import annotations

import os
import sys

import click

from istio_init.cli import manifest_run
from istio_init.cli.click_flags import Command
from istio_init.cli.help import INJECT_MANIFEST
from istio_init.cli.manifest_run import option
from istio_init.lean import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from istio_init.inject.by_hand import InjectedPod
    from istio_init.inject.settings import Settings, SettingsFile

CONFIGURATION = "What is injected"
CLUSTER = "From a cluster"


def command() -> Command:
    """Return the command."""
    return Command(INJECT_MANIFEST, run, parameters())


def parameters() -> list[click.Parameter]:
    """Return the flags; those in camel case are named as istioctl names them."""
    files = manifest_run.parameters()
    # --print-config needs no file.
    files[0].required = False
    return [
        *files,
        option(CONFIGURATION, "--inject-config", "--injectConfigFile", "inject_config",
               default="",
               metavar="FILE", help="Inject config, or the template of a sidecar. "
               "[default: built in]"),
        option(CONFIGURATION, "--values", "--valuesFile", "values", default="", metavar="FILE",
               help="Values that the templates read."),
        option(CONFIGURATION,
               "--mesh-config", "--meshConfigFile", "mesh_config", default="", metavar="FILE",
               help="Mesh config."),
        option(CONFIGURATION, "-r", "--revision", default="", metavar="NAME",
               help="Revision of the control plane that the pods belong to."),
        option(CONFIGURATION,
               "--native-sidecars", type=click.Choice(("auto", "true", "false")), default="auto",
               envvar="ENABLE_NATIVE_SIDECARS",
               help="Whether proxies are init containers that keep running; auto is false "
               "without a cluster. Env: ENABLE_NATIVE_SIDECARS. [default: auto]"),
        option(CONFIGURATION,
               "--platform", type=click.Choice(("", "openshift")), default="", envvar="PLATFORM",
               metavar="openshift", help="Platform with rules of its own. Env: PLATFORM."),
        option(CLUSTER, "--from-cluster", is_flag=True,
               help="Read the configuration from the ConfigMaps of a cluster."),
        option(CLUSTER,
               "--kubeconfig", "-c", default="", metavar="FILE", help="With --from-cluster."),
        option(CLUSTER, "--context", default="", metavar="NAME", help="With --from-cluster."),
        option(CLUSTER, "-i", "--istioNamespace", "istio_namespace", default="",
               metavar="NAME", help="Namespace of the ConfigMaps. [default: istio-system]"),
        option(CLUSTER, "--injectConfigMapName", "inject_config_map", default="", metavar="NAME",
               help="ConfigMap of the inject config. [default: istio-sidecar-injector]"),
        option(CLUSTER, "--meshConfigMapName", "mesh_config_map", default="", metavar="NAME",
               help="ConfigMap of the mesh config. [default: istio]"),
        option(manifest_run.OUTPUT, "--explain-rules", is_flag=True,
               help="Print the iptables rules that each injected pod will get, not manifests."),
        option(manifest_run.OUTPUT, "--print-config", is_flag=True,
               help="Print the built-in configuration, to be changed and given back."),
    ]  # fmt: skip


class _Flags(Record):
    """Where the configuration comes from; see ``parameters``."""

    inject_config: str
    values: str
    mesh_config: str
    revision: str
    native_sidecars: str
    platform: str
    from_cluster: bool
    kubeconfig: str
    context: str
    istio_namespace: str
    inject_config_map: str
    mesh_config_map: str


def run(*, print_config: bool, explain_rules: bool, **given: Any) -> int:  # noqa: ANN401
    """Inject; return the exit code."""
    from istio_init.errors import IstioInitError

    output = manifest_run.output_flags(given)
    for short in ("revision", "kubeconfig", "istio_namespace"):
        given[short] = manifest_run.without_equals(given[short])
    flags = _checked(_Flags(**given))
    if print_config:
        from istio_init.inject import builtin

        sys.stdout.write(builtin.config_map())
        return 0
    if not output.files:
        raise click.UsageError("Missing option '-f' / '--filename'.")
    if explain_rules and (output.output or output.in_place or output.diff):
        raise click.UsageError("--explain-rules writes no manifests")
    try:
        return _inject(flags, output, explain_rules=explain_rules)
    except IstioInitError as failure:
        sys.stderr.write("".join(f"{line}\n" for line in failure.lines))
        return failure.exit_code


def _checked(flags: _Flags) -> _Flags:
    if not flags.from_cluster:
        for name in ("kubeconfig", "context", "inject_config_map", "mesh_config_map"):
            if getattr(flags, name):
                shown = {
                    "inject_config_map": "injectConfigMapName",
                    "mesh_config_map": "meshConfigMapName",
                }.get(name, name)
                raise click.UsageError(f"--{shown} goes with --from-cluster")
    return flags


def _inject(flags: _Flags, output: manifest_run.OutputFlags, *, explain_rules: bool) -> int:
    from istio_init.inject.by_hand import inject_manifest

    settings = _settings(flags)
    pods: list[InjectedPod] = []

    def change(data: bytes, name: str) -> manifest_run.ChangedManifest:
        injected = inject_manifest(data, name, settings)
        pods.extend(injected.pods)
        return manifest_run.ChangedManifest(
            "" if explain_rules else injected.text,
            injected.problems,
            len(injected.pods),
            injected.skipped,
        )

    manifest_run.run(output, change, "injected")
    if explain_rules:
        sys.stdout.write("".join(_rules(pods)))
    return 0


def _rules(pods: list[InjectedPod]) -> Iterator[str]:
    """Yield the rules of each pod, as its init container writes them."""
    from istio_init.inject.pod_rules import explain_rules

    for pod in pods:
        yield explain_rules(pod.spec, pod.where)


def _settings(flags: _Flags) -> Settings:
    from istio_init.inject.settings import load_settings, native_sidecars_of

    config, values, mesh = _files(flags)
    return load_settings(
        config,
        values,
        mesh,
        revision=flags.revision,
        native_sidecars=native_sidecars_of(flags.native_sidecars),
        platform=flags.platform,
        environment=dict(os.environ),
    )


def _files(flags: _Flags) -> tuple[SettingsFile, SettingsFile | None, SettingsFile | None]:
    """Return inject config, values and mesh config: of files, else the cluster, else built in."""
    from istio_init.inject.settings import SettingsFile

    config, values, mesh = (
        _settings_file(name) for name in (flags.inject_config, flags.values, flags.mesh_config)
    )
    if flags.from_cluster and not (config and values and mesh):
        live = _from_cluster(flags)
        config, values, mesh = config or live[0], values or live[1], mesh or live[2]
    if config is not None:
        return config, values, mesh
    from istio_init.inject import builtin

    built_in = [SettingsFile(builtin.text(name), name) for name in builtin.FILES]
    return built_in[0], values or built_in[1], mesh or built_in[2]


def _settings_file(name: str) -> SettingsFile | None:
    from istio_init.cli.manifest_files import read_file
    from istio_init.inject.settings import SettingsFile
    from istio_init.inject.yaml import decode

    if not name:
        return None
    file = read_file(name)
    return SettingsFile(decode(file.data, file.name), file.name)


def _from_cluster(flags: _Flags) -> tuple[SettingsFile, SettingsFile | None, SettingsFile | None]:
    from istio_init.inject.cluster import Cluster
    from istio_init.inject.settings import SettingsFile

    live = Cluster(kubeconfig=flags.kubeconfig, context=flags.context).settings(
        namespace=flags.istio_namespace,
        revision=flags.revision,
        inject_config_map=flags.inject_config_map,
        mesh_config_map=flags.mesh_config_map,
    )
    place = f"ConfigMap {live.name}, key"
    return (
        SettingsFile(live.inject_config, f"{place} config"),
        None if live.values is None else SettingsFile(live.values, f"{place} values"),
        None if live.mesh is None else SettingsFile(live.mesh, f"{place} mesh"),
    )
