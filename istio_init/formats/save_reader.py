"""The output of ``iptables -S`` and ``iptables-save`` as rules.

A rule counts as understood only when spelling it again gives the same text;
anything else is kept as a ForeignRule, never guessed at.
"""

from __future__ import annotations

from itertools import pairwise

from istio_init.config.values import id_range, network, port_range
from istio_init.errors import ParseError
from istio_init.formats.iptables import rule_words, target_words
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.rules import matches as m
from istio_init.rules import targets as t
from istio_init.rules.model import (
    BUILTIN_CHAINS,
    TABLES,
    Chain,
    ForeignRule,
    Rule,
    Ruleset,
    make_table,
    words_of,
)
from istio_init.rules.ranges import FULL_MASK, IPV4, IPV6

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from istio_init.rules.model import Table
    from istio_init.rules.ranges import Family, IdRange, Network, PortRange

# Targets that end a rule without naming a chain.
_BUILTIN_TARGETS = frozenset({"ACCEPT", "DROP", "RETURN", "QUEUE"})
_VERBS = ("-j", "-g")


class _Words:
    """The words of one rule, taken from the front."""

    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._next = 0

    def __bool__(self) -> bool:
        return self._next < len(self._words)

    def take(self) -> str:
        if not self:
            raise ValueError("a further word")
        self._next += 1
        return self._words[self._next - 1]

    def take_if(self, word: str) -> bool:
        if self and self._words[self._next] == word:
            self._next += 1
            return True
        return False

    def after(self, option: str) -> str:
        """Return the value of an option that has to come now."""
        if not self.take_if(option):
            raise ValueError(option)
        return self.take()


def parse_rule(text: str, family: Family) -> Rule | ForeignRule:
    """Return the rule whose text follows ``-A CHAIN``."""
    try:
        found = _rule(_Words(text.split()))
    except ValueError:
        found = None
    if found is not None and " ".join(rule_words(found, family)) == text:
        return found
    return ForeignRule(text, _jump_of(text))


def _jump_of(text: str) -> str:
    for word, after in pairwise(words_of(text)):
        if word in _VERBS and after not in _BUILTIN_TARGETS:
            return after
    return ""


class Parts(Record):
    """The words of a rule, taken apart as far as they are understood.

    ``protocols`` are names or numbers with whether each is negated, ``unknown``
    the matches that are not understood, as they are written. ``verb`` is ``-j``,
    ``-g`` or ``""``, ``name`` what follows it, ``target`` what that and its
    options mean, None where they are not understood.
    """

    matches: tuple[m.Match, ...]
    protocols: tuple[tuple[str, bool], ...]
    unknown: tuple[str, ...]
    verb: str
    name: str
    target: t.Target | None


def parts(text: str, family: Family) -> Parts:
    """Return what follows ``-A CHAIN`` in parts, for rules that are not understood whole."""
    words = words_of(text)
    matches: list[m.Match] = []
    protocols: list[tuple[str, bool]] = []
    unknown: list[str] = []
    start = 0
    while start < len(words) and words[start] not in _VERBS:
        end = _end_of_match(words, start)
        group = words[start:end]
        match group:
            case ["-p", protocol]:
                protocols.append((protocol, False))
            case ["!", "-p", protocol]:
                protocols.append((protocol, True))
            case ["-m", "comment", *_]:
                pass
            case ["-m", ("tcp" | "udp"), *options]:
                for one in _options(options):
                    _understand([*group[:2], *one], matches, unknown)
            case _:
                _understand(group, matches, unknown)
        start = end
    verb, name = [*words[start : start + 2], "", ""][:2]
    target = _understood_target(words[start + 1 :], family)
    return Parts(tuple(matches), tuple(protocols), tuple(unknown), verb, name, target)


def _understood_target(words: list[str], family: Family) -> t.Target | None:
    try:
        found = _target(_Words(words))
    except ValueError:
        return None
    return found if target_words(found, family)[1:] == words else None


def _end_of_match(words: list[str], start: int) -> int:
    """Return where the next match begins; an extension's words reach to the next extension."""
    if words[start : start + 2] == ["-m", "comment"]:
        return start + 4
    end = start + 2
    if words[start] == "-m":
        while end < len(words) and words[end] not in ("-m", *_VERBS):
            end += 1
        return end
    end -= words[start] != "!"
    while end < len(words) and words[end][:1] != "-" and words[end] != "!":
        end += 1
    return end


