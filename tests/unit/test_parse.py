"""What iptables prints, as rules; what this program never writes stays text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.errors import ParseError
from istio_init.formats.iptables import rule_words
from istio_init.formats.save_reader import parse_rule, parse_rules, parse_save, parse_table
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import Chain, ForeignRule, Rule, Ruleset, make_table
from istio_init.rules.ranges import FAMILIES, IPV4, IPV6
from tests import strategies
from tests.unit.settings import tried

if TYPE_CHECKING:
    from istio_init.rules.ranges import Family

# Rules that are nearly this program's, and where each leads.
UNKNOWN: tuple[tuple[str, str], ...] = (
    ("", ""),
    ("-p tcp", ""),
    ("-j", ""),
    ("-p tcp -j", ""),
    ("-p icmp -j ACCEPT", ""),
    ("-p 6 -j ACCEPT", ""),
    ("-f -j DROP", ""),
    ("-s 10.0.0.0/255.0.255.0 -j ACCEPT", ""),
    ("-s 10.0.0.0/8 -j ACCEPT -m x", ""),
    ("-d fe80::1%eth0/128 -j ACCEPT", ""),
    ("-p tcp -m tcp --dport 0 -j ACCEPT", ""),
    ("-p tcp -m tcp --dport 70000 -j ACCEPT", ""),
    ("-p tcp -m tcp --dport 80-90 -j ACCEPT", ""),
    ("-p tcp -m tcp --sport 80 --dport 90 -j ACCEPT", ""),
    ("-p tcp -m tcp --tcp-flags SYN,RST SYN -j ACCEPT", ""),
    ("-p tcp -m tcp ! --syn -j ACCEPT", ""),
    ("! -m owner --uid-owner 1 -j ACCEPT", ""),
    ("-m multiport --ports 80 -j ACCEPT", ""),
    ("-m multiport --dports 80,http -j ACCEPT", ""),
    ("-m owner --uid-owner root -j ACCEPT", ""),
    ("-m owner --socket-exists -j ACCEPT", ""),
    ("-m owner --uid-owner 9-1 -j ACCEPT", ""),
    ("-m conntrack --ctstate UNTRACKED -j ACCEPT", ""),
    ("-m conntrack --ctstate NEW --ctproto 6 -j ACCEPT", ""),
    ("-m state --ctstate NEW -j ACCEPT", ""),
    ("-m mark --mark 0x539/0xffffffff -j ACCEPT", ""),
    ("-m mark --mark 1337 -j ACCEPT", ""),
    ("-m mark --mark banana -j ACCEPT", ""),
    ("-m connmark --mark 0x1/ -j ACCEPT", ""),
    ("-m socket --transparent -j ACCEPT", ""),
    ("-m", ""),
    ("-m comment --comment hello -j ACCEPT", ""),
    ('-m comment --comment "a b" -j ISTIO_OUTPUT', "ISTIO_OUTPUT"),
    ('-m comment --comment "-j ISTIO_OUTPUT" -j ACCEPT', ""),
    ('-m comment --comment "say \\"-j X\\"" -j ISTIO_OUTPUT', "ISTIO_OUTPUT"),
    ('-m comment --comment "no end -j ISTIO_OUTPUT', "ISTIO_OUTPUT"),
    ("-m comment --comment x -g ISTIO_OUTPUT", "ISTIO_OUTPUT"),
    ("-g ISTIO_OUTPUT", "ISTIO_OUTPUT"),
    ("-p tcp -g ISTIO_OUTPUT", "ISTIO_OUTPUT"),
    ("-m ttl --ttl-eq 1 -j ISTIO_OUTPUT", "ISTIO_OUTPUT"),
    ("-i  eth0 -j ISTIO_OUTPUT", "ISTIO_OUTPUT"),
    ("-s 10.0.0.5/8 -j ISTIO_OUTPUT", "ISTIO_OUTPUT"),
    ("-p tcp -i eth0 -j LOG --log-prefix x", ""),
    ("-j LOG --log-prefix x", ""),
    ("-j LOG", ""),
    ("-j MASQUERADE", ""),
    ("-j TRACE", ""),
    ("-j QUEUE", ""),
    ("-j RETURN --again", ""),
    ("-j REJECT --reject-with tcp-reset", ""),
    ("-j REJECT", ""),
    ("-j REDIRECT", ""),
    ("-j REDIRECT --to-ports 80-90", ""),
    ("-j REDIRECT --to-ports 80 --random", ""),
    ("-j REDIRECT --to-ports x", ""),
    ("-j TPROXY --on-port 1 --on-ip 10.0.0.1 --tproxy-mark 0x1/0x1", ""),
    ("-j TPROXY --on-port 1 --on-ip", ""),
    ("-j MARK --set-xmark 0x1", ""),
    ("-j MARK --and-mark 0x1", ""),
    ("-j CONNMARK --save-mark", ""),
    ("-j CONNMARK --save-mark --nfmask 0x1 --ctmask 0x1", ""),
    ("-j CONNMARK --set-xmark 0x1/0xffffffff", ""),
    ("-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xff", ""),
    ("-j CT --notrack", ""),
    ("-j CT --zone x", ""),
    ("-j CT --zone 1 --helper ftp", ""),
    ("-j DNAT --to-destination 10.0.0.1", ""),
)


def table_of(*texts: str) -> tuple[Rule | ForeignRule, ...]:
    """Return the rules of OUTPUT in a table that has a chain ISTIO_OUTPUT too."""
    lines = ["-P OUTPUT ACCEPT", "-N ISTIO_OUTPUT", *(f"-A OUTPUT {text}" for text in texts)]
    chain = parse_table(lines, "nat", IPV4).chain("OUTPUT")
    assert chain is not None
    return chain.rules


@pytest.mark.parametrize(("text", "jump"), UNKNOWN)
def test_what_this_program_never_writes_stays_text(text: str, jump: str) -> None:
    assert table_of(text) == (ForeignRule(text, jump),)


@pytest.mark.parametrize(
    "text",
    [
        "-j REJECT --reject-with icmp6-port-unreachable",
        "-j TPROXY --on-port 1 --on-ip :: --tproxy-mark 0x1/0xffffffff",
    ],
)
def test_what_the_other_family_writes_stays_text_too(text: str) -> None:
    assert isinstance(parse_rule(text, IPV6), Rule)
    assert parse_rule(text, IPV4) == ForeignRule(text, text.split()[1])
    assert table_of(text) == (ForeignRule(text),)


def test_jump_leads_to_a_chain_of_the_table_or_is_none() -> None:
    assert table_of("-j ISTIO_OUTPUT") == (Rule((), t.Jump("ISTIO_OUTPUT")),)
    assert table_of("-j ISTIO_OTHER", "-g ISTIO_OTHER") == (
        ForeignRule("-j ISTIO_OTHER"),
        ForeignRule("-g ISTIO_OTHER"),
    )
    # Without a table nobody knows.
    assert parse_rule("-j LOG", IPV4) == Rule((), t.Jump("LOG"))


@given(
    strategies.families,
    st.lists(
        st.sampled_from(
            sorted(
                {word for text, _ in UNKNOWN for word in text.split()}
                | {"!", "-m", "-j", "-p", "tcp", "--dport", "80", "-s", "10.0.0.0/8", "ACCEPT"}
            )
        ),
        max_size=9,
    ),
)
@tried
def test_any_words_come_back_as_they_were(family: Family, words: list[str]) -> None:
    text = " ".join(words)

    assert " ".join(rule_words(parse_rule(text, family), family)) == text


@given(st.text(max_size=30))
@tried
def test_any_text_is_a_rule_or_stays_text(text: str) -> None:
    for family in FAMILIES:
        assert " ".join(rule_words(parse_rule(text, family), family)) == text


def test_table_lists_its_chains_in_kernel_order() -> None:
    table = parse_table(
        [
            *("-P POSTROUTING ACCEPT", "-P PREROUTING DROP", "-N B", "-N A"),
            *("-A B -j RETURN", "-A PREROUTING -p tcp -j A", "-A B -j A", ""),
        ][:-1],
        "nat",
        IPV4,
    )

    assert table == make_table(
        "nat",
        {
            "PREROUTING": Chain("PREROUTING", "DROP", (Rule((m.Proto("tcp"),), t.Jump("A")),)),
            "A": Chain("A", None),
            "B": Chain("B", None, (Rule((), t.Return()), Rule((), t.Jump("A")))),
        },
    )
    assert [chain.name for chain in table.chains] == [
        *("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING", "A", "B")
    ]


@pytest.mark.parametrize(
    "line", ["", "-X A", "-A NONE -j ACCEPT", "iptables: No such file", "# comment", "*nat"]
)
def test_other_lines_are_no_table(line: str) -> None:
    with pytest.raises(ParseError, match=r"^not a line of nat -S: "):
        parse_table(["-P OUTPUT ACCEPT", line], "nat", IPV4)


def test_unknown_table_is_none_of_iptables() -> None:
    with pytest.raises(ParseError, match=r"^no table of iptables: 'security'$"):
        parse_table([], "security", IPV4)


SAVED = """\
# Generated by iptables-save v1.8.9 (nf_tables) on Thu Jan  1 00:00:00 1970
*security
:INPUT ACCEPT [0:0]
-A INPUT -j SECMARK --selctx system_u:object_r:httpd_packet_t:s0
COMMIT
# Completed on Thu Jan  1 00:00:00 1970
*nat
:PREROUTING ACCEPT [12:720]
:INPUT ACCEPT [0:0]
:OUTPUT DROP [3:180]
:POSTROUTING ACCEPT [3:180]
:DOCKER - [0:0]
:ISTIO_OUTPUT - [0:0]
[5:300] -A OUTPUT -p tcp -j ISTIO_OUTPUT
[0:0] -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
[1:60] -A DOCKER -i docker0 -j RETURN
-A ISTIO_OUTPUT -m mark --mark 0x539 -j RETURN
COMMIT

