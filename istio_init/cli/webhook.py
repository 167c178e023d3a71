"""``istio-init webhook``: the admission webhook that injects pods as they are created."""

from __future__ import annotations

import os

import click

from istio_init.cli.click_flags import Command
from istio_init.cli.help import WEBHOOK
from istio_init.errors import IstioInitError
from istio_init.lean import TYPE_CHECKING
from istio_init.log import LEVELS, Log

if TYPE_CHECKING:
    from datetime import timedelta
    from typing import Any

    from istio_init.inject.server import Managed, ServerOptions

_PORT = click.IntRange(1, 65535)
_FILE = click.Path(dir_okay=False)
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PARTS = r"(\d+(?:\.\d+)?)(ms|h|m|s)"
_MISSING = (
    "{name} is not installed: `pip install istio-init[webhook]` installs it, "
    "and the image istio-init-webhook has it"
)


class _Duration(click.ParamType):  # type: ignore[type-arg]
    """A length of time as Go writes it: ``1h30m``."""

    name = "duration"

    def convert(
        self,
        value: str | timedelta,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> timedelta:
        """Return the duration; 0 and less make no sense for any of the flags."""
        import re
        from datetime import timedelta

        if isinstance(value, timedelta):
            return value
        seconds = sum(float(number) * _UNITS[unit] for number, unit in re.findall(_PARTS, value))
        if re.sub(_PARTS, "", value) or not 0 < seconds < timedelta.max.total_seconds():
            self.fail(f"{value!r}: expected a duration like 1h30m", param, ctx)
        return timedelta(seconds=seconds)


def _option(*names: str, help: str, **settings: Any) -> click.Option:  # noqa: A002, ANN401 - click's
    return click.Option(
        names, help=help, show_default=settings.get("default") is not None, **settings
    )


_OPTIONS = (
    _option(
        "--inject-config",
        type=_FILE,
        metavar="FILE",
        help="The inject config: the key `config` of Istio's ConfigMap istio-sidecar-injector. "
        "Without it, what istio-init has built in.",
    ),
    _option(
        "--values", type=_FILE, metavar="FILE", help="Its values: the key `values` of the same."
    ),
    _option(
        "--mesh-config",
        type=_FILE,
        metavar="FILE",
        help="The mesh's configuration: the key `mesh` of Istio's ConfigMap istio.",
    ),
    _option("--revision", metavar="NAME", help="The revision that pods are injected by."),
    _option("--port", type=_PORT, default=15017, help="Where reviews are served, with TLS."),
    _option(
        "--metrics-port",
        type=_PORT,
        default=15014,
        help="Where /metrics, /ready and /live are served, without.",
    ),
    _option(
        "--workers", type=click.IntRange(1, 64), default=2, help="How many processes inject pods."
    ),
    _option(
        "--tls-cert-file",
        type=_FILE,
        metavar="FILE",
        help="The certificate, in PEM, with those that lead to its authority.",
    ),
    _option("--tls-private-key-file", type=_FILE, metavar="FILE", help="Its key, in PEM."),
    _option(
        "--manage-certificates",
        is_flag=True,
        help="Have an own authority in a Secret, and write it into the registrations.",
    ),
    _option(
        "--namespace",
        envvar="POD_NAMESPACE",
        metavar="NAME",
        help="The namespace of the webhook's Service. Env: POD_NAMESPACE.",
    ),
    _option(
        "--service",
        default="istio-init-injector",
        metavar="NAME",
        help="The Service by which the API server calls it.",
    ),
    _option(
        "--secret",
        default="istio-init-injector-ca",
        metavar="NAME",
        help="Where the authority is kept.",
    ),
    _option(
        "--webhook-configuration",
        "configurations",
        multiple=True,
        default=("istio-init-injector",),
        metavar="NAME",
        help="A MutatingWebhookConfiguration that has to know the authority; may be repeated.",
    ),
    _option(
        "--ca-lifetime",
        type=_Duration(),
        default="8760h",
        help="How long an authority is good for.",
    ),
    _option(
        "--ca-overlap", type=_Duration(), default="1h", help="How long it is known before it signs."
    ),
    _option(
        "--certificate-lifetime",
        type=_Duration(),
        default="168h",
        help="How long a certificate is good for.",
    ),
    _option(
        "--events/--no-events",
        default=None,
        help="Write Events about pods that are not injected. [default: with --manage-certificates]",
    ),
    _option(
        "--drain",
        type=_Duration(),
        default="10s",
        help="For how long reviews are still answered after SIGTERM.",
    ),
    _option("--log_as_json", "--log-as-json", is_flag=True, help="Write log lines as JSON."),
    _option(
        "--log_output_level",
        "--log-output-level",
        type=click.Choice(LEVELS),
        default="info",
        help="The least important lines that are written.",
    ),
)


def command() -> Command:
    """Return the command."""
    return Command(WEBHOOK, run, parameters())


def parameters() -> list[click.Parameter]:
    """Return the flags; those of the configuration have the names of the tool for manifests."""
    return list(_OPTIONS)


def run(**params: Any) -> int:  # noqa: ANN401 - one for each of the parameters
    """Serve until told to end; return the exit code."""
    log = Log(params.pop("log_output_level"), as_json=params.pop("log_as_json"))
    try:
        from istio_init.inject.server import serve

        serve(_server_options(**params), log)
    except ImportError as error:
        # A release of a library that lacks something is no different to the user.
        raise click.UsageError(_MISSING.format(name=error.name)) from error
    except IstioInitError as error:
        log.error(str(error))
        return error.exit_code
    return 0


def _server_options(
    *,
    inject_config: str | None,
    values: str | None,
    mesh_config: str | None,
    revision: str | None,
    port: int,
    metrics_port: int,
    workers: int,
    events: bool | None,
    drain: timedelta,
    **certificates: Any,  # noqa: ANN401 - click's
) -> ServerOptions:
    from istio_init.inject.configuration import ConfigurationFiles
    from istio_init.inject.server import ServerOptions

    if port == metrics_port:
        raise click.UsageError("--port and --metrics-port are the same")
    files = ConfigurationFiles(inject_config, values, mesh_config, revision or "", dict(os.environ))
    managed = _managed(**certificates)
    pair = certificates["tls_cert_file"], certificates["tls_private_key_file"]
    return ServerOptions(
        read=files.read,
        configuration_files=files.paths,
        port=port,
        metrics_port=metrics_port,
        workers=workers,
        certificate_files=None if managed else pair,
        managed=managed,
        write_events=bool(managed) if events is None else events,
        needs_namespaces=os.environ.get("PLATFORM") == "openshift",
        drain_seconds=drain.total_seconds(),
    )


def _managed(
    *,
    manage_certificates: bool,
    tls_cert_file: str | None,
    tls_private_key_file: str | None,
    namespace: str | None,
    service: str,
    secret: str,
    configurations: tuple[str, ...],
    ca_lifetime: timedelta,
    ca_overlap: timedelta,
    certificate_lifetime: timedelta,
) -> Managed | None:
    """Return what is to be managed, or None where there are files."""
    from istio_init.inject.authority import Place
    from istio_init.inject.certificates import Terms
    from istio_init.inject.server import Managed

    files = (tls_cert_file, tls_private_key_file)
    if not manage_certificates:
        if None in files:
            raise click.UsageError(
                "a certificate is missing: give --tls-cert-file and --tls-private-key-file, "
                "or, in a cluster, --manage-certificates"
            )
        return None
    if any(files):
        raise click.UsageError("--manage-certificates and --tls-... exclude each other")
    if not namespace:
        raise click.UsageError("--manage-certificates needs --namespace, or POD_NAMESPACE")
    if ca_overlap * 4 > ca_lifetime or certificate_lifetime * 2 > ca_lifetime:
        raise click.UsageError(
            "--ca-lifetime must be four times --ca-overlap at least, and twice "
            "--certificate-lifetime"
        )
    place = Place(namespace, service, secret, configurations)
    return Managed(place, Terms(ca_lifetime, certificate_lifetime, ca_overlap))
