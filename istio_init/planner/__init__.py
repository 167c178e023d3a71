"""The rules that a config asks for on a host: pure functions."""

from __future__ import annotations

from istio_init.config.model import LAYOUT_1_0, LAYOUT_1_30
from istio_init.lean import TYPE_CHECKING, assert_never

if TYPE_CHECKING:
    from istio_init.config.model import Config, Facts
    from istio_init.rules.model import Plan


def plan(config: Config, facts: Facts) -> Plan:
    """Return everything the config asks for, for both families.

    The same config and facts always give the same plan, rule for rule.
    """
    match config.layout:
        case "1.0":
            from istio_init.planner import layout_1_0

            return layout_1_0.plan(config)
        case "1.30":
            from istio_init.planner import layout_1_30

            return layout_1_30.plan(config, facts)
        case _:
            assert_never(config.layout)


__all__ = ["LAYOUT_1_0", "LAYOUT_1_30", "plan"]
