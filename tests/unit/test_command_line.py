"""The command line: bad input reported together, words, help, exit codes, what is printed."""

from __future__ import annotations

import json
import re
from unittest import mock

import pytest

from istio_init import __version__
from istio_init.cli import apply, main
from istio_init.config.model import Facts
from istio_init.config.options import OPTIONS
from istio_init.config.values import address
from istio_init.errors import ApplyError, ConfigError, ProbeError, UnsupportedError
from istio_init.kernel import host, netns
from tests.unit.calls import asked, call, refused

SEED = ("-p", "15001", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "80", "-d", "")

# Flag, bad value, part of what was expected; where one feeds the flag, its annotation.
POD = "traffic.sidecar.istio.io/"
BAD: tuple[tuple[str, str, str, str], ...] = (
    ("-p --envoy-port", "70000", "a number 1-65535", ""),
    ("-p --envoy-port", "", "a number 1-65535", ""),
    ("-p --envoy-port", "http", "a number 1-65535", ""),
    ("-z --inbound-capture-port", "0", "a number 1-65535", ""),
    ("-e --inbound-tunnel-port", "0x50", "a number 1-65535", ""),
    ("-u --proxy-uid", "4294967295", "an id 0-4294967294", ""),
    ("-u --proxy-uid", "nobody-of-that-name", "in the passwd file", ""),
    ("-u --proxy-uid", "*", "user ids or names; '*' has no meaning here", ""),
    ("-u --proxy-uid", "1337,*", "user ids or names; '*' must stand alone", ""),
    ("-g --proxy-gid", "no-group-of-that-name", "in the group file", ""),
    ("-g --proxy-gid", "2000-1000", "runs backwards", ""),
    (
        "-m --istio-inbound-interception-mode",
        "NONE",
        "REDIRECT or TPROXY",
        "sidecar.istio.io/interceptionMode",
    ),
    ("-b --istio-inbound-ports", "80,70000", "a port 1-65535", f"{POD}includeInboundPorts"),
    ("-b --istio-inbound-ports", "80,*", "'*' must stand alone", f"{POD}includeInboundPorts"),
    ("-b --istio-inbound-ports", "*,80", "'*' must stand alone", f"{POD}includeInboundPorts"),
    ("-b --istio-inbound-ports", "0x50", "a port 1-65535", f"{POD}includeInboundPorts"),
    ("-b --istio-inbound-ports", "080", "a port 1-65535", f"{POD}includeInboundPorts"),
    ("-b --istio-inbound-ports", "9000:8000", "runs backwards", f"{POD}includeInboundPorts"),
    ("-b --istio-inbound-ports", "ftp", "is not a service", f"{POD}includeInboundPorts"),
    ("-b --istio-inbound-ports", "-d", "looks like a flag", f"{POD}includeInboundPorts"),
    ("-d --istio-local-exclude-ports", "*", "no meaning here", f"{POD}excludeInboundPorts"),
    ("-i --istio-service-cidr", "10.0.0.0/33", "address range", f"{POD}includeOutboundIPRanges"),
    ("-i --istio-service-cidr", "*,10.0.0.0/8", "stand alone", f"{POD}includeOutboundIPRanges"),
    ("-i --istio-service-cidr", "localhost", "address range", f"{POD}includeOutboundIPRanges"),
    ("-x --istio-service-exclude-cidr", "*", "no meaning", f"{POD}excludeOutboundIPRanges"),
    ("-x --istio-service-exclude-cidr", "-b", "like a flag", f"{POD}excludeOutboundIPRanges"),
    ("-q --istio-outbound-ports", "80 -j ACCEPT", "a port", f"{POD}includeOutboundPorts"),
    ("-q --istio-outbound-ports", "*", "no meaning here", f"{POD}includeOutboundPorts"),
    ("-o --istio-local-outbound-ports-exclude", "1;2", "a port", f"{POD}excludeOutboundPorts"),
    ("-c --istio-exclude-interfaces", "a" * 16, "interface name", f"{POD}excludeInterfaces"),
    ("-c --istio-exclude-interfaces", "e;x", "interface name", f"{POD}excludeInterfaces"),
    (
        "-c --istio-exclude-interfaces",
        "eth0 -d 10.0.0.50 -p tcp --dport 8080",
        "interface name",
        f"{POD}excludeInterfaces",
    ),
    ("-k --kube-virt-interfaces", '"eth0"', "interface name", f"{POD}kubevirtInterfaces"),
    ("-k --kube-virt-interfaces", "*", "interface names; '*'", f"{POD}kubevirtInterfaces"),
    ("-t --istio-inbound-tproxy-mark", "0", "a number 1-4294967295, decimal or 0x", ""),
    ("-t --istio-inbound-tproxy-mark", "0x100000000", "a number 1-4294967295", ""),
    ("-t --istio-inbound-tproxy-mark", "0x539/0xff", "a number 1-4294967295", ""),
    ("-r --istio-inbound-tproxy-route-table", "0x85", "a number 1-4294967295", ""),
    ("-r --istio-inbound-tproxy-route-table", "main", "a number 1-4294967295", ""),
    ("-r --istio-inbound-tproxy-route-table", "254", "not the kernel's default, main", ""),
    ("--outbound-owner-groups", "202,*", "'*' must stand alone", ""),
    ("--outbound-owner-groups", "staff", "in the group file", ""),
    ("--outbound-owner-groups-exclude", "*", "'*' has no meaning here", ""),
    ("--outbound-ipv4-loopback-cidr", "10.0.0.0/8", "inside 127.0.0.0/8", ""),
    ("--outbound-ipv4-loopback-cidr", "::1/128", "inside 127.0.0.0/8", ""),
    ("--dns-servers", "10.0.0.0/8", "an IPv4 or IPv6 address", ""),
    ("--dns-servers", "fe80::1%eth0", "an IPv4 or IPv6 address", ""),
    ("--dns-servers", "*", "addresses; '*' has no meaning here", ""),
    ("--redirect-dns", "banana", "true or false", "proxy.istio.io/config"),
    ("--format", "yaml", "rules or save or json or nft or commands", ""),
    ("--format", "", "rules or save or json or nft or commands", ""),
    ("--wait", "30", "a duration", ""),
    ("--wait", "0s", "a duration", ""),
    ("--probe-timeout", "soon", "a duration", ""),
    ("--iptables-probe-port", "70000", "a number 1-65535", ""),
)


