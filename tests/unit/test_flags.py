"""Every flag by each of its names, every variable, and which of them counts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from istio_init.config.model import LAYOUT_1_0, LAYOUT_1_30, LAYOUTS, REDIRECT, Config, Run
from istio_init.config.options import BY_NAME, GROUPS, NEW, OPTIONS, Option
from istio_init.rules.names import DEFAULT_LOOPBACK
from istio_init.rules.ranges import IdRange
from tests.unit.calls import asked, call, refused
from tests.unit.flags import (
    ACCEPTED,
    ACCEPTED_SWITCHES,
    SWITCHES,
    VALUES,
    VARIABLES,
    ids,
    networks,
    ports,
    text_of,
)

if TYPE_CHECKING:
    from istio_init.config.model import Layout
    from istio_init.config.resolve import Resolved

WORD = {LAYOUT_1_0: (), LAYOUT_1_30: ("istio-iptables",)}


def field(resolved: Resolved, option: Option) -> object:
    return getattr(resolved.config if option.of_config else resolved.run, option.field)


def test_tables_name_every_flag_and_group() -> None:
    tested = {*VALUES, *SWITCHES, *ACCEPTED, *ACCEPTED_SWITCHES, "layout"}

    assert tested == set(BY_NAME)
    assert {*SWITCHES, *ACCEPTED_SWITCHES} == {one.name for one in OPTIONS if one.switch}
    assert {option.group for option in OPTIONS} == set(GROUPS)


def test_every_field_of_config_and_run_has_a_row_and_one_home() -> None:
    # The agent's zones are a matter of the kernel, not of a flag.
    fields = {*Config.__match_args__, *Run.__match_args__} - {"dns_zones"}

    assert not set(Config.__match_args__) & set(Run.__match_args__)
    assert {name for one in OPTIONS for name in (one.field, one.star) if name} == fields
    assert {one.name for one in OPTIONS if not one.field} == {*ACCEPTED, *ACCEPTED_SWITCHES}


@pytest.mark.parametrize("name", [one.name for one in OPTIONS if one.default])
def test_default_in_the_help_is_the_default_of_the_field(name: str) -> None:
    option = BY_NAME[name]
    shown, more, _ = option.default.partition(";")
    by_default = field(asked("istio-iptables", etc=Path("/nonexistent")), option)

    if name in ("layout", "proxy-uid", "proxy-gid", "dns-servers", "ipv6"):
        assert " " in shown  # a rule in words; tests below hold it
    elif name == "network-namespace":
        assert by_default == ""
    else:
        assert field(asked("istio-iptables", f"--{name}={shown}"), option) == by_default
        assert not more or name == "inbound-capture-port"


def test_names_are_unambiguous() -> None:
    shorts = [option.short for option in OPTIONS if option.short]

    assert len(shorts) == len(set(shorts))
    assert len(BY_NAME) == len(OPTIONS)
    assert BY_NAME["envoy-port"].spelled == "-p --envoy-port"
    assert BY_NAME["redirect-dns"].spelled == "--redirect-dns"


@pytest.mark.parametrize(("name", "text", "value"), [(name, *row) for name, row in VALUES.items()])
def test_flag_by_each_name_and_spelling(name: str, text: str, value: object) -> None:
    option = BY_NAME[name]
    spellings = [(f"--{name}", text), (f"--{name}={text}",)]
    if option.short:
        short = f"-{option.short}"
        spellings += [(short, text), (f"{short}{text}",), (f"{short}={text}",)]

    for spelling in spellings:
        assert field(asked("istio-iptables", *spelling), option) == value


@pytest.mark.parametrize(("name", "on"), SWITCHES.items())
def test_switch_alone_true_and_false(name: str, on: object) -> None:
    option = BY_NAME[name]
    names = [f"--{name}", *([f"-{option.short}"] if option.short else [])]
    off = False if name == "ipv6" else field(asked("istio-iptables"), option)

    for switch in names:
        for spelling in (switch, f"{switch}=true", f"{switch}=True", f"{switch}=1", f"{switch}=t"):
            assert field(asked("istio-iptables", spelling), option) == on
        for spelling in (f"{switch}=false", f"{switch}=FALSE", f"{switch}=0", f"{switch}=f"):
            assert field(asked("istio-iptables", spelling), option) == off
        for spelling in (f"{switch}=banana", f"{switch}="):
            assert f"{option.spelled}: " in refused("istio-iptables", spelling)


@pytest.mark.parametrize("name", ACCEPTED_SWITCHES)
def test_accepted_switches_change_nothing(name: str) -> None:
    plain = asked("istio-iptables")

    for spelling in (f"--{name}", f"--{name}=true", f"--{name}=false"):
        assert asked("istio-iptables", spelling) == plain
    assert f"--{name}: 'maybe': expected true or false" in refused(f"--{name}=maybe")


@pytest.mark.parametrize("name", ACCEPTED)
def test_other_log_flags_take_any_text(name: str) -> None:
    for text in ("stdout", "", "default:none", "a,b"):
        assert asked("istio-iptables", f"--{name}", text) == asked("istio-iptables")


def test_switches_stand_before_other_flags() -> None:
    resolved = asked("istio-iptables", "-n", "-p", "15011", "--redirect-dns", "-z", "15016")

    assert resolved.run.dry_run
    assert resolved.config.redirect_dns
    assert (resolved.config.outbound_port, resolved.config.inbound_port) == (15011, 15016)


def test_last_of_a_repeated_flag_counts() -> None:
    assert asked("-p", "1", "--envoy-port", "2", "-p=3").config.outbound_port == 3


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("variable", "option"), VARIABLES)
def test_variable_counts_in_its_layouts_alone(
    variable: str, option: Option, layout: Layout
) -> None:
    word, text = WORD[layout], text_of(option.name)
    plain = asked(*word)

    from_variable = asked(*word, env={variable: text})

    if layout in option.env_layouts:
        assert from_variable == asked(*word, f"--{option.name}={text}")
        assert (from_variable == plain) == (not option.field)
    else:
        assert from_variable == plain


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("variable", "option"),
    # Any text may name a namespace.
    [row for row in VARIABLES if row[0] != "NETWORK_NAMESPACE"],
)
def test_variable_that_does_not_parse_is_refused_where_it_counts(
    variable: str, option: Option, layout: Layout
) -> None:
    flag = f"--{option.name}={text_of(option.name)}"
    word, bad = WORD[layout], {variable: "-^"}

    if layout in option.env_layouts:
        assert f"env {variable}: '-^': expected " in refused(*word, env=bad)
    else:
        assert asked(*word, env=bad) == asked(*word)
    if layout in option.layouts:
        # A flag beats it before it is looked at.
        assert asked(*word, flag, env=bad) == asked(*word, flag)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variable", [row[0] for row in VARIABLES])
def test_empty_variable_counts_as_unset(variable: str, layout: Layout) -> None:
    for nothing in ("", " ", "\t "):
        assert asked(*WORD[layout], env={variable: nothing}) == asked(*WORD[layout])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_flag_beats_its_variable(layout: Layout) -> None:
    env = {"ISTIO_INBOUND_PORTS": "80", "INBOUND_CAPTURE_PORT": "1", "DRY_RUN": "true"}

    resolved = asked(*WORD[layout], "-b", "443", "-z", "2", "-n=false", env=env)

    assert resolved.config.inbound_ports == ports(443)
    assert resolved.config.inbound_port == 2
    assert not resolved.run.dry_run


def test_flag_beats_its_variable_even_when_it_is_empty_or_the_variable_is_bad() -> None:
    assert asked("-b", "", env={"ISTIO_INBOUND_PORTS": "80"}).config.inbound_ports == ()
    assert asked("-x", "", env={"ISTIO_SERVICE_EXCLUDE_CIDR": "banana"}) == asked()


@pytest.mark.parametrize(
    ("name", "first", "later"),
    [
        ("redirect-dns", "REDIRECT_DNS", "ISTIO_META_DNS_CAPTURE"),
        ("drop-invalid", "DROP_INVALID", "INVALID_DROP"),
        ("dual-stack", "DUAL_STACK", "ISTIO_DUAL_STACK"),
    ],
)
def test_flag_beats_later_variable_beats_first_beats_default(
    name: str, first: str, later: str
) -> None:
    def found(*argv: str, **env: str) -> object:
        return field(asked("istio-iptables", *argv, env=env), BY_NAME[name])

    assert found() is False
    assert found(**{first: "true"}) is True
    assert found(**{first: "true", later: "false"}) is False
    assert found(**{first: "false", later: "true"}) is True
    assert found(f"--{name}", **{first: "false", later: "false"}) is True
    assert found(f"--{name}=false", **{first: "true", later: "true"}) is False


def test_no_ipv6_is_the_negative_of_ipv6() -> None:
    assert asked("istio-iptables").config.ipv6 is None
    assert asked("istio-iptables", "--no-ipv6").config.ipv6 is False
    assert asked("istio-iptables", "--ipv6").config.ipv6 is True
    assert asked("istio-iptables", "--no-ipv6", "--ipv6=false").config.ipv6 is False
    assert asked("istio-iptables", "--no-ipv6=false").config.ipv6 is None
    for both in (("--ipv6", "--no-ipv6"), ("--no-ipv6", "--ipv6=true")):
        text = refused("istio-iptables", *both, "-p", "0")
        assert "2 bad values, nothing was changed" in text
        assert "--no-ipv6: 'true': contradicts --ipv6 'true'" in text


def test_defaults_of_layout_1_0() -> None:
    resolved = asked()

    assert resolved.config == Config(
        LAYOUT_1_0,
        mode=REDIRECT,
        outbound_port=15001,
        inbound_port=15001,
        proxy_uids=ids(1337, 0),
        proxy_gids=ids(1337, 0),
        tproxy_mark=1337,
        tproxy_table=133,
        ipv6=False,
    )
    assert resolved.run == Run()
    assert resolved.warnings == ()


def test_defaults_of_layout_1_30() -> None:
    resolved = asked("istio-iptables")

    assert resolved.config == Config(
        LAYOUT_1_30,
        mode=REDIRECT,
        outbound_port=15001,
        inbound_port=15006,
        tunnel_port=15008,
        proxy_uids=ids(1337),
        proxy_gids=ids(1337),
        tproxy_mark=1337,
        tproxy_table=133,
        loopback=DEFAULT_LOOPBACK,
        owner_groups=None,
        dns_servers=None,
        ipv6=None,
    )
    assert resolved.run == Run(probe_port=15002, probe_timeout=5.0, log_level="info")
    assert resolved.warnings == ()


def test_inbound_port_follows_the_outbound_port_in_layout_1_0_alone() -> None:
    assert asked("-p", "15011").config.inbound_port == 15011
    assert asked("-p", "15011", "-z", "15016").config.inbound_port == 15016
    assert asked(env={"ENVOY_PORT": "15011"}).config.inbound_port == 15011
    assert asked("istio-iptables", "-p", "15011").config.inbound_port == 15006


def test_an_empty_mode_means_the_default_and_is_warned_about() -> None:
    for empty in ("", " "):
        resolved = asked("istio-iptables", "-m", empty)
        assert resolved.config == asked("istio-iptables").config
        assert resolved.warnings == (
            "--istio-inbound-interception-mode: it is empty, which means the default REDIRECT",
        )
    assert asked(env={"ISTIO_INBOUND_INTERCEPTION_MODE": ""}).warnings == ()


def test_lists_are_trimmed_and_may_be_empty_or_everything() -> None:
    config = asked("-b", "80, 8080,", "-d", " ,", "-i", " * ", "-x", "").config

    assert (config.inbound_all, config.inbound_ports) == (False, ports(80, 8080))
    assert config.inbound_exclude_ports == ()
    assert (config.outbound_all, config.outbound_cidrs) == (True, ())
    assert config.outbound_exclude_cidrs == ()
    assert asked("-b", "*,").config.inbound_all
    assert asked("-b", "").config == asked().config
    assert not asked("-b", "").config.captures_inbound
    assert asked("-b", "80").config.captures_inbound
    assert asked("-b", "*").config.captures_inbound


def test_services_users_and_groups_are_looked_up() -> None:
    config = asked("istio-iptables", "-b", "http,domain,www", "-u", "daemon", "-g", "java").config

    assert config.inbound_ports == ports(80, 53, 80)
    assert (config.proxy_uids, config.proxy_gids) == (ids(1), ids(4001))


def test_families_may_be_mixed_and_host_bits_are_remarked_on() -> None:
    resolved = asked(
        "istio-iptables",
        *("-i", "10.0.0.5/8, fd00::1/8,10.9.9.9"),
        *("-x", "10.1.0.0/16,10.2.0.1/16"),
        *("--outbound-ipv4-loopback-cidr", "127.0.0.1/8"),
    )

    assert resolved.config.outbound_cidrs == networks("10.0.0.0/8", "fd00::/8", "10.9.9.9/32")
    assert resolved.config.outbound_exclude_cidrs == networks("10.1.0.0/16", "10.2.0.0/16")
    assert resolved.config.loopback == networks("127.0.0.0/8")[0]
    assert resolved.warnings == (
        "--istio-service-cidr: 10.0.0.5/8 has host bits set and means 10.0.0.0/8",
        "--istio-service-cidr: fd00::1/8 has host bits set and means fd00::/8",
        "--istio-service-exclude-cidr: 10.2.0.1/16 has host bits set and means 10.2.0.0/16",
        "--outbound-ipv4-loopback-cidr: 127.0.0.1/8 has host bits set and means 127.0.0.0/8",
    )


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("default:info", "info"),
        ("default:debug", "debug"),
        ("default:none", "none"),
        ("all:error", "error"),
        ("fatal", "fatal"),
        ("ads:debug", "info"),
        ("ads:debug,default:warn", "warn"),
        ("default:warn,ads:debug", "warn"),
        (" default:warn , ads:debug ", "warn"),
        ("", "info"),
    ],
)
def test_log_level_is_the_default_scopes(text: str, level: str) -> None:
    assert asked("istio-iptables", f"--log_output_level={text}").run.log_level == level


@pytest.mark.parametrize(
    "text", ["loud", "default:loud", "default:", ":", "default:info,", "info:x"]
)
def test_bad_log_level_is_refused(text: str) -> None:
    assert "expected SCOPE:LEVEL with a level of debug, info, warn" in refused(
        f"--log_output_level={text}"
    )


@pytest.mark.parametrize(
    ("argv", "backend"),
    [
        ((), "auto"),
        (("--backend", "AUTO"), "auto"),
        (("--backend", "nftables"), "nftables"),
        (("--native-nftables",), "nftables"),
        (("--native-nftables=false",), "auto"),
        (("--native-nftables", "--backend", "nftables"), "nftables"),
        (("--native-nftables", "--backend", "auto"), "nftables"),
        (("--force-iptables-binary", "legacy"), "legacy"),
        (("--force-iptables-binary", "nft", "--backend", "nft"), "nft"),
        (("--force-iptables-binary", "auto", "--backend", "nft"), "nft"),
    ],
)
def test_backend_by_its_flag_and_by_istios(argv: tuple[str, ...], backend: str) -> None:
    assert asked(*argv).run.backend == backend


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (("--backend", "ebpf"), "--backend: 'ebpf': expected auto or legacy or nft or nftables"),
        (("--force-iptables-binary", "xtables"), "expected legacy or nft"),
        (
            ("--backend", "legacy", "--native-nftables"),
            "--native-nftables: 'true': contradicts --backend 'legacy'",
        ),
        (
            ("--backend", "nft", "--force-iptables-binary", "legacy"),
            "--force-iptables-binary: 'legacy': contradicts --backend 'nft'",
        ),
        (
            ("--native-nftables", "--force-iptables-binary", "nft"),
            "--force-iptables-binary: 'nft': contradicts --native-nftables 'true'",
        ),
    ],
)
def test_backends_that_do_not_agree_are_refused(argv: tuple[str, ...], text: str) -> None:
    assert text in refused(*argv)


def test_second_backend_from_a_variable_is_named_by_it() -> None:
    said = refused("--backend", "legacy", env={"NATIVE_NFTABLES": "true"})

    assert "env NATIVE_NFTABLES: 'true': contradicts --backend 'legacy'" in said


@pytest.mark.parametrize(
    ("argv", "env", "layout"),
    [
        ((), {}, LAYOUT_1_0),
        (("apply",), {}, LAYOUT_1_0),
        (("clean",), {}, LAYOUT_1_0),
        (("istio-iptables",), {}, LAYOUT_1_30),
        (("--layout", "1.30"), {}, LAYOUT_1_30),
        (("clean", "--layout", "1.30"), {}, LAYOUT_1_30),
        (("istio-iptables", "--layout", "1.0"), {}, LAYOUT_1_0),
        ((), {"ISTIO_INIT_LAYOUT": "1.30"}, LAYOUT_1_30),
        (("istio-iptables",), {"ISTIO_INIT_LAYOUT": "1.0"}, LAYOUT_1_0),
        (("--layout", "1.0"), {"ISTIO_INIT_LAYOUT": "1.30"}, LAYOUT_1_0),
        (("istio-iptables",), {"ISTIO_INIT_LAYOUT": ""}, LAYOUT_1_30),
    ],
)
def test_layout_by_way_in_flag_and_variable(
    argv: tuple[str, ...], env: dict[str, str], layout: Layout
) -> None:
    assert asked(*argv, env=env).config.layout == layout


def test_unknown_layout_is_refused() -> None:
    for argv, env in ((("--layout", "1.3"), {}), ((), {"ISTIO_INIT_LAYOUT": "1.3"})):
        assert "'1.3': expected 1.0 or 1.30" in refused(*argv, env=env)


INEXPRESSIBLE = {
    "inbound-tunnel-port": "15008",
    "istio-outbound-ports": "90",
    "istio-local-outbound-ports-exclude": "25",
    "istio-exclude-interfaces": "eth9",
    "kube-virt-interfaces": "eth1",
    "redirect-dns": "true",
    "capture-all-dns": "true",
    "drop-invalid": "true",
    "dns-servers": "10.0.0.2",
    "outbound-owner-groups": "202",
    "outbound-owner-groups-exclude": "202",
    "outbound-ipv4-loopback-cidr": "127.0.0.1/32",
}


def test_flags_of_layout_1_30_alone() -> None:
    assert set(INEXPRESSIBLE) == {option.name for option in OPTIONS if option.layouts == NEW}


@pytest.mark.parametrize(("name", "text"), INEXPRESSIBLE.items())
def test_flag_that_layout_1_0_cannot_express_is_refused(name: str, text: str) -> None:
    option = BY_NAME[name]
    said = refused(f"--{name}={text}")

    assert f"{option.spelled}: '{text}': not supported in layout 1.0; use --layout 1.30" in said
    assert asked(f"--{name}={text}", "--layout", "1.30").config.layout == LAYOUT_1_30
    # Whoever cleans says with such a flag what was built.
    assert asked("clean", f"--{name}={text}").run.command == "clean"
    assert asked("--cleanup-only", f"--{name}={text}").run.command == "clean"


def test_flag_that_asks_for_nothing_is_no_reason_to_fail() -> None:
    for option in OPTIONS:
        if option.layouts == NEW and option.switch:
            assert asked(f"--{option.name}=false") == asked()
    for name in ("-q", "-o", "-c", "-k", "--outbound-owner-groups-exclude"):
        assert asked(name, "") == asked(name, " ") == asked()


@pytest.mark.parametrize(
    "variable", ["ISTIO_OUTBOUND_OWNER_GROUPS", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"]
)
def test_owner_groups_are_refused_in_layout_1_0(variable: str) -> None:
    said = refused(env={variable: "202"})

    assert f"env {variable}: '202': not supported in layout 1.0; use --layout 1.30" in said
    assert asked(env={variable: ""}).config.layout == LAYOUT_1_0


def test_owner_groups_at_their_default_are_no_reason_to_fail() -> None:
    assert asked(env={"ISTIO_OUTBOUND_OWNER_GROUPS": "*"}) == asked()


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("*", None),
        (" * ", None),
        ("202,java", ids(202, 4001)),
        ("1000-2000", (IdRange(1000, 2000),)),
        ("", ()),
        (" ", ()),
        (",", ()),
    ],
)
def test_owner_groups(text: str, groups: tuple[IdRange, ...] | None) -> None:
    for resolved in (
        asked("istio-iptables", env={"ISTIO_OUTBOUND_OWNER_GROUPS": text}),
        asked("istio-iptables", f"--outbound-owner-groups={text}"),
    ):
        assert resolved.config.owner_groups == groups


def test_empty_owner_groups_capture_nothing_and_are_warned_of() -> None:
    env = {"ISTIO_OUTBOUND_OWNER_GROUPS": ""}

    done = call("istio-iptables", "-i", "*", "--no-ipv6", "--dry-run", env=env)

    assert done.code == 0
    assert "-A ISTIO_OUTPUT -j RETURN\n" in done.out
    assert "warn\tISTIO_OUTBOUND_OWNER_GROUPS is empty: no outbound traffic" in done.err


@pytest.mark.parametrize(
    "variable", ["ISTIO_OUTBOUND_OWNER_GROUPS", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"]
)
def test_64_owner_groups_are_taken_and_65_refused(variable: str) -> None:
    def env(count: int) -> dict[str, str]:
        return {variable: ",".join(str(gid) for gid in range(count))}

    config = asked("istio-iptables", env=env(64)).config
    both = (config.owner_groups, config.owner_groups_exclude)

    assert ids(*range(64)) in both
    assert "expected at most 64 groups, not 65" in refused("istio-iptables", env=env(65))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("argv", "env", "uids", "gids"),
    [
        ((), {}, None, None),
        ((), {"ENVOY_USER": "envoy"}, (101,), (101,)),
        ((), {"ENVOY_USER": "nobody-of-that-name"}, (1337,), (1337,)),
        ((), {"ENVOY_USER": ""}, (1337,), (1337,)),
        (("-u", ""), {}, None, None),
        (("-u", " ,"), {}, None, None),
        (("-u", "7"), {"ENVOY_USER": "envoy"}, (7,), (7,)),
        (("-u", "7,8"), {}, (7, 8), (7, 8)),
        (("-u", "7", "-g", "9"), {}, (7,), (9,)),
        (("-u", "7", "-g", ""), {}, (7,), (7,)),
        (("-u", "7", "-g", " ,"), {}, (7,), (7,)),
        (("-u", "envoy"), {}, (101,), (201,)),
        (("-u", "envoy,7"), {}, (101, 7), (201, 7)),
        (("-u", "envoy", "-g", "java"), {}, (101,), (4001,)),
    ],
)
def test_proxys_users_and_groups(
    argv: tuple[str, ...],
    env: dict[str, str],
    uids: tuple[int, ...] | None,
    gids: tuple[int, ...] | None,
    layout: Layout,
) -> None:
    config = asked(*WORD[layout], *argv, env=env).config
    named = "-u" in argv and argv[1].strip(" ,")
    # Layout 1.0 leaves root alone too, unless it is told who the proxy is.
    root = () if named or layout == LAYOUT_1_30 else (0,)

    assert config.proxy_uids == ids(*(uids or (1337,)), *root)
    assert config.proxy_gids == ids(*(gids or (1337,)), *root)


def test_groups_alone_leave_the_users_at_their_default() -> None:
    assert asked("-g", "2000").config.proxy_uids == ids(1337, 0)
    assert asked("-g", "2000").config.proxy_gids == ids(2000)
    assert asked("istio-iptables", "-g", "2000").config.proxy_uids == ids(1337)


def test_users_name_without_a_group_of_that_name_stands_for_its_number(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    etc = tmp_path_factory.mktemp("etc")
    (etc / "passwd").write_text("istio-proxy:x:1338:1338::/:/bin/false\nenvoy:x:101:1::/:\n")

    assert asked("istio-iptables", "-u", "envoy", etc=etc).config.proxy_gids == ids(101)
    assert asked("istio-iptables", etc=etc).config.proxy_uids == ids(1338)
    assert asked(etc=etc).config.proxy_uids == ids(1338, 0)
    assert "'java' is not in it" in refused("-g", "java", etc=etc)


@pytest.mark.parametrize(
    ("env", "ipv6"),
    [
        ({}, False),
        ({"ENABLE_INBOUND_IPV6": ""}, False),
        ({"ENABLE_INBOUND_IPV6": "true"}, True),
        ({"ENABLE_INBOUND_IPV6": "false"}, True),
        ({"ENABLE_INBOUND_IPV6": "0"}, True),
        ({"ENABLE_INBOUND_IPV6": " "}, True),
    ],
)
def test_any_text_enables_inbound_ipv6_of_layout_1_0(env: dict[str, str], *, ipv6: bool) -> None:
    assert asked(env=env).config.ipv6 is ipv6
    assert asked("istio-iptables", env=env).config.ipv6 is None
    assert asked("--no-ipv6", env=env).config.ipv6 is False
    assert asked("--ipv6", env=env).config.ipv6 is True


@pytest.mark.parametrize("table", ["1", "133", "252", "256", "4294967295"])
def test_route_tables_that_are_not_the_kernels_own(table: str) -> None:
    assert asked("-r", table).config.tproxy_table == int(table)


@pytest.mark.parametrize("table", ["253", "254", "255"])
def test_the_kernels_own_route_tables_are_refused(table: str) -> None:
    assert "a route table that is not the kernel's default, main or local" in refused("-r", table)
