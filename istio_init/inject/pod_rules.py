"""The rules that an injected pod will get, as ``iptables -S`` will print them in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from istio_init.errors import printable
from istio_init.formats import listing
from istio_init.inject import init_container

if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.inject.problems import Where


def explain_rules(spec: Mapping[str, Any], where: Where, *, ipv6: bool = False) -> str:
    """Return the rules of a pod, below a comment that names its workload.

    ``spec`` is that of the injected pod. With ``ipv6`` it has addresses of both
    families. Where a CNI plugin writes the rules the comment says so; they are
    the same.

    Raises:
        InjectionError: the init container runs something else, or would fail.
    """
    title = f"# {printable(where.workload)}"
    container = init_container.find(spec)
    if container is None:
        return f"{title}: no init container, and so no rules\n"
    _, init = container
    settings = init_container.settings_of(init, where)
    by = "a CNI plugin" if settings.run.skip_rule_apply else printable(str(init.get("name")))
    plan = init_container.planned(settings.config, ipv6=ipv6)
    warnings = "".join(f"# warning: {printable(warning)}\n" for warning in plan.warnings)
    return f"{title}: the rules that {by} writes\n{warnings}{listing.render(plan)}"
