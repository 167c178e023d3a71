"""What a plan can do without when the kernel lacks something."""

from __future__ import annotations

from istio_init.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from istio_init.config.model import Config

# What each feature needs that nothing else in a plan does.
_ZONES_NEED = frozenset({"raw", "CT"})
_DROP_INVALID_NEEDS = frozenset({"conntrack", "mangle"})

WITHOUT_ZONES = (
    "this kernel cannot keep DNS connections in conntrack zones: an answer to the agent may be "
    "taken for one to the application when both use the same port"
)
WITHOUT_DROP = "this kernel cannot drop invalid packets: it resets their connections"


def degraded(config: Config, missing: frozenset[str]) -> tuple[Config, tuple[str, ...]]:
    """Return the config without what ``missing`` makes impossible, and what that means.

    ``missing`` names tables, matches and targets. Only DNS zones and
    ``--drop-invalid`` can go; where neither helps the config comes back as it is.
    """
    warnings = []
    if missing & _ZONES_NEED and config.redirect_dns and config.dns_zones:
        config = config.replace(dns_zones=False)
        warnings.append(WITHOUT_ZONES)
    if missing & _DROP_INVALID_NEEDS and config.drop_invalid:
        config = config.replace(drop_invalid=False)
        warnings.append(WITHOUT_DROP)
    return config, tuple(warnings)
