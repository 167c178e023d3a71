"""What a plan does without when the kernel lacks something, and what it cannot do without."""

from __future__ import annotations

import pytest

from istio_init.config.model import LAYOUT_1_30, Config, Facts
from istio_init.planner import plan
from istio_init.planner.degrade import WITHOUT_DROP, WITHOUT_ZONES, degraded
from istio_init.rules.names import RAW

DNS = Config(LAYOUT_1_30, ipv6=True, redirect_dns=True, capture_all_dns=True)
BOTH = DNS.replace(drop_invalid=True)


@pytest.mark.parametrize(
    ("config", "missing", "changes", "warnings"),
    [
        (BOTH, (), {}, ()),
        (BOTH, ("CT",), {"dns_zones": False}, (WITHOUT_ZONES,)),
        (BOTH, ("raw",), {"dns_zones": False}, (WITHOUT_ZONES,)),
        (BOTH, ("conntrack",), {"drop_invalid": False}, (WITHOUT_DROP,)),
        (BOTH, ("mangle",), {"drop_invalid": False}, (WITHOUT_DROP,)),
        (
            BOTH,
            ("mangle", "raw"),
            {"dns_zones": False, "drop_invalid": False},
            (WITHOUT_ZONES, WITHOUT_DROP),
        ),
        # Nothing else can go, and what was not asked for does not go.
        (BOTH, ("owner", "nat", "REDIRECT"), {}, ()),
        (DNS, ("conntrack", "mangle"), {}, ()),
        (DNS.replace(redirect_dns=False), ("CT", "raw"), {}, ()),
        (DNS.replace(dns_zones=False), ("CT", "raw"), {}, ()),
    ],
)
def test_zones_and_dropping_can_go(
    config: Config,
    missing: tuple[str, ...],
    changes: dict[str, bool],
    warnings: tuple[str, ...],
) -> None:
    assert degraded(config, frozenset(missing)) == (config.replace(**changes), warnings)


def test_plan_without_zones_is_the_plan_without_the_table_raw() -> None:
    full, spare = plan(DNS, Facts()), plan(DNS.replace(dns_zones=False), Facts())

    for ruleset in full.rulesets:
        assert ruleset.table(RAW)
        kept = tuple(table for table in ruleset.tables if table.name != RAW)
        assert spare.ruleset(ruleset.family).tables == kept
