"""``istio-init check-inject``: whether the pods of a manifest would be injected, and why."""

from __future__ import annotations

import sys

import click

from istio_init.cli.click_flags import Command
from istio_init.cli.help import CHECK_INJECT
from istio_init.cli.manifest_files import file_names, read_file
from istio_init.inject.generation import GENERATIONS
from istio_init.lean import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from istio_init.diagnose.text import Style, StyledLine
    from istio_init.inject.check import CheckedWorkload, Installation
    from istio_init.inject.cluster import Cluster
    from istio_init.inject.gates import InjectionPolicy
    from istio_init.inject.generation import Generation
    from istio_init.inject.status_table import StatusRow
    from istio_init.inject.webhooks import WebhookEntry

_FORMATS = ("text", "json")
_REQUIRED = 3
_BAD_INPUT = 2


def command() -> Command:
    """Return the command."""
    return Command(CHECK_INJECT, run, parameters())


def parameters() -> list[click.Parameter]:
    """Return the flags, named as istioctl and kubectl name theirs."""
    return [
        _option("-f", "--filename", "files", multiple=True, metavar="FILE",
                help="Manifest, folder of manifests, or - for standard input; may be repeated."),
        _option("-n", "--namespace", default="", metavar="NAME",
                help="Namespace of what names none. [default: default]"),
        _option("--namespace-labels", default=None, metavar="KEY=VALUE,...",
                help="Labels of the namespaces; a Namespace among the manifests has its own."),
        _option(
            "--release",
            type=click.Choice(GENERATIONS),
            help="Release of Istio whose rules count. [default: that of the inject config]",
        ),
        _option("-r", "--revision", default="", help="Revision of the installation."),
        _option("--tag", "tags", multiple=True, metavar="TAG",
                help="Revision tag of the installation; may be repeated."),
        _option("--enable-namespaces-by-default", "by_default", is_flag=True,
                help="The installation injects namespaces without a label too."),
        _option("--inject-config", "--injectConfigFile", "inject_config", default="",
                metavar="FILE", help="Inject config, for its policy and selectors. "
                "[default: built in]"),
        _option("--webhook-config", "webhook_configs", multiple=True, metavar="FILE",
                help="MutatingWebhookConfiguration, in place of the installation's own table."),
        _option("--from-cluster", is_flag=True,
                help="Read labels, webhooks and the inject config from the cluster."),
        _option("--kubeconfig", default="", metavar="FILE", help="With --from-cluster."),
        _option("--context", default="", metavar="NAME", help="With --from-cluster."),
        _option("--injectConfigMapName", "config_map", default="", metavar="NAME",
                help="ConfigMap of the inject config. [default: istio-sidecar-injector]"),
        _option("-i", "--istioNamespace", "istio_namespace", default="",
                metavar="NAME", help="Namespace of that ConfigMap. [default: istio-system]"),
        _option("--explain", is_flag=True,
                help="Show every rule that was looked at, and what to change."),
        _option("--table", is_flag=True,
                help="Show what follows from namespace label, policy and pod in this "
                "installation."),
        _option("--require", is_flag=True,
                help="End with 3 if a workload would not be injected."),
        _option("--format", "form", type=click.Choice(_FORMATS), default=_FORMATS[0],
                help="What is printed."),
    ]  # fmt: skip


def _option(*names: str, **settings: Any) -> click.Option:  # noqa: ANN401 - click's own settings
    return click.Option(list(names), show_default=False, **settings)


def run(*, form: str, **flags: Any) -> int:  # noqa: ANN401 - one for each of the parameters
    """Answer; return the exit code."""
    from istio_init.errors import IstioInitError

    try:
        return _answer(_Flags(form=form, **flags))
    except IstioInitError as failure:
        sys.stderr.write("".join(f"{line}\n" for line in failure.lines))
        if form == "json":
            from istio_init.cli import result

            result.print_error(failure, "error")
        return failure.exit_code


class _Flags(Record):
    """The flags of a call; see ``parameters``."""

    form: str
    files: tuple[str, ...] = ()
    namespace: str = ""
    namespace_labels: str | None = None
    release: Generation | None = None
    revision: str = ""
    tags: tuple[str, ...] = ()
    by_default: bool = False
    inject_config: str = ""
    webhook_configs: tuple[str, ...] = ()
    from_cluster: bool = False
    kubeconfig: str = ""
    context: str = ""
    istio_namespace: str = ""
    config_map: str = ""
    explain: bool = False
    table: bool = False
    require: bool = False


def _answer(flags: _Flags) -> int:
    if bool(flags.files) is flags.table:
        raise click.UsageError("one of --filename and --table is needed")
    if (flags.kubeconfig or flags.context) and not flags.from_cluster:
        raise click.UsageError("--kubeconfig and --context go with --from-cluster")
    from istio_init.inject import check

    cluster = _cluster(flags) if flags.from_cluster else None
    policy = _policy(cluster, flags)
    entries = _entries(cluster, policy, flags)
    if flags.table:
        _show_table(policy, entries, flags)
        return 0
    installation = check.Installation(
        policy, entries, flags.namespace or "default", _labels_of(cluster, flags)
    )
    checked = _checked(flags.files, installation)
    if flags.form == "json":
        _print_json(check.document(checked))
    elif flags.explain:
        _print(line for one in checked for line in check.explanation(one))
    else:
        _print(check.lines(checked))
    results = {one.result for one in checked}
    if check.CheckResult.REFUSED in results:
        return _BAD_INPUT
    return _REQUIRED if flags.require and results - {check.CheckResult.INJECTED} else 0


