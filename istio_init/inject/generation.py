"""The two generations of Istio's injection, by the release that stands for each."""

from __future__ import annotations

from typing import Literal

Generation = Literal["1.0", "1.30"]

OLD: Generation = "1.0"
NEW: Generation = "1.30"
GENERATIONS: tuple[Generation, ...] = (OLD, NEW)
