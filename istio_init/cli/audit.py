"""``istio-init audit`` in one network namespace.

With ``--format json`` it prints one object, version 1:

    {
      "version": 1,
      "verdict": "ok",               or "drift"
      "code": 0,                     the exit code: 3 for drift
      "backend": "legacy",           null where no backend has owned rules
      "layout": "1.30", "mode": "REDIRECT", "ipv6": true,
      "inbound": "*", "outbound": "10.0.0.0/8",   what is captured, as -b, -i and -q spell it
      "recognised": true,            whether this was inferred from the live rules
      "call": ["istio-iptables", "-p", "15001", ...],   that asks for the same
      "findings": [FINDING, ...],
      "diff": ["--- planned: ...", ...]
    }

FINDING has the fields of ``istio_init.diagnose.findings.Finding``. Where nothing was recognised
everything from layout to call is null. Where nothing could be looked at, the object
has ``version``, the verdict ``error``, ``code`` and ``error`` as ``istio_init/cli/result.py``
describes it. Keys are added within a version; none
changes its meaning or goes away.
"""

from __future__ import annotations

import os
import sys

from istio_init.cli import prepare
from istio_init.cli.terminal import Page
from istio_init.config.model import APPLY, ISTIO_IPTABLES, LAYOUT_1_30
from istio_init.config.resolve import asks_for_rules
from istio_init.diagnose.infer import as_arguments
from istio_init.lean import TYPE_CHECKING
from istio_init.operate import audit

if TYPE_CHECKING:
    from istio_init.config.model import Run
    from istio_init.errors import BadValue
    from istio_init.operate.audit import AuditResult


def settings(call: str, flags: dict[str, str], problems: tuple[BadValue, ...] = ()) -> Run:
    """Return how a call wants to look; what it wants to see may depend on the live rules.

    Raises:
        ConfigError: bad values, ``problems`` among them.
    """
    return prepare.resolve_call(call or ISTIO_IPTABLES, flags, problems).run


def audit_one(call: str, flags: dict[str, str], *, form: str) -> int:
    """Audit one namespace, print the result, and return the exit code.

    ``call`` is the command whose flags these are, ``""`` where the call names none.

    Raises:
        ConfigError: bad values.
        ApplyError, UnsupportedError: the rules cannot be read.
    """
    run = settings(call, flags)
    prepare.enter_namespace(run)
    result = audit_here(call, flags, run)
    if form == "json":
        import json

        sys.stdout.write(json.dumps(audit.document(result), indent=2) + "\n")
    elif form == "prometheus":
        from istio_init.operate import fleet, prometheus

        totals = fleet.Totals()
        row = fleet.row_of_this_namespace(result)
        totals.add(row)
        sys.stdout.writelines(prometheus.exposition((row,), totals))
    else:
        _show(result, Page())
    sys.stdout.flush()
    return audit.DRIFT if result.drift else 0


def audit_here(call: str, flags: dict[str, str], run: Run) -> AuditResult:
    """Return the audit of this process's namespace.

    Where the layout is not given, it is that of the live rules.
    """
    state = audit.look(run)
    if not call and not asks_for_rules(flags, os.environ):
        return audit.compare(state, None, run)
    if not call:
        live = audit.infer(state) if state.installed else None
        call = ISTIO_IPTABLES if live and live.layout == LAYOUT_1_30 else APPLY
    resolved = prepare.resolve_call(call, flags)
    prepare.open_log(resolved)
    return audit.compare(state, resolved.config, run)


def _show(result: AuditResult, page: Page) -> None:
    import shlex

    config = result.config
    if config is None:
        page.line("no rules of istio-init or of a sidecar were recognised", "head")
    else:
        stands = f"backend {result.backend}" if result.backend else "no backend holds these rules"
        how = "inferred from the live rules" if result.seen else "compared with the flags"
        page.line(f"layout {config.layout}, {config.mode}, {stands}; {how}", "head")
        if result.seen:
            # Without flags nobody knows what was meant: this is what stands.
            page.line(f"  istio-init {shlex.join(as_arguments(config))}")
    for line in result.difference:
        page.line(line, {"-": "removed", "+": "added"}.get(line[:1], ""))
    for finding in result.findings:
        verdict, style = ("drift", "bad") if finding.drift else ("note ", "warn")
        page.line(f"{verdict}  {finding}", style)
    drifts = sum(finding.drift for finding in result.findings)
    if drifts:
        page.line(f"drift: {drifts} finding{'s' if drifts > 1 else ''}", "bad")
    else:
        page.line("ok: the rules are as planned", "good")
