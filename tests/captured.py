"""What the kernel holds of rules that iptables-nft and nft of some version wrote, as files.

Run as a program, with the tools of a release in ``ISTIO_INIT_TOOLS``, this writes them to
``tests/captures``; the codec is held to them without root, kernel or tools::

    ISTIO_INIT_TOOLS=$(scripts/debian-tools trixie) python -m tests.captured
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from istio_init.formats.iptables import rule_words
from istio_init.formats.nf_tables import messages
from istio_init.formats.nft_script import render
from istio_init.kernel import nfnetlink
from tests.inside import inside
from tests.kernel.test_encoder import SIEVE, every_match
from tests.kernel.test_nft_encoder import write_by_iptables
from tests.namespace import Namespace
from tests.plans import plan_of

if TYPE_CHECKING:
    from istio_init.formats.nf_tables.messages import Contents
    from istio_init.rules.model import Rule
    from istio_init.rules.ranges import Family

CAPTURES = Path(__file__).parent / "captures"
# Calls whose tables have each kind of rule, and sets of ranges, ports, users and groups.
CALLS = {
    "old layout": (
        "-u",
        "1337,1338",
        "-g",
        "7",
        "-b",
        "80,443",
        "-i",
        "10.0.0.0/8",
        "-m",
        "TPROXY",
    ),
    "tproxy": (
        *("istio-iptables", "-u", "1337", "-b", "*", "-d", "15090,15021", "-m", "TPROXY"),
        *("-i", "10.0.0.0/8,192.168.0.0/17,fd00::/9", "-x", "10.1.0.0/16,10.3.0.0/15", "--ipv6"),
        *("--drop-invalid", "-c", "eth9,net+"),
    ),
    "dns": (
        *("istio-iptables", "-u", "1337", "-g", "1337", "-i", "*", "-b", "8080", "-o", "1-99,7777"),
        *("--redirect-dns", "--dns-servers", "10.96.0.10,fd00::a,10.96.0.11", "--ipv6"),
        *("--outbound-owner-groups-exclude", "5000,6000-7000"),
    ),
}


def rules(family: Family) -> list[Rule]:
    """Return rules with each kind of match and target, the prefixes of addresses left out."""
    from istio_init.rules import matches as m
    from istio_init.rules import targets as t
    from istio_init.rules.model import rule

    kept: list[Rule] = []
    prefixes = 0
    for matches in every_match(family):
        if any(isinstance(one, m.Source | m.Destination) for one in matches):
            prefixes += 1
            if prefixes % 8 or any(one.network.everything for one in matches):  # type: ignore[union-attr]
                continue
        kept.append(rule(*matches, target=t.Return()))
    return kept


def capture_iptables() -> None:
    """Write what iptables-nft made of rules: family, expressions and words of each."""
    version = _version("iptables-nft")
    found = []
    for family in ("ipv4", "ipv6"):
        wished = {"nat": rules(family)}
        with Namespace() as pod:
            write_by_iptables(pod, family, wished)
            contents = inside(pod, lambda: _contents(nfnetlink.IPTABLES_PLACES))
        live = [one for one in contents.rules if one.chain == SIEVE]
        for one, rule_ in zip(live, wished["nat"], strict=True):
            words = " ".join(rule_words(rule_, family))
            found.append(f"{family} {one.expressions.hex()} {words}\n")
    path = CAPTURES / f"iptables-{version}.txt"
    path.write_text("".join(found), encoding="utf-8")


def capture_nft() -> None:
    """Write what nft made of our scripts: the kernel's messages about each table."""
    version = _version("nft")
    found: dict[str, Any] = {}
    for name, argv in CALLS.items():
        with Namespace() as pod:
            pod.run("nft", "-f", "-", text=render(plan_of(*argv)))
            found[name] = inside(pod, _told)
    path = CAPTURES / f"nft-{version}.json"
    path.write_text(json.dumps(found, indent=0) + "\n", encoding="utf-8")


def _told() -> dict[str, Any]:
    """Return what the kernel tells of all of nf_tables."""
    kinds = {"tables": 1, "chains": 4, "rules": 7, "sets": 10}
    told: dict[str, Any] = {
        name: [body.hex() for body in nfnetlink._dump(kind) or ()] for name, kind in kinds.items()
    }
    sets = [messages.read_set(bytes.fromhex(body)) for body in told["sets"]]
    asked = (messages.asked(one.family, one.table, one.name) for one in sets)
    told["elements"] = [
        [body.hex() for body in nfnetlink._dump(messages.GET_ELEMENT, one) or ()] for one in asked
    ]
    return told


def _contents(places: frozenset[nfnetlink.TablePlace]) -> Contents:
    found = nfnetlink.contents(places, None, sets=False)
    assert found is not None
    return found


def _version(tool: str) -> str:
    """Return the version of a tool, without the letter before it."""
    with Namespace() as pod:
        return pod.run(tool, "--version").stdout.split()[1].lstrip("v")


if __name__ == "__main__":
    CAPTURES.mkdir(exist_ok=True)
    capture_iptables()
    capture_nft()
    sys.stdout.write(f"{messages.__name__} is held to {len(list(CAPTURES.iterdir()))} captures\n")
