"""What is gone without when the kernel lacks it, and what is said about what is lacking."""

from __future__ import annotations

from errno import EINVAL, EIO, ENOENT, ENOPROTOOPT, EPERM
from typing import TYPE_CHECKING

import pytest

from istio_init import cli, planner
from istio_init.apply import detect, legacy, routes
from istio_init.apply.iptables_nft import IptablesNft
from istio_init.apply.memory import Fake
from istio_init.config.model import Config, Facts
from istio_init.errors import ApplyError, UnsupportedError
from istio_init.formats.iptables import rule_line
from istio_init.formats.nf_tables import messages
from istio_init.kernel import modules, nfnetlink
from istio_init.planner.degrade import WITHOUT_DROP, WITHOUT_ZONES, degraded
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.diff import changes
from istio_init.rules.model import Rule, Ruleset, make_table
from istio_init.rules.ranges import FAMILIES, IPV4, IPV6
from tests.plans import plan_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from istio_init.formats.nf_tables.messages import Message
    from istio_init.rules.diff import TableChanges
    from istio_init.rules.ranges import Family

    RunOn = Callable[..., int]

FULL = Config(
    "1.30",
    outbound_all=True,
    inbound_all=True,
    redirect_dns=True,
    capture_all_dns=True,
    drop_invalid=True,
    ipv6=True,
)
CALL = (
    *("istio-iptables", "-i", "*", "-b", "*", "--ipv6"),
    *("--redirect-dns", "--capture-all-dns", "--drop-invalid"),
)


@pytest.mark.parametrize(
    ("missing", "warnings"),
    [
        ({"raw"}, (WITHOUT_ZONES,)),
        ({"CT"}, (WITHOUT_ZONES,)),
        ({"udp", "owner", "CT"}, (WITHOUT_ZONES,)),
        ({"conntrack"}, (WITHOUT_DROP,)),
        ({"mangle"}, (WITHOUT_DROP,)),
        ({"mangle", "raw"}, (WITHOUT_ZONES, WITHOUT_DROP)),
        ({"owner"}, ()),
        ({"REDIRECT"}, ()),
        ({"nat"}, ()),
        (set(), ()),
    ],
)
def test_only_what_can_be_spared_goes(missing: set[str], warnings: tuple[str, ...]) -> None:
    config, said = degraded(FULL, frozenset(missing))

    assert said == warnings
    assert config.dns_zones == (WITHOUT_ZONES not in warnings)
    assert config.drop_invalid == (WITHOUT_DROP not in warnings)
    assert config.replace(dns_zones=True, drop_invalid=True) == FULL


@pytest.mark.parametrize("missing", ["raw", "CT", "conntrack", "mangle"])
def test_what_was_not_asked_for_cannot_go(missing: str) -> None:
    plain = FULL.replace(redirect_dns=False, capture_all_dns=False, drop_invalid=False)
    gone = FULL.replace(dns_zones=False, drop_invalid=False)

    assert degraded(plain, frozenset({missing})) == (plain, ())
    assert degraded(gone, frozenset({missing})) == (gone, ())


def test_without_zones_dns_is_captured_all_the_same() -> None:
    full = planner.plan(FULL, Facts())
    less = planner.plan(degraded(FULL, frozenset({"raw"}))[0], Facts())

    for family in FAMILIES:
        assert less.ruleset(family).table("raw") is None
        assert less.ruleset(family).table("nat") == full.ruleset(family).table("nat")
        assert less.ruleset(family).table("mangle") == full.ruleset(family).table("mangle")


def test_without_drop_invalid_nothing_else_changes() -> None:
    full = planner.plan(FULL, Facts())
    less = planner.plan(degraded(FULL, frozenset({"conntrack"}))[0], Facts())

    for family in FAMILIES:
        assert less.ruleset(family).table("mangle") is None
        assert less.ruleset(family).table("nat") == full.ruleset(family).table("nat")
        assert less.ruleset(family).table("raw") == full.ruleset(family).table("raw")


class Lacking(Fake):
    """A backend on a kernel without some tables, matches or targets."""

    def __init__(self, *lacks: str) -> None:
        super().__init__()
        self.lacks = frozenset(lacks)

    def read(self, family: Family, needed: frozenset[str]) -> Ruleset:
        """Return the live tables, if the kernel has those that are needed."""
        self._refuse(needed & self.lacks)
        return super().read(family, needed)

    def commit(self, changes: tuple[TableChanges, ...], results: tuple[Ruleset, ...]) -> None:
        """Take the steps, table by table, until one needs what is lacking."""
        for change in changes:
            rules = [step.rule for step in change.steps if isinstance(step.rule, Rule)]
            if any(isinstance(rule.target, t.CtZone) for rule in rules):
                self._refuse({"CT"} & self.lacks)
            if any(isinstance(match, m.CtState) for rule in rules for match in rule.matches):
                self._refuse({"conntrack"} & self.lacks)
            super().commit((change,), results)

    def _refuse(self, missing: frozenset[str] | set[str]) -> None:
        if missing:
            names = ", ".join(sorted(missing))
            raise UnsupportedError(f"this kernel lacks {names}", missing=frozenset(missing))


