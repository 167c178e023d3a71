"""Sprig's functions over numbers: whole ones are int64, the others float64."""

from __future__ import annotations

import math
from decimal import Decimal, InvalidOperation, localcontext
from typing import TYPE_CHECKING

from istio_init.inject.template.errors import FunctionError, LimitError
from istio_init.inject.template.functions import Registry
from istio_init.inject.template.printing import sprint
from istio_init.inject.template.sprig.convert import (
    MAX_ITEMS,
    floating,
    integer,
    parse_integer,
    wrapped,
)
from istio_init.inject.template.values import Int64, Value

if TYPE_CHECKING:
    from collections.abc import Callable

FUNCTIONS = Registry()
MAX_POWER = 308


@FUNCTIONS.add("atoi", "string", gives_text=False)
def _atoi(text: str) -> int:
    digits = text.lstrip("+-")
    if len(text) - len(digits) > 1 or not digits.isascii() or not digits.isdigit():
        return 0
    if len(digits) > 19:
        return -(2**63) if text[0] == "-" else 2**63 - 1
    return max(-(2**63), min(2**63 - 1, int(text)))


@FUNCTIONS.add("int64", "any", gives_text=False)
def _int64(value: Value) -> Int64:
    return Int64(integer(value))


@FUNCTIONS.add("int", "any", gives_text=False)
def _int(value: Value) -> int:
    return integer(value)


@FUNCTIONS.add("float64", "any", gives_text=False)
def _float64(value: Value) -> float:
    return floating(value)


@FUNCTIONS.add("toDecimal", "any", gives_text=False)
def _to_decimal(value: Value) -> Int64:
    text = sprint((value,))
    digits = text.lstrip("+-")
    if len(text) - len(digits) > 1 or not digits or set(digits) - set("01234567"):
        return Int64(0)
    return Int64(parse_integer(text[: len(text) - len(digits)] + "0" + digits, default=0))


@FUNCTIONS.add("add1", "any", gives_text=False)
def _add1(value: Value) -> Int64:
    return wrapped(integer(value) + 1)


@FUNCTIONS.add("add", "...any", gives_text=False)
def _add(*values: Value) -> Int64:
    return wrapped(sum(integer(value) for value in values))


@FUNCTIONS.add("sub", "any; any", gives_text=False)
def _sub(first: Value, second: Value) -> Int64:
    return wrapped(integer(first) - integer(second))


@FUNCTIONS.add("mul", "any; ...any", gives_text=False)
def _mul(*values: Value) -> Int64:
    product = 1
    for value in values:
        product = wrapped(product * integer(value))
    return Int64(product)


def _divided(first: Value, second: Value) -> tuple[int, int]:
    """Return the quotient and rest of a division that rounds towards zero."""
    one, other = integer(first), integer(second)
    if not other:
        raise FunctionError("nothing can be divided by 0")
    quotient = abs(one) // abs(other)
    if (one < 0) is not (other < 0):
        quotient = -quotient
    return quotient, one - quotient * other


@FUNCTIONS.add("div", "any; any", gives_text=False)
def _div(first: Value, second: Value) -> Int64:
    return wrapped(_divided(first, second)[0])


@FUNCTIONS.add("mod", "any; any", gives_text=False)
def _mod(first: Value, second: Value) -> Int64:
    return wrapped(_divided(first, second)[1])


@FUNCTIONS.add("max biggest", "any; ...any", gives_text=False)
def _max(*values: Value) -> Int64:
    return Int64(max(integer(value) for value in values))


@FUNCTIONS.add("min", "any; ...any", gives_text=False)
def _min(*values: Value) -> Int64:
    return Int64(min(integer(value) for value in values))


def _chosen(values: tuple[Value, ...], choose: Callable[..., float]) -> float:
    numbers = [floating(value) for value in values]
    return float("nan") if any(map(math.isnan, numbers)) else choose(numbers)


@FUNCTIONS.add("maxf", "any; ...any", gives_text=False)
def _maxf(*values: Value) -> float:
    return _chosen(values, max)


