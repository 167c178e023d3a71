"""Whatever the arguments and the environment are, the program has an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from istio_init.cli import apply, click_app
from istio_init.config.model import Facts
from istio_init.config.options import ENABLE_INBOUND_IPV6, ENVOY_USER, OPTIONS
from istio_init.config.values import address
from istio_init.formats.save_reader import parse_rules
from istio_init.rules.model import ForeignRule
from tests.unit.calls import call
from tests.unit.flags import SWITCHES, text_of
from tests.unit.flags import VALUES as FLAG_VALUES
from tests.unit.flags import VARIABLES as FLAG_VARIABLES
from tests.unit.goldens import FORMATS
from tests.unit.settings import tried_more

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

GOOD_VALUES = (
    *("", "*", "80", "80,443", "80, 8080,", "8000:9000", "8000-9000", "http", "65535", "1337"),
    *("0", "1000-2000", "root", "daemon", "10.0.0.0/8", "10.0.0.5/8", "10.0.0.5", "0.0.0.0/0"),
    *("fd00::/8,10.0.0.0/8", "127.0.0.0/8", "::1", "::/0", "eth0,eth+", "+", "a$b&c", "0x2a"),
    *("REDIRECT", "tproxy", "TPROXY", "true", "false", "1.0", "1.30", "rules", "json", "legacy"),
    *("nft", "auto", "5s", "1m30s", "default:info", "ads:debug,default:none", "300", "4711"),
)
BAD_VALUES = (
    *("-b", "--dry-run", "-", "--", "80,*", "70000", "abc", "080", "0x50", "+80", " 80 ", "1_000"),
    *("²", "9000:8000", "10.0.0.0/33", "10.0.0.0/255.0.255.0", "fe80::1%eth0", "4294967295"),
    *(
        "eth0 -j ACCEPT",
        "a/b",
        "a;b",
        "'",
        '"',
        "`id`",
        "$(id)",
        "\x1b[2J",
        "\n",
        "\udcff",
        "=",
        "%",
    ),
    *("x" * 16, "NONE", "banana", "254", "0x539/0xff", "2.0", "yaml", "loud", "9" * 30, "\t", ","),
)
# What os.environ and argv can hold: any text without a NUL.
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
VALUES = st.one_of(st.sampled_from(GOOD_VALUES), st.sampled_from(BAD_VALUES), TEXTS)

NAMES = (
    *(f"--{option.name}" for option in OPTIONS),
    *(f"-{option.short}" for option in OPTIONS if option.short),
)
BROKEN_NAMES = ("-y", "--envoy", "--dry_run", "---b", "-", "--", "--=", "-=", "b", "-bb", "-np")
WORDS = ("istio-iptables", "apply", "clean", "audit", "", "istio-iptables ")

VARIABLES = (
    *sorted({variable for option in OPTIONS for variable in option.env}),
    ENABLE_INBOUND_IPV6,
    ENVOY_USER,
)


def _flags(names: SearchStrategy[str], texts: SearchStrategy[str]) -> SearchStrategy[list[str]]:
    return st.one_of(
        st.builds(lambda name, text: [name, text], names, texts),
        st.builds(lambda name, text: [f"{name}={text}"], names, texts),
        st.builds(lambda name, text: [name + text], names, texts),
        st.builds(lambda name: [name], names),
    )


def vectors(flags: SearchStrategy[list[str]]) -> SearchStrategy[tuple[str, ...]]:
    return st.lists(flags, max_size=6).map(
        lambda found: tuple(word for one in found for word in one)
    )


ANY_FLAG = st.one_of(
    _flags(st.sampled_from(NAMES), VALUES),
    _flags(st.sampled_from(BROKEN_NAMES), VALUES),
    st.builds(lambda text: [text], VALUES),
)
# What each flag takes, so that many calls get as far as printing rules.
SUITED_FLAG = st.one_of(
    st.sampled_from([[f"--{name}={text}"] for name, (text, _) in FLAG_VALUES.items()]),
    st.sampled_from([[f"--{name}"] for name in SWITCHES]),
    st.sampled_from([["-b", "*"], ["-i", "*"], ["-m", "TPROXY"], ["-x", ""], ["-k", "eth0,eth+"]]),
)
SUITED_VARIABLES = st.sampled_from(
    [(name, text_of(option.name)) for name, option in FLAG_VARIABLES]
)
ENVIRONMENTS = st.dictionaries(
    st.one_of(
        st.sampled_from(VARIABLES),
        TEXTS.filter(lambda name: bool(name) and "=" not in name),
    ),
    VALUES,
    max_size=4,
)
SUITED_ENVIRONMENTS = st.lists(SUITED_VARIABLES, max_size=2).map(dict)
FACTS = st.sampled_from(
    (
        Facts(),
        Facts((address("10.0.0.5"), address("fd00::5")), (address("10.96.0.10"),)),
        Facts((address("fd00::5"),), (address("fd00::a"), address("10.96.0.10"))),
    )
)


@given(st.sampled_from([(), *((word,) for word in WORDS)]), vectors(ANY_FLAG), ENVIRONMENTS)
@tried_more
def test_any_call_is_understood_or_refused(
    word: tuple[str, ...], argv: tuple[str, ...], env: dict[str, str]
) -> None:
    with (
        mock.patch.object(apply, "_act", return_value=0),
        mock.patch.object(click_app, "_reported", return_value=0),
    ):
        done = call(*word, *argv, env=env)

    assert done.code in (0, 2)
    assert (done.code == 0) or done.err


@given(
    st.sampled_from([(), ("istio-iptables",)]),
    st.one_of(vectors(SUITED_FLAG), vectors(SUITED_FLAG), vectors(ANY_FLAG)),
    st.one_of(SUITED_ENVIRONMENTS, SUITED_ENVIRONMENTS, ENVIRONMENTS),
    FACTS,
    st.sampled_from(FORMATS),
)
@tried_more
def test_any_dry_run_prints_rules_or_why_not(
    word: tuple[str, ...],
    argv: tuple[str, ...],
    env: dict[str, str],
    facts: Facts,
    form: str,
) -> None:
    # The last of a repeated flag counts; the first is there for a flag without a value to take.
    ending = ("--log_target=x", "--dry-run", "--run-validation=false", "--cleanup-only=false")

    done = call(*word, *argv, *ending, "--format", form, env=env, facts=facts)

    assert done.code in (0, 2)
    if done.code == 2:
        assert done.err
        assert not done.out
    elif form == "rules" and done.out.startswith("#"):
        # Nothing was pasted: all that is printed can be read back as what this program writes.
        assert not [
            rule
            for ruleset in parse_rules(done.out)
            for table in ruleset.tables
            for chain in table.chains
            for rule in chain.rules
            if isinstance(rule, ForeignRule)
        ]