@pytest.mark.parametrize(("flag", "value", "expected", "annotation"), BAD)
def test_bad_value_is_named_with_flag_expectation_and_annotation(
    flag: str, value: str, expected: str, annotation: str
) -> None:
    said = refused("istio-iptables", f"{flag.rsplit(maxsplit=1)[-1]}={value}")

    assert "1 bad value, nothing was changed\n" in said
    line = said.splitlines()[1]
    assert line.startswith(f"  {flag}: {value!r}: expected ")
    assert expected in line
    if annotation:
        assert line.endswith(f" (pod annotation {annotation})")


def test_all_bad_values_are_reported_together() -> None:
    said = refused(
        "istio-iptables",
        *("-p", "0", "-b", "*,80", "-x", "-d", "-u", "nobody-of-that-name", "-c", "a/b"),
        *("-m", "NONE", "--redirect-dns=perhaps", "--layout", "2.0", "--probe-timeout", "5"),
        env={"ISTIO_SERVICE_CIDR": "10.0.0.0/99", "PROXY_GID": "-1", "CNI_MODE": "maybe"},
    )

    assert "12 bad values, nothing was changed" in said
    for named in (
        *("-p --envoy-port: '0'", "-b --istio-inbound-ports: '*,80'", "--layout: '2.0'"),
        *("-x --istio-service-exclude-cidr: '-d'", "-u --proxy-uid: 'nobody-of-that-name'"),
        *("-c --istio-exclude-interfaces: 'a/b'", "-m --istio-inbound-interception-mode: 'NONE'"),
        *("--redirect-dns: 'perhaps'", "env ISTIO_SERVICE_CIDR: '10.0.0.0/99'"),
        *("env PROXY_GID: '-1'", "env CNI_MODE: 'maybe'", "--probe-timeout: '5'"),
    ):
        assert said.count(f"  {named}: expected ") == 1


def test_inexpressible_and_bad_flags_are_reported_together() -> None:
    said = refused("-q", "90", "-k", "a b", "-p", "0")

    assert "4 bad values" in said
    assert said.count("not supported in layout 1.0; use --layout 1.30") == 2
    assert "'a b': expected an interface name" in said


