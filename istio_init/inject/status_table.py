"""The injection status table: namespace label by policy by what the pod says, computed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, product
from typing import TYPE_CHECKING

from istio_init.inject.gates import DISABLED, ENABLED, InjectionPolicy, judge
from istio_init.inject.generation import OLD
from istio_init.inject.subject import Subject
from istio_init.inject.webhooks import DEFAULT_REVISION, TAKES_PART

if TYPE_CHECKING:
    from collections.abc import Sequence

    from istio_init.inject.gates import Decision
    from istio_init.inject.generation import Generation
    from istio_init.inject.webhooks import WebhookEntry

_WORDS = ("true", "false")


@dataclass(frozen=True, slots=True)
class StatusRow:
    """One case of the table; labels and annotation are written ``key=value``, or ``""``."""

    namespace: str
    policy: str
    pod: str
    decision: Decision


def status_table(
    generation: Generation, entries: Sequence[WebhookEntry], *, revision: str = ""
) -> tuple[StatusRow, ...]:
    """Return every row of the table for one installation.

    1.0 knows the namespace's label, the policy and the pod's annotation; 1.30
    the namespace's revision and the pod's label too.
    """
    keys = TAKES_PART
    namespaces = ["", f"{keys.injection}={ENABLED}", f"{keys.injection}={DISABLED}"]
    pods = ["", *(f"annotation {keys.inject}={word}" for word in _WORDS)]
    if generation != OLD:
        namespaces.append(f"{keys.revision}={revision or DEFAULT_REVISION}")
        pods += [f"label {keys.inject}={word}" for word in _WORDS]
    return tuple(
        StatusRow(namespace, policy, pod, _decision(namespace, policy, pod, generation, entries))
        for namespace, policy, pod in product(namespaces, (ENABLED, DISABLED), pods)
    )


def _decision(
    namespace: str,
    policy: str,
    pod: str,
    generation: Generation,
    entries: Sequence[WebhookEntry],
) -> Decision:
    kind, _, word = pod.partition(" ")
    labels = _pair(word) if kind == "label" else {}
    annotations = _pair(word) if kind == "annotation" else {}
    subject = Subject(labels, annotations, namespace_labels=_pair(namespace))
    return judge(subject, InjectionPolicy(generation, policy), entries)


def _pair(text: str) -> dict[str, str]:
    key, equals, value = text.partition("=")
    return {key: value} if equals else {}


def markdown(rows: Sequence[StatusRow]) -> str:
    """Return the rows as a table for the documentation, with a column for each pod."""
    pods = list(dict.fromkeys(row.pod for row in rows))
    heads = ["namespace label", "policy", *(_said(pod) for pod in pods)]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for (namespace, policy), group in groupby(rows, lambda row: (row.namespace, row.policy)):
        answers = ["yes" if row.decision.inject else "no" for row in group]
        cells = [f"`{namespace}`" if namespace else "none", policy, *answers]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _said(pod: str) -> str:
    kind, _, pair = pod.partition(" ")
    return f"{kind} `{pair.partition('=')[2]}`" if pod else "neither"
