"""Plain calls are read without click, and exactly as click reads them."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.cli import apply, main
from istio_init.cli.click_app import run_with_click
from istio_init.config.fast_arguments import COMPLETE_VARIABLE, read
from istio_init.config.options import OPTIONS
from tests.cases import CALLS, Call
from tests.unit.settings import tried_more
from tests.unit.test_any_input import ANY_FLAG, BROKEN_NAMES, SUITED_FLAG, VALUES, WORDS, vectors

if TYPE_CHECKING:
    from collections.abc import Sequence


def by_click(argv: Sequence[str]) -> tuple[str, dict[str, str]] | None:
    """Return the command and the flags as click reads them, None for what it answers itself."""
    found: list[tuple[str, dict[str, str]]] = []

    def run(command: str, flags: dict[str, str]) -> int:
        found.append((command, flags))
        return 0

    with (
        mock.patch.object(apply, "run", run),
        redirect_stdout(io.StringIO()),
        redirect_stderr(io.StringIO()),
    ):
        run_with_click(argv)
    return found[0] if found else None


@pytest.mark.parametrize("one", CALLS, ids=str)
def test_calls_of_the_table_need_no_click(one: Call) -> None:
    read_plainly = read(one.argv, {})

    assert read_plainly is not None
    assert read_plainly == by_click(one.argv)


@pytest.mark.parametrize(
    ("argv", "command", "flags"),
    [
        ((), "apply", {}),
        (("clean",), "clean", {}),
        (("-x", ""), "apply", {"istio-service-exclude-cidr": ""}),
        (("-x", "-b"), "apply", {"istio-service-exclude-cidr": "-b"}),
        (("-p=1", "-p2"), "apply", {"envoy-port": "2"}),
        (("-p", "="), "apply", {"envoy-port": ""}),
        (("--envoy-port==1",), "apply", {"envoy-port": "1"}),
        (("--format==json",), "apply", {"format": "=json"}),
        (("-n",), "apply", {"dry-run": "true"}),
        (("-n", "-p", "1"), "apply", {"dry-run": "true", "envoy-port": "1"}),
        (("-n", "false"), "apply", {"dry-run": "false"}),
        (("-n", "-"), "apply", {"dry-run": "-"}),
        (("-n", ""), "apply", {"dry-run": ""}),
        (("--dry-run=",), "apply", {"dry-run": ""}),
        (("-envoy-port",), "apply", {"inbound-tunnel-port": "nvoy-port"}),
        (("istio-iptables", "--no-ipv6"), "istio-iptables", {"no-ipv6": "true"}),
        (("--no-ipv6=true", "--ipv6"), "apply", {"no-ipv6": "true", "ipv6": "true"}),
        (("--ipv6", "--ipv6"), "apply", {"ipv6": "true"}),
    ],
)
def test_plain_calls(argv: tuple[str, ...], command: str, flags: dict[str, str]) -> None:
    assert read(argv, {}) == (command, flags) == by_click(argv)


@pytest.mark.parametrize(
    "argv",
    [
        ("-h",),
        ("--help",),
        ("--version",),
        ("clean", "-h"),
        ("-p",),
        ("--envoy-port",),
        ("--no-such-flag",),
        ("--no-such-flag=1",),
        ("-y",),
        ("--dry-ru",),
        ("-",),
        ("",),
        ("word",),
        ("-p", "1", "clean"),
        ("-x", "-b", "80"),
        ("--", "-p", "1"),
    ],
)
def test_everything_unusual_is_clicks(argv: tuple[str, ...]) -> None:
    assert read(argv, {}) is None
    assert by_click(argv) is None


def test_end_of_flags_is_clicks_and_harmless() -> None:
    assert read(("--",), {}) is None
    assert by_click(("--",)) == ("apply", {})


def test_shell_completion_is_clicks() -> None:
    assert read((), {COMPLETE_VARIABLE: "bash_source"}) is None


def test_main_reads_plainly_where_it_can() -> None:
    with mock.patch.object(apply, "run", return_value=7) as run:
        assert main(["-p", "1"]) == 7
        assert main(["-p", "2", "--"]) == 7

    assert run.call_args_list == [
        mock.call("apply", {"envoy-port": "1"}),
        # Unusual, and understood all the same.
        mock.call("apply", {"envoy-port": "2"}),
    ]


def test_interruptions_end_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    with mock.patch.object(apply, "run", side_effect=KeyboardInterrupt):
        assert main([]) == 1
        assert main(["--"]) == 1

    assert capsys.readouterr().err.split() == ["istio-init:", "interrupted"] * 2


SHORTS = st.sampled_from([option.short for option in OPTIONS if option.short])
TANGLED = st.one_of(
    ANY_FLAG,
    SUITED_FLAG,
    st.builds(lambda one, other: [f"-{one}{other}"], SHORTS, SHORTS),
    st.builds(lambda one, other, text: [f"-{one}{other}", text], SHORTS, SHORTS, VALUES),
    st.builds(lambda name, text: [name, text], st.sampled_from(BROKEN_NAMES), VALUES),
    st.sampled_from([["--no-ipv6"], ["--ipv6"], ["-n"], ["--ipv6=false"], ["clean"], ["-h"]]),
)


@given(st.sampled_from([(), *((word,) for word in WORDS)]), vectors(TANGLED))
@tried_more
def test_what_is_read_plainly_is_what_click_reads(
    word: tuple[str, ...], argv: tuple[str, ...]
) -> None:
    plain = read((*word, *argv), {})

    assert plain is None or plain == by_click((*word, *argv))
