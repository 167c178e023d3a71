"""Annotations for Prometheus: the proxy's agent serves the application's metrics as well.

What Prometheus is told changes to the agent's port; what it was told before is kept for
the agent in a variable of the proxy. Names and form are Istio's (release 1.30).
"""

from __future__ import annotations

import json
import re
from typing import Any

from istio_init.inject.booleans import parse_boolean
from istio_init.inject.containers import (
    annotations_of,
    variable,
    with_annotations,
    with_metadata_map,
    with_proxy,
    with_variable,
)
from istio_init.inject.names import MERGE_METRICS, METRICS_VARIABLE
from istio_init.inject.pod_values import go_json

JsonMap = dict[str, Any]

_PREFIX = "prometheus.io/"
_PATH = "/stats/prometheus"
_WORDS = {f"prometheus_io_{word}": word for word in ("scrape", "path", "port")}
_NO_NAME = re.compile(r"[^a-zA-Z0-9_]")


def _word(key: str) -> str | None:
    """Return what a key means to Prometheus, which replaces all but letters and digits."""
    return _WORDS.get(_NO_NAME.sub("_", key)) if key.startswith("prometheus") else None


def _given(pod: JsonMap) -> list[tuple[str, str, str]]:
    """Return the pod's annotations for Prometheus: key, meaning and value, sorted."""
    return sorted(
        (key, word, value) for key, value in annotations_of(pod).items() if (word := _word(key))
    )


def merge_metrics(pod: JsonMap, port: int, *, enabled: bool) -> JsonMap:
    """Return the pod with the agent's ``port`` for Prometheus.

    The pod stays as it is where the mesh (``enabled``) or the pod's annotation says so,
    where it is not to be scraped, or where the port is the agent's already.
    """
    wish = parse_boolean(annotations_of(pod).get(MERGE_METRICS, ""))
    if not (enabled if wish is None else wish):
        return pod
    given = _given(pod)
    if any(word == "scrape" and parse_boolean(value) is False for _, word, value in given):
        return pod
    if any(word == "port" and value == str(port) for _, word, value in given):
        return pod
    saved = dict.fromkeys(_WORDS.values(), "") | {word: value for _, word, value in given}
    if given and any(saved.values()):
        text = go_json(saved)
        pod = with_proxy(pod, lambda proxy: with_variable(proxy, METRICS_VARIABLE, text))
    own = {"path": _PATH, "port": str(port), "scrape": "true"}
    return with_annotations(without_metrics(pod), {_PREFIX + key: own[key] for key in own})


def without_metrics(pod: JsonMap) -> JsonMap:
    """Return the pod without any annotation for Prometheus."""
    kept = {key: value for key, value in annotations_of(pod).items() if not _word(key)}
    return with_metadata_map(pod, "annotations", kept)


def restore_metrics(pod: JsonMap, proxy: JsonMap | None) -> JsonMap:
    """Return the pod with the annotations that its proxy's container has saved.

    Only if those that it has are an injector's own.
    """
    given = {word: value for _, word, value in _given(pod)}
    if given.get("path") != _PATH or given.get("scrape") != "true":
        return pod
    saved = read_saved_metrics(proxy) if proxy is not None else {}
    return with_annotations(
        without_metrics(pod), {_PREFIX + word: value for word, value in saved.items() if value}
    )


def read_saved_metrics(proxy: JsonMap) -> dict[str, str]:
    """Return what a proxy's container has saved of annotations for Prometheus."""
    text = variable(proxy, METRICS_VARIABLE)
    try:
        saved = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    if not isinstance(saved, dict):
        return {}
    return {word: saved[word] for word in _WORDS.values() if isinstance(saved.get(word), str)}
