"""The webhook's metrics: Istio's names, with reasons, and what a person on call wants beside them.

Source of the names and of the buckets of whole seconds: istio 1.30, pkg/kube/inject, monitoring.
"""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from istio_init.inject.webhook import Outcome

# An injection takes milliseconds; the whole seconds are Istio's.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 1, 3, 5, 10, 20, 30, 60)


class WebhookMetrics:
    """All metrics of one webhook, in a registry of their own."""

    def __init__(self) -> None:
        # Each counter would have a second line with the time of its creation.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        own = self._registry = CollectorRegistry()
        self.requests = Counter("sidecar_injection_requests", "Reviews of a pod.", registry=own)
        self.success = Counter(
            "sidecar_injection_success", "Pods that were injected.", registry=own
        )
        self.skip = Counter(
            "sidecar_injection_skip", "Pods that were let through.", ["reason"], registry=own
        )
        self.failure = Counter(
            "sidecar_injection_failure", "Pods that were refused.", ["reason"], registry=own
        )
        self.time = Histogram(
            "sidecar_injection_time_seconds",
            "From a request's last byte to its answer.",
            buckets=_SECONDS,
            registry=own,
        )
        self.rejected = Counter(
            "istio_init_webhook_rejected",
            "Requests that were answered without a look at the pod.",
            ["reason"],
            registry=own,
        )
        self.pending = Gauge(
            "istio_init_webhook_pending", "Requests that wait for their answer.", registry=own
        )
        self.patch_attempts = Counter(
            "webhook_patch_attempts", "Attempts to write the caBundle.", ["name"], registry=own
        )
        self.patch_retries = Counter(
            "webhook_patch_retries", "Attempts after a conflict.", ["name"], registry=own
        )
        self.patch_failures = Counter(
            "webhook_patch_failures",
            "Attempts that failed for good.",
            ["name", "reason"],
            registry=own,
        )
        self.reloads = Counter(
            "istio_init_webhook_reloads",
            "Files that were read anew.",
            ["what", "result"],
            registry=own,
        )
        self.stale = Gauge(
            "istio_init_webhook_stale",
            "1 while a bad file is passed over, and the one before it is in use.",
            ["what"],
            registry=own,
        )
        self.certificate_expiry = Gauge(
            "istio_init_webhook_certificate_expiry_timestamp_seconds",
            "When the serving certificate expires.",
            registry=own,
        )
        self.events = Counter(
            "istio_init_webhook_events", "Events that were written.", ["result"], registry=own
        )

    def count(self, outcome: Outcome, reason: str, seconds: float) -> None:
        """Count a review that was answered."""
        self.time.observe(seconds)
        if outcome is Outcome.INJECTED:
            self.success.inc()
        elif outcome is Outcome.SKIPPED:
            self.skip.labels(reason).inc()
        else:
            self.failure.labels(reason).inc()

    def text(self) -> bytes:
        """Return the metrics in the format of Prometheus."""
        return generate_latest(self._registry)


CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
