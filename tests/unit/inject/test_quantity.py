"""Quantities in Kubernetes' own spelling."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.inject.quantity import canonical_quantity
from tests.unit.settings import tried

_FACTORS = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    "": Fraction(1),
    **{suffix: Fraction(1000) ** power for power, suffix in enumerate("kMGTPE", 1)},
    **{f"{suffix}i": Fraction(1024) ** power for power, suffix in enumerate("KMGTPE", 1)},
}


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("2000m", "2"),
        ("1.5", "1500m"),
        (".5", "500m"),
        ("100m", "100m"),
        ("1000", "1k"),
        ("1200", "1200"),
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("0.5Ki", "512"),
        ("1000M", "1G"),
        ("1e3", "1e3"),
        ("12E3", "12e3"),
        ("100e-3", "100e-3"),
        ("0", "0"),
        ("0Mi", "0"),
        ("-1500m", "-1500m"),
        ("+2", "2"),
        ("0.1n", "1n"),
        ("1Ki", "1Ki"),
    ],
)
def test_a_quantity_gets_the_spelling_of_kubernetes(text: str, spelling: str) -> None:
    assert canonical_quantity(text) == spelling


@pytest.mark.parametrize("text", ["", "abc", "1Xi", "1 Gi", "1e999", "--1", "1mm", "٣"])
def test_what_is_no_quantity_stays(text: str) -> None:
    assert canonical_quantity(text) == text


@tried
@given(st.integers(0, 10**15), st.sampled_from(sorted(_FACTORS)))
def test_the_spelling_means_the_same_amount_and_is_its_own_spelling(
    number: int, suffix: str
) -> None:
    spelling = canonical_quantity(f"{number}{suffix}")
    assert canonical_quantity(spelling) == spelling
    digits = spelling.rstrip("numkMGTPEKi")
    assert Fraction(digits) * _FACTORS[spelling[len(digits) :]] == number * _FACTORS[suffix]
