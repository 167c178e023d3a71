"""Compare the live rules of this network namespace with the planned ones; change nothing.

No table is loaded by looking, and no lock is taken: each table is read in one
piece by the kernel's own means, and an audit that needed the lock could not run
where nothing is writable.
"""

from __future__ import annotations

from istio_init import planner
from istio_init.apply import detect, routes
from istio_init.config.model import BACKENDS, LAYOUT_1_0
from istio_init.diagnose import findings as diagnosis
from istio_init.diagnose.findings import Finding
from istio_init.diagnose.infer import as_arguments, infer_config
from istio_init.diagnose.interception import obstacles
from istio_init.diagnose.leftovers import leftovers
from istio_init.diagnose.trace import Rules
from istio_init.errors import ApplyError, IstioInitError, UnsupportedError
from istio_init.kernel import host, signals
from istio_init.kernel.pod import pod_network
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.operate.live import awake, unread_chains
from istio_init.planner import degrade
from istio_init.rules import ownership
from istio_init.rules.model import TABLES, PolicyRoute, Ruleset, make_table
from istio_init.rules.ranges import FAMILIES, IPV6

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from istio_init.apply.backend import Applier
    from istio_init.apply.detect import Evidence
    from istio_init.apply.routes import Item
    from istio_init.config.model import Backend, BackendChoice, Config, Run
    from istio_init.diagnose.interception import Obstacle
    from istio_init.rules.model import Plan
    from istio_init.rules.ranges import Family

VERSION = 1
# The exit code.
DRIFT = 3


