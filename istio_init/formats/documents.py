"""The plan as a JSON document, version 1.

    {
      "version": 1,
      "layout": "1.30",
      "families": {"ipv4": {"nat": {"ISTIO_OUTPUT": CHAIN, ...}, ...}, "ipv6": {...}},
      "routes": [{"family": "ipv4", "mark": 1337, "table": 133}, ...],
      "addresses": ["::6/128"],
      "warnings": ["...", ...]
    }

CHAIN is ``{"policy": "ACCEPT" or null, "rules": [RULE, ...]}``. RULE is
``{"spec": "-p tcp -j REDIRECT --to-ports 15001", "place": "head" or "tail",
"why": "...", "flag": "-p"}``: ``spec`` is what ``iptables -S`` prints after ``-A
CHAIN``, ``why`` the reason for the rule, ``flag`` the flag that put it there.
Keys are added within a version; none changes its meaning or goes away.
"""

from __future__ import annotations

import json

from istio_init.formats.iptables import rule_words
from istio_init.lean import TYPE_CHECKING
from istio_init.rules.model import Rule, reason_of

if TYPE_CHECKING:
    from istio_init.rules.model import ForeignRule, Plan
    from istio_init.rules.ranges import Family

VERSION = 1


def render(plan: Plan) -> str:
    """Return the document, indented, with a newline at the end."""
    document = {
        "version": VERSION,
        "layout": plan.layout,
        "families": {
            ruleset.family: {
                table.name: {
                    chain.name: {
                        "policy": chain.policy,
                        "rules": [_rule(rule, ruleset.family) for rule in chain.rules],
                    }
                    for chain in table.chains
                }
                for table in ruleset.tables
            }
            for ruleset in plan.rulesets
        },
        "routes": [
            {"family": route.family, "mark": route.mark, "table": route.table}
            for route in plan.routes
        ],
        "addresses": [str(address) for address in plan.addresses],
        "warnings": list(plan.warnings),
    }
    return json.dumps(document, indent=2) + "\n"


def _rule(rule: Rule | ForeignRule, family: Family) -> dict[str, str]:
    reason = reason_of(rule)
    return {
        "spec": " ".join(rule_words(rule, family)),
        "place": rule.place if isinstance(rule, Rule) else "",
        "why": reason.text,
        "flag": reason.flag,
    }
