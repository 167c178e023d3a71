"""Colours on a terminal, plain text everywhere else, and nothing that a terminal would obey."""

from __future__ import annotations

import io
import sys

import pytest

from istio_init.cli.terminal import STYLES, Page


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def written(stream: io.StringIO, text: str, style: str = "bad") -> str:
    page = Page(stream)
    page.line(text, style)
    page.flush()
    return stream.getvalue()


def test_plain_when_piped() -> None:
    assert written(io.StringIO(), "-A OUTPUT [red] :smile:") == "-A OUTPUT [red] :smile:\n"


@pytest.mark.parametrize("style", [style for style in STYLES if style])
def test_coloured_on_a_terminal(style: str) -> None:
    shown = written(Terminal(), "-A OUTPUT [red]x[/red] :smile: 10.0.0.1", style)

    assert shown.startswith("\x1b[")
    assert "-A OUTPUT [red]x[/red] :smile: 10.0.0.1" in shown


def test_a_long_line_stays_one_line() -> None:
    line = "word " * 100 + "end"

    assert written(Terminal(), line, "") == f"{line}\n"


def test_no_colour_where_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    assert "\x1b[3" not in written(Terminal(), "text")


def test_without_rich_a_terminal_gets_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)

    assert written(Terminal(), "text") == "text\n"


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_what_a_terminal_would_obey_is_escaped(stream: type[io.StringIO]) -> None:
    shown = written(stream(), "a\x1b[2Jb\nc\udcffd é", "")

    assert shown == "a\\x1b[2Jb\\nc\\udcffd é\n"