class LiveState(Record):
    """The live rules of ``backend``; ``others`` are the backends with owned rules beside it.

    ``backend`` is None where no backend has owned rules and --backend names none;
    ``unseen`` are those that cannot be read without creating tables. ``beside`` are
    the rules of the other backends, ``notes`` say which of them could not be read.
    """

    backend: Backend | None
    live: tuple[Ruleset, ...]
    others: frozenset[Backend]
    unseen: frozenset[Backend]
    beside: tuple[Rules, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def installed(self) -> bool:
        """Whether any chain of ours stands in the backend."""
        return any(ownership.has_ours(one) for one in self.live)


class AuditResult(Record):
    """The result of an audit.

    ``config`` is the one whose plan the live rules were compared with, None where
    there are no rules to infer it from; ``seen`` says that it was inferred.
    ``difference`` are the lines of a unified diff.
    """

    backend: str
    config: Config | None
    seen: bool
    findings: tuple[Finding, ...]
    difference: tuple[str, ...] = ()

    @property
    def drift(self) -> bool:
        """Whether anything is not as planned."""
        return any(one.drift for one in self.findings)


def look(run: Run) -> LiveState:
    """Return the live rules of the backend that --backend names, else of the one with owned rules.

    Raises:
        ApplyError: the kernel does not let this process look.
        UnsupportedError: the program that shows the rules is missing.
    """
    made: dict[BackendChoice, Applier] = {}
    evidence = detect.look(made)
    kind = _backend(evidence, run)
    if kind is None:
        return LiveState(None, (), frozenset(), evidence.unseen)
    if kind in evidence.unseen:
        raise ApplyError(
            "cannot read the rules without creating tables",
            where=f"backend {kind}",
            why="in this user namespace the kernel does not say which tables exist",
            remedy="run audit on the node, with --network-namespace",
        )
    applier = detect.applier(kind, made)
    live = tuple(_read(applier, family) for family in FAMILIES)
    beside: list[Rules] = []
    notes: list[str] = []
    for other in BACKENDS:
        if other != kind and other in evidence.ours | evidence.others:
            try:
                found = detect.applier(other, made)
                beside += (Rules(awake(_read(found, family)), other) for family in FAMILIES)
            except IstioInitError as error:
                notes.append(f"the rules in backend {other} cannot be read: {error}")
    notes += (
        f"{family}: the chain {one.chain} of the table {one.table}, which is not read, may "
        f"redirect connections in {one.hook} before rules of ours are asked"
        for family in FAMILIES
        for one in unread_chains(family)
        if one.first
    )
    return LiveState(
        kind, live, evidence.ours - {kind}, evidence.unseen, tuple(beside), tuple(notes)
    )


def _backend(evidence: Evidence, run: Run) -> Backend | None:
    for kind in BACKENDS:
        if run.backend == kind or (run.backend == "auto" and kind in evidence.ours):
            return kind
    return None


def _read(applier: Applier, family: Family) -> Ruleset:
    try:
        return applier.read(family, frozenset())
    except UnsupportedError:
        # Where there is no such thing as a table of IPv6, there is none of ours.
        if family == IPV6 and applier.name == "legacy":
            return Ruleset(family, ())
        raise


def infer(state: LiveState) -> Config | None:
    """Return the config that the live rules come closest to, None without any of ours."""
    items = routes.live(ownership.traces(state.live).marks, ())
    rules = [one for one in items if isinstance(one, routes.PolicyRule)]
    return infer_config(
        state.live,
        tuple(PolicyRoute(rule.family, rule.mark, rule.table) for rule in rules),
        passthrough=any(isinstance(one, routes.LoAddress) for one in items),
        native=state.backend == "nftables",
    )


def compare(state: LiveState, config: Config | None, run: Run) -> AuditResult:
    """Return how the live state differs from what a config plans.

    Without a config it is compared with the one that is inferred from it.

    Raises:
        ApplyError, UnsupportedError: what the plan rests on cannot be read.
    """
    subject = infer(state) if config is None else config
    if subject is None:
        return AuditResult(state.backend or "", None, True, tuple(_nothing_of_ours()))  # noqa: FBT003
    variants = [subject]
    if run.degrade:
        # The live rules tell which features the run could not have.
        for missing in ({"CT"}, {"conntrack"}, {"CT", "conntrack"}):
            less, warnings = degrade.degraded(subject, frozenset(missing))
            variants += [less] if warnings else []
    outcomes = [_compared(state, one, seen=config is None) for one in variants]
    return min(outcomes, key=lambda one: sum(finding.drift for finding in one.findings))


def _nothing_of_ours() -> Iterator[Finding]:
    lost = "no backend holds a rule of istio-init: no traffic is redirected to the proxy"
    yield Finding("absent", lost)
    for item in routes.live(frozenset(), ()):
        yield Finding("extra", _left_over(item), rule=str(item))


def _compared(state: LiveState, config: Config, *, seen: bool) -> AuditResult:
    plan = planner.plan(config, host.gather(config))
    kind = state.backend or "legacy"
    live = state.live or tuple(Ruleset(family, ()) for family in FAMILIES)
    live = tuple(_with_tables(one, plan.ruleset(one.family)) for one in live)
    known = ownership.traces(live, plan.rulesets)
    applier = detect.applier(kind) if state.backend else None
    findings: list[Finding] = []
    difference: list[str] = []
    for one in live:
        planned = plan.ruleset(one.family)
        wanted = (applier.wanted if applier else ownership.wanted)(one, planned, known, clean=False)
        findings += diagnosis.findings(one, wanted, planned)
        if state.backend:
            findings += _taken_by_others(one, wanted, plan, state)
        difference += diagnosis.difference(one, wanted, kind if state.backend else "no backend")
    steps = routes.changes(routes.live(known.marks, plan.routes), routes.wanted(plan))
    wanted_items = routes.wanted(plan)
    findings += (_of_step(step, wanted_items) for step in steps)
    difference += _route_lines(steps)
    findings += _elsewhere(state, kind)
    findings += _uncaptured(plan, config, seen=seen)
    if kind != "nftables":
        findings += _ambient(live, plan)
        findings += (Finding("unclaimed", text, drift=False) for text in leftovers(live, plan))
    findings += (Finding("trap", text, drift=False) for text in (*state.notes, *plan.warnings))
    return AuditResult(state.backend or "", config, seen, tuple(findings), tuple(difference))


def _ambient(live: tuple[Ruleset, ...], plan: Plan) -> Iterator[Finding]:
    """Yield each table in which the plan has no room beside the rules of ambient mode."""
    lost = (
        "ISTIO_PRERT stands there: these are rules of Istio's ambient mode, which captures this "
        "pod's traffic already; a run refuses to write beside them"
    )
    for one in live:
        for table in ownership.ambient_tables(one, plan.ruleset(one.family)):
            yield Finding("absent", lost, one.family, table, rule="every rule of ours")


def _taken_by_others(
    live: Ruleset, wanted: Ruleset, plan: Plan, state: LiveState
) -> Iterator[Finding]:
    """Yield what keeps packets from our rules, where all of them stand as planned."""
    family = live.family
    beside = (one for one in state.beside if one.ruleset.family == family)
    rules = (Rules(wanted, state.backend or ""), *beside)
    taken = [
        _as_it_stands(one.finding(), one, live)
        for one in obstacles(plan, family, rules, pod_network(family), signals.check)
    ]
    yield from taken
    places = {(one.table, one.chain, one.number) for one in taken if one.kind == "shadowed"}
    for note in diagnosis.notes(live, plan.ruleset(family)):
        if (note.table, note.chain, note.number) not in places:
            yield note


def _as_it_stands(finding: Finding, obstacle: Obstacle, live: Ruleset) -> Finding:
    """Return a finding with the place that its rule has now, whatever stands above it."""
    step = obstacle.step
    table = live.table(finding.table)
    chain = table.chain(finding.chain) if table else None
    if finding.kind != "shadowed" or chain is None or step is None or step.rule is None:
        return finding
    if step.rule in chain.rules[finding.number - 1 : finding.number]:
        return finding
    return finding.replace(number=chain.rules.index(step.rule) + 1)


def _with_tables(live: Ruleset, planned: Ruleset) -> Ruleset:
    """Return live rules with the tables that a run would create, empty."""
    present = {table.name: table for table in live.tables}
    added = {table.name: make_table(table.name, {}) for table in planned.tables}
    names = [name for name in TABLES if name in present or name in added]
    return live.replace(tables=tuple(present.get(name) or added[name] for name in names))


def _of_step(step: routes.RouteStep, wanted: tuple[Item, ...]) -> Finding:
    """Return what a step that a run would take says about the live state."""
    item = step.item
    family = IPV6 if isinstance(item, routes.LoAddress) else item.family
    if step.verb == "add":
        kind: diagnosis.FindingKind = "missing"
        lost = "inbound connections that TPROXY marks are not delivered to the proxy: they time out"
        if isinstance(item, routes.LoAddress):
            lost = "the proxy cannot deliver inbound IPv6 connections, whose source it is"
    elif item.plain in wanted:
        kind = "duplicate"
        lost = "the first one decides; deleting one of them leaves the others"
    else:
        kind, lost = "extra", _left_over(item)
    flag = "-r" if isinstance(item, routes.LocalRoute) else "-t"
    flag = "--ipv6" if isinstance(item, routes.LoAddress) else flag
    return Finding(kind, lost, family, rule=str(item), flag=flag)


def _left_over(item: Item) -> str:
    match item:
        case routes.PolicyRule(mark=mark):
            return f"packets with mark {mark:#x} stay in the pod, though no flag asks for it"
        case routes.LocalRoute():
            return "every packet that a rule sends to this table stays in the pod"
        case _:
            return "left over from a run with IPv6: it changes nothing"


def _route_lines(steps: tuple[routes.RouteStep, ...]) -> Iterator[str]:
    if steps:
        yield "--- planned: ip rule, ip route, ip addr show dev lo"
        yield "+++ live: ip rule, ip route, ip addr show dev lo"
    for step in steps:
        yield f"{'-' if step.verb == 'add' else '+'}{step.item}"


def _elsewhere(state: LiveState, kind: str) -> Iterator[Finding]:
    """Yield the other backends with owned rules."""
    for other in sorted(state.others):
        try:
            applier = detect.applier(other)
            tables = [
                f"{family} {table.name}"
                for family in FAMILIES
                for table in _read(applier, family).tables
                if ownership.has_ours(Ruleset(family, (table,)))
            ]
        except IstioInitError as error:
            tables = [f"they cannot be read: {error}"]
        lost = (
            f"a packet meets them and those in {kind}; the one that redirects it first decides, "
            "and flags that changed since take no effect"
        )
        yield Finding(
            "second-backend", lost, rule=f"rules of istio-init in {other} ({', '.join(tables)})"
        )
    if state.unseen:
        named = ", ".join(sorted(state.unseen))
        yield Finding(
            "trap", f"{named} cannot be read without creating its tables here", drift=False
        )


def _uncaptured(plan: Plan, config: Config, *, seen: bool) -> Iterator[Finding]:
    """Yield that the pod has IPv6 addresses whose traffic is not captured."""
    if ownership.has_ours(plan.ruleset(IPV6)):
        return
    addresses = [one.address for one in host.usable_addresses() if one.family == IPV6]
    if addresses:
        # Who says --no-ipv6 knows; layout 1.0 has no rules for it.
        chosen = config.layout == LAYOUT_1_0 or (config.ipv6 is False and not seen)
        inbound = config.layout != LAYOUT_1_0 or bool(config.ipv6)
        yield diagnosis.not_intercepted(addresses, inbound=inbound, drift=not chosen)


def captures(config: Config) -> tuple[str, str]:
    """Return what of inbound and of outbound traffic a config captures, as flags spell it."""
    inbound = ",".join(str(one) for one in config.inbound_ports)
    outbound = [str(one) for one in (*config.outbound_cidrs, *config.outbound_ports)]
    return (
        "*" if config.inbound_all else inbound or "-",
        "*" if config.outbound_all else ",".join(outbound) or "-",
    )


def document(result: AuditResult) -> dict[str, Any]:
    """Return the result as a JSON document, as ``istio_init/cli/audit.py`` describes it."""
    config = result.config
    inbound, outbound = captures(config) if config else (None, None)
    return {
        "version": VERSION,
        "verdict": "drift" if result.drift else "ok",
        "code": DRIFT if result.drift else 0,
        "backend": result.backend or None,
        "layout": config.layout if config else None,
        "mode": config.mode if config else None,
        "ipv6": config.ipv6 if config else None,
        "inbound": inbound,
        "outbound": outbound,
        "recognised": result.seen,
        "call": list(as_arguments(config)) if config and result.seen else None,
        "findings": [
            {name: getattr(finding, name) for name in finding.__match_args__}
            for finding in result.findings
        ],
        "diff": list(result.difference),
    }
