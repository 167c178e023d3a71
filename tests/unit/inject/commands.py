"""The commands for manifests, called inside this process with bytes in and out."""

from __future__ import annotations

import io
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest import mock

from istio_init.cli import main


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


def run(*argv: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> Result:
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="")
    with (
        mock.patch.dict(os.environ, env or {}, clear=True),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))),
        redirect_stdout(out),
        redirect_stderr(io.StringIO()) as err,
    ):
        code = main(argv)
        out.flush()
    return Result(code, out.buffer.getvalue().decode(), err.getvalue())
