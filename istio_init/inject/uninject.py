"""The exact removal of an injection from manifests, whoever made it.

Text that this program injected has a record, by which every byte comes back.
Of what istioctl injected, or a cluster returned, the values come back: those
that the status annotation and the saved probes and annotations tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from istio_init.inject.kinds import ALL_PLACES, pod_carriers
from istio_init.inject.manifest import rewrite
from istio_init.inject.problems import InjectionError
from istio_init.inject.recover import is_injected, recover_original
from istio_init.inject.splice import same

if TYPE_CHECKING:
    from istio_init.inject.kinds import PodCarrier
    from istio_init.inject.manifest import ManifestDocument, Rewritten

JsonMap = dict[str, Any]

# What an injection changes in place: where a probe or a hook asks.
_REWRITTEN = ("httpGet", "tcpSocket", "grpc")


def uninject(data: str | bytes, source: str = "") -> Rewritten:
    """Return a file without the injections in it.

    What was not injected stays byte for byte. Raises ``InjectionError`` for a
    file that cannot be read, and for records that make no sense.
    """
    return rewrite(data, source, _without_injections, trust=belong_together)


def _without_injections(document: ManifestDocument) -> Any:  # noqa: ANN401 - plain data
    value = document.value
    for carrier in pod_carriers(value, ALL_PLACES):
        if is_injected(_pod(carrier)):
            value = _recovered(value, carrier, document)
    return value


def _recovered(value: Any, carrier: PodCarrier, document: ManifestDocument) -> Any:  # noqa: ANN401
    try:
        original = recover_original(_pod(carrier))
    except InjectionError as problem:
        raise problem.within(carrier.where.filled(document.where)) from None
    return carrier.replaced(value, original["metadata"], original["spec"])


def _pod(carrier: PodCarrier) -> JsonMap:
    return {"metadata": carrier.metadata, "spec": carrier.spec}


def belong_together(live: Any, before: Any) -> bool:  # noqa: ANN401 - plain data
    """Whether ``before`` can be what a document was before the injection that made ``live`` of it.

    A record is a comment, which nobody looks at: it may say how the text looked,
    but it brings nothing in. Each value of ``before`` must stand in ``live`` or
    in what the annotations of ``live`` give back, but for where probes ask.
    """
    if not isinstance(live, dict) or not isinstance(before, dict):
        return False
    recovered = live
    try:
        for carrier in pod_carriers(live, ALL_PLACES):
            original = recover_original(_pod(carrier))
            recovered = carrier.replaced(recovered, original["metadata"], original["spec"])
    except InjectionError:
        return False
    return _is_part(before, (live, recovered))


def _is_part(value: Any, wholes: tuple[Any, ...]) -> bool:  # noqa: ANN401 - plain data
    """Whether everything in a value is in the same place of one of the others."""
    if isinstance(value, dict):
        maps = [one for one in wholes if isinstance(one, dict)]
        if not maps:
            return not value
        return all(
            key in _REWRITTEN
            or _is_empty(one)
            or _is_part(one, tuple(whole[key] for whole in maps if key in whole))
            for key, one in value.items()
        )
    if isinstance(value, list):
        items = [item for one in wholes if isinstance(one, list) for item in one]
        return all(_is_part(item, _namesakes(item, items)) for item in value)
    return _is_empty(value) or any(same(value, one) or str(value) == one for one in wholes)


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, dict | list) and not value)


def _namesakes(item: Any, items: list[Any]) -> tuple[Any, ...]:  # noqa: ANN401
    name = item.get("name") if isinstance(item, dict) else None
    if name is None:
        return tuple(items)
    return tuple(one for one in items if isinstance(one, dict) and one.get("name") == name)
