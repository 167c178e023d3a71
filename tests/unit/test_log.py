"""Lines on standard error, by level, as text and as JSON."""

from __future__ import annotations

import json
import re

import pytest

from istio_init.errors import BadValue, ConfigError
from istio_init.log import LEVELS, Log

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"


def write_all(log: Log) -> None:
    log.debug("one")
    log.info("two")
    log.warn("three")
    log.error("four")


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["debug", "info", "warn", "error"]),
        ("info", ["info", "warn", "error"]),
        ("warn", ["warn", "error"]),
        ("error", ["error"]),
        ("fatal", []),
        ("none", []),
    ],
)
def test_lines_at_or_above_the_level_are_written(
    level: str, written: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_all(Log(next(one for one in LEVELS if one == level)))

    said = capsys.readouterr()
    assert said.out == ""
    assert [line.split("\t")[1] for line in said.err.splitlines()] == written


def test_text_lines(capsys: pytest.CaptureFixture[str]) -> None:
    write_all(Log())

    lines = capsys.readouterr().err.splitlines()
    assert [line.split("\t", 1)[1] for line in lines] == ["info\ttwo", "warn\tthree", "error\tfour"]
    for line in lines:
        assert re.fullmatch(STAMP, line.split("\t")[0])


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    Log("debug", as_json=True).warn('a "b"\n\x1b é')

    (line,) = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    assert re.fullmatch(STAMP, found.pop("time"))
    assert found == {"level": "warn", "scope": "istio-init", "msg": 'a "b"\n\x1b é'}
    assert line.isascii()


def test_one_event_is_one_line_whatever_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    Log().warn("a\n2026-01-01T00:00:00.000000Z\tinfo\tin place \x1b]0;owned\a \udcff \u2028 é")

    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        "warn\ta\\n2026-01-01T00:00:00.000000Z\\tinfo\\tin place "
        r"\x1b]0;owned\x07 \udcff \u2028 é"
    )


def test_bad_values_have_a_line_each_that_nobody_else_can_begin(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = ConfigError((BadValue("-b", "x\ny", "ports"), BadValue("env A\nB", "\x1b", "a\nb")))

    Log().error(*error.lines)

    first, *rest = capsys.readouterr().err.splitlines()
    assert first.endswith("error\t2 bad values, nothing was changed")
    assert rest == [r"  -b: 'x\ny': expected ports", r"  env A\nB: '\x1b': expected a\nb"]


def test_levels_are_istios() -> None:
    assert LEVELS == ("debug", "info", "warn", "error", "fatal", "none")
