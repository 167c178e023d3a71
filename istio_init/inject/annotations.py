"""One table of the annotations and labels that injection reads, and the checks of their values.

The checks are Istio's own, with three additions: no value holds control
characters (in 1.30.3 a newline in ``logLevel`` could add arguments), values that
Istio pastes unchecked between quotes hold none, and outbound ports are ports.

Source: istio 1.0.2, pilot/pkg/kube/inject, annotationRegistry; istio 1.30,
pkg/kube/inject/validate.go.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from istio_init.config import values
from istio_init.config.options import OPTIONS
from istio_init.inject.generation import GENERATIONS, NEW, OLD
from istio_init.inject.problems import Where, error, quoted, warning
from istio_init.inject.selectors import is_label_value
from istio_init.inject.webhooks import TAKES_PART

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from istio_init.inject.generation import Generation
    from istio_init.inject.problems import Problem

    # Returns for a good value; raises ValueError with what is expected instead.
    Check = Callable[[str], None]

_SIDECAR = "sidecar.istio.io/"
_TRAFFIC = "traffic.sidecar.istio.io/"
_STATUS = "status.sidecar.istio.io/"
_READINESS = "readiness.status.sidecar.istio.io/"

_QUANTITY = re.compile(
    r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]+)?", re.ASCII
)
_SIGNED = re.compile(r"[+-]?[0-9]{1,6}", re.ASCII)
_UNSIGNED = re.compile(r"[0-9]{1,20}", re.ASCII)
_PREFIX_LENGTH = re.compile(r"[0-9]{1,3}", re.ASCII)
# Image references, log levels, names: nothing that ends a quoted or a plain scalar of YAML.
_WORD = re.compile(r"[-A-Za-z0-9_.:,/@+*=]*", re.ASCII)
_GO_BOOLEANS = frozenset(
    {"1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False"}
)
_NEAR = 0.85
_LINE_BREAKS = "\t\n\r"


class _BadValueError(ValueError):
    """A value that is refused; the text says what is expected instead."""


def _anything(_: str) -> None:
    """Accept any value."""


def _word(text: str) -> None:
    if not _WORD.fullmatch(text):
        raise _BadValueError("letters, digits and - _ . : , / @ + * =")


def _words(text: str) -> None:
    for part in text.split(","):
        _word(part.strip(" "))


def _boolean(text: str) -> None:
    if text not in _GO_BOOLEANS:
        raise _BadValueError("true or false")


def _one_of(*words: str) -> Check:
    def check(text: str) -> None:
        if text not in words:
            raise _BadValueError(f"{' or '.join(words)}, in this spelling")

    return check


def _uint32(text: str) -> None:
    if not _UNSIGNED.fullmatch(text) or int(text) > values.MAX_U32:
        raise _BadValueError("a whole number of seconds or times, 0 or more")


def _quantity(text: str) -> None:
    if not _QUANTITY.fullmatch(text):
        raise _BadValueError("a quantity such as 100m or 128Mi")


def _port(text: str) -> None:
    if not _UNSIGNED.fullmatch(text.strip()) or int(text) > values.MAX_PORT:
        raise _BadValueError(f"a port 0-{values.MAX_PORT}")


def _old_port(text: str) -> None:
    """Accept what 1.0 does: it reads a port as a signed number of 16 bits."""
    if not _SIGNED.fullmatch(text) or not -0x8000 <= int(text) <= 0x7FFF:
        raise _BadValueError("a port 0-32767 (1.0 reads no larger one), without blanks")


def _ports(check: Check, *, star: bool) -> Check:
    """Return a check of a list of ports: ``*`` alone where ``star`` allows it, empty for none."""
    alone = "ports between commas, or * alone" if star else "ports between commas; * has no meaning"

    def check_all(text: str) -> None:
        if (star and text == "*") or not text or (check is _port and not text.strip()):
            return
        for part in text.split(","):
            try:
                check(part)
            except ValueError as bad:
                raise _BadValueError(f"{alone}; {quoted(part)} is not {bad}") from None

    return check_all


def _ranges(*, star: bool) -> Check:
    """Return a check of a list of CIDRs: ``*`` alone where ``star`` allows it, empty for none."""
    alone = "CIDRs between commas, or * alone" if star else "CIDRs between commas; no * here"

    def check_all(text: str) -> None:
        if not text or (star and text == "*"):
            return
        for part in text.split(","):
            _, _, prefix = part.partition("/")
            try:
                if not _PREFIX_LENGTH.fullmatch(prefix):
                    raise _BadValueError
                values.network(part)
            except ValueError:
                raise _BadValueError(
                    f"{alone}; {quoted(part)} is not one such as 10.0.0.0/8 or fd00::/8"
                ) from None

    return check_all


def _interfaces(text: str) -> None:
    for part in text.split(",") if text.strip() else ():
        try:
            values.interface(part.strip())
        except ValueError as bad:
            raise _BadValueError(f"{bad}, between commas") from None


def _json(text: str) -> None:
    if not text.strip():
        return
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        raise _BadValueError("JSON") from None


def _label(text: str) -> None:
    if not is_label_value(text):
        raise _BadValueError("at most 63 letters, digits, - _ and ., between letters or digits")


@dataclass(frozen=True, slots=True)
class Annotation:
    """One annotation or label: what it does, who reads it, and which values are good.

    ``old_check`` is the check of 1.0 where that differs. ``feeds`` is the flag
    of the init container that the value ends in, where the table of flags names
    another annotation for it. Only values with ``lines`` may have several.
    """

    key: str
    meaning: str
    check: Check = _anything
    generations: tuple[Generation, ...] = (NEW,)
    old_check: Check | None = None
    label: bool = False
    feeds: str = ""
    lines: bool = False

    @property
    def flag(self) -> str:
        """The flag of the init container as its user writes it (``-b``), or ``""``."""
        for option in OPTIONS:
            if self.key == option.annotation or (self.feeds and self.feeds == option.name):
                return f"-{option.short}" if option.short else f"--{option.name}"
        return ""

    def expected(self, value: str, generation: Generation) -> str:
        """Return what is expected in place of a bad value, ``""`` for a good one."""
        allowed = _LINE_BREAKS if self.lines else ""
        if not all(char.isprintable() or char in allowed for char in value):
            return "no control characters"
        check = self.old_check if generation == OLD and self.old_check else self.check
        try:
            check(value)
        except ValueError as bad:
            return str(bad)
        return ""


def _resource(name: str, what: str, generations: tuple[Generation, ...] = (NEW,)) -> Annotation:
    return Annotation(
        f"{_SIDECAR}{name}",
        f"{what} of the proxy and the init container; any one drops all defaults.",
        _quantity,
        generations,
    )


TABLE: tuple[Annotation, ...] = (
    Annotation(
        TAKES_PART.inject,
        "`false` keeps the pod out; the label of the same name wins, and only it can ask for more.",
        _anything,
        GENERATIONS,
    ),
    Annotation(
        TAKES_PART.inject,
        "`true` or `false`: whether the pod is injected.",
        _anything,
        label=True,
    ),
    Annotation(
        TAKES_PART.revision,
        "The revision that injects the pod, where its namespace names none.",
        _label,
        label=True,
    ),
    Annotation(
        "inject.istio.io/templates",
        "Names of the templates to use, between commas.",
        _words,
    ),
    Annotation(
        f"{_SIDECAR}interceptionMode",
        "How inbound TCP reaches the proxy; `NONE` (1.30) injects no init container.",
        _one_of("REDIRECT", "TPROXY", "NONE"),
        GENERATIONS,
        _one_of("REDIRECT", "TPROXY"),
    ),
    Annotation(
        f"{_TRAFFIC}includeOutboundIPRanges",
        "Outbound destinations to capture: CIDRs, or `*`.",
        _ranges(star=True),
        GENERATIONS,
    ),
    Annotation(
        f"{_TRAFFIC}excludeOutboundIPRanges",
        "Outbound destinations left alone: CIDRs.",
        _ranges(star=False),
        GENERATIONS,
    ),
    Annotation(
        f"{_TRAFFIC}includeInboundPorts",
        "Inbound ports to capture, or `*`.",
        _ports(_port, star=True),
        GENERATIONS,
        _ports(_old_port, star=True),
    ),
    Annotation(
        f"{_TRAFFIC}excludeInboundPorts",
        "Inbound ports left alone.",
        _ports(_port, star=False),
        GENERATIONS,
        _ports(_old_port, star=False),
    ),
    Annotation(
        f"{_TRAFFIC}includeOutboundPorts",
        "Outbound ports captured whatever the destination.",
        _ports(_port, star=False),
    ),
    Annotation(
        f"{_TRAFFIC}excludeOutboundPorts",
        "Outbound ports left alone.",
        _ports(_port, star=False),
    ),
    Annotation(
        f"{_TRAFFIC}excludeInterfaces",
        "Interfaces whose traffic is left alone.",
        _interfaces,
    ),
    Annotation(
        f"{_TRAFFIC}kubevirtInterfaces",
        "Interfaces of virtual machines, whose inbound traffic counts as outbound.",
        _interfaces,
    ),
    Annotation(
        "istio.io/reroute-virtual-interfaces",
        "The same; it beats kubevirtInterfaces.",
        _interfaces,
        feeds="kube-virt-interfaces",
    ),
    Annotation(
        f"{_STATUS}port",
        "Port of the proxy's health, which the rules leave alone; `0` for no probe.",
        _port,
        feeds="istio-local-exclude-ports",
    ),
    Annotation(
        f"{_SIDECAR}agentLogLevel",
        "Log level of the agent and of the init container.",
        _word,
        feeds="log_output_level",
    ),
    Annotation(f"{_SIDECAR}logLevel", "Log level of the proxy.", _word),
    Annotation(f"{_SIDECAR}componentLogLevel", "Log levels of the proxy's components.", _word),
    Annotation(
        f"{_SIDECAR}proxyImage",
        "Image of the proxy and (1.30) the init container; 1.30 takes only one with a `/`.",
        _word,
        GENERATIONS,
    ),
    Annotation(
        f"{_SIDECAR}proxyImageType",
        "Variant of the proxy's image: `default`, `debug`, `distroless`.",
        _word,
    ),
    _resource("proxyCPU", "CPU request", GENERATIONS),
    _resource("proxyMemory", "Memory request", GENERATIONS),
    _resource("proxyCPULimit", "CPU limit"),
    _resource("proxyMemoryLimit", "Memory limit"),
    Annotation(
        f"{_READINESS}initialDelaySeconds", "Delay of the proxy's readiness probe.", _uint32
    ),
    Annotation(f"{_READINESS}periodSeconds", "Period of the proxy's readiness probe.", _uint32),
    Annotation(
        f"{_READINESS}failureThreshold", "Failures that the readiness probe puts up with.", _uint32
    ),
    Annotation(
        "prometheus.istio.io/merge-metrics",
        "Whether the proxy serves the application's metrics too.",
        _boolean,
    ),
    Annotation(
        "proxy.istio.io/config",
        "YAML of a ProxyConfig, laid over the mesh's.",
        lines=True,
    ),
    Annotation(
        f"{_SIDECAR}nativeSidecar",
        "Whether the proxy is an init container that keeps running (Kubernetes 1.29).",
        _word,
    ),
    Annotation(
        f"{_SIDECAR}capNetBindService",
        "`true` lets the proxy bind ports below 1024.",
        _word,
    ),
    Annotation(
        f"{_SIDECAR}rewriteAppHTTPProbers",
        "Whether probes of the application go through the proxy's agent.",
        _word,
    ),
    Annotation(f"{_SIDECAR}bootstrapOverride", "ConfigMap with the proxy's bootstrap.", _word),
    Annotation(f"{_SIDECAR}userVolume", "Volumes for the proxy, as JSON.", _json, lines=True),
    Annotation(
        f"{_SIDECAR}userVolumeMount", "Mounts of those volumes, as JSON.", _json, lines=True
    ),
    Annotation(
        f"{_SIDECAR}controlPlaneAuthPolicy",
        "How the proxy proves itself to the control plane.",
        _word,
        (OLD,),
    ),
    Annotation(
        "k8s.v1.cni.cncf.io/networks",
        "Networks of Multus, to which Istio's CNI plugin is added.",
        lines=True,
    ),
    Annotation(
        "security.istio.io/tlsMode", "Written as a label by the injection.", _label, label=True
    ),
    Annotation(
        "service.istio.io/canonical-name",
        "Name of the service in metrics; else that of the workload.",
        _label,
        label=True,
    ),
    Annotation(
        "service.istio.io/canonical-revision", "Its revision in metrics.", _label, label=True
    ),
    Annotation(
        "service.istio.io/workload-name", "Name of the workload in metrics.", _label, label=True
    ),
    Annotation("topology.istio.io/network", "Network that the pod is in.", _label, label=True),
    Annotation(
        "app", "Name of the service where no other label has one.", _label, GENERATIONS, label=True
    ),
    Annotation("app.kubernetes.io/name", "The same; it beats app.", _label, label=True),
    Annotation("version", "Revision of the service where no label has one.", _label, label=True),
    Annotation("app.kubernetes.io/version", "The same; it beats version.", _label, label=True),
)

_KEYS = {label: {row.key: row for row in TABLE if row.label is label} for label in (False, True)}


def problems(
    metadata: Mapping[str, object], generation: Generation, where: Where | None = None
) -> tuple[Problem, ...]:
    """Return what is wrong with a pod's annotations and labels: every bad value, in their order.

    Errors are values that are refused; warnings are keys that have no effect.
    """
    where = where or Where()
    return tuple(
        problem.within(where)
        for field, label in (("annotations", False), ("labels", True))
        for problem in _of_field(metadata.get(field), generation, label=label)
    )


def misplaced(
    outer: object,
    metadata: Mapping[str, object],
    where: Where | None = None,
    *,
    right_place: str = "the pod template",
) -> tuple[Problem, ...]:
    """Return a warning for each key that a workload has, and only its pods can use.

    ``outer`` is the metadata of a Deployment and the like, ``metadata`` that which
    is read; ``right_place`` is where that stands.
    """
    if not isinstance(outer, dict):
        return ()
    return tuple(
        warning(
            "has no effect here",
            place.filled(where or Where()),
            why=f"only the {field} of {right_place} count",
            remedy="move it there",
        )
        for field, place in _outside(outer, metadata)
    )


def _outside(
    outer: Mapping[str, object], metadata: Mapping[str, object]
) -> Iterator[tuple[str, Where]]:
    annotations, labels = outer.get("annotations"), outer.get("labels")
    for key in annotations if isinstance(annotations, dict) else ():
        if isinstance(key, str) and key.partition("/")[0].endswith("sidecar.istio.io"):
            yield "annotations", Where(annotation=key)
    inner = metadata.get("labels")
    for key in labels if isinstance(labels, dict) else ():
        # Labels are often written at both places, and rightly so.
        known = inner if isinstance(inner, dict) else {}
        if key in (TAKES_PART.inject, TAKES_PART.revision) and key not in known:
            yield "labels", Where(path=f"label {key}")


def _of_field(data: object, generation: Generation, *, label: bool) -> Iterator[Problem]:
    rows = _KEYS[label]
    for key, value in data.items() if isinstance(data, dict) else ():
        row = rows.get(key) if isinstance(key, str) else None
        if row is None:
            yield from _misspelt(str(key), label=label)
            continue
        place = Where(path=f"label {key}") if label else Where(annotation=key)
        if generation not in row.generations:
            if not label:
                yield warning(
                    f"release {generation} does not read it",
                    place,
                    remedy=f"remove it, or inject with release {row.generations[0]}",
                )
            continue
        text = _text(value)
        expected = "text" if text is None else row.expected(text, generation)
        if expected:
            yield error(
                f"bad value {quoted(value)}",
                place,
                why=_effect(row),
                remedy=f"expected {expected}",
            )
        elif text and row.key == f"{_SIDECAR}proxyImage" and generation == NEW and "/" not in text:
            yield warning(
                "has no effect", place, why=f"{quoted(text)} holds no /", remedy="name the registry"
            )


def _text(value: object) -> str | None:
    """Return the value as Istio reads it: an unquoted ``true`` or ``80`` is text to it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    return "" if value is None else None


def _effect(row: Annotation) -> str:
    if not row.flag:
        return ""
    return f"it ends in the init container's flag {row.flag}"


def _misspelt(key: str, *, label: bool) -> Iterator[Problem]:
    """Yield a warning about a key that is almost one of the table."""
    near = difflib.get_close_matches(key, _KEYS[label], n=1, cutoff=_NEAR)
    # A key of the right spelling at the wrong place is no slip of the pen.
    if "istio.io/" in key and near and key not in _KEYS[not label]:
        place = Where(path=f"label {key}") if label else Where(annotation=key)
        yield warning("nobody reads it", place, remedy=f"did you mean {near[0]}?")


def markdown_table() -> str:
    """Return the table for the documentation."""
    lines = ["| annotation | what it does | init container | releases |", "|---|---|---|---|"]
    for row in TABLE:
        key = f"`{row.key}`" + (" (label)" if row.label else "")
        flag = f"`{row.flag}`" if row.flag else ""
        lines.append(f"| {key} | {row.meaning} | {flag} | {', '.join(row.generations)} |")
    return "\n".join(lines) + "\n"
