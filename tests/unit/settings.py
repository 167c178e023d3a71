"""How properties are tried here: the same examples in every run, without clocks."""

from __future__ import annotations

from hypothesis import settings

tried = settings(max_examples=200, derandomize=True, database=None, deadline=None)
tried_more = settings(tried, max_examples=400)
# For whole rule sets, which take long to draw and to work on.
tried_less = settings(tried, max_examples=40)
