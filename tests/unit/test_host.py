"""What the host is asked, and what its files mean."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from istio_init.config.model import LAYOUT_1_0, LAYOUT_1_30, Config, Facts
from istio_init.config.values import address
from istio_init.errors import ApplyError
from istio_init.kernel import host
from istio_init.kernel.host import HostFiles, gather, ipv6_addresses, resolvers, usable_addresses
from tests.unit.calls import ETC, call

if TYPE_CHECKING:
    from pathlib import Path

    from istio_init.rules.ranges import Network


def test_users_and_groups_come_from_their_files() -> None:
    names = HostFiles(str(ETC))

    assert names.uid("root") == 0
    assert names.uid("daemon") == 1
    assert names.gid("java") == 4001
    assert (names.uid("envoy"), names.gid("envoy")) == (101, 201)
    for name in ("nobody-of-that-name", "java", "Root", "", "half", "worded", "0"):
        assert names.uid(name) is None
    assert names.gid("worded") is None


def test_services_are_the_tcp_port_where_there_is_one() -> None:
    names = HostFiles(str(ETC))

    assert (names.service("http"), names.service("www")) == (80, 80)
    assert (names.service("http-alt"), names.service("webcache")) == (8080, 8080)
    assert names.service("domain") == 53
    assert (names.service("syslog"), names.service("shell"), names.service("cmd")) == (
        514,
        514,
        514,
    )
    for name in ("#", "WorldWideWeb", "alone", "odd", "80/tcp", "ftp", ""):
        assert names.service(name) is None


def test_tcp_port_of_a_name_beats_its_udp_port_wherever_it_stands(tmp_path: Path) -> None:
    (tmp_path / "services").write_text("a 1/udp\na 2/tcp\nb 3/tcp\nb 4/udp\nc 5/sctp\nd 6\n")
    names = HostFiles(str(tmp_path))

    assert [names.service(name) for name in "abcd"] == [2, 3, 5, 6]


@pytest.mark.parametrize("number", ["²", "٣", "-1", "+1", "4294967295", "9" * 5000, "0x1", ""])
def test_lines_with_other_numbers_are_passed_over(tmp_path: Path, number: str) -> None:
    (tmp_path / "passwd").write_text(f"a:x:{number}:0::/:\na:x:7:0::/:\n", encoding="utf-8")
    (tmp_path / "group").write_text(f"a:x:{number}:\n", encoding="utf-8")
    (tmp_path / "services").write_text(f"a {number}/tcp\n", encoding="utf-8")
    names = HostFiles(str(tmp_path))

    assert (names.uid("a"), names.gid("a"), names.service("a")) == (7, None, None)


@pytest.mark.parametrize("port", ["0", "65536", "70000"])
def test_services_beyond_the_ports_are_passed_over(tmp_path: Path, port: str) -> None:
    (tmp_path / "services").write_text(f"a {port}/tcp\n")

    assert HostFiles(str(tmp_path)).service("a") is None


def test_missing_files_know_no_names(tmp_path: Path) -> None:
    names = HostFiles(str(tmp_path))

    assert (names.uid("root"), names.gid("root"), names.service("http")) == (None, None, None)


def test_files_that_are_not_text_are_read_as_far_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_bytes(b"\xff\xfe:x:1:1::/:\na:x:7:7::/:\n")

    assert HostFiles(str(tmp_path)).uid("a") == 7


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "passwd").mkdir()

    with pytest.raises(ApplyError) as caught:
        HostFiles(str(tmp_path)).uid("a")

    assert str(caught.value) == (
        f"cannot look names up ({tmp_path}/passwd): it is not a regular file; "
        "give numbers in place of names; nothing was changed"
    )
    done = call("-u", "a", "--dry-run", etc=tmp_path)
    assert (done.code, done.out) == (1, "")
    assert "cannot look names up" in done.err
    # A number is not looked up.
    assert call("-u", "7", "--dry-run", etc=tmp_path).code == 0


def test_files_are_opened_when_needed_and_once(tmp_path: Path) -> None:
    names = HostFiles(str(tmp_path))
    (tmp_path / "passwd").write_text("a:x:7:7::/:\n")

    assert names.uid("a") == 7
    (tmp_path / "passwd").unlink()
    assert names.uid("a") == 7


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("", ()),
        ("nameserver 10.96.0.10\n", ("10.96.0.10",)),
        ("nameserver 10.96.0.10\nnameserver fd00::a\n", ("10.96.0.10", "fd00::a")),
        ("  nameserver\t10.96.0.10   # the cluster's\n", ("10.96.0.10",)),
        ("nameserver fe80::1%eth0\n", ("fe80::1",)),
        ("nameserver 10.96.0.10\nnameserver 10.96.0.10\n", ("10.96.0.10", "10.96.0.10")),
        ("search a.b nameserver 10.0.0.1\noptions ndots:5\ndomain x\n", ()),
        ("#nameserver 10.0.0.1\n; nameserver 10.0.0.2\n", ()),
        ("nameserver\n", ()),
        ("nameserver dns.example.com\nnameserver 10.0.0\nnameserver 10.0.0.1/8\n", ()),
        ("NAMESERVER 10.0.0.1\nnameservers 10.0.0.2\n", ()),
        ("nameserver 10.0.0.1,10.0.0.2\nnameserver 10.0.0.3", ("10.0.0.3",)),
        ("nameserver 10.0.0.1\r\nnameserver 10.0.0.2\r\n", ("10.0.0.1", "10.0.0.2")),
        ("\udcff\udcfe nameserver\nnameserver 10.0.0.1\n", ("10.0.0.1",)),
    ],
)
def test_nameservers_of_resolv_conf(tmp_path: Path, text: str, servers: tuple[str, ...]) -> None:
    path = tmp_path / "resolv.conf"
    path.write_bytes(text.encode(errors="surrogateescape"))

    assert resolvers(str(path))[0] == tuple(address(one) for one in servers)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (
            "nameserver 10.96.0.10:5353\n",
            ["line 1 is passed over: '10.96.0.10:5353' is no address"],
        ),
        (
            "search a\nnameserver dns.internal\nnameserver 10.96.0.10\n",
            ["line 2 is passed over: 'dns.internal' is no address"],
        ),
        (
            "\ufeffnameserver 10.96.0.10\n",
            ["line 1 is passed over: it begins with '\\\\ufeffnameserver', not with nameserver"],
        ),
        ("nameserver a\x1b[31m\n", ["line 1 is passed over: 'a\\\\x1b[31m' is no address"]),
        ("# nameserver x\nnameserver 10.96.0.10\nnameserver\nnameservers x\n", []),
    ],
)
def test_lines_that_are_passed_over_are_named(
    tmp_path: Path, text: str, sentences: list[str]
) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(text, encoding="utf-8")

    assert list(resolvers(str(path))[1]) == [f"{path} {sentence}" for sentence in sentences]


def test_resolv_conf_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path, why in (
        (tmp_path / "missing", "No such file or directory"),
        (tmp_path, "it is not a regular file"),
    ):
        with pytest.raises(ApplyError) as caught:
            resolvers(str(path))
        assert str(caught.value) == (
            f"cannot learn the DNS servers to capture ({path}): {why}; give them with "
            "--dns-servers, or use --capture-all-dns; nothing was changed"
        )
        assert caught.value.exit_code == 1


ADDRESSES, SERVERS = (address("10.0.0.5"),), (address("10.96.0.10"),)


@pytest.mark.parametrize(
    ("config", "facts"),
    [
        (Config(LAYOUT_1_0), Facts()),
        (Config(LAYOUT_1_30, ipv6=True), Facts()),
        (Config(LAYOUT_1_30, ipv6=False), Facts()),
        (Config(LAYOUT_1_30), Facts(ADDRESSES)),
        (Config(LAYOUT_1_30, dual_stack=True), Facts(ADDRESSES)),
        (Config(LAYOUT_1_30, redirect_dns=True), Facts(ADDRESSES, SERVERS)),
        (Config(LAYOUT_1_30, ipv6=True, redirect_dns=True), Facts((), SERVERS)),
        (Config(LAYOUT_1_30, ipv6=True, redirect_dns=True, capture_all_dns=True), Facts()),
        (Config(LAYOUT_1_30, ipv6=True, redirect_dns=True, dns_servers=SERVERS), Facts()),
        (Config(LAYOUT_1_30, ipv6=True, redirect_dns=True, dns_servers=()), Facts()),
        (Config(LAYOUT_1_30, ipv6=True, capture_all_dns=True), Facts()),
    ],
)
def test_host_is_asked_for_what_the_config_leaves_open_alone(config: Config, facts: Facts) -> None:
    with (
        mock.patch.object(host, "usable_addresses", return_value=ADDRESSES) as addresses,
        mock.patch.object(host, "resolvers", return_value=(SERVERS, ())) as servers,
    ):
        assert gather(config) == facts

    assert addresses.call_count == len(facts.addresses)
    assert servers.call_count == len(facts.nameservers)


IF_INET6 = """\
00000000000000000000000000000001 01 80 10 80       lo
00000000000000000000000000000006 01 80 00 80       lo
fe800000000000000000000000000001 02 40 20 80     eth0
fd000000000000000000000000000005 02 40 00 80     eth0
"""


def listed(text: str) -> mock.Mock:
    return mock.Mock(side_effect=lambda *_, **__: io.StringIO(text))


def test_ipv6_addresses_are_read_from_proc() -> None:
    with mock.patch("builtins.open", listed(IF_INET6)):
        found = ipv6_addresses()

    assert [(one.address, interface) for one, interface in found] == [
        ("::1", "lo"),
        ("::6", "lo"),
        ("fe80::1", "eth0"),
        ("fd00::5", "eth0"),
    ]


def test_kernel_without_ipv6_has_none() -> None:
    with mock.patch("builtins.open", side_effect=FileNotFoundError):
        assert ipv6_addresses() == ()


def test_loopback_link_local_and_our_own_address_do_not_decide() -> None:
    with (
        mock.patch("builtins.open", listed(IF_INET6)),
        mock.patch.object(host, "_ipv4_addresses", return_value=ADDRESSES),
    ):
        assert usable_addresses() == (*ADDRESSES, address("fd00::5"))


@pytest.mark.parametrize(
    ("text", "usable"),
    [
        ("10.0.0.5", True),
        ("127.0.0.1", False),
        ("127.5.0.1", False),
        ("169.254.1.1", False),
        ("169.255.1.1", True),
        ("fd00::5", True),
        ("2001:db8::1", True),
        ("fe80::1", False),
        ("febf::1", False),
        ("fec0::1", True),
        ("::1", False),
        ("::6", False),
        ("::7", True),
    ],
)
def test_usable_addresses(text: str, *, usable: bool) -> None:
    found: Network = address(text)

    assert host._usable(found) is usable
