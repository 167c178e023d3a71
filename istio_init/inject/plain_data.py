"""Names for what has no type of its own: data as JSON has it, and PyYAML's nodes."""

from __future__ import annotations

from typing import Any, TypeAlias

PlainValue: TypeAlias = Any
"""Plain data: a dict with string keys, a list, a string, a number, a boolean or None."""

YamlNode: TypeAlias = Any
"""A node of PyYAML's: what was written where."""
