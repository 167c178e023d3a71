"""``istio-init audit`` in one network namespace.

With ``--format json`` it prints one object, version 1:

    {
      "version": 1,
      "verdict": "ok",               or "drift"
      "code": 0,                     the exit code: 3 for drift
      "backend": "legacy",           null where no rule of ours stands
      "layout": "1.30", "mode": "REDIRECT", "ipv6": true,
      "inbound": "*", "outbound": "10.0.0.0/8",   what is captured, as -b, -i and -q spell it
      "recognised": true,            whether all this was told from the rules, not from flags
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

from istio_init.cli.fast_arguments import APPLY, ISTIO_IPTABLES
from istio_init.cli.terminal import Page
from istio_init.config.model import LAYOUT_1_30
from istio_init.config.resolve import asks_for_rules, enter_namespace, resolve
from istio_init.diagnose.infer import as_arguments
from istio_init.kernel.host import Names
from istio_init.lean import TYPE_CHECKING
from istio_init.log import Log

if TYPE_CHECKING:
    from typing import Any

    from istio_init.config.model import Run
    from istio_init.diagnose.findings import Finding
    from istio_init.operate.audit import Audit

VERSION = 1
DRIFT = 3

# Flags that say how to look, not what to look for.
_HOW = frozenset(
    {
        *("network-namespace", "backend", "native-nftables", "force-iptables-binary"),
        *("on-missing", "log_output_level", "log_as_json"),
    }
)


def settings(flags: dict[str, str]) -> Run:
    """Return how a call wants to look, whatever it wants to see.

    Raises:
        ConfigError: bad values.
    """
    how = {name: text for name, text in flags.items() if name in _HOW}
    return resolve(APPLY, {**how, "layout": LAYOUT_1_30}, os.environ, Names()).run


def audit_one(call: str, flags: dict[str, str], *, form: str) -> int:
    """Audit one namespace, print the outcome, and return the exit code.

    ``call`` is the command whose flags these are, ``""`` where it was not said.

    Raises:
        ConfigError: bad values.
        ApplyError, UnsupportedError: the rules cannot be read.
    """
    run = settings(flags)
    enter_namespace(run)
    found = audit_here(call, flags, run)
    if form == "json":
        import json

        sys.stdout.write(json.dumps(document(found), indent=2) + "\n")
    elif form == "prometheus":
        from istio_init.cli import fleet

        sys.stdout.writelines(fleet.exposition_of_one(found))
    else:
        _show(found, Page())
    sys.stdout.flush()
    return DRIFT if found.drift else 0


def audit_here(call: str, flags: dict[str, str], run: Run) -> Audit:
    """Return the audit of this process's namespace.

    Where the layout is not said, it is that of the rules that stand.
    """
    from istio_init.operate import audit

    state = audit.look(run)
    if not call and not asks_for_rules(flags, os.environ):
        return audit.audited(state, None, run)
    if not call:
        stands = audit.recognise(state) if state.installed else None
        call = ISTIO_IPTABLES if stands and stands.layout == LAYOUT_1_30 else APPLY
    resolved = resolve(call, flags, os.environ, Names())
    log = Log(run.log_level, as_json=run.log_json)
    for warning in resolved.warnings:
        log.warn(warning)
    return audit.audited(state, resolved.config, run)


def document(found: Audit) -> dict[str, Any]:
    """Return the outcome as a JSON document."""
    from istio_init.operate.audit import captures

    config = found.config
    inbound, outbound = captures(config) if config else (None, None)
    return {
        "version": VERSION,
        "verdict": "drift" if found.drift else "ok",
        "code": DRIFT if found.drift else 0,
        "backend": found.backend or None,
        "layout": config.layout if config else None,
        "mode": config.mode if config else None,
        "ipv6": config.ipv6 if config else None,
        "inbound": inbound,
        "outbound": outbound,
        "recognised": found.seen,
        "call": list(as_arguments(config)) if config and found.seen else None,
        "findings": [finding(one) for one in found.findings],
        "diff": list(found.difference),
    }


def finding(one: Finding) -> dict[str, Any]:
    """Return a finding's fields by name."""
    return {name: getattr(one, name) for name in one.__match_args__}


def _show(found: Audit, page: Page) -> None:
    import shlex

    config = found.config
    if config is None:
        page.line("nothing of ours was recognised", "head")
    else:
        stands = f"backend {found.backend}" if found.backend else "no backend holds rules of ours"
        how = "recognised" if found.seen else "held against the flags given"
        page.line(f"layout {config.layout}, {config.mode}, {stands}; {how}", "head")
        if found.seen:
            # Without flags nobody knows what was meant: this is what stands.
            page.line(f"  istio-init {shlex.join(as_arguments(config))}")
    for line in found.difference:
        page.line(line, {"-": "removed", "+": "added"}.get(line[:1], ""))
    for one in found.findings:
        page.line(f"{'drift' if one.drift else 'note '}  {one}", "bad" if one.drift else "warn")
    drifts = sum(one.drift for one in found.findings)
    if drifts:
        page.line(f"drift: {drifts} finding{'s' if drifts > 1 else ''}", "bad")
    else:
        page.line("ok: the rules are as planned", "good")