def _options(words: list[str]) -> list[list[str]]:
    """Return the options of an extension one by one, each with its ``!`` and its values."""
    found: list[list[str]] = []
    for word in words:
        opens = word == "!" or (word.startswith("--") and (not found or found[-1] != ["!"]))
        if opens or not found:
            found.append([word])
        else:
            found[-1].append(word)
    return found


def _understand(group: list[str], matches: list[m.Match], unknown: list[str]) -> None:
    words = _Words(group)
    try:
        negated = words.take_if("!")
        found = _match(words.take(), words, "", negated=negated)
    except ValueError:
        unknown.append(" ".join(group))
        return
    if words:
        unknown.append(" ".join(group))
    else:
        matches.append(found)


def _rule(words: _Words) -> Rule:
    matches: list[m.Match] = []
    protocol = ""
    while words:
        if words.take_if("-j"):
            target = _target(words)
            if words:
                raise ValueError("the end")
            return Rule(tuple(matches), target)
        negated = words.take_if("!")
        option = words.take()
        if option == "-p":
            protocol = words.take()
        matches.append(_match(option, words, protocol, negated=negated))
    raise ValueError("-j")


def _match(option: str, words: _Words, protocol: str, *, negated: bool) -> m.Match:
    match option:
        case "-s":
            return m.Source(_network(words.take()), negated)
        case "-d":
            return m.Destination(_network(words.take()), negated)
        case "-i":
            return m.InInterface(words.take(), negated)
        case "-o":
            return m.OutInterface(words.take(), negated)
        case "-p" if protocol == "tcp":
            return m.Proto("tcp", negated)
        case "-p" if protocol == "udp":
            return m.Proto("udp", negated)
        case "-m" if not negated:
            return _extension(words.take(), words)
        case _:
            raise ValueError("a match")


def _extension(name: str, words: _Words) -> m.Match:
    if name == "socket":
        return m.Socket()
    negated = words.take_if("!")
    option = words.take()
    value = words.take()
    match name, option:
        case (("tcp" | "udp"), "--sport"):
            return m.Ports("tcp" if name == "tcp" else "udp", "sport", _ports(value), negated)
        case (("tcp" | "udp"), "--dport"):
            return m.Ports("tcp" if name == "tcp" else "udp", "dport", _ports(value), negated)
        case "multiport", ("--sports" | "--dports"):
            ports = tuple(_ports(one) for one in value.split(","))
            return m.MultiPorts("sport" if option == "--sports" else "dport", ports, negated)
        case "owner", "--uid-owner":
            return m.Owner("uid", _ids(value), negated)
        case "owner", "--gid-owner":
            return m.Owner("gid", _ids(value), negated)
        case "conntrack", "--ctstate":
            return m.CtState(_states(value), "conntrack", negated)
        case "state", "--state":
            return m.CtState(_states(value), "state", negated)
        case "mark", "--mark":
            return m.Mark(*_masked(value), negated)
        case "connmark", "--mark":
            return m.ConnMark(*_masked(value), negated)
        case _:
            raise ValueError("a match this program writes")


def _target(words: _Words) -> t.Target:
    name = words.take()
    match name:
        case "RETURN":
            return t.Return()
        case "ACCEPT":
            return t.Accept()
        case "DROP":
            return t.Drop()
        case "REJECT":
            words.after("--reject-with")
            return t.Reject()
        case "REDIRECT":
            return t.Redirect(int(words.after("--to-ports")))
        case "TPROXY":
            port = int(words.after("--on-port"))
            words.after("--on-ip")
            return t.Tproxy(port, *_masked(words.after("--tproxy-mark")))
        case "MARK":
            return t.SetMark(*_masked(words.after("--set-xmark")))
        case "CONNMARK":
            target = t.SaveMark() if words.take_if("--save-mark") else t.RestoreMark()
            if isinstance(target, t.RestoreMark) and not words.take_if("--restore-mark"):
                raise ValueError("--save-mark or --restore-mark")
            words.after("--nfmask")
            words.after("--ctmask")
            return target
        case "CT":
            return t.CtZone(int(words.after("--zone")))
        case _ if not words:
            return t.Jump(name)
        case _:
            raise ValueError("a target this program writes")