*filter
:INPUT ACCEPT
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -i lo -j ACCEPT
COMMIT
# Completed on Thu Jan  1 00:00:00 1970
"""


def test_iptables_save_with_counters_comments_policies_and_foreign_tables() -> None:
    found = parse_save(SAVED, IPV4)

    nat = {
        "OUTPUT": Chain(
            "OUTPUT",
            "DROP",
            (
                Rule((m.Proto("tcp"),), t.Jump("ISTIO_OUTPUT")),
                ForeignRule("! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER", "DOCKER"),
            ),
        ),
        "POSTROUTING": Chain(
            "POSTROUTING",
            "ACCEPT",
            (ForeignRule("-s 172.17.0.0/16 ! -o docker0 -j MASQUERADE"),),
        ),
        "DOCKER": Chain("DOCKER", None, (Rule((m.InInterface("docker0"),), t.Return()),)),
        "ISTIO_OUTPUT": Chain("ISTIO_OUTPUT", None, (Rule((m.Mark(1337),), t.Return()),)),
    }
    loopback = Rule((m.InInterface("lo"),), t.Accept())
    assert found == Ruleset(
        IPV4,
        (
            make_table("nat", nat),
            make_table("filter", {"INPUT": Chain("INPUT", "ACCEPT", (loopback,))}),
        ),
    )


def test_no_tables_are_an_empty_rule_set() -> None:
    for text in ("", "\n", "# Generated by ip6tables-save\n"):
        assert parse_save(text, IPV6) == Ruleset(IPV6, ())


@pytest.mark.parametrize(
    "text",
    [
        "rubbish",
        ":INPUT ACCEPT [0:0]",
        "COMMIT",
        "-A INPUT -j ACCEPT",
        "*nat\n:PREROUTING\nCOMMIT",
        "*nat\n:\nCOMMIT",
        "*nat\nrubbish\nCOMMIT",
        "*nat\n-A NONE -j ACCEPT\nCOMMIT",
        "*nat\nCOMMIT\n-A OUTPUT -j ACCEPT",
        # Half a file is no file.
        "*nat\n:OUTPUT ACCEPT [0:0]\n",
        "*nat\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n*filter",
        "*nat\n:OUTPUT ACCEPT [0:0]\n[0:0] -j ACCEPT\nCOMMIT",
        "*nat\n[0:0]\nCOMMIT",
        "iptables-save v1.8.9: Could not fetch rule set generation id",
    ],
)
def test_other_text_is_not_iptables_save(text: str) -> None:
    with pytest.raises(ParseError):
        parse_save(text, IPV4)


@given(st.text(alphabet="*nat:COMIT-A \n[]0# j", max_size=40))
@tried
def test_any_text_is_a_rule_set_or_refused(text: str) -> None:
    for parse in (lambda: parse_save(text, IPV4), lambda: parse_rules(text)):
        refused = "no"
        try:
            parse()
        except ParseError as error:
            refused = str(error)
        assert refused


def test_dry_run_text_gives_both_families() -> None:
    v4, v6 = parse_rules(
        "# iptables -t nat -S\n-P OUTPUT ACCEPT\n-N X\n-A OUTPUT -j X\n"
        "# ip6tables -t filter -S\n-P INPUT DROP\n"
        "# ip -4 rule show\n32765: from all fwmark 0x539 lookup 133\n"
    )

    assert v4.table("nat") == make_table(
        "nat",
        {"OUTPUT": Chain("OUTPUT", "ACCEPT", (Rule((), t.Jump("X")),)), "X": Chain("X", None)},
    )
    assert v6.table("filter") == make_table("filter", {"INPUT": Chain("INPUT", "DROP")})
    assert (v4.family, v6.family) == FAMILIES


@pytest.mark.parametrize(
    "text",
    [
        "rubbish",
        "-P OUTPUT ACCEPT\n# iptables -t nat -S\n",
        "# iptables -t nat",
        "# iptables -t nat -L",
        "# iptables -t none -S",
        "# iptables -t nat -S\nrubbish",
        "# arptables -t nat -S",
        "# ",
    ],
)
def test_other_text_is_no_dry_run(text: str) -> None:
    with pytest.raises(ParseError):
        parse_rules(text)
