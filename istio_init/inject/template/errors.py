"""What goes wrong in a template: where it is, what it is about, and why."""

from __future__ import annotations

from istio_init.errors import IstioInitError


class TemplateError(IstioInitError):
    """A template that cannot be parsed or rendered.

    ``name`` is the template's, ``line`` counts from 1, ``column`` is the number of
    bytes before the place in its line (Go counts so); ``stage`` is ``parse`` or
    ``run``. ``fragment`` is the piece of the template that failed, or ``""``.
    """

    exit_code = 2

    def __init__(
        self,
        name: str,
        line: int,
        column: int,
        message: str,
        *,
        stage: str = "run",
        fragment: str = "",
    ) -> None:
        where = f"template {name}, line {line}, column {column}"
        super().__init__(
            f"{where}: in {fragment}: {message}" if fragment else f"{where}: {message}"
        )
        self.name = name
        self.line = line
        self.column = column
        self.message = message
        self.stage = stage
        self.fragment = fragment


class FunctionError(Exception):
    """Why a template function refuses its arguments; whoever calls it knows the place."""


class LimitError(FunctionError):
    """A template that asks for more output, depth, steps or time than it may have."""