def test_values_are_shown_without_their_control_characters() -> None:
    said = refused("-b", "80\x1b[2J\n\udcff")

    assert r"'80\x1b[2J\n\udcff'" in said
    assert "\x1b" not in said


@pytest.mark.parametrize(
    "argv",
    [
        # An empty value that a template dropped: the next flag slips into its place.
        ("-x", "-b", "80"),
        ("-x", "-b"),
        ("-i", "-x", ""),
        ("-b", "-d", ""),
        ("-u", "-m", "REDIRECT"),
        ("-d", "-n"),
        ("-c", "--dry-run"),
    ],
)
def test_shifted_arguments_are_refused(argv: tuple[str, ...]) -> None:
    refused("istio-iptables", *argv)


@pytest.mark.parametrize(
    "argv",
    [
        ("-p", "15001", "clean"),
        ("-b", "80", "clean", "-n"),
        ("clean", "clean"),
        ("istio-iptables", "clean"),
        ("clean", "istio-iptables"),
        ("-n", "istio-iptables"),
        ("-p", "15001", "istio-iptables"),
        ("cleanup",),
        ("istio-iptables", "80"),
        ("",),
        ("--", "clean"),
    ],
)
def test_words_count_in_first_place_alone(argv: tuple[str, ...]) -> None:
    refused(*argv)


@pytest.mark.parametrize(
    "argv",
    [
        ("--no-such-flag",),
        ("-y",),
        ("--dry",),
        ("--envoy_port", "15001"),
        ("istio-iptables", "--no-such-flag=1"),
        ("clean", "-y"),
        ("-p",),
        ("--istio-inbound-ports",),
        ("-n", "--version"),
    ],
)
def test_unknown_and_unfinished_flags_are_refused(argv: tuple[str, ...]) -> None:
    assert "Error: " in refused(*argv)


@pytest.mark.parametrize("word", [(), ("apply",), ("istio-iptables",), ("clean",)])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_flag(word: tuple[str, ...], flag: str) -> None:
    done = call(*word, flag)

    assert (done.code, done.err) == (0, "")
    for option in OPTIONS:
        short = f"-{option.short}, " if option.short else ""
        assert re.search(rf"{short}--{option.name}\b", done.out)
    # Lines are filled, so that a name may stand at the end of one and go on in the next.
    text = re.sub(r"\s+", "", done.out)
    for option in OPTIONS:
        for said in (option.annotation, *option.env):
            assert said in text


def test_help_after_flags_is_help_too() -> None:
    assert call("-p", "70000", "-h").code == 0
    assert call("istio-iptables", "-b", "*", "--help").code == 0


def test_help_of_the_program_lists_the_commands_and_examples() -> None:
    out = call("--help").out

    for word in ("apply", "clean", "istio-iptables"):
        assert re.search(rf"^  {word} ", out, re.MULTILINE)
    assert "istio-init -p 15001 -u 1337 -m REDIRECT -i '*' -x '' -b 80 -d ''\n" in out


def test_version() -> None:
    done = call("--version")

    assert (done.code, done.err) == (0, "")
    assert __version__ in done.out


def test_seed_call_asks_for_what_it_says() -> None:
    config = asked(*SEED).config

    assert (config.layout, config.mode, config.outbound_port) == ("1.0", "REDIRECT", 15001)
    assert config.outbound_all
    assert [str(port) for port in config.inbound_ports] == ["80"]
    assert [str(uid) for uid in (*config.proxy_uids, *config.proxy_gids)] == ["1337", "1337"]
    assert config.outbound_exclude_cidrs == ()
    assert config.inbound_exclude_ports == ()


def test_seed_call_prints_its_rules() -> None:
    done = call(*SEED, "--dry-run")

    assert (done.code, done.err) == (0, "")
    assert done.out == (
        "# iptables -t nat -S\n"
        "-P PREROUTING ACCEPT\n"
        "-P INPUT ACCEPT\n"
        "-P OUTPUT ACCEPT\n"
        "-P POSTROUTING ACCEPT\n"
        "-N ISTIO_INBOUND\n"
        "-N ISTIO_IN_REDIRECT\n"
        "-N ISTIO_OUTPUT\n"
        "-N ISTIO_REDIRECT\n"
        "-A PREROUTING -p tcp -j ISTIO_INBOUND\n"
        "-A OUTPUT -p tcp -j ISTIO_OUTPUT\n"
        "-A ISTIO_INBOUND -p tcp -m tcp --dport 80 -j ISTIO_IN_REDIRECT\n"
        "-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15001\n"
        "-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -j ISTIO_REDIRECT\n"
        "-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN\n"
        "-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN\n"
        "-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN\n"
        "-A ISTIO_OUTPUT -j ISTIO_REDIRECT\n"
        "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001\n"
        "# ip6tables -t filter -S\n"
        "-P INPUT ACCEPT\n"
        "-P FORWARD ACCEPT\n"
        "-P OUTPUT ACCEPT\n"
        "-A INPUT -m state --state ESTABLISHED -j ACCEPT\n"
        "-A INPUT -j REJECT --reject-with icmp6-port-unreachable\n"
    )


