"""What an injection records of itself in the annotation ``sidecar.istio.io/status``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from istio_init.inject.names import STATUS
from istio_init.inject.pod_values import go_json

JsonMap = dict[str, Any]

LISTS = ("initContainers", "containers", "volumes", "imagePullSecrets")


@dataclass(frozen=True, slots=True)
class InjectionStatus:
    """The names that an injection added, by list.

    ``version`` is written by release 1.0 alone, ``revision`` by 1.30. ``own`` says that
    this program wrote a record of release 1.0.
    """

    names: dict[str, tuple[str, ...]]
    version: str = ""
    revision: str = ""
    own: bool = False

    def of(self, field: str) -> tuple[str, ...]:
        """Return the names of one list."""
        return self.names.get(field, ())


def names_of(spec: JsonMap) -> JsonMap:
    """Return the names in a template's lists, None for a list that it lacks."""
    return {
        field: [item.get("name", "") for item in spec.get(field) or []] or None for field in LISTS
    }


def status_text(spec: JsonMap, revision: str) -> str:
    """Return the annotation of release 1.30 for what the template's ``spec`` adds."""
    return go_json({**names_of(spec), "revision": revision or "default"})


# Istio 1.0 by hand injects a pod of its own a second time, and so does this program; it
# knows its own records, so as to do better with those, by the blanks of this layout.
OWN_LAYOUT = (", ", ": ")
_OWN_MARK = '"version": "'


def old_status_text(added: dict[str, list[JsonMap]], version: str) -> str:
    """Return the annotation of release 1.0 for what its template adds."""
    return json.dumps({"version": version, **names_of(added)}, separators=OWN_LAYOUT)


def read_status(pod: JsonMap) -> InjectionStatus | None:
    """Return what the last injection recorded; None if there was none.

    A record that cannot be read has no names.
    """
    text = (pod["metadata"].get("annotations") or {}).get(STATUS)
    if text is None:
        return None
    try:
        data = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        return InjectionStatus({})
    names = {
        field: tuple(name for name in data[field] if isinstance(name, str))
        for field in LISTS
        if isinstance(data.get(field), list)
    }
    version, revision = (
        value if isinstance(value := data.get(key), str) else "" for key in ("version", "revision")
    )
    return InjectionStatus(names, version, revision, own=_OWN_MARK in text)
