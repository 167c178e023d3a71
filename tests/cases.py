"""One table of cases for every level of the tests.

A case is a call and the state it must lead to in an empty namespace. The
conformance cases were taken from kernels after the original programs had run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFORMANCE = Path(__file__).parent / "conformance"


@dataclass(frozen=True)
class Case:
    """A call of ``istio-init`` and the state of a namespace after it."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str]
    expected: dict[str, Any]

    @property
    def route_table(self) -> str:
        """The route table whose routes ``expected`` lists."""
        return self.env.get("ISTIO_INBOUND_TPROXY_ROUTE_TABLE", "133")

    def __str__(self) -> str:
        return self.name


def _read(path: Path) -> Case:
    data = json.loads(path.read_text(encoding="utf-8"))
    return Case(data["name"], tuple(data["argv"]), data["env"], data["expected"])


CASES = tuple(_read(path) for path in sorted(CONFORMANCE.glob("*.json")))
