"""How every property is tried: the same examples in every run, and without a clock."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("everywhere", derandomize=True, database=None, deadline=None)
settings.load_profile("everywhere")
