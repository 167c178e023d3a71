"""How properties are tried here: the same examples in every run, without clocks."""

from __future__ import annotations

from hypothesis import settings

tried = settings(max_examples=300, derandomize=True, database=None, deadline=None)
# For whole rule sets, which take long to draw.
tried_less = settings(tried, max_examples=40)
