"""Label selectors as Kubernetes evaluates them.

Source: Kubernetes 1.33, apimachinery, LabelSelectorAsSelector and
Requirement.Matches.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from istio_init.inject.problems import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# A name of at most 63 characters, before it at most one DNS name of at most 253.
_NAME = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_PREFIX = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
)


class SelectorError(ValueError):
    """A selector that Kubernetes would not accept."""


class Operator(StrEnum):
    """How a requirement looks at a label. An absent label fits ``NotIn`` and ``DoesNotExist``."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one label."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels meets the condition."""
        match self.operator:
            case Operator.IN:
                return labels.get(self.key) in self.values if self.key in labels else False
            case Operator.NOT_IN:
                return self.key not in labels or labels[self.key] not in self.values
            case Operator.EXISTS:
                return self.key in labels
            case Operator.DOES_NOT_EXIST:
                return self.key not in labels

    def __str__(self) -> str:
        """Return the condition as kubectl's ``-l`` takes it."""
        values = ", ".join(self.values)
        match self.operator:
            case Operator.IN if len(self.values) == 1:
                return f"{self.key}={values}"
            case Operator.IN:
                return f"{self.key} in ({values})"
            case Operator.NOT_IN if len(self.values) == 1:
                return f"{self.key}!={values}"
            case Operator.NOT_IN:
                return f"{self.key} notin ({values})"
            case Operator.EXISTS:
                return self.key
            case Operator.DOES_NOT_EXIST:
                return f"!{self.key}"


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """Requirements that must all be met; without any it matches every object."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is selected."""
        return all(requirement.matches(labels) for requirement in self.requirements)

    def unmet(self, labels: Mapping[str, str]) -> tuple[Requirement, ...]:
        """Return the requirements that keep an object with these labels out."""
        return tuple(one for one in self.requirements if not one.matches(labels))

    def __str__(self) -> str:
        """Return the selector as kubectl's ``-l`` takes it, ``everything`` for an empty one."""
        return ",".join(str(one) for one in self.requirements) or "everything"


EVERYTHING = LabelSelector()


def parse_selector(data: object) -> LabelSelector:
    """Return the selector of a ``matchLabels`` and ``matchExpressions`` mapping; None selects all.

    Raises:
        SelectorError: Kubernetes would not accept it; the text says why.
    """
    if data is None:
        return EVERYTHING
    if not isinstance(data, dict):
        raise SelectorError(f"a selector is a mapping, not {quoted(data)}")
    unknown = data.keys() - {"matchLabels", "matchExpressions"}
    if unknown:
        raise SelectorError(f"a selector has no field {quoted(min(map(str, unknown)))}")
    return LabelSelector((*_labels(data.get("matchLabels")), *_expressions(data)))


def _labels(data: object) -> Iterator[Requirement]:
    if data is None:
        return
    if not isinstance(data, dict):
        raise SelectorError(f"matchLabels is a mapping, not {quoted(data)}")
    for key, value in sorted(data.items(), key=lambda item: str(item[0])):
        yield _requirement(key, Operator.IN, [value])


def _expressions(data: dict[str, object]) -> Iterator[Requirement]:
    expressions = data.get("matchExpressions")
    if expressions is None:
        return
    if not isinstance(expressions, list):
        raise SelectorError(f"matchExpressions is a list, not {quoted(expressions)}")
    for expression in expressions:
        if not isinstance(expression, dict):
            raise SelectorError(f"an expression is a mapping, not {quoted(expression)}")
        try:
            operator = Operator(str(expression.get("operator")))
        except ValueError:
            known = ", ".join(Operator)
            raise SelectorError(
                f"{quoted(expression.get('operator'))} is not an operator ({known})"
            ) from None
        yield _requirement(expression.get("key"), operator, expression.get("values") or [])


def _requirement(key: object, operator: Operator, values: object) -> Requirement:
    if not isinstance(key, str) or not is_label_key(key):
        raise SelectorError(f"{quoted(key)} is not the key of a label")
    if not isinstance(values, list):
        raise SelectorError(f"the values of {key} are a list, not {quoted(values)}")
    for value in values:
        if not isinstance(value, str) or not is_label_value(value):
            raise SelectorError(f"{quoted(value)} is not the value of a label")
    takes_values = operator in (Operator.IN, Operator.NOT_IN)
    if takes_values and not values:
        raise SelectorError(f"{key}: operator {operator} needs values")
    if values and not takes_values:
        raise SelectorError(f"{key}: operator {operator} takes no values")
    return Requirement(key, operator, tuple(values))


def is_label_key(text: str) -> bool:
    """Whether Kubernetes takes the text for the key of a label."""
    prefix, slash, name = text.rpartition("/")
    return bool(_NAME.fullmatch(name)) and (not slash or bool(_PREFIX.fullmatch(prefix)))


def is_label_value(text: str) -> bool:
    """Whether Kubernetes takes the text for the value of a label."""
    return not text or bool(_NAME.fullmatch(text))
