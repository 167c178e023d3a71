"""What built live rules is recognised: planned again, it leads to the same rules."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from istio_init import planner
from istio_init.config import fast_arguments
from istio_init.config.model import LAYOUT_1_0, LAYOUT_1_30, LAYOUTS, TPROXY, Config, Facts
from istio_init.config.options import BY_NAME, OPTIONS
from istio_init.config.resolve import resolve
from istio_init.diagnose.infer import as_arguments, infer_config
from istio_init.diagnose.rule_reader import Covered
from istio_init.kernel.host import HostFiles
from istio_init.rules import ownership
from istio_init.rules.model import Plan, Ruleset, make_table
from istio_init.rules.names import DNS_PORT, ISTIO_OUTPUT, NAT
from istio_init.rules.ranges import FAMILIES, IPV4
from istio_init.rules.sets import canonical
from tests.cases import CALLS, Call
from tests.plans import plan_of
from tests.strategies import S4, S6, configs
from tests.unit.flags import VALUES, text_of
from tests.unit.settings import tried_more
from tests.unit.test_planner import V4, V6

NOWHERE = {"ISTIO_CLUSTER_CONFIG": "/nonexistent", "ISTIO_SIDECAR_CONFIG": "/nonexistent"}


def seen(plan: Plan, rulesets: tuple[Ruleset, ...], *, native: bool) -> Config:
    """Return what is recognised of a plan that stands in the kernel."""
    found = infer_config(rulesets, plan.routes, passthrough=bool(plan.addresses), native=native)
    assert found is not None
    return found


def again(plan: Plan, *, native: bool) -> tuple[tuple[Ruleset, ...], tuple[Ruleset, ...]]:
    """Return the live rules of a plan, and what a run of the call recognised would make of them."""
    live = tuple(canonical(one) if native else one for one in plan.rulesets)
    config = seen(plan, live, native=native)
    second = planner.plan(config, Facts())
    assert (second.layout, second.routes) == (plan.layout, plan.routes)
    assert second.addresses == plan.addresses
    if native:
        return live, tuple(canonical(one) for one in second.rulesets)
    # Rules by -k without -i are left for those of somebody else.
    known = ownership.traces(live)
    planned = dict(zip(FAMILIES, second.rulesets, strict=True))
    return live, tuple(
        ownership.wanted(one, planned[one.family], known, clean=False) for one in live
    )


@pytest.mark.parametrize("native", [False, True], ids=["iptables", "nftables"])
@pytest.mark.parametrize("call", CALLS, ids=str)
def test_every_call_of_the_table_is_recognised(call: Call, *, native: bool) -> None:
    live, wanted = again(plan_of(*call.argv, env=call.env), native=native)

    assert wanted == live


@given(st.sampled_from(LAYOUTS).flatmap(configs), st.booleans())
@tried_more
def test_whatever_was_asked_for_is_recognised(config: Config, native: bool) -> None:  # noqa: FBT001 - drawn
    # As no call can ask for: a list beside its *.
    config = config.replace(
        outbound_cidrs=() if config.outbound_all else config.outbound_cidrs,
        inbound_ports=() if config.inbound_all else config.inbound_ports,
    )
    assume(config.tunnel_port not in range(DNS_PORT.low - 1, DNS_PORT.high + 2))
    # All of one family and none of the other is taken for a rule that is missing.
    everything = [one.family for one in config.outbound_cidrs if one.everything]
    assume(len(config.outbound_cidrs) != 1 or not everything or config.layout == LAYOUT_1_0)
    assume(not set(config.exclude_interfaces) & set(config.virtual_interfaces))

    live, wanted = again(planner.plan(config, Facts((V4, V6), (S4, S6))), native=native)

    assert wanted == live


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_what_was_recognised_is_said_as_a_call_that_leads_there(call: Call) -> None:
    plan = plan_of(*call.argv, env=call.env)
    config = seen(plan, plan.rulesets, native=False)
    asked = fast_arguments.read(as_arguments(config), {})
    assert asked is not None

    resolved = resolve(*asked, NOWHERE, HostFiles()).config

    assert planner.plan(resolved, Facts()) == planner.plan(config, Facts())


# A row whose flag no rule shows, and why.
UNSEEN = {
    "layout": "it is the command",
    "no-ipv6": "it is said of every call, as --ipv6 is",
    "dual-stack": "it decides about IPv6, which is settled",
}
# What has to stand beside a flag for it to make a difference.
BESIDE = {
    "istio-local-exclude-ports": ("-b", "*"),
    "istio-inbound-tproxy-mark": ("-m", "TPROXY"),
    "istio-inbound-tproxy-route-table": ("-m", "TPROXY", "-b", "*"),
    "kube-virt-interfaces": ("-i", "*"),
    "redirect-dns": ("--dns-servers", "10.0.0.2"),
    "capture-all-dns": ("--redirect-dns",),
    "dns-servers": ("--redirect-dns",),
}


@pytest.mark.parametrize("native", [False, True], ids=["iptables", "nftables"])
@pytest.mark.parametrize(
    "name", [one.name for one in OPTIONS if one.of_config and one.name not in UNSEEN]
)
def test_every_flag_of_the_rules_is_recognised(name: str, *, native: bool) -> None:
    option = BY_NAME[name]
    text = text_of(name).replace("java", "4001")
    flag = (f"--{name}",) if option.switch else (f"--{name}", text)
    argv = (
        "istio-iptables",
        *(() if "ipv6" in name else ("--ipv6",)),
        *BESIDE.get(name, ()),
        *flag,
    )
    plan = plan_of(*argv)
    live, wanted = again(plan, native=native)

    call = as_arguments(seen(plan, live, native=native))

    assert wanted == live
    assert option.shortest in call
    words = fast_arguments.read(call, {})
    assert words is not None
    # nf_tables joins the parts of a list, which then come back as a range.
    if not option.switch and not native:
        value = VALUES[name][1]
        assert getattr(resolve(*words, NOWHERE, HostFiles()).config, option.field) == value


def test_one_rule_less_is_not_taken_for_another_call() -> None:
    plan = plan_of("istio-iptables", "-u", "1337", "-i", "*", "-b", "80", "-m", "TPROXY", "--ipv6")
    whole = seen(plan, plan.rulesets, native=False)
    differing = []
    for ruleset in plan.rulesets:
        for table in ruleset.tables:
            for chain in table.chains:
                for number, rule in enumerate(chain.rules):
                    rest = chain.rules[:number] + chain.rules[number + 1 :]
                    chains = {one.name: one for one in table.chains}
                    chains[chain.name] = chain.replace(rules=rest)
                    less = [
                        one.replace(
                            tables=tuple(
                                make_table(other.name, chains) if other is table else other
                                for other in one.tables
                            )
                        )
                        if one is ruleset
                        else one
                        for one in plan.rulesets
                    ]
                    if seen(plan, tuple(less), native=False) != whole:
                        differing.append(rule)

    # Both families say the same, so that one alone hides nothing.
    assert differing == []


def test_nothing_of_ours_is_nothing() -> None:
    theirs = make_table(NAT, {})

    assert infer_config(()) is None
    assert infer_config((Ruleset(IPV4, (theirs,)),)) is None


def test_what_no_rule_says_is_the_default() -> None:
    plan = plan_of("istio-iptables", "-u", "1337", "--no-ipv6")
    nat = plan.ruleset(IPV4).table(NAT)
    assert nat is not None
    bare = make_table(NAT, {ISTIO_OUTPUT: nat.chains[-2].replace(name=ISTIO_OUTPUT, rules=())})

    config = infer_config((Ruleset(IPV4, (bare,)),))

    assert config == Config(LAYOUT_1_30, dns_servers=(), ipv6=False)


def test_a_mark_without_its_chains_is_found_by_the_rules_beside_them() -> None:
    plan = plan_of("istio-iptables", "-u", "1337", "-m", "TPROXY", "-t", "7", "--no-ipv6")
    config = seen(plan, plan.rulesets, native=False)

    assert (config.mode, config.tproxy_mark) == (TPROXY, 7)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6)), max_size=12))
def test_what_is_covered_is_what_was_added(drawn: list[tuple[int, int]]) -> None:
    spans = [(low, low + size) for low, size in drawn]
    covered = Covered()
    numbers: set[int] = set()
    for low, high in spans:
        assert ((low, high) in covered) == (set(range(low, high + 1)) <= numbers)
        covered.add((low, high))
        numbers |= set(range(low, high + 1))
        assert (low, high) in covered
        assert (low, high + 1) in covered or high + 1 not in numbers
