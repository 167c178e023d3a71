"""Pods to inject, and what is common to the tests of their injection."""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]

PROXY: Json = {"name": "istio-proxy", "image": "proxy:1"}


def pod(*containers: Json, **fields: object) -> Json:
    """Return a pod of these containers; ``labels`` and ``annotations`` are its metadata's."""
    metadata = {key: fields.pop(key) for key in ("labels", "annotations") if key in fields}
    return {"metadata": metadata, "spec": {"containers": list(containers), **fields}}


def container(own_name: str = "app", /, **fields: object) -> Json:
    return {"name": own_name, "image": f"{own_name}:1", **fields}


def variables(one: Json) -> dict[str, str]:
    """Return a container's variables."""
    return {entry["name"]: entry.get("value", "") for entry in one.get("env", ())}


def status(**names: object) -> dict[str, str]:
    """Return the annotation that an injection of release 1.30 left."""
    data = {"initContainers": None, "containers": None, "volumes": None, "imagePullSecrets": None}
    text = json.dumps({**data, "revision": "default", **names})
    return {"sidecar.istio.io/status": text, "istio.io/rev": "default"}
