"""Sprig's functions whose results depend on more than their arguments: they refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from istio_init.inject.template.errors import FunctionError
from istio_init.inject.template.functions import Registry

if TYPE_CHECKING:
    from istio_init.inject.template.values import Value

FUNCTIONS = Registry()

_CLOCK = "it reads the clock or the time zone"
_RANDOM = "its result is random"
_KEYS = "it makes or uses cryptographic keys"
REASONS = {
    "ago": _CLOCK, "date": _CLOCK, "date_in_zone": _CLOCK, "date_modify": _CLOCK,
    "dateInZone": _CLOCK, "dateModify": _CLOCK, "htmlDate": _CLOCK, "htmlDateInZone": _CLOCK,
    "must_date_modify": _CLOCK, "mustDateModify": _CLOCK, "mustToDate": _CLOCK, "now": _CLOCK,
    "toDate": _CLOCK, "unixEpoch": _CLOCK,
    "randAlphaNum": _RANDOM, "randAlpha": _RANDOM, "randAscii": _RANDOM, "randNumeric": _RANDOM,
    "randInt": _RANDOM, "randBytes": _RANDOM, "shuffle": _RANDOM, "uuidv4": _RANDOM,
    "bcrypt": _RANDOM, "htpasswd": _RANDOM,
    "genPrivateKey": _KEYS, "derivePassword": _KEYS, "buildCustomCert": _KEYS, "genCA": _KEYS,
    "genCAWithKey": _KEYS, "genSelfSignedCert": _KEYS, "genSelfSignedCertWithKey": _KEYS,
    "genSignedCert": _KEYS, "genSignedCertWithKey": _KEYS, "encryptAES": _KEYS,
    "decryptAES": _KEYS,
    "expandenv": "it reads the environment", "env": "it reads the environment",
    "getHostByName": "it asks the network",
}  # fmt: skip


def _refuse(reason: str) -> None:
    def refuse(*_values: Value) -> Value:
        raise FunctionError(
            f"templates may not use this function, because {reason}: "
            "the same pod must be injected the same way each time"
        )

    names = " ".join(name for name, known in REASONS.items() if known == reason)
    FUNCTIONS.add(names, "...any")(refuse)


for _reason in dict.fromkeys(REASONS.values()):
    _refuse(_reason)
