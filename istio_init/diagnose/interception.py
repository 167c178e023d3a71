"""Whether live rules lead a pod's traffic where its plan does, proven packet by packet.

Each sample of the plan is followed through the rules of every backend, in each order
in which the kernel may ask them. One that ends elsewhere is somebody else's doing: the
rules that are looked at hold all of the plan's own.
"""

from __future__ import annotations

from istio_init.diagnose.effects import CAPTURES, LETS_PASS, consequence
from istio_init.diagnose.findings import Finding
from istio_init.diagnose.samples import captured_elsewhere, deviation, routes_of, samples
from istio_init.diagnose.trace import Tracer, orders
from istio_init.formats.iptables import rule_line, tool
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.rules.model import BUILTIN_CHAINS, TABLES, ForeignRule, Rule, reason_of
from istio_init.rules.names import (
    ISTIO_DIVERT,
    ISTIO_DROP,
    ISTIO_IN_REDIRECT,
    ISTIO_REDIRECT,
    ISTIO_TPROXY,
)
from istio_init.rules.ownership import leads_into_ours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from istio_init.diagnose.samples import Deviation, Placed, PodNetwork, Sample
    from istio_init.diagnose.trace import Rules, TraceStep
    from istio_init.formats.save_reader import Parts
    from istio_init.rules.model import Effect, Plan
    from istio_init.rules.ranges import Family, Protocol

# Chains that say how packets are captured; what is captured is said by what leads there.
_MEANS = frozenset({ISTIO_REDIRECT, ISTIO_IN_REDIRECT, ISTIO_TPROXY, ISTIO_DIVERT, ISTIO_DROP})
# Rules to be tried for all packets together: some seconds.
_MOST_WORK = 4_000_000
# How often rules are looked at again without those that were found.
_MOST_ROUNDS = 20
_TAKEN = "packets that it takes may not reach the proxy: which is asked first is not known"
# A rule that asks for nothing and does nothing.
_IDLE = ForeignRule("")


class Obstacle(Record):
    """A rule of others, or a policy, that takes packets from the rules of a plan.

    ``step`` is where it stands, None where no rule can be named. ``lost`` says what
    the plan's rules do not do because of it, ``certain`` whether they certainly do not.
    Where it stands ``elsewhere``, in another backend, another table or behind ours, it
    may take only ``some`` of the packets: whether that is meant, nobody knows.
    """

    family: Family
    step: TraceStep | None
    lost: str
    certain: bool
    elsewhere: bool
    some: bool = False

    @property
    def takes(self) -> bool:
        """Whether it is worth a warning."""
        return self.certain or self.some

    def __str__(self) -> str:
        """Return a sentence for the log."""
        place = f"{tool(self.family)}"
        if self.step is None:
            return f"{place}: {self.lost}"
        place += f" -t {self.step.table}"
        if self.elsewhere:
            place += f", backend {self.step.backend}"
            return f"{place}: the rule {self.line} takes packets from ours: {self.lost}"
        return f"{place}: the rule {self.line} stands above ours: {self.lost}"

    @property
    def line(self) -> str:
        """The rule as ``iptables -S`` prints it."""
        if self.step is None:
            return ""
        if self.step.rule is None:
            return f"-P {self.step.chain} DROP"
        return rule_line(self.step.chain, self.step.rule, self.family)

    def finding(self) -> Finding:
        """Return it as a finding of an audit."""
        here = Finding(
            "diverted" if self.elsewhere else "shadowed",
            self.lost,
            self.family,
            rule=self.line,
            drift=self.certain,
        )
        if self.step is None:
            return here
        if self.elsewhere:
            text = f"{self.lost} (backend {self.step.backend})"
            here = here.replace(consequence=text)
        return here.replace(table=self.step.table, chain=self.step.chain, number=self.step.number)


def obstacles(
    plan: Plan,
    family: Family,
    live: tuple[Rules, ...],
    pod: PodNetwork,
    check: Callable[[], None],
) -> tuple[Obstacle, ...]:
    """Return what keeps the traffic of a family from going where a plan sends it.

    They come in the order of the rules, those in other backends after those of the plan's.
    ``live`` are the rules of each backend as a run leaves them, those of the plan's first.
    ``check`` is called now and then, and may raise.
    """
    if not live or not plan.ruleset(family).tables:
        return ()
    places: dict[tuple[object, ...], Obstacle] = {}
    walk = _Walk(plan, family, live, pod)
    for _ in range(_MOST_ROUNDS):
        found = [one for one in walk.obstacles(check) if _place(one.step) not in places]
        places |= {_place(one.step): one for one in found}
        # What else would keep them, if these did not.
        steps = [one.step for one in found if one.certain and one.step and one.step.rule]
        if not steps:
            break
        walk = walk.without(steps)
    for one in walk.some_elsewhere(check):
        places.setdefault(_place(one.step), one)
    backends = [one.backend for one in live]
    return tuple(sorted(places.values(), key=lambda one: _rank(one.step, backends)))


def _rank(step: TraceStep | None, backends: list[str]) -> tuple[int, ...]:
    if step is None or step.table not in BUILTIN_CHAINS:
        return (len(backends),)
    chains = BUILTIN_CHAINS[step.table]
    place = TABLES.index(step.table), chains.index(step.hook), step.number
    return (backends.index(step.backend), *place)