def _network(text: str) -> Network:
    return network(text)[0]


def _ports(text: str) -> PortRange:
    return port_range(text, lambda _: None)


def _ids(text: str) -> IdRange:
    return id_range(text, lambda _: None, "passwd")


def _states(text: str) -> tuple[str, ...]:
    states = tuple(text.split(","))
    if not m.CT_STATES.keys() >= set(states):
        raise ValueError("conntrack states")
    return states


def _masked(text: str) -> tuple[int, int]:
    value, slash, mask = text.partition("/")
    return int(value, 16), int(mask, 16) if slash else FULL_MASK


def parse_table(lines: Iterable[str], name: str, family: Family) -> Table:
    """Return the table of the lines that ``iptables -t NAME -S`` prints.

    Raises:
        ParseError: a line is none of theirs.
    """
    if name not in BUILTIN_CHAINS:
        raise ParseError(f"no table of iptables: {name!r}")
    policies: dict[str, str | None] = {}
    rules: dict[str, list[Rule | ForeignRule]] = {}
    for line in lines:
        verb, _, rest = line.strip().partition(" ")
        chain, _, text = rest.partition(" ")
        if verb == "-P":
            policies[chain] = text
        elif verb == "-N":
            policies[chain] = None
        elif verb == "-A" and chain in policies:
            rules.setdefault(chain, []).append(
                _leading_to(policies, parse_rule(text, family), text)
            )
        else:
            raise ParseError(f"not a line of {name} -S: {line!r}")
    chains = {
        chain: Chain(chain, policy, tuple(rules.get(chain, ())))
        for chain, policy in policies.items()
    }
    return make_table(name, chains)


def _leading_to(chains: Collection[str], rule: Rule | ForeignRule, text: str) -> Rule | ForeignRule:
    """Return a rule that jumps to one of ``chains`` or to none.

    A target without options (``-j LOG``) looks like a jump to a chain of its name.
    """
    if isinstance(rule, ForeignRule):
        return rule if rule.jump in chains else ForeignRule(text)
    if isinstance(rule.target, t.Jump) and rule.target.chain not in chains:
        return ForeignRule(text)
    return rule


def parse_save(text: str, family: Family) -> Ruleset:
    """Return the rules of ``iptables-save`` output; counters are dropped.

    Raises:
        ParseError: the text is not of that form.
    """
    tables: dict[str, Table] = {}
    name = ""
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("*"):
            name, lines = line[1:].strip(), []
        elif line.startswith(":") and name and len(words := line[1:].split()) > 1:
            chain, policy = words[:2]
            lines.append(f"-N {chain}" if policy == "-" else f"-P {chain} {policy}")
        elif line.strip() == "COMMIT" and name:
            if name in TABLES:
                tables[name] = parse_table(lines, name, family)
            name = ""
        elif line.strip() and not line.startswith("#"):
            if not name or line.startswith(":"):
                raise ParseError(f"not iptables-save output: {line!r}")
            # With counters: [packets:bytes] -A CHAIN ...
            lines.append(line.partition("] ")[2] if line.startswith("[") else line)
    if name:
        raise ParseError(f"iptables-save output that ends within table {name}")
    return Ruleset(family, tuple(tables[one] for one in TABLES if one in tables))


def parse_rules(text: str) -> tuple[Ruleset, ...]:
    """Return the rule sets of a ``--format rules`` dry run, IPv4 then IPv6.

    Raises:
        ParseError: the text is not of that form.
    """
    tables: dict[Family, dict[str, Table]] = {IPV4: {}, IPV6: {}}
    before, *sections = ("\n" + text).split("\n# ")
    if before.strip():
        raise ParseError(f"not the output of a dry run: {before.strip()!r}")
    for section in sections:
        header, *lines = section.splitlines() or [""]
        match header.split():
            case ["iptables", "-t", name, "-S"]:
                tables[IPV4][name] = parse_table(lines, name, IPV4)
            case ["ip6tables", "-t", name, "-S"]:
                tables[IPV6][name] = parse_table(lines, name, IPV6)
            case ["ip", *_]:
                pass
            case _:
                raise ParseError(f"not a command of a dry run: {header!r}")
    return tuple(
        Ruleset(family, tuple(found[one] for one in TABLES if one in found))
        for family, found in tables.items()
    )
