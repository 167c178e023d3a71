"""No start of the program costs more than a person has agreed to."""

from __future__ import annotations

import pytest

from tests.cost import STARTS, told
from tests.unit.goldens import cost_path


@pytest.mark.parametrize("name", STARTS)
def test_a_start_costs_what_the_golden_says(name: str) -> None:
    assert told(STARTS[name]) == cost_path(name).read_text(encoding="utf-8")
