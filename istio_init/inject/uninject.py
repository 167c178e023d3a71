"""The exact removal of an injection from manifests, whoever made it.

Text that this program injected has a record, by which every byte comes back.
Of what istioctl injected, or a cluster returned, the values come back: those
that the status annotation and the saved probes and annotations tell.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from istio_init.inject.kinds import ALL_PLACES, pod_carriers
from istio_init.inject.manifest import rewrite
from istio_init.inject.problems import InjectionError, warning
from istio_init.inject.quantity import canonical_quantity
from istio_init.inject.recover import is_injected, recover_original
from istio_init.inject.scalars import key_text
from istio_init.inject.splice import same

if TYPE_CHECKING:
    from istio_init.inject.manifest import ManifestDocument, Rewritten
    from istio_init.inject.plain_data import PlainValue
    from istio_init.inject.problems import Problem

JsonMap = dict[str, Any]

# What an injection changes in place: where a probe or a hook asks.
_REWRITTEN = ("httpGet", "tcpSocket", "grpc")
_REPLACED_KEY = re.compile(r"prometheus[^a-zA-Z0-9]io[^a-zA-Z0-9](scrape|port|path)")


def uninject(data: str | bytes, source: str = "") -> Rewritten:
    """Return a file without the injections in it.

    What was not injected stays byte for byte. A record that brings back what the
    document does not have is used, with a warning. Raises ``InjectionError`` for
    a file that cannot be read, and for annotations that make no sense.
    """
    warnings: list[Problem] = []

    def trust(document: ManifestDocument) -> bool:
        if not belong_together(document):
            what = "the record behind the document brings back what it does not have"
            remedy = "look at the result before you use it"
            warnings.append(warning(what, document.where, remedy=remedy))
        return True

    written = rewrite(data, source, without_injections, trust=trust)
    return replace(written, notes=(*warnings, *written.notes))


def without_injections(document: ManifestDocument) -> PlainValue:
    """Return the value of a document without the injections that its annotations tell of.

    Raises ``InjectionError`` for annotations that make no sense.
    """
    value = document.value
    for carrier in pod_carriers(value, ALL_PLACES):
        pod = {"metadata": carrier.metadata, "spec": carrier.spec}
        if not is_injected(pod):
            continue
        try:
            original = recover_original(pod)
        except InjectionError as problem:
            raise problem.within(carrier.where.filled(document.where)) from None
        value = carrier.replaced(value, original["metadata"], original["spec"])
    return value


def belong_together(document: ManifestDocument) -> bool:
    """Whether a document's value can be what it was before its injection.

    A record is a comment, at which nobody looks: it may say how the text looked,
    but it is to bring nothing in. Each value must stand in the live document or in
    what that one's annotations give back, but for where probes ask, and for what
    the merge of metrics replaces.
    """
    live = document.live
    try:
        recovered = without_injections(replace(document, value=live))
    except InjectionError:
        return False
    return _is_part(document.value, (live, recovered))


def _is_part(value: PlainValue, wholes: tuple[PlainValue, ...]) -> bool:
    """Whether everything in a value is in the same place of one of the others."""
    if isinstance(value, dict):
        maps = [one for one in wholes if isinstance(one, dict)]
        if not maps:
            return not value
        return all(
            key in _REWRITTEN
            or _REPLACED_KEY.fullmatch(key)
            or _is_empty(one)
            or _is_part(one, tuple(whole[key] for whole in maps if key in whole))
            for key, one in value.items()
        )
    if isinstance(value, list):
        items = [item for one in wholes if isinstance(one, list) for item in one]
        return all(_is_part(item, _namesakes(item, items)) for item in value)
    text = key_text(value)
    return _is_empty(value) or any(
        same(value, one) or text == one or (text is not None and _same_quantity(text, one))
        for one in wholes
    )


def _same_quantity(text: str, other: object) -> bool:
    """Whether two texts are one quantity: ``1500m`` and ``1.5``."""
    if not isinstance(other, str) or not text[:1].isdigit():
        return False
    return canonical_quantity(text) == canonical_quantity(other)


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, dict | list) and not value)


def _namesakes(item: PlainValue, items: list[PlainValue]) -> tuple[PlainValue, ...]:
    name = item.get("name") if isinstance(item, dict) else None
    if name is None:
        return tuple(items)
    return tuple(one for one in items if isinstance(one, dict) and one.get("name") == name)