class _Walk:
    """Each sample of a plan on its way through live rules."""

    def __init__(
        self,
        plan: Plan,
        family: Family,
        live: tuple[Rules, ...],
        pod: PodNetwork,
        *,
        work: int = 0,
        known: dict[int, tuple[Rule | ForeignRule, Parts]] | None = None,
    ) -> None:
        self._plan = plan
        self._family: Family = family
        self._live = live
        self._pod = pod
        self._work = work
        self._known = {} if known is None else known
        routes = routes_of(plan, family, pod)
        self._tracers = [Tracer(one, routes, brief=True, known=self._known) for one in orders(live)]
        self._samples = samples(plan, family, pod, _others(live))

    @property
    def _spent(self) -> int:
        return self._work + sum(one.work for one in self._tracers)

    def without(self, steps: list[TraceStep]) -> _Walk:
        """Return the walk through the rules without those of some steps."""
        idle = {(one.backend, one.table, one.chain, one.number) for one in steps}
        live = tuple(_without(one, idle) for one in self._live)
        return _Walk(self._plan, self._family, live, self._pod, work=self._spent, known=self._known)

    def obstacles(self, check: Callable[[], None]) -> Iterator[Obstacle]:
        """Yield what keeps samples from where they are to go."""
        backend = self._live[0].backend
        planned = self._plan.ruleset(self._family)
        found: dict[tuple[object, ...], list[Deviation]] = {}
        for sample in self._samples:
            check()
            if self._spent > _MOST_WORK:
                text = "there are too many rules to follow a packet of each kind through them"
                yield Obstacle(self._family, None, text, certain=False, elsewhere=True)
                break
            one = deviation(sample, self._tracers, planned, backend)
            if one is not None and _matters(one, self._samples):
                found.setdefault((_place(one.blamed), one.certain), []).append(one)
        for group in found.values():
            step = group[0].blamed
            if step and step.backend != backend and _is_of_ours(step):
                # Ours in a second backend are a matter of their own.
                continue
            elsewhere = not step or step.backend != backend or not _beside(step, group)
            lost = _lost(group, self._samples)
            yield Obstacle(self._family, step, lost, certain=group[0].certain, elsewhere=elsewhere)

    def some_elsewhere(self, check: Callable[[], None]) -> Iterator[Obstacle]:
        """Yield the rules of others in other backends that take what the plan captures."""
        planned = self._plan.ruleset(self._family)
        backend = self._live[0].backend
        for beside in self._live[1:]:
            for sample in captured_elsewhere(self._plan, self._family, self._pod, beside):
                check()
                if self._spent > _MOST_WORK:
                    return
                one = deviation(sample, self._tracers, planned, backend)
                step = one.blamed if one else None
                if step and step.backend != backend and not _is_of_ours(step):
                    yield Obstacle(
                        self._family, step, _TAKEN, certain=False, elsewhere=True, some=True
                    )


def _is_of_ours(step: TraceStep) -> bool:
    return step.rule is not None and leads_into_ours(step.rule)


def _without(rules: Rules, idle: set[tuple[str, str, str, int]]) -> Rules:
    tables = []
    for table in rules.ruleset.tables:
        chains = []
        for chain in table.chains:
            gone = {
                number - 1
                for backend, of_table, name, number in idle
                if (backend, of_table, name) == (rules.backend, table.name, chain.name)
            }
            if gone:
                kept = (_IDLE if at in gone else rule for at, rule in enumerate(chain.rules))
                chain = chain.replace(rules=tuple(kept))  # noqa: PLW2901
            chains.append(chain)
        tables.append(table.replace(chains=tuple(chains)))
    return rules.replace(ruleset=rules.ruleset.replace(tables=tuple(tables)))


def _others(live: tuple[Rules, ...]) -> Iterator[Rule | ForeignRule]:
    for rules in live:
        for table in rules.ruleset.tables:
            for chain in table.chains:
                yield from chain.rules


def _place(step: TraceStep | None) -> tuple[object, ...]:
    return (step.hook, step.backend, step.table, step.chain, step.number) if step else ()


def _beside(step: TraceStep, group: list[Deviation]) -> bool:
    """Whether a rule stands in a chain in which the lost rules begin too."""
    return step.rule is not None and any(one.sample.way[0][0] == step.chain for one in group)


def _matters(one: Deviation, every: tuple[Sample, ...]) -> bool:
    """Whether it is ours to say: what the plan lets pass may go anywhere but to the proxy."""
    if reason_of(one.sample.way[-1][1]).effect not in LETS_PASS:
        return True
    captures = {sample.verdict for sample in every if sample.verdict.port}
    return one.certain and one.trace.outcome in captures


def _cited(sample: Sample) -> Placed:
    """Return the rule that says what a sample is there for."""
    return next((one for one in reversed(sample.way) if one[0] not in _MEANS), sample.way[-1])


def _effect(sample: Sample) -> Effect:
    return reason_of(_cited(sample)[1]).effect


def _whole(sample: Sample) -> Placed:
    """Return the first rule on the way that is there for the same as the one that is cited."""
    return next(one for one in sample.way if reason_of(one[1]).effect == _effect(sample))


def _lost(group: list[Deviation], every: tuple[Sample, ...]) -> str:
    """Return what is lost with some samples, what is not captured first."""
    lost = [one.sample for one in group]
    effects = {_effect(sample) for sample in lost}
    if "captures outbound" in effects:
        lost = [one for one in lost if _effect(one) != "self-call through the proxy"]
    lost.sort(key=lambda one: (_effect(one) not in CAPTURES, _effect(one) in LETS_PASS))
    texts = []
    for sample in lost:
        whole = _whole(sample)
        alike = [one for one in every if one.way[0] == sample.way[0] and _whole(one) == whole]
        protocol: Protocol = "udp" if sample.packets[0].protocol == "udp" else "tcp"
        chain, rule = whole if all(one in lost for one in alike) else _cited(sample)
        if isinstance(rule, Rule):
            texts.append(consequence(rule, chain, protocol))
    return "; ".join(dict.fromkeys(texts))