def test_injection_template_of_today_is_understood() -> None:
    done = call(
        "istio-iptables",
        *("-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", ""),
        *("-b", "*", "-d", "15090,15021,15020", "--log_output_level=default:info"),
        *("--log_as_json", "--log_target", "stdout", "--log_caller=", "--dry-run"),
    )

    assert (done.code, done.err) == (0, "")
    assert "-A ISTIO_INBOUND -p tcp -m tcp --dport 15020 -j RETURN\n" in done.out


def test_host_is_asked_for_what_flags_leave_open() -> None:
    facts = Facts((address("fd00::5"), address("10.0.0.5")), (address("10.96.0.10"),))

    done = call("istio-iptables", "--redirect-dns", "--dry-run", facts=facts)

    assert "# ip6tables -t nat -S\n" in done.out
    assert "-A ISTIO_OUTPUT_DNS -d 10.96.0.10/32 -p udp" in done.out
    assert "ip6tables" not in call("istio-iptables", "--dry-run").out


@pytest.mark.parametrize(
    ("argv", "entered"),
    [
        (("istio-iptables", "--dry-run"), True),
        # Nothing is asked of the namespace, which may not be there yet.
        (("istio-iptables", "--no-ipv6", "--dry-run"), False),
        (("--dry-run",), False),
    ],
)
def test_dry_run_enters_the_namespace_for_its_addresses_alone(
    argv: tuple[str, ...], *, entered: bool
) -> None:
    with mock.patch.object(netns, "enter") as enter, mock.patch.object(host, "usable_addresses"):
        assert main([*argv, "--network-namespace", "pod"]) == 0

    assert enter.call_args_list == ([mock.call("pod")] if entered else [])


def test_remarks_are_logged_and_do_not_disturb_the_output() -> None:
    done = call("-i", "10.0.0.5/8", "-d", "81", "--dry-run", "--format", "json")

    warned = [line.split("\t")[1:] for line in done.err.splitlines()]
    assert warned == [
        ["warn", "--istio-service-cidr: 10.0.0.5/8 has host bits set and means 10.0.0.0/8"],
        ["warn", "-d does nothing without -b '*'"],
    ]
    assert json.loads(done.out)["warnings"] == ["-d does nothing without -b '*'"]


def test_log_level_and_form_are_honoured() -> None:
    bad = ("-i", "10.0.0.5/8", "--dry-run")

    assert call(*bad, "--log_output_level", "default:error").err == ""
    line = json.loads(call(*bad, "--log_as_json").err)
    assert line["level"] == "warn"
    assert "has host bits set" in line["msg"]


def test_skipping_the_rules_writes_and_reads_nothing() -> None:
    done = call("--skip-rule-apply")

    assert (done.code, done.out) == (0, "")
    assert "--skip-rule-apply: nothing was written" in done.err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ConfigError(()), 2, "0 bad values"),
        (UnsupportedError("no such thing"), 1, "no such thing"),
        (ApplyError("cannot", where="here", why="because"), 1, "cannot (here): because; nothing"),
        (ProbeError("leads nowhere"), 126, "leads nowhere"),
        (KeyboardInterrupt(), 1, "istio-init: interrupted"),
    ],
)
def test_errors_become_exit_codes(error: BaseException, code: int, text: str) -> None:
    with mock.patch.object(apply, "_act", side_effect=error):
        done = call()

    assert (done.code, done.out) == (code, "")
    assert text in done.err
    assert "Traceback" not in done.err


def test_arguments_default_to_the_processs_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["istio-init", "--version"])

    assert main() == 0

    assert __version__ in capsys.readouterr().out
