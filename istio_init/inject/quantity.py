"""Kubernetes' quantities (``100m``, ``1Gi``) in the spelling that Kubernetes gives them."""

from __future__ import annotations

import re
from fractions import Fraction

_FORM = re.compile(r"([+-]?)([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:([eE][+-]?[0-9]+)|([A-Za-z]{0,2}))")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL_SUFFIX = {exponent: suffix for suffix, exponent in _DECIMAL.items()}
_BINARY_SUFFIX = {exponent: suffix for suffix, exponent in _BINARY.items()}
# An exponent of more digits is no amount of anything, and a number that takes long to write.
_LARGEST_EXPONENT = 99


def canonical_quantity(text: str) -> str:
    """Return a quantity as Kubernetes writes it: ``2000m`` as ``2``, ``1024Mi`` as ``1Gi``.

    What is no quantity comes back as it is. The rules are those of Kubernetes'
    ``resource.Quantity``: the largest suffix without a fraction, in the family that the
    text uses; what is smaller than a billionth is rounded up.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        return text
    sign, digits, power, suffix = match.groups()
    number = Fraction(digits if digits[0] != "." else f"0{digits}") * (-1 if sign == "-" else 1)
    if power is not None:
        exponent = int(power[1:])
        if abs(exponent) > _LARGEST_EXPONENT:
            return text
        return _decimal(number * Fraction(10) ** exponent, with_suffix=False)
    if suffix in _DECIMAL:
        return _decimal(number * Fraction(10) ** _DECIMAL[suffix], with_suffix=True)
    if suffix in _BINARY:
        return _binary(number * 1024 ** _BINARY[suffix])
    return text


def _decimal(number: Fraction, *, with_suffix: bool) -> str:
    nano = number * 10**9
    count = (
        -((-nano.numerator) // nano.denominator)
        if nano >= 0
        else nano.numerator // nano.denominator
    )
    if count == 0:
        return "0"
    exponent = -9
    highest = 18 if with_suffix else _LARGEST_EXPONENT
    while count % 1000 == 0 and exponent < highest:
        count //= 1000
        exponent += 3
    if with_suffix:
        return f"{count}{_DECIMAL_SUFFIX[exponent]}"
    return f"{count}e{exponent}" if exponent else str(count)


def _binary(number: Fraction) -> str:
    if abs(number) < 1024 or number.denominator != 1:
        return _decimal(number, with_suffix=True)
    count, exponent = number.numerator, 0
    while count % 1024 == 0 and exponent < 6:
        count //= 1024
        exponent += 1
    return f"{count}{_BINARY_SUFFIX[exponent]}" if exponent else str(count)
