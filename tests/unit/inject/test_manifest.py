"""Text stays as it was but for what an injection adds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from istio_init.inject.manifest import rewrite
from istio_init.inject.splice import same
from istio_init.inject.yaml import load_documents
from tests.unit.inject.manifests import Layout, changed, documents, layouts

if TYPE_CHECKING:
    from collections.abc import Callable

    from istio_init.inject.manifest import ManifestDocument

_OTHER = "# an other one\napiVersion: v1 # c\nkind:   ConfigMap\ndata: {  a: y}\n"
_slow = settings(
    max_examples=int(__import__("os").environ.get("N", "100")),
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def _to(value: Any) -> Callable[[ManifestDocument], Any]:
    return lambda document: value if document.where.document == 1 else document.value


def _kept(document: ManifestDocument) -> Any:
    return document.value


def _without_nulls(value: Any) -> Any:
    """Return a value as Kubernetes sees it."""
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


@_slow
@given(st.data(), documents, layouts(), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_the_text_means_the_new_value_and_the_old_text_can_be_had_back(
    data: st.DataObject, value: Any, layout: Layout, newline: str, at_end: bool
) -> None:
    text = layout.write({"kind": "Test"} | value)
    text = text.removesuffix("\n") if at_end else f"{text}---\n{_OTHER}"
    text = text.replace("\n", newline)
    value = load_documents(text)[0].value
    new = {"kind": "Test"} | data.draw(changed(value))
    result = rewrite(text, "app.yaml", _to(new), record=True)
    try:
        after = load_documents(result.text)
    except Exception as e:
        raise AssertionError(f"{e}\nTEXT {text!r}\nAFTER {result.text!r} {new}")
    assert same(_without_nulls(after[0].value), _without_nulls(new)), (
        f"TEXT {text!r}\nAFTER {result.text!r}\n{new}"
    )
    if not at_end:
        assert result.text.endswith(f"---\n{_OTHER}".replace("\n", newline))
    before = rewrite(result.text, "app.yaml", _kept)
    assert before.text == text, f"TEXT {text!r}\nAFTER {result.text!r}\n{new}"
    again = rewrite(result.text, "app.yaml", _to(new), record=True)
    assert again.text == result.text
