"""What is said when something goes wrong, and the exit code of each kind."""

from __future__ import annotations

import pytest

from istio_init.errors import (
    ApplyError,
    BadValue,
    ConfigError,
    IstioInitError,
    ParseError,
    ProbeError,
    UnsupportedError,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (IstioInitError("x"), 1),
        (ConfigError(()), 2),
        (ParseError("x"), 1),
        (UnsupportedError("x"), 1),
        (ApplyError("x", where="y", why="z"), 1),
        (ProbeError("x"), 126),
    ],
)
def test_each_kind_has_its_exit_code(error: IstioInitError, code: int) -> None:
    assert error.exit_code == code
    assert isinstance(error, IstioInitError)


def test_problem_names_its_source_value_and_expectation() -> None:
    assert str(BadValue("-p --envoy-port", "0", "a number 1-65535")) == (
        "-p --envoy-port: '0': expected a number 1-65535"
    )
    assert str(BadValue("env X", "a\nb", "a port", "sidecar.istio.io/x")) == (
        r"env X: 'a\nb': expected a port (pod annotation sidecar.istio.io/x)"
    )


def test_config_error_lists_every_problem() -> None:
    one, other = BadValue("-p", "0", "a port"), BadValue("-z", "x", "a port")

    assert (
        str(ConfigError((one,))) == "1 bad value, nothing was changed\n  -p: '0': expected a port"
    )
    assert str(ConfigError((one, other))) == (
        "2 bad values, nothing was changed\n  -p: '0': expected a port\n  -z: 'x': expected a port"
    )
    assert ConfigError((one, other)).problems == (one, other)


@pytest.mark.parametrize(
    ("rolled_back", "ending"),
    [
        (None, "; nothing was changed"),
        (True, "; rolled back to the state before this run"),
        (
            False,
            "; ROLL BACK FAILED, the state is neither old nor new: run istio-init again",
        ),
    ],
)
@pytest.mark.parametrize(("remedy", "said"), [("", ""), ("try again", "; try again")])
def test_apply_error_says_what_where_why_and_what_state_was_left(
    *, rolled_back: bool | None, ending: str, remedy: str, said: str
) -> None:
    error = ApplyError("cannot", where="nat", why="busy", remedy=remedy, rolled_back=rolled_back)

    assert str(error) == f"cannot (nat): busy{said}{ending}"


def test_roll_back_may_become_known_later() -> None:
    error = ApplyError("cannot", where="nat", why="busy")
    error.rolled_back = True

    assert str(error).endswith("; rolled back to the state before this run")