def _checked(files: Iterable[str], installation: Installation) -> list[CheckedWorkload]:
    from istio_init.inject.check import check_documents
    from istio_init.inject.yaml import load_documents

    documents = [one for file in file_names(files) for one in load_documents(_read(file), file)]
    return list(check_documents(documents, installation))


def _labels_of(cluster: Cluster | None, flags: _Flags) -> Callable[[str], Mapping[str, str]]:
    """Return what knows a namespace's labels: the flag, else the cluster, else nobody."""
    if cluster is not None and flags.namespace_labels is None:
        return cluster.namespace_labels
    labels = parse_labels(flags.namespace_labels or "")
    return lambda _: labels


def parse_labels(text: str) -> dict[str, str]:
    """Return the labels of ``KEY=VALUE,...``.

    Raises:
        UsageError: a part is no label.
    """
    from istio_init.inject.selectors import is_label_key, is_label_value

    labels = {}
    for part in text.split(",") if text.strip() else ():
        key, equals, value = part.strip().partition("=")
        if not equals or not is_label_key(key) or not is_label_value(value):
            raise click.UsageError(f"--namespace-labels: {part!r} is not KEY=VALUE")
        labels[key] = value
    return labels


def _cluster(flags: _Flags) -> Cluster:
    from istio_init.inject.cluster import Cluster

    return Cluster(kubeconfig=flags.kubeconfig, context=flags.context)


def _policy(cluster: Cluster | None, flags: _Flags) -> InjectionPolicy:
    """Return the policy of the file, else of the cluster, else of the built-in configuration."""
    from dataclasses import replace

    from istio_init.inject import builtin
    from istio_init.inject.settings import SettingsFile, load_settings

    if flags.inject_config:
        config = SettingsFile(_read(flags.inject_config), flags.inject_config)
    elif cluster is not None:
        settings = cluster.settings(
            namespace=flags.istio_namespace,
            revision=flags.revision,
            inject_config_map=flags.config_map,
        )
        config = SettingsFile(settings.inject_config, settings.name)
    else:
        config = SettingsFile(builtin.text(builtin.INJECT_CONFIG), builtin.INJECT_CONFIG)
    policy = load_settings(config).policy
    return replace(policy, generation=flags.release) if flags.release else policy


def _entries(
    cluster: Cluster | None, policy: InjectionPolicy, flags: _Flags
) -> tuple[WebhookEntry, ...]:
    """Return the entries of the files, else of the cluster, else of the installation."""
    from istio_init.inject import webhooks
    from istio_init.inject.problems import InjectionError, Where
    from istio_init.inject.yaml import load_documents

    if flags.webhook_configs:
        entries: tuple[WebhookEntry, ...] = ()
        for file in flags.webhook_configs:
            for document in load_documents(_read(file), file):
                of_one, problems = webhooks.entries_of(document.value)
                if problems:
                    place = Where(file, document.number, document.line)
                    raise InjectionError(problems).within(place)
                entries += of_one
        return entries
    if cluster is not None:
        return cluster.webhooks()
    return webhooks.installation(
        policy.generation,
        revision=flags.revision,
        tags=flags.tags,
        by_default=flags.by_default,
    )


def _read(name: str) -> str:
    """Return the text of a file, ``-`` for standard input.

    Raises:
        InjectionError: it cannot be read.
    """
    from istio_init.inject.yaml import decode

    file = read_file(name)
    return decode(file.data, file.name)


def _show_table(policy: InjectionPolicy, entries: Sequence[WebhookEntry], flags: _Flags) -> None:
    from istio_init.inject import check, status_table

    rows = status_table.status_table(policy.generation, entries, revision=flags.revision)
    if flags.form == "json":
        _print_json(
            {
                "version": check.VERSION,
                "rows": [
                    {
                        "namespace": row.namespace,
                        "policy": row.policy,
                        "pod": row.pod,
                        "injected": row.decision.inject,
                        "reason": str(row.decision.reason),
                    }
                    for row in rows
                ],
            }
        )
        return
    _print(_table_lines(rows))


def _table_lines(rows: Sequence[StatusRow]) -> Iterator[StyledLine]:
    cells = [("NAMESPACE LABEL", "POLICY", "POD", "INJECTED", "DECIDED BY")]
    cells += [
        (
            row.namespace or "-",
            row.policy,
            row.pod or "-",
            "yes" if row.decision.inject else "no",
            str(row.decision.reason),
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    for number, line in enumerate(cells):
        padded = [f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)]
        style: Style = "head" if number == 0 else "good" if line[3] == "yes" else "no"
        yield (("  ".join(padded), style),)


def _print(lines: Iterator[StyledLine]) -> None:
    from istio_init.cli import terminal

    terminal.write(lines)


def _print_json(document: dict[str, Any]) -> None:
    import json

    sys.stdout.write(json.dumps(document, indent=2) + "\n")
    sys.stdout.flush()
