"""``istio-init doctor``.

With ``--format json`` it prints one object, version 1: ``{"version": 1, "verdict": "ok"
or "problem", "code": 0 or 1, "checks": [{"name", "verdict", "text", "remedy"}, ...]}``;
a check's verdict is ``ok``, ``note`` or ``problem``; errors look as those of ``audit``.
Keys are added within a version; none changes its meaning or goes away.
"""

from __future__ import annotations

import os
import sys

from istio_init.cli import prepare
from istio_init.cli.terminal import Page
from istio_init.config.model import APPLY, ISTIO_IPTABLES
from istio_init.config.resolve import asks_for_rules
from istio_init.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from istio_init.operate.doctor import Check

VERSION = 1
# What Istio's injection template asks for.
_USUAL = {"istio-inbound-ports": "*", "istio-service-cidr": "*"}


def examine(call: str, flags: dict[str, str], *, form: str) -> int:
    """Check this host, print the checks, and return 1 where there is a problem, else 0.

    Raises:
        ConfigError: bad values.
        ApplyError: the namespace cannot be entered, or what the plan rests on not be read.
    """
    if not call and not asks_for_rules(flags, os.environ):
        call, flags = ISTIO_IPTABLES, {**_USUAL, **flags}
    resolved = prepare.resolve_call(call or APPLY, flags)
    prepare.open_log(resolved)
    prepare.enter_namespace(resolved.run)
    from istio_init.operate import doctor

    checks = list(doctor.checks(prepare.make_plan(resolved.config), resolved.run))
    problem = any(check.verdict == "problem" for check in checks)
    if form == "json":
        _print_json(checks, problem=problem)
    else:
        _show(checks, Page())
    sys.stdout.flush()
    return int(problem)


def _print_json(checks: list[Check], *, problem: bool) -> None:
    import json

    document = {
        "version": VERSION,
        "verdict": "problem" if problem else "ok",
        "code": int(problem),
        "checks": [
            {name: getattr(check, name) for name in ("name", "verdict", "text", "remedy")}
            for check in checks
        ],
    }
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def _show(checks: list[Check], page: Page) -> None:
    width = max(len(check.name) for check in checks)
    styles = {"ok": "good", "note": "warn", "problem": "bad"}
    for check in checks:
        page.line(f"{check.verdict:7}  {check.name:{width}}  {check.text}", styles[check.verdict])
        if check.remedy and check.verdict != "ok":
            page.line(f"{'':7}  {'':{width}}  -> {check.remedy}")
    problems = sum(check.verdict == "problem" for check in checks)
    if problems:
        page.line(f"{problems} problem{'s' if problems > 1 else ''}", "bad")
    else:
        page.line("ok: this host can apply the plan", "good")
