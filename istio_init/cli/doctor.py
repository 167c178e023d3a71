"""``istio-init doctor``.

With ``--format json`` it prints one object, version 1: ``{"version": 1, "verdict": "ok"
or "problem", "code": 0 or 1, "checks": [{"name", "verdict", "text", "remedy"}, ...]}``;
a check's verdict is ``ok``, ``note`` or ``problem``; errors look as those of ``audit``.
Keys are added within a version; none changes its meaning or goes away.
"""

from __future__ import annotations

import os
import sys

from istio_init.cli.fast_arguments import APPLY, ISTIO_IPTABLES
from istio_init.cli.terminal import Page
from istio_init.config.resolve import asks_for_rules, enter_namespace, resolve
from istio_init.kernel.host import Names
from istio_init.lean import TYPE_CHECKING
from istio_init.log import Log

if TYPE_CHECKING:
    from istio_init.operate.doctor import Check

VERSION = 1
# What Istio's injection template asks for.
_USUAL = {"istio-inbound-ports": "*", "istio-service-cidr": "*"}


def examine(call: str, flags: dict[str, str], *, form: str) -> int:
    """Look, print what was found, and return 1 where there is a problem, else 0.

    Raises:
        ConfigError: bad values.
        ApplyError: the namespace cannot be entered, or what the plan rests on not be read.
    """
    if not call and not asks_for_rules(flags, os.environ):
        call, flags = ISTIO_IPTABLES, {**_USUAL, **flags}
    resolved = resolve(call or APPLY, flags, os.environ, Names())
    log = Log(resolved.run.log_level, as_json=resolved.run.log_json)
    for warning in resolved.warnings:
        log.warn(warning)
    enter_namespace(resolved.run)
    from istio_init import planner
    from istio_init.kernel import host
    from istio_init.operate import doctor

    plan = planner.plan(resolved.config, host.gather(resolved.config))
    found = list(doctor.checks(plan, resolved.run))
    problem = any(one.verdict == "problem" for one in found)
    if form == "json":
        _print_json(found, problem=problem)
    else:
        _show(found, Page())
    sys.stdout.flush()
    return int(problem)


def _print_json(found: list[Check], *, problem: bool) -> None:
    import json

    document = {
        "version": VERSION,
        "verdict": "problem" if problem else "ok",
        "code": int(problem),
        "checks": [
            {name: getattr(one, name) for name in ("name", "verdict", "text", "remedy")}
            for one in found
        ],
    }
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def _show(found: list[Check], page: Page) -> None:
    width = max(len(one.name) for one in found)
    styles = {"ok": "good", "note": "warn", "problem": "bad"}
    for one in found:
        page.line(f"{one.verdict:7}  {one.name:{width}}  {one.text}", styles[one.verdict])
        if one.remedy and one.verdict != "ok":
            page.line(f"{'':7}  {'':{width}}  -> {one.remedy}")
    problems = sum(one.verdict == "problem" for one in found)
    if problems:
        page.line(f"{problems} problem{'s' if problems > 1 else ''}", "bad")
    else:
        page.line("ok: this machine can do the plan", "good")