@FUNCTIONS.add("minf", "any; ...any", gives_text=False)
def _minf(*values: Value) -> float:
    return _chosen(values, min)


@FUNCTIONS.add("floor", "any", gives_text=False)
def _floor(value: Value) -> float:
    number = floating(value)
    return float(math.floor(number)) if math.isfinite(number) else number


@FUNCTIONS.add("ceil", "any", gives_text=False)
def _ceil(value: Value) -> float:
    number = floating(value)
    return float(math.ceil(number)) if math.isfinite(number) else number


@FUNCTIONS.add("round", "any; int; ...float64", gives_text=False)
def _round(value: Value, places: int, *limits: float) -> float:
    if abs(places) > MAX_POWER:
        raise FunctionError(f"a number cannot be rounded to {places} places")
    power = math.pow(10, places)
    digit = power * floating(value)
    if not math.isfinite(digit):
        return digit / power
    rest = math.modf(digit)[0]
    up = rest >= (limits[0] if limits else 0.5)
    return (math.ceil(digit) if up else math.floor(digit)) / power


# Decimal arithmetic: 0.1 plus 0.2 is 0.3


def _decimals(
    first: Value, others: tuple[Value, ...], work: Callable[[Decimal, Decimal], Decimal]
) -> float:
    """Return what ``work`` makes of the values one after the other, in decimal numbers."""
    with localcontext() as context:
        context.prec = 400
        try:
            result = _decimal(first)
            for other in others:
                result = work(result, _decimal(other))
            return float(result)
        except (InvalidOperation, OverflowError, ZeroDivisionError):
            raise FunctionError("these numbers cannot be used so") from None


def _decimal(value: Value) -> Decimal:
    number = floating(value)
    if not math.isfinite(number):
        raise FunctionError("the number is not finite")
    return Decimal(repr(number))


def _quotient(first: Decimal, second: Decimal) -> Decimal:
    if not second:
        raise FunctionError("nothing can be divided by 0")
    # The original keeps sixteen places of a division.
    return (first / second).quantize(Decimal("1e-16"))


@FUNCTIONS.add("add1f", "any", gives_text=False)
def _add1f(value: Value) -> float:
    return _decimals(value, (1,), lambda one, other: one + other)


@FUNCTIONS.add("addf", "...any", gives_text=False)
def _addf(*values: Value) -> float:
    return _decimals(0.0, values, lambda one, other: one + other)


@FUNCTIONS.add("subf", "any; ...any", gives_text=False)
def _subf(first: Value, *others: Value) -> float:
    return _decimals(first, others, lambda one, other: one - other)


@FUNCTIONS.add("mulf", "any; ...any", gives_text=False)
def _mulf(first: Value, *others: Value) -> float:
    return _decimals(first, others, lambda one, other: one * other)


@FUNCTIONS.add("divf", "any; ...any", gives_text=False)
def _divf(first: Value, *others: Value) -> float:
    return _decimals(first, others, _quotient)


# Sequences


def _stepped(start: int, stop: int, step: int) -> range:
    """Return sprig's untilStep: nothing where the step leads away from the end."""
    if (stop < start and step >= 0) or (stop >= start and step <= 0):
        return range(0)
    numbers = range(start, stop, step)
    if len(numbers) > MAX_ITEMS:
        raise LimitError(f"the list would have more than {MAX_ITEMS} items")
    return numbers


@FUNCTIONS.add("until", "int", gives_text=False)
def _until(count: int) -> list[int]:
    return [*_stepped(0, count, -1 if count < 0 else 1)]


@FUNCTIONS.add("untilStep", "int; int; int", gives_text=False)
def _until_step(start: int, stop: int, step: int) -> list[int]:
    return [*_stepped(start, stop, step)]


@FUNCTIONS.add("seq", "...int", gives_text=False)
def _seq(*numbers: int) -> str:
    if not numbers or len(numbers) > 3:
        return ""
    start, end = (1, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[-1])
    direction = -1 if end < start else 1
    step = numbers[1] if len(numbers) == 3 else direction
    if len(numbers) == 3 and direction < 0 < step:
        return ""
    return " ".join(map(str, _stepped(start, end + direction, step)))
