"""The files of the webhook's configuration, read in one process and loaded in others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from istio_init.inject.admission import admit_with
from istio_init.inject.problems import InjectionError, Where, error
from istio_init.inject.settings import SettingsFile, load_settings, native_sidecars_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.inject.settings import Settings
    from istio_init.inject.workers import Load

# No ConfigMap is larger.
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
        config, values, mesh = map(_read, (self.inject_config, self.values, self.mesh_config))
        return partial(
            admit_with, partial(_load, config, values, mesh, self.revision, self.environment)
        )


def _read(path: str | None) -> SettingsFile | None:
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
    return SettingsFile(text, path)


def _load(
    config: SettingsFile | None,
    values: SettingsFile | None,
    mesh: SettingsFile | None,
    revision: str,
    environment: Mapping[str, str],
) -> Settings:
    """Load settings; without an inject config those that are built in, as far as none are given."""
    if config is None:
        from istio_init.inject import builtin

        config, values, mesh = (
            given or SettingsFile(builtin.text(name), name)
            for given, name in zip((config, values, mesh), builtin.FILES, strict=True)
        )
    text = environment.get("ENABLE_NATIVE_SIDECARS") or "auto"
    try:
        native = native_sidecars_of(text)
    except ValueError as failure:
        raise InjectionError([error("ENABLE_NATIVE_SIDECARS", why=str(failure))]) from failure
    return load_settings(
        config,
        values,
        mesh,
        revision=revision,
        native_sidecars=native,
        platform=environment.get("PLATFORM", ""),
        environment=environment,
    )
