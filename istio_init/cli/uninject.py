"""``istio-init uninject``: injected manifests in, the manifests before their injection out."""

from __future__ import annotations

import sys

from istio_init.cli import manifest_run
from istio_init.cli.click_flags import Command
from istio_init.cli.help import UNINJECT
from istio_init.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    import click


def command() -> Command:
    """Return the command."""
    return Command(UNINJECT, run, parameters())


def parameters() -> list[click.Parameter]:
    """Return the flags."""
    return manifest_run.parameters()


def run(**given: Any) -> int:  # noqa: ANN401
    """Remove the injections; return the exit code."""
    from istio_init.errors import IstioInitError
    from istio_init.inject.uninject import uninject

    def change(data: bytes, name: str) -> manifest_run.ChangedManifest:
        written = uninject(data, name)
        return manifest_run.ChangedManifest(written.text, written.notes, written.changed)

    try:
        manifest_run.run(manifest_run.output_flags(given), change, "restored")
    except IstioInitError as failure:
        sys.stderr.write("".join(f"{line}\n" for line in failure.lines))
        return failure.exit_code
    return 0
