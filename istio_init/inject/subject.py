"""What decides about a pod: its labels and annotations, its namespace's, and its network."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from istio_init.inject.webhooks import NAMESPACE_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class LabelOwner(StrEnum):
    """What has the label or annotation that a remedy changes."""

    NAMESPACE = "namespace label"
    LABEL = "pod label"
    ANNOTATION = "pod annotation"


@dataclass(frozen=True, slots=True)
class LabelEdit:
    """A label or annotation to set, or with ``value`` None to remove."""

    owner: LabelOwner
    key: str
    value: str | None = None

    def __str__(self) -> str:
        """Return an order: ``set the namespace label a=b``."""
        if self.value is None:
            return f"remove the {self.owner} {self.key}"
        return f"set the {self.owner} {self.key}={self.value}"


@dataclass(frozen=True, slots=True)
class Subject:
    """What both gates see of a pod.

    ``namespace`` is that of the pod object, ``request_namespace`` the one it is
    created in; controllers leave the first empty.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    host_network: bool = False
    namespace: str = ""
    request_namespace: str = ""
    namespace_labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def lives_in(self) -> str:
        """The namespace that the pod ends up in."""
        return self.namespace or self.request_namespace

    @property
    def labels_of_namespace(self) -> Mapping[str, str]:
        """The namespace's labels, with the one that the API server keeps there itself."""
        if not self.lives_in:
            return self.namespace_labels
        return {**self.namespace_labels, NAMESPACE_NAME: self.lives_in}

    def edited(self, edits: Sequence[LabelEdit]) -> Subject:
        """Return the subject after the edits."""
        of = {
            LabelOwner.NAMESPACE: dict(self.namespace_labels),
            LabelOwner.LABEL: dict(self.labels),
            LabelOwner.ANNOTATION: dict(self.annotations),
        }
        for edit in edits:
            if edit.value is None:
                of[edit.owner].pop(edit.key, None)
            else:
                of[edit.owner][edit.key] = edit.value
        return replace(
            self,
            namespace_labels=of[LabelOwner.NAMESPACE],
            labels=of[LabelOwner.LABEL],
            annotations=of[LabelOwner.ANNOTATION],
        )


def subject_of(
    metadata: Mapping[str, object],
    spec: Mapping[str, object],
    *,
    namespace: str = "",
    namespace_labels: Mapping[str, str] | None = None,
) -> Subject:
    """Return what the gates see of a pod's metadata and spec.

    ``namespace`` is the one that the pod is created in. Values of labels and
    annotations that are no text are read as Istio reads them (``true``).
    """
    own = metadata.get("namespace")
    return Subject(
        _texts(metadata.get("labels")),
        _texts(metadata.get("annotations")),
        host_network=spec.get("hostNetwork") is True,
        namespace=own if isinstance(own, str) else "",
        request_namespace=namespace,
        namespace_labels=namespace_labels or {},
    )


def _texts(data: object) -> dict[str, str]:
    return {str(key): _text(value) for key, value in data.items()} if isinstance(data, dict) else {}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