@pytest.fixture
def run_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RunOn:
    """Return what runs the program over a backend in memory and returns its exit code."""
    evidence = detect.Evidence(frozenset({"legacy"}), frozenset(), frozenset())
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
    monkeypatch.setattr(detect, "look", lambda _made: evidence)
    monkeypatch.setattr(routes, "live", lambda _marks, _hints: ())
    monkeypatch.setattr(routes, "apply_steps", lambda _steps: None)

    def run(backend: Fake, *argv: str) -> int:
        monkeypatch.setattr(detect, "applier", lambda _kind, _made: backend)
        return cli.main([*CALL, *argv])

    return run


def dump_of(config: Config) -> str:
    return Fake(*planner.plan(config, Facts()).rulesets).dump()


@pytest.mark.parametrize(
    ("lacks", "config", "warnings"),
    [
        (("raw",), FULL.replace(dns_zones=False), [WITHOUT_ZONES]),
        (("CT",), FULL.replace(dns_zones=False), [WITHOUT_ZONES]),
        (("conntrack",), FULL.replace(drop_invalid=False), [WITHOUT_DROP]),
        (("mangle",), FULL.replace(drop_invalid=False), [WITHOUT_DROP]),
        (
            ("CT", "conntrack"),
            FULL.replace(dns_zones=False, drop_invalid=False),
            [WITHOUT_ZONES, WITHOUT_DROP],
        ),
        ((), FULL, []),
    ],
)
def test_degrade_goes_on_without_it_and_says_so(
    lacks: tuple[str, ...],
    config: Config,
    warnings: list[str],
    run_on: RunOn,
    capsys: pytest.CaptureFixture[str],
) -> None:
    backend = Lacking(*lacks)

    code = run_on(backend, "--on-missing", "degrade")

    said = [line.split("\t")[1:] for line in capsys.readouterr().err.splitlines()]
    assert code == 0
    assert backend.dump() == dump_of(config)
    assert [text for level, text in said if level == "warn"] == [
        f"--on-missing degrade: {warning}" for warning in warnings
    ]


@pytest.mark.parametrize("lacks", ["raw", "CT", "conntrack", "mangle", "nat"])
@pytest.mark.parametrize("argv", [(), ("--on-missing", "fail")])
def test_without_degrade_it_is_a_failure(
    lacks: str,
    argv: tuple[str, ...],
    run_on: RunOn,
    capsys: pytest.CaptureFixture[str],
) -> None:
    backend = Lacking(lacks)

    code = run_on(backend, *argv)

    assert code == 1
    assert f"this kernel lacks {lacks}" in capsys.readouterr().err
    assert backend.dump() == ""


@pytest.mark.parametrize("argv", [(), ("-m", "TPROXY")])
def test_what_cannot_be_spared_fails_with_degrade_too(
    argv: tuple[str, ...],
    run_on: RunOn,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # TPROXY needs the table for more than the drop of invalid packets.
    backend = Lacking("mangle" if argv else "nat")

    code = run_on(backend, "--on-missing", "degrade", *argv)

    assert code == 1
    assert "error\tthis kernel lacks" in capsys.readouterr().err
    assert backend.dump() == ""


def everything(family: Family) -> tuple[TableChanges, ...]:
    """Return changes whose rules need every match and target there is."""
    plans = [
        plan_of(*CALL, "-m", "TPROXY", "-o", "7"),
        plan_of("-i", "*", "-b", "80", "-m", "TPROXY"),
        plan_of("-i", "*"),
    ]
    return tuple(
        change
        for plan in plans
        for change in changes(
            Ruleset(family, tuple(make_table(one.name, {}) for one in plan.ruleset(family).tables)),
            plan.ruleset(family),
        )
    )


MODULES = {
    "tcp": "xt_tcpudp",
    "udp": "xt_tcpudp",
    "owner": "xt_owner",
    "multiport": "xt_multiport",
    "conntrack": "xt_conntrack",
    "mark": "xt_mark",
    "connmark": "xt_connmark",
    "REDIRECT": "xt_REDIRECT",
    "TPROXY": "xt_TPROXY",
    "MARK": "xt_mark",
    "CONNMARK": "xt_connmark",
    "CT": "xt_CT",
}


@pytest.fixture
def backend() -> legacy.Legacy:
    return legacy.Legacy()


def set_errno(backend: legacy.Legacy, number: int) -> None:
    backend._iptc._get_errno_loc()[0] = number


@pytest.mark.parametrize("number", [EINVAL, ENOENT])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [*MODULES, "socket", "REJECT"])
def test_legacy_names_the_match_or_target_its_module_and_the_remedy(
    backend: legacy.Legacy,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    family: Family,
    number: int,
) -> None:
    special = {"socket": "xt_socket", "REJECT": "ip6t_REJECT"}
    module = {**MODULES, **special}[name]
    needing = [
        change
        for change in everything(family)
        if any(one.name == name for one in modules.needed(change.steps, family))
    ]
    if name in special:
        # Layout 1.0 writes the one for IPv4 only, the other for IPv6 only.
        assert bool(needing) == (family == (IPV4 if name == "socket" else IPV6))
    monkeypatch.setattr(modules, "in_legacy", lambda feature: feature.name != name)

    for change in needing:
        error = backend._refused(change, Exception("no"), number)

        kind = "target" if name.isupper() else "match"
        assert isinstance(error, UnsupportedError)
        assert error.missing == {name}
        assert f"the {kind} {name} revision" in str(error)
        assert f"(module {module})" in str(error)
        assert f"(backend legacy, {family}, {change.table})" in str(error)
        assert "load the module on the node, or use --backend nft or nftables" in str(error)
    assert needing or name in special


