"""The files of the webhook's configuration: read in one process, loaded in others.

The process that serves does not load what injects: it has no use for it, and it takes 15 MiB.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from istio_init.inject.problems import InjectionError, Where, error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.inject.workers import Admit, Load

# In characters. No ConfigMap is larger.
LONGEST = 2 << 20


@dataclass(frozen=True, slots=True)
class ConfigurationFiles:
    """Where the configuration is; None stands for what is built in, or for none."""

    inject_config: str | None
    values: str | None
    mesh_config: str | None
    revision: str
    environment: Mapping[str, str]

    @property
    def paths(self) -> tuple[str, ...]:
        """The files to watch."""
        every = (self.inject_config, self.values, self.mesh_config)
        return tuple(path for path in every if path is not None)

    def read(self) -> Load:
        """Return what loads the files as they are now.

        Raises:
            InjectionError: One cannot be read.
        """
        files = tuple(map(_read, (self.inject_config, self.values, self.mesh_config)))
        return partial(_load, files, self.revision, self.environment)


def _load(
    files: tuple[tuple[str, str] | None, ...], revision: str, environment: Mapping[str, str]
) -> Admit:
    from istio_init.inject.admission import admit_by_files

    return admit_by_files(*files, revision=revision, environment=environment)


def _read(path: str | None) -> tuple[str, str] | None:
    """Return the text of a file, and its name."""
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(LONGEST + 1)
    except OSError as failure:
        why = failure.strerror or str(failure)
        raise InjectionError([error("cannot read it", Where(file=path), why=why)]) from failure
    except UnicodeDecodeError as failure:
        raise InjectionError([error("it is no text", Where(file=path))]) from failure
    if len(text) > LONGEST:
        raise InjectionError([error(f"it is longer than {LONGEST} characters", Where(file=path))])
    return text, path
