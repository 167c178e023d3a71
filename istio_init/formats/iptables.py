"""Rules and tables as the words that iptables prints and reads for them.

This is the only place that knows how a match or a target is spelled; every
text format and the parser's round trip rest on it.
"""

from __future__ import annotations

from istio_init.lean import TYPE_CHECKING, assert_never
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import BUILTIN_CHAINS, HEAD, ForeignRule, Rule
from istio_init.rules.ranges import FULL_MASK, IPV4

if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.rules.model import Table
    from istio_init.rules.ranges import Family

_RESTORE_WORDS = 200

REJECT_WITH = {"ipv4": "icmp-port-unreachable", "ipv6": "icmp6-port-unreachable"}
ANY_ADDRESS = {"ipv4": "0.0.0.0", "ipv6": "::"}  # noqa: S104 - nothing is bound to it
COPY_MARK = ("--nfmask", hex(FULL_MASK), "--ctmask", hex(FULL_MASK))


def rule_words(rule: Rule | ForeignRule, family: Family) -> list[str]:
    """Return the words that follow ``-A CHAIN``, in iptables' canonical spelling."""
    if isinstance(rule, ForeignRule):
        return [rule.spelled]
    words = [word for match in rule.matches for word in match_words(match)]
    return [*words, *target_words(rule.target, family)]


def rule_line(chain: str, rule: Rule | ForeignRule, family: Family) -> str:
    """Return a rule as a line of ``iptables -S``."""
    return " ".join(("-A", chain, *rule_words(rule, family)))


def table_commands(table: Table, family: Family) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the commands that build a table's chains: the words of the command, and of its rule."""
    for chain in table.chains:
        if chain.name not in BUILTIN_CHAINS[table.name]:
            yield ["-N", chain.name], []
    for chain in table.chains:
        for number, rule in enumerate(chain.rules, 1):
            head = isinstance(rule, Rule) and rule.place == HEAD
            command = ["-I", chain.name, str(number)] if head else ["-A", chain.name]
            yield command, rule_words(rule, family)


def match_words(match: m.Match) -> list[str]:
    """Return the words of one match."""
    bang = ["!"] if match_negated(match) else []
    match match:
        case m.Source():
            return [*bang, "-s", str(match.network)]
        case m.Destination():
            return [*bang, "-d", str(match.network)]
        case m.InInterface():
            return [*bang, "-i", match.name]
        case m.OutInterface():
            return [*bang, "-o", match.name]
        case m.Proto():
            return [*bang, "-p", match.name]
        case m.Ports():
            return ["-m", match.protocol, *bang, f"--{match.side}", str(match.ports)]
        case m.MultiPorts():
            ports = ",".join(str(one) for one in match.ports)
            return ["-m", "multiport", *bang, f"--{match.side}s", ports]
        case m.Owner():
            return ["-m", "owner", *bang, f"--{match.kind}-owner", str(match.ids)]
        case m.CtState():
            option = "--state" if match.module == "state" else "--ctstate"
            return ["-m", match.module, *bang, option, ",".join(match.states)]
        case m.Mark():
            return ["-m", "mark", *bang, "--mark", _masked(match.value, match.mask)]
        case m.ConnMark():
            return ["-m", "connmark", *bang, "--mark", _masked(match.value, match.mask)]
        case m.Socket():
            return ["-m", "socket"]
        case _:
            assert_never(match)


def match_negated(match: m.Match) -> bool:
    """Whether a match is written with ``!``."""
    return False if isinstance(match, m.Socket) else match.negated


def target_words(target: t.Target, family: Family) -> list[str]:
    """Return the words of a target, ``-j`` included."""
    match target:
        case t.Jump():
            return ["-j", target.chain]
        case t.Return():
            return ["-j", "RETURN"]
        case t.Accept():
            return ["-j", "ACCEPT"]
        case t.Drop():
            return ["-j", "DROP"]
        case t.Reject():
            return ["-j", "REJECT", "--reject-with", REJECT_WITH[family]]
        case t.Redirect():
            return ["-j", "REDIRECT", "--to-ports", str(target.port)]
        case t.Tproxy():
            mark = f"{target.mark:#x}/{target.mask:#x}"
            on_ip = ANY_ADDRESS[family]
            return [
                *("-j", "TPROXY", "--on-port", str(target.port)),
                *("--on-ip", on_ip, "--tproxy-mark", mark),
            ]
        case t.SetMark():
            return ["-j", "MARK", "--set-xmark", f"{target.value:#x}/{target.mask:#x}"]
        case t.SaveMark():
            return ["-j", "CONNMARK", "--save-mark", *COPY_MARK]
        case t.RestoreMark():
            return ["-j", "CONNMARK", "--restore-mark", *COPY_MARK]
        case t.CtZone():
            return ["-j", "CT", "--zone", str(target.zone)]
        case _:
            assert_never(target)


def _masked(value: int, mask: int) -> str:
    return f"{value:#x}" if mask == FULL_MASK else f"{value:#x}/{mask:#x}"


def restore_words(words: list[str]) -> list[str]:
    """Return a rule's words as iptables-restore can take them.

    It has room for 255 words a line, which 50 groups fill; written closer
    together the 64 that are allowed fit.
    """
    if len(words) <= _RESTORE_WORDS:
        return words
    closer: list[str] = []
    for word in words:
        if closer and closer[-1] == "-m":
            closer[-1] += word
        elif closer and closer[-1].startswith("--") and "=" not in closer[-1]:
            closer[-1] += f"={word}"
        else:
            closer.append(word)
    return closer


def tool(family: Family) -> str:
    """Return the iptables program of a family."""
    return "iptables" if family == IPV4 else "ip6tables"
