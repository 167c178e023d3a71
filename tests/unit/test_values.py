"""Text to typed values: what is taken, as what, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.config import values
from istio_init.rules.ranges import IPV4, IPV6, IdRange, Network, PortRange
from tests import strategies
from tests.unit.settings import tried

if TYPE_CHECKING:
    from collections.abc import Callable

SERVICES = {"http": 80, "http-alt": 8080, "domain": 53}
USERS = {"root": 0, "daemon": 1, "a-b": 7}


def v4(text: str, prefix: int = 32) -> Network:
    return Network(IPV4, bytes(int(part) for part in text.split(".")), prefix)


def v6(text: str, prefix: int = 128) -> Network:
    return values.address(text).replace(prefix=prefix)


PARSERS: tuple[Callable[[str], object], ...] = (
    values.items,
    values.boolean,
    values.port,
    values.address,
    values.network,
    values.loopback_range,
    values.interface,
    values.duration,
    lambda text: values.number(text, 1, 0xFFFFFFFF, hexadecimal=True),
    lambda text: values.port_range(text, SERVICES.get),
    lambda text: values.id_range(text, USERS.get, "passwd"),
)


# Numbers that some reader somewhere takes, and iptables reads as another, or not.
ODD_NUMBERS = (
    "",
    " ",
    "+80",
    "-80",
    " 80",
    "80 ",
    "80\n",
    "080",
    "00",
    "0x50",
    "0X50",
    "0b1",
    "0o17",
    "1_000",
    "8e1",
    "80.0",
    "1,000",
    "\u0668\u0660",
    "\uff18\uff10",
    "\u00b2",
    "\u2167",
    "八",
    "abc",
    "eighty",
    "80\0",
    "\udcff",
    "9" * 30,
)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        (",", []),
        (" , ,, ", []),
        ("80", ["80"]),
        ("80, 8080,", ["80", "8080"]),
        (" 80 ,\t8080\n", ["80", "8080"]),
        (",,a,,b,,", ["a", "b"]),
        ("80,80", ["80", "80"]),
        ("a b", ["a b"]),
        ("*", ["*"]),
        ("a-b", ["a-b"]),
    ],
)
def test_items_are_what_stands_between_commas(text: str, parts: list[str]) -> None:
    assert values.items(text) == parts


@pytest.mark.parametrize("text", ["-b", "--", "-", " -b", "-80", "\t-i", "-x,80"])
def test_value_that_looks_like_a_flag_is_refused(text: str) -> None:
    for parse in (values.items, lambda text: values.listed(text, "ports")):
        with pytest.raises(ValueError, match="looks like a flag whose own value is missing"):
            parse(text)


def test_star_is_refused_where_it_has_no_meaning() -> None:
    assert values.listed("a, b", "things") == ["a", "b"]
    with pytest.raises(ValueError, match=r"^things; '\*' has no meaning here$"):
        values.listed("*", "things")
    for text in ("80,*", "*,80", " * , 80", "*,*"):
        with pytest.raises(ValueError, match=r"^things; '\*' must stand alone$"):
            values.listed(text, "things")
    # Not the wildcard, and left to be refused as whatever the list holds.
    assert values.listed("**,8*", "things") == ["**", "8*"]


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ("7", 7), ("10", 10), ("4294967295", 0xFFFFFFFF)]
)
def test_number_is_decimal(text: str, number: int) -> None:
    assert values.number(text, 0, 0xFFFFFFFF) == number


@pytest.mark.parametrize("text", [*ODD_NUMBERS, "4294967296", "99999999999"])
def test_number_is_plain_and_in_range(text: str) -> None:
    with pytest.raises(ValueError, match=r"^a number 0-4294967295$"):
        values.number(text, 0, 0xFFFFFFFF)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1337", 1337),
        ("0x539", 1337),
        ("0X539", 1337),
        ("0xFf", 255),
        ("0x0539", 1337),
        ("0xffffffff", 0xFFFFFFFF),
    ],
)
def test_number_may_be_hexadecimal_where_that_is_asked_for(text: str, number: int) -> None:
    assert values.number(text, 1, 0xFFFFFFFF, hexadecimal=True) == number


@pytest.mark.parametrize(
    "text",
    [
        *(text for text in ODD_NUMBERS if text.lower() != "0x50"),
        "0",
        "0x",
        "0x0",
        "0xg",
        "0x_5",
        "0x5_3",
        "0x-5",
        "0x 5",
        "0x\u0665",
        "x539",
        "539h",
        "-0x5",
        "0x100000000",
        "4294967296",
    ],
)
def test_odd_hexadecimal_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^a number 1-4294967295, decimal or 0x hexadecimal$"):
        values.number(text, 1, 0xFFFFFFFF, hexadecimal=True)


@pytest.mark.parametrize("word", ["1", "t", "T", "true", "True", "TRUE", " true "])
def test_true_words(word: str) -> None:
    assert values.boolean(word) is True


@pytest.mark.parametrize("word", ["0", "f", "F", "false", "False", "FALSE", "\tfalse"])
def test_false_words(word: str) -> None:
    assert values.boolean(word) is False


@pytest.mark.parametrize(
    "word", ["", "yes", "no", "on", "off", "banana", "2", "tr ue", "ture", "\uff11"]
)
def test_every_other_word_is_neither(word: str) -> None:
    with pytest.raises(ValueError, match=r"^true or false$"):
        values.boolean(word)


@pytest.mark.parametrize("text", ["1", "80", "65535"])
def test_port(text: str) -> None:
    assert values.port(text) == int(text)


@pytest.mark.parametrize("text", [*ODD_NUMBERS, "0", "65536", "70000", "http", "80-90", "80:90"])
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(ValueError, match=r"^a number 1-65535$"):
        values.port(text)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("1", 1, 1),
        ("65535", 65535, 65535),
        ("8000:9000", 8000, 9000),
        ("8000-9000", 8000, 9000),
        ("80:80", 80, 80),
        ("1-65535", 1, 65535),
        ("http", 80, 80),
        ("http-alt", 8080, 8080),
    ],
)
def test_port_range(text: str, low: int, high: int) -> None:
    assert values.port_range(text, SERVICES.get) == PortRange(low, high)


@pytest.mark.parametrize(
    "text",
    [
        *(text for text in ODD_NUMBERS if text not in {"abc", "eighty"}),
        "0",
        "65536",
        "70000",
        "0:80",
        "80:65536",
        "80:",
        ":80",
        "-80",
        "80-",
        ":",
        "-",
        "80:90:100",
        "80-90-100",
        "80:90-100",
        "80-90:100",
        "80 : 90",
        "080:90",
        "80:090",
        "*",
        "80;",
        "80 -j ACCEPT",
    ],
)
def test_what_is_no_port_range(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"^a port 1-65535, a range such as 8000:9000, or a service"
    ):
        values.port_range(text, SERVICES.get)


@pytest.mark.parametrize("text", ["9000:8000", "9000-8000", "65535:1"])
def test_ports_that_run_backwards_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="runs backwards"):
        values.port_range(text, SERVICES.get)


@pytest.mark.parametrize("text", ["abc", "eighty", "HTTP", "http:90", "http-", "é", "八"])
def test_unknown_service_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a service of this host"):
        values.port_range(text, SERVICES.get)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("0", 0, 0),
        ("1337", 1337, 1337),
        ("4294967294", 4294967294, 4294967294),
        ("1000-2000", 1000, 2000),
        ("0-4294967294", 0, 4294967294),
        ("5-5", 5, 5),
        ("root", 0, 0),
        ("daemon", 1, 1),
        ("a-b", 7, 7),
    ],
)
def test_id_range(text: str, low: int, high: int) -> None:
    assert values.id_range(text, USERS.get, "passwd") == IdRange(low, high)


@pytest.mark.parametrize(
    "text",
    [
        "4294967295",
        "4294967296",
        "0-4294967295",
        "1000-",
        "1000:2000",
        "1-2-3",
        "01",
        "1_000",
        "1 000",
        "0x50",
        "1000-abc",
        "\u00b2",
        "\u0668\u0660",
        "3com",
        "9" * 30,
    ],
)
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(ValueError, match=r"^an id 0-4294967294, .* in the passwd file, not "):
        values.id_range(text, USERS.get, "passwd")


def test_ids_that_run_backwards_are_refused() -> None:
    with pytest.raises(ValueError, match="'2000-1000' runs backwards"):
        values.id_range("2000-1000", USERS.get, "group")


@pytest.mark.parametrize(
    "text", ["", "nobody", "Root", "-1", "+80", " 80", "*", "root-daemon", "#0"]
)
def test_name_that_is_in_no_file_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"in the group file; .* is not in it$"):
        values.id_range(text, USERS.get, "group")


@pytest.mark.parametrize(
    "name",
    [
        "lo",
        "e",
        "eth0",
        "0eth",
        "eth0.100",
        "eth0:1",
        "eth+",
        "+",
        "a+b",
        "abcdefghijklmno",
        "abcdefghijklmn+",
        "not-istio-nic",
        "a$b",
        "a&b|c>d",
        "(a)",
        "a\\b",
        "é",
        "ééééééé",
        "网卡",
        "80",
    ],
)
def test_interface(name: str) -> None:
    assert values.interface(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "abcdefghijklmnop",
        "abcdefghijklmno+",
        "éééééééé",
        "网卡网卡网卡",
        "eth0 -d 10.0.0.50 -p tcp",
        "et h",
        "eth\t0",
        "eth\n",
        "eth\xa0",
        "eth\u2003",
        "a/b",
        "a;b",
        "'a'",
        '"a"',
        "`a`",
        "\0",
        "a\0",
        "a\x1b",
        "a\x7f",
        "\u200b",
        "\udcff",
        "-eth0",
        "!eth0",
        "!",
    ],
)
def test_what_is_no_interface(name: str) -> None:
    with pytest.raises(ValueError, match=r"^an interface name of 1-15 characters"):
        values.interface(name)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0", v4("0.0.0.0")),
        ("10.0.0.5", v4("10.0.0.5")),
        ("255.255.255.255", v4("255.255.255.255")),
        ("::", Network(IPV6, bytes(16), 128)),
        ("::1", Network(IPV6, bytes(15) + b"\1", 128)),
        ("FD00::A", Network(IPV6, b"\xfd" + bytes(14) + b"\n", 128)),
        ("::ffff:10.0.0.5", Network(IPV6, bytes(10) + b"\xff\xff\n\0\0\5", 128)),
        ("::127.0.0.53", Network(IPV6, bytes(12) + b"\x7f\0\0\x35", 128)),
        ("2001:db8:0:0:0:0:0:1", v6("2001:db8::1")),
    ],
)
def test_address(text: str, address: Network) -> None:
    assert values.address(text) == address


ODD_ADDRESSES = (
    "",
    " ",
    "10",
    "10.0.0",
    "10.0.0.0.0",
    "10.0.0.256",
    "010.0.0.1",
    "0x0a.0.0.1",
    "10.0.0.1 ",
    " 10.0.0.1",
    "10.0.0.1\n",
    "10.0.0.1\0",
    "167772161",
    "1\u0660.0.0.1",
    "10.0.0.-1",
    "localhost",
    "example.com",
    ":",
    ":::",
    "1::2::3",
    "12345::",
    "::g",
    "fe80::1%eth0",
    "fe80::1%1",
    "[::1]",
    "::1.2.3",
    "\udcff",
    "1:2:3:4:5:6:7",
    "1:2:3:4:5:6:7:8:9",
)


@pytest.mark.parametrize("text", [*ODD_ADDRESSES, "10.0.0.0/8", "::/0"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"^an IPv4 or IPv6 address, not "):
        values.address(text)


@pytest.mark.parametrize(
    ("text", "spelled", "cleared"),
    [
        ("10.0.0.0/8", "10.0.0.0/8", False),
        ("10.0.0.5/8", "10.0.0.0/8", True),
        ("10.0.0.5", "10.0.0.5/32", False),
        ("10.0.0.5/32", "10.0.0.5/32", False),
        ("10.0.0.5/31", "10.0.0.4/31", True),
        ("0.0.0.0/0", "0.0.0.0/0", False),
        ("1.2.3.4/0", "0.0.0.0/0", True),
        ("10.0.0.0/255.255.0.0", "10.0.0.0/16", False),
        ("10.0.0.0/255.255.255.255", "10.0.0.0/32", False),
        ("10.1.2.3/255.0.0.0", "10.0.0.0/8", True),
        ("10.0.0.0/0.0.0.0", "0.0.0.0/0", True),
        ("10.0.0.128/255.255.255.128", "10.0.0.128/25", False),
        ("fd00::/8", "fd00::/8", False),
        ("fd00::1/8", "fd00::/8", True),
        ("FD00:0::0/8", "fd00::/8", False),
        ("::/0", "::/0", False),
        ("::1", "::1/128", False),
        ("2001:db8::1/128", "2001:db8::1/128", False),
        ("2001:db8::1/127", "2001:db8::/127", True),
        ("::ffff:10.0.0.5/96", "::ffff:0.0.0.0/96", True),
        ("::127.0.0.53", "::127.0.0.53/128", False),
    ],
)
def test_network(text: str, spelled: str, *, cleared: bool) -> None:
    network, had_host_bits = values.network(text)

    assert str(network) == spelled
    assert had_host_bits == cleared
    assert network.family == (IPV6 if ":" in text else IPV4)


@pytest.mark.parametrize(
    "text",
    [
        *ODD_ADDRESSES,
        "10.0.0.0/",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/+8",
        "10.0.0.0/08",
        "10.0.0.0/ 8",
        "10.0.0.0 /8",
        "10.0.0.0/0x8",
        "10.0.0.0/8/8",
        "10.0.0.0/\u0668",
        "10.0.0.0/eight",
        "10.0.0.0/255.0.255.0",
        "10.0.0.0/0.0.0.255",
        "10.0.0.0/255.255.255",
        "10.0.0.0/::ff",
        "/8",
        "/",
        "*",
        "10.0.0.0-10.0.0.9",
        "fd00::/129",
        "fd00::/ffff::",
        "fd00::/255.0.0.0",
        "fe80::1%eth0/64",
        "10.0.0.0/8 -j ACCEPT",
    ],
)
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ValueError, match=r"^an address range such as 10.0.0.0/8 or fd00::/8, not "):
        values.network(text)


@pytest.mark.parametrize(
    ("text", "network", "cleared"),
    [
        ("127.0.0.1/32", v4("127.0.0.1"), False),
        ("127.0.0.1", v4("127.0.0.1"), False),
        ("127.0.0.1/8", v4("127.0.0.0", 8), True),
        ("127.128.0.0/9", v4("127.128.0.0", 9), False),
        ("127.0.0.0/255.0.0.0", v4("127.0.0.0", 8), False),
    ],
)
def test_loopback_range(text: str, network: Network, *, cleared: bool) -> None:
    assert values.loopback_range(text) == (network, cleared)


@pytest.mark.parametrize(
    "text", ["", "127.0.0.0/7", "126.0.0.0/7", "10.0.0.0/8", "0.0.0.0/0", "::1/128", "lo", "*"]
)
def test_what_is_no_loopback_range(text: str) -> None:
    with pytest.raises(ValueError, match=r"^an IPv4 range inside 127.0.0.0/8, not "):
        values.loopback_range(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5s", 5.0),
        ("500ms", 0.5),
        ("1ms", 0.001),
        ("1m", 60.0),
        ("1h", 3600.0),
        ("1m30s", 90.0),
        ("1h2m3s4ms", 3723.004),
        ("1.5s", 1.5),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("0h5s", 5.0),
        ("24h", 86400.0),
    ],
)
def test_duration(text: str, seconds: float) -> None:
    assert values.duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "s",
        "0s",
        "0",
        "-5s",
        "+5s",
        "5 s",
        " 5s",
        "5s ",
        "5S",
        "5sec",
        "5d",
        "5us",
        "5hm",
        "5sm",
        "1m30",
        "1..5s",
        ".s",
        "1e3s",
        "infs",
        "nans",
        "\u0665s",
        "25h",
        "24h1ms",
        "99999999999s",
    ],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"^a duration such as 5s, 500ms or 1m30s$"):
        values.duration(text)


def test_text_of_any_length_is_judged() -> None:
    # More digits than int() takes, and more than a float holds.
    long = "9" * 5000

    for parse in PARSERS:
        if parse is not values.items:
            with pytest.raises(ValueError, match=r"^(a|true)"):
                parse(long)
    with pytest.raises(ValueError, match=r"^a duration"):
        values.duration(f"{long}ms")
    assert values.number(f"0x{'0' * 5000}1", 1, 1, hexadecimal=True) == 1


@given(strategies.port_ranges, st.sampled_from(":-"))
@tried
def test_port_ranges_come_back_from_either_spelling(ports: PortRange, separator: str) -> None:
    assert values.port_range(str(ports), SERVICES.get) == ports
    assert values.port_range(f"{ports.low}{separator}{ports.high}", SERVICES.get) == ports


@given(strategies.id_ranges)
@tried
def test_id_ranges_come_back_from_their_spelling(ids: IdRange) -> None:
    assert values.id_range(str(ids), USERS.get, "passwd") == ids


@given(strategies.families.flatmap(strategies.networks))
@tried
def test_networks_come_back_from_their_spelling(network: Network) -> None:
    assert values.network(str(network)) == (network, False)
    assert values.network(f"{network.address}/{network.prefix}") == (network, False)


@given(strategies.networks(IPV4))
@tried
def test_netmasks_mean_the_prefix_of_as_many_ones(network: Network) -> None:
    ones = (0xFFFFFFFF << (32 - network.prefix)) & 0xFFFFFFFF
    mask = ".".join(str(byte) for byte in ones.to_bytes(4, "big"))

    assert values.network(f"{network.address}/{mask}") == (network, False)


@given(st.integers(1, 0xFFFFFFFF))
@tried
def test_numbers_come_back_from_either_spelling(number: int) -> None:
    for spelled in (str(number), hex(number), f"0X{number:X}"):
        assert values.number(spelled, 1, 0xFFFFFFFF, hexadecimal=True) == number


@given(strategies.interface_names)
@tried
def test_interface_names_stay_as_they_are(name: str) -> None:
    assert values.interface(name) == name


@given(st.integers(1, 24 * 3600 * 1000))
@tried
def test_durations_are_the_sum_of_their_parts(milliseconds: int) -> None:
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)

    found = values.duration(f"{minutes}m{seconds}s{rest}ms")

    assert found == pytest.approx(milliseconds / 1000)


@given(st.sampled_from(PARSERS), st.text(max_size=20))
@tried
def test_any_text_is_a_value_or_a_sentence_about_what_was_expected(
    parse: Callable[[str], object], text: str
) -> None:
    sentence = "none was needed"
    try:
        parse(text)
    except ValueError as error:
        sentence = str(error)
    assert sentence
