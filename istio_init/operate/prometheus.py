"""What an audit says, in Prometheus' text format for node_exporter's textfile collector."""

from __future__ import annotations

import time

from istio_init.lean import TYPE_CHECKING
from istio_init.operate.fleet import VERDICTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from istio_init.operate.fleet import Row, Totals


def exposition(rows: Iterable[Row], totals: Totals) -> Iterator[str]:
    """Yield the lines; those of one metric stand together.

    ``rows`` is read to its end first: ``totals`` has to count it meanwhile.
    """
    yield "# HELP istio_init_pod_drift Whether the rules in a pod differ from what is planned.\n"
    yield "# TYPE istio_init_pod_drift gauge\n"
    for row in rows:
        if row["verdict"] in ("ok", "drift"):
            names = ("netns", "pid", "pod", "backend", "layout", "mode")
            labels = {name: str(row[name] or "") for name in names}
            yield _sample("istio_init_pod_drift", labels, int(row["verdict"] == "drift"))
    yield "# HELP istio_init_pods Network namespaces of pods on this node, by verdict.\n"
    yield "# TYPE istio_init_pods gauge\n"
    for verdict in VERDICTS:
        yield _sample("istio_init_pods", {"verdict": verdict}, totals.verdicts[verdict])
    yield "# HELP istio_init_findings Findings of drift in all pods of this node, by kind.\n"
    yield "# TYPE istio_init_findings gauge\n"
    for kind in sorted(totals.findings):
        yield _sample("istio_init_findings", {"kind": kind}, totals.findings[kind])
    yield "# HELP istio_init_audit_duration_seconds How long the last audit took.\n"
    yield "# TYPE istio_init_audit_duration_seconds gauge\n"
    yield _sample("istio_init_audit_duration_seconds", {}, time.monotonic() - totals.began)
    yield "# HELP istio_init_audit_timestamp_seconds When the last audit ended, in Unix time.\n"
    yield "# TYPE istio_init_audit_timestamp_seconds gauge\n"
    yield _sample("istio_init_audit_timestamp_seconds", {}, time.time())


def _sample(name: str, labels: dict[str, str], value: float) -> str:
    inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    number = f"{value:.3f}" if isinstance(value, float) else str(value)
    return f"{name}{{{inside}}} {number}\n" if inside else f"{name} {number}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
