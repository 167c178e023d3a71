"""``istio-init explain``: what it takes, what it refuses, and what it prints against the plan."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING

import pytest

from istio_init.cli import packet, terminal
from istio_init.config.model import Facts
from istio_init.config.options import ANNOTATIONS, OPTIONS
from istio_init.config.values import address
from tests.unit.calls import call, refused

if TYPE_CHECKING:
    from istio_init.diagnose.text import StyledLine

OUT = ("explain", "outbound", "--to")
IN = ("explain", "inbound", "--from", "10.0.0.9")
NEW = ("istio-iptables", "-u", "1337", "-i", "*", "-x", "10.0.0.0/8", "-b", "*", "--no-ipv6")


def verdict(*argv: str) -> str:
    """Return the verdict of a call that explains."""
    done = call(*argv)
    assert (done.code, done.err) == (0, ""), done
    said = done.out.split("\n\n")[-1].splitlines()
    assert said
    return said[0]


def told(*argv: str) -> dict[str, object]:
    """Return the packet of a call that prints JSON."""
    done = call(*argv, "--format", "json")
    assert done.code == 0, done
    found: dict[str, object] = json.loads(done.out)["packet"]
    return found


def test_the_calls_of_the_help_mean_what_they_say() -> None:
    to = "10.1.2.3:443"

    assert verdict(*OUT, to, "--uid", "1000", *NEW) == (
        "left untouched: RETURN in ISTIO_OUTPUT rule 9, because of -x 10.0.0.0/8 "
        "(pod annotation traffic.sidecar.istio.io/excludeOutboundIPRanges)"
    )
    assert verdict(*OUT, "11.1.2.3:443", "--uid", "1000", *NEW).startswith(
        "redirected to 15001 by ISTIO_REDIRECT, original destination kept: "
    )
    assert verdict(*IN, "--to-port", "8080", "--via", "eth0", *NEW).startswith(
        "redirected to 15006 by ISTIO_IN_REDIRECT, original destination kept: "
    )


def test_layout_is_1_0_unless_the_flags_are_those_of_istio_iptables() -> None:
    assert "plan of layout 1.0\n" in call(*OUT, "10.1.2.3:443").out
    assert "plan of layout 1.30\n" in call(*OUT, "10.1.2.3:443", *NEW).out
    assert "plan of layout 1.30\n" in call(*OUT, "10.1.2.3:443", "--layout", "1.30").out
    assert "not supported in layout 1.0" in refused(*OUT, "10.1.2.3:443", "-q", "90")


def test_flags_of_apply_may_stand_before_and_behind() -> None:
    before = ("explain", "outbound", "-u", "1337", "-i", "*", "--to", "11.1.2.3:443", "--uid", "5")

    assert verdict(*before) == verdict(*OUT, "11.1.2.3:443", "--uid=5", "-i", "*", "-u", "1337")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ((*OUT, "10.1.2.3:443"), {"family": "ipv4", "hook": "OUTPUT", "protocol": "tcp"}),
        ((*OUT, "10.1.2.3:443"), {"destination": "10.1.2.3", "destination_port": 443}),
        ((*OUT, "10.1.2.3:443"), {"source": None, "source_port": None, "out": "eth0", "in": ""}),
        ((*OUT, "10.1.2.3"), {"destination_port": None, "uid": None, "gid": None, "mark": 0}),
        ((*OUT, "[fd00::a]:53", "--udp"), {"family": "ipv6", "protocol": "udp"}),
        ((*OUT, "fd00::a"), {"destination": "fd00::a", "destination_port": None}),
        ((*OUT, "127.0.0.5:80"), {"out": "lo", "source": "127.0.0.1"}),
        ((*OUT, "[::1]:80"), {"out": "lo", "source": "::1"}),
        ((*OUT, "10.1.0.1:80", "--via", "lo"), {"out": "lo", "source": "10.1.0.1"}),
        ((*OUT, "10.1.0.1:80", "--via", "lo", "--from", "127.0.0.6"), {"source": "127.0.0.6"}),
        ((*OUT, "10.1.0.1:80", "--from", "10.1.0.2:99"), {"source_port": 99}),
        ((*OUT, "10.1.0.1", "--proto", "ICMP"), {"protocol": "icmp"}),
        ((*OUT, "fd00::1", "--proto", "icmp"), {"protocol": "ipv6-icmp"}),
        ((*OUT, "fd00::1", "--proto", "sctp"), {"protocol": "sctp"}),
        ((*OUT, "10.1.0.1", "--uid", "1000"), {"uid": 1000, "gid": 1000}),
        ((*OUT, "10.1.0.1", "--uid", "1000", "--gid", "7"), {"uid": 1000, "gid": 7}),
        ((*OUT, "10.1.0.1", "--gid", "7"), {"uid": None, "gid": 7}),
        ((*OUT, "10.1.0.1", "--mark", "0x10", "--connmark", "17"), {"mark": 16}),
        ((*OUT, "10.1.0.1", "--connmark", "17"), {"connection_mark": 17}),
        ((*OUT, "10.1.0.1", "--state", "established"), {"state": "ESTABLISHED"}),
        (IN, {"hook": "PREROUTING", "in": "eth0", "out": "", "source": "10.0.0.9"}),
        (IN, {"destination": None, "destination_port": None, "state": "NEW"}),
        ((*IN, "--to-port", "8080", "--via", "eth1"), {"destination_port": 8080, "in": "eth1"}),
        ((*IN, "--to", "10.1.0.1:8080"), {"destination": "10.1.0.1", "destination_port": 8080}),
        ((*IN, "--to", "10.1.0.1", "--to-port", "1"), {"destination_port": 1}),
        (("explain", "inbound", "--from", "[fd00::1]:5"), {"family": "ipv6", "source_port": 5}),
    ],
)
def test_packet(argv: tuple[str, ...], expected: dict[str, object]) -> None:
    found = told(*argv)

    assert {name: found[name] for name in expected} == expected


def test_names_of_users_and_groups_are_looked_up() -> None:
    found = told(*OUT, "10.1.0.1", "--uid", "envoy", "--gid", "java")

    assert (found["uid"], found["gid"]) == (101, 4001)


def test_mark_of_tproxy_leads_to_lo() -> None:
    tproxy = ("istio-iptables", "-b", "*", "-m", "TPROXY", "--no-ipv6")

    assert told(*OUT, "10.1.0.1", "--mark", "1337", *tproxy)["out"] == "lo"
    assert told(*OUT, "10.1.0.1", "--mark", "1337", "--via", "eth0", *tproxy)["out"] == "eth0"
    assert told(*OUT, "10.1.0.1", "--mark", "1338", *tproxy)["out"] == "eth0"
    assert told(*OUT, "10.1.0.1", "--mark", "1337")["out"] == "eth0"


BAD: tuple[tuple[tuple[str, ...], str], ...] = (
    (("explain", "outbound"), "--to: '': expected an address; this flag is required"),
    (("explain", "inbound"), "--from: '': expected an address; this flag is required"),
    *(
        ((*OUT, text), f"--to: {text!r}: expected an address such as 10.1.2.3:443 or [fd00::1]:443")
        for text in (
            *("", ":80", "10.1.2.3:", "10.1.2.3:0", "10.1.2.3:70000", "10.1.2.3:http"),
            *("10.1.2.3/8", "10.1.2.256", "localhost:80", "[10.1.2.3]:80", "[fd00::1", "[]:80"),
            *("[fd00::1]80", "[fd00::1]:", "fd00::1:80000", "[[fd00::1]]:80", "fe80::1%eth0"),
        )
    ),
    ((*OUT, "10.1.0.1", "--from", "fd00::1"), "--from: 'fd00::1': expected an address of the same"),
    ((*OUT, "10.1.0.1", "--uid", "1-2"), "--uid: '1-2': expected one id, not a range"),
    ((*OUT, "10.1.0.1", "--uid", "nobody-here"), "--uid: 'nobody-here': expected an id"),
    ((*OUT, "10.1.0.1", "--gid", "-1"), "--gid: '-1': expected an id"),
    ((*OUT, "10.1.0.1", "--proto", "gre"), "--proto: 'gre': expected tcp or udp or icmp or sctp"),
    ((*OUT, "10.1.0.1", "--proto", "tcp", "--udp"), "--proto: 'tcp': contradicts --udp"),
    ((*OUT, "10.1.0.1:5", "--proto", "icmp"), "--to: '10.1.0.1:5': icmp has no ports"),
    ((*OUT, "10.1.0.1", "--udp=perhaps"), "--udp: 'perhaps': expected true or false"),
    ((*OUT, "10.1.0.1", "--via", "eth+"), "--via: 'eth+': expected the name of one interface"),
    ((*OUT, "10.1.0.1", "--via", "a b"), "--via: 'a b': expected an interface name"),
    ((*OUT, "10.1.0.1", "--mark", "red"), "--mark: 'red': expected a number"),
    ((*OUT, "10.1.0.1", "--connmark", "-1"), "--connmark: '-1': expected a number"),
    ((*OUT, "10.1.0.1", "--state", "OLD"), "--state: 'OLD': expected NEW or ESTABLISHED or"),
    ((*OUT, "10.1.0.1", "--format", "rules"), "--format: 'rules': expected text or json"),
    ((*IN, "--via", "lo"), "--via: 'lo': packets on lo were sent by the pod"),
    ((*IN, "--to-port", "0"), "--to-port: '0': expected a number 1-65535"),
    ((*IN, "--to-port", "1", "--to", "10.1.0.1:1"), "--to-port: '1': contradicts the port of --to"),
    ((*IN, "--to-port", "1", "--proto", "icmp"), "--to-port: '1': icmp has no ports"),
)


@pytest.mark.parametrize(("argv", "line"), BAD)
def test_bad_packets_are_refused(argv: tuple[str, ...], line: str) -> None:
    done = call(*argv)

    assert (done.code, done.out) == (2, "")
    assert "1 bad value, nothing was changed\n" in done.err
    assert done.err.splitlines()[1].startswith(f"  {line}")


def test_all_that_is_bad_is_reported_together() -> None:
    done = call(
        *(*OUT, "nowhere", "--uid", "x", "--via", "a b", "--format", "yaml"),
        *("-p", "0", "-b", "*,80", "-q", "90"),
    )

    assert (done.code, done.out) == (2, "")
    assert "7 bad values, nothing was changed\n" in done.err
    named = ("--to", "--uid", "--via", "--format", "-p --envoy-port", "-b --istio-inbound-ports")
    for flag in (*named, "-q --istio-outbound-ports"):
        assert done.err.count(f"\n  {flag}: ") == 1


@pytest.mark.parametrize(
    "argv",
    [
        ("explain", "sideways"),
        ("explain", "outbound", "--to"),
        ("explain", "outbound", "--to", "10.1.0.1", "clean"),
        ("explain", "outbound", "--to-port", "1"),
        ("explain", "inbound", "--from", "10.1.0.1", "--uid", "5"),
        ("-p", "15001", "explain"),
    ],
)
def test_other_words_and_flags_are_refused(argv: tuple[str, ...]) -> None:
    assert "Error: " in refused(*argv)


@pytest.mark.parametrize("direction", packet.DIRECTIONS)
def test_help_names_every_flag_and_shows_examples(direction: packet.Direction) -> None:
    done = call("explain", direction, "--help")

    assert (done.code, done.err) == (0, "")
    for option in (*packet.FLAGS[direction], *OPTIONS):
        assert f"--{option.name}" in done.out
    assert f"\n  istio-init explain {direction} --" in done.out
    assert "--live" in done.out
    assert done.out.count("  --format FORMAT") == 1


def test_help_of_the_program_and_of_explain_name_it() -> None:
    assert "\n  explain " in call("--help").out
    done = call("explain", "--help")
    assert "outbound" in done.out
    assert "inbound" in done.out


def test_the_plan_may_leave_ipv6_alone_and_it_is_said() -> None:
    done = call(*OUT, "[fd00::1]:80", *NEW)

    assert "left untouched: no rule looks at it\n" in done.out
    assert done.out.endswith("note: IPv6 is left alone in this plan; --ipv6 captures it\n")
    assert "note" not in call(*OUT, "[fd00::1]:80", *NEW[:-1], "--ipv6").out
    assert "note" not in call(*OUT, "[fd00::1]:80").out


def test_the_host_decides_what_the_flags_leave_open() -> None:
    facts = Facts((address("fd00::5"),), (address("10.96.0.10"),))
    query = (*OUT, "10.96.0.10:53", "--udp", "--uid", "5", "istio-iptables", "--redirect-dns")

    assert "redirected to 15053 by ISTIO_OUTPUT_DNS" in call(*query, facts=facts).out
    assert "note" not in call(*OUT, "[fd00::1]:80", *NEW[:-1], facts=facts).out


def test_a_namespace_is_entered_for_its_addresses_alone() -> None:
    namespace = ("--network-namespace", "pod")

    assert call(*OUT, "10.1.0.1:80", *NEW, *namespace).entered == ()
    assert call(*OUT, "10.1.0.1:80", *NEW[:-1], *namespace).entered == ("pod",)


def test_a_failure_is_one_object_too() -> None:
    bad = call(*OUT, "nowhere", "-p", "0", *NEW[:-1], "--format", "json")
    lost = call(*OUT, "10.1.0.1:80", "--log_as_json", "--format", "json", env={"PROXY_UID": "x"})

    document = json.loads(bad.out)
    assert (bad.code, document["version"], document["code"]) == (2, 1, 2)
    assert document["verdict"] is None
    assert [one["flag"] for one in document["error"]["problems"]] == ["--to", "-p --envoy-port"]
    assert "2 bad values" in bad.err
    # Layout 1.0 does not read the variable.
    assert (lost.code, json.loads(lost.out)["layout"]) == (0, "1.0")


def test_warnings_do_not_disturb_the_output() -> None:
    done = call(*OUT, "10.1.0.1:80", "-x", "10.0.0.5/8", "-d", "81", "--format", "json")

    data = json.loads(done.out)
    assert (data["against"], data["layout"]) == ("plan", "1.0")
    assert [line.split("\t")[1] for line in done.err.splitlines()] == ["warn", "warn"]


def test_annotations_are_found_by_every_name_of_a_flag() -> None:
    pod = "traffic.sidecar.istio.io/"

    assert ANNOTATIONS["-x"] == f"{pod}excludeOutboundIPRanges"
    assert ANNOTATIONS["--istio-inbound-ports"] == f"{pod}includeInboundPorts"
    assert ANNOTATIONS["ISTIO_SERVICE_CIDR"] == f"{pod}includeOutboundIPRanges"
    assert "-" not in ANNOTATIONS
    assert "-u" not in ANNOTATIONS


LINES: tuple[StyledLine, ...] = (
    (("[bold]nat[/bold]", "head"),),
    (),
    (("  yes ", "yes"), (f"-A OUTPUT {'x' * 200}  ", ""), ("", "faint")),
)
PLAIN = f"[bold]nat[/bold]\n\n  yes -A OUTPUT {'x' * 200}\n"


class Terminal(io.StringIO):
    """What calls itself a terminal."""

    def isatty(self) -> bool:
        return True


def test_lines_are_plain_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.write(LINES)

    assert capsys.readouterr().out == PLAIN


def test_lines_are_coloured_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal.write(LINES)

    assert "\x1b[1;36m[bold]nat[/bold]\x1b[0m\n" in screen.getvalue()
    # No line is broken, and none is taken for markup.
    assert "x" * 200 in screen.getvalue()


def test_without_rich_a_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    terminal.write(LINES)

    assert screen.getvalue() == PLAIN
