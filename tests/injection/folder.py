"""Where the conformance data of injection lies."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "ISTIO_INIT_INJECTION_CONFORMANCE"
_BESIDE_THE_CHECKOUT = Path(__file__).parents[3] / "shared" / "conformance" / "injection"


def conformance() -> Path | None:
    """Return the folder that the variable names, or the one beside the checkout if it is there."""
    named = os.environ.get(VARIABLE)
    if named:
        assert Path(named).is_dir(), f"{VARIABLE}: {named} is no folder"
        return Path(named)
    return _BESIDE_THE_CHECKOUT if _BESIDE_THE_CHECKOUT.is_dir() else None