@pytest.mark.parametrize("number", [ENOENT, ENOPROTOOPT])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("table", ["raw", "mangle", "nat", "filter"])
def test_legacy_names_the_table_its_module_and_the_remedy(
    backend: legacy.Legacy, table: str, family: Family, number: int
) -> None:
    set_errno(backend, number)

    error = backend._cannot_open(family, table, Exception("no"))

    module = f"ip{'6' if family == IPV6 else ''}table_{table}"
    assert isinstance(error, UnsupportedError)
    assert error.missing == {table}
    assert str(error) == (
        f"this kernel has no table {table} (backend legacy, {family}): load the module {module} "
        "on the node, or use --backend nft or nftables"
    )


def test_legacy_names_the_capabilities_that_are_lacking(backend: legacy.Legacy) -> None:
    change = everything(IPV4)[0]
    set_errno(backend, EPERM)

    for error in (
        backend._cannot_open(IPV4, "nat", Exception("no")),
        backend._refused(change, Exception("no"), EPERM),
    ):
        assert isinstance(error, ApplyError)
        assert "NET_ADMIN and NET_RAW" in str(error)


def test_legacy_that_lacks_nothing_points_at_the_ids(
    backend: legacy.Legacy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules, "in_legacy", lambda _feature: True)
    change = everything(IPV6)[0]

    error = backend._refused(change, Exception("can't commit: b'Invalid argument'"), EINVAL)
    other = backend._refused(change, Exception("can't commit: b'Input/output error'"), EIO)

    assert "can't commit: Invalid argument;" in str(error)
    assert "a uid or gid may be unknown to this user namespace" in str(error)
    assert f"ip6tables-legacy -t {change.table} -S" in str(error)
    assert not error.missing
    assert str(other) == (
        f"the kernel refused the rules (backend legacy, ipv6, {change.table}): can't commit: "
        "Input/output error; nothing was changed"
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", MODULES)
def test_nft_names_the_line_the_modules_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch, name: str, family: Family
) -> None:
    given: list[str] = []

    def refuse(batch: Sequence[Message], _made_for: int | None = None) -> None:
        for message in batch:
            step = getattr(message.about, "step", None)
            rule = getattr(step, "rule", None)
            if isinstance(rule, Rule) and message.kind == messages.NEW_RULE:
                line = rule_line(getattr(step, "chain", ""), rule, family)
                if _asks_for(name, line):
                    given.append(line)
                    raise nfnetlink.RefusedError(ENOENT, message)

    empty = messages.Contents(1, (), (), (), (), (), ())
    monkeypatch.setattr(nfnetlink, "contents", lambda *_, **__: empty)
    monkeypatch.setattr(nfnetlink, "generation", lambda: 1)
    monkeypatch.setattr(nfnetlink, "commit", refuse)
    change = next(
        one
        for one in everything(family)
        if any(feature.name == name for feature in modules.needed(one.steps, family))
    )

    backend = IptablesNft()
    backend.read(family, frozenset())
    with pytest.raises(ApplyError) as caught:
        backend.commit((change,), ())

    assert name in caught.value.missing
    assert MODULES[name] in caught.value.remedy
    assert "nft_compat" in caught.value.remedy
    assert f"backend nft, {family}, {change.table}" in str(caught.value)
    assert f"No such file or directory at: {given[0]};" in str(caught.value)


def _asks_for(name: str, line: str) -> bool:
    word = f"-j {name} " if name.isupper() else f"-m {name} "
    return word in f"{line} "
