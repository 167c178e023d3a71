"""The command line."""

from __future__ import annotations

from istio_init.cli.commands import main

__all__ = ["main"]
