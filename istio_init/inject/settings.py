"""The settings of an injection: inject config, values and mesh config, loaded and checked.

The files are those of Istio's ConfigMaps ``istio-sidecar-injector`` (keys ``config`` and
``values``) and ``istio`` (key ``mesh``); a ConfigMap's own manifest is read as well.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from istio_init.inject import yaml
from istio_init.inject.data import prepare_values
from istio_init.inject.generation import NEW, OLD
from istio_init.inject.mesh import mesh_config
from istio_init.inject.overlay import OverlayReader
from istio_init.inject.policy import policy_of
from istio_init.inject.problems import InjectionError, Problem, Where, error, quoted
from istio_init.inject.proxy_image import value_at
from istio_init.inject.template import Template, TemplateError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.inject.gates import InjectionPolicy
    from istio_init.inject.generation import Generation

JsonMap = dict[str, Any]

SIDECAR = "sidecar"
_TEMPLATE = "template"
_TEMPLATES = "templates"
_NOTHING: Mapping[str, Any] = MappingProxyType({})

NativeSidecars = Literal["auto", "true", "false"]
OPENSHIFT = "openshift"


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """The text of a configuration file, and the name that errors give it."""

    text: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """All that an injection depends on besides the pod.

    ``templates`` has every template of the inject config by its name, the one of release
    1.0 as ``sidecar``; ``version`` is the SHA-256 of that one's text. ``environment`` is
    what the template function ``env`` can see. ``readers`` read what the templates render.
    """

    generation: Generation
    templates: Mapping[str, Template]
    mesh: JsonMap
    policy: InjectionPolicy
    values: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    default_templates: tuple[str, ...] = (SIDECAR,)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _NOTHING)
    injected_annotations: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    version: str = ""
    revision: str = ""
    native_sidecars: bool = False
    platform: str = ""
    environment: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    readers: Mapping[str, OverlayReader] = field(
        default_factory=lambda: defaultdict(OverlayReader), compare=False, repr=False
    )


def load_settings(
    config: SettingsFile,
    values: SettingsFile | None = None,
    mesh: SettingsFile | None = None,
    *,
    revision: str = "",
    native_sidecars: bool = False,
    platform: str = "",
    environment: Mapping[str, str] = _NOTHING,
) -> Settings:
    """Return the settings that the files hold.

    Without ``values`` every value is missing, without ``mesh`` the mesh has its defaults.
    Raises an InjectionError with everything that is wrong with the files, every template
    that cannot be parsed included.
    """
    problems: list[Problem] = []
    data = _read_config(config, problems)
    generation = generation_of(data)
    parsed = _parse(templates_of(data, generation), generation, config.name, problems)
    checked = _Checked(config.name, problems)
    value_map = _read(values, "values", problems) if generation == NEW else {}
    settings = Settings(
        generation=generation,
        templates=parsed,
        mesh=_read_mesh(mesh, generation, problems),
        policy=policy_of(data, generation),
        values=prepare_values(value_map),
        default_templates=tuple(checked.texts(data, "defaultTemplates")) or (SIDECAR,),
        aliases=checked.map_of_texts(data, "aliases"),
        injected_annotations=checked.annotations(data, "injectedAnnotations"),
        version=_version(data) if generation == OLD else "",
        revision=revision,
        native_sidecars=native_sidecars,
        platform=platform,
        environment=environment,
    )
    if problems:
        raise InjectionError(problems)
    return settings


def native_sidecars_of(text: str) -> bool:
    """Return whether proxies become native sidecars: ``true``, or not: ``false``, ``auto``.

    ``auto`` means that every node of the cluster can run them; without a cluster that is
    not known. Raises a ValueError for another text.
    """
    if text not in ("auto", "true", "false"):
        raise ValueError(f"expected auto, true or false and not {quoted(text)}")
    return text == "true"


def generation_of(data: Mapping[str, Any]) -> Generation:
    """Return which release of Istio an inject config is for.

    A ``template`` without ``templates`` is release 1.0's; in 1.30 it is there to stop old
    injectors.
    """
    return OLD if _TEMPLATE in data and data.get(_TEMPLATES) is None else NEW


def templates_of(data: Mapping[str, Any], generation: Generation) -> dict[str, Any]:
    """Return the texts of an inject config's templates by their names."""
    if generation == OLD:
        return {SIDECAR: data[_TEMPLATE]}
    found = data.get(_TEMPLATES)
    return dict(found) if isinstance(found, dict) else {}


def _version(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(str(data[_TEMPLATE]).encode()).hexdigest()


def _entry(file: SettingsFile, key: str) -> SettingsFile:
    """Return the entry of a ConfigMap's manifest as a file; another file as it is."""
    if "ConfigMap" not in file.text:
        return file
    try:
        manifest = yaml.load(file.text, file.name)
    except InjectionError:
        return file
    if not isinstance(manifest, dict) or manifest.get("kind") != "ConfigMap":
        return file
    text = value_at(manifest, "data", key)
    return SettingsFile(text, file.name) if isinstance(text, str) else file


def _read_config(file: SettingsFile, problems: list[Problem]) -> JsonMap:
    """Return the data of an inject config; a text that is none is a template of 1.30."""
    file = _entry(file, "config")
    template = {_TEMPLATES: {SIDECAR: file.text}}
    try:
        data = yaml.load(file.text, file.name)
    except InjectionError as bad:
        if "{{" in file.text and not _looks_like_config(file.text):
            return template
        problems += bad.problems
        return {_TEMPLATES: {}}
    if data is None:
        problems.append(error("it is empty", Where(file=file.name), remedy="name an inject config"))
        return {_TEMPLATES: {}}
    if not isinstance(data, dict) or not {_TEMPLATE, _TEMPLATES} & data.keys():
        return template
    found = data.get(_TEMPLATES)
    if found is not None and not isinstance(found, dict):
        what = f"{_TEMPLATES} is a mapping of names to texts, not {quoted(found)}"
        problems.append(error(what, Where(file=file.name)))
    return data


def _looks_like_config(text: str) -> bool:
    return any(
        line.startswith((f"{_TEMPLATES}:", f"{_TEMPLATE}:", "policy:", "data:"))
        for line in text.splitlines()
    )


def _read_mesh(
    file: SettingsFile | None, generation: Generation, problems: list[Problem]
) -> JsonMap:
    try:
        return mesh_config(_read(file, "mesh", problems), generation)
    except InjectionError as bad:
        problems += bad.within(Where(file=file.name if file else "")).problems
        return mesh_config(None, generation)


def _read(file: SettingsFile | None, key: str, problems: list[Problem]) -> JsonMap:
    """Return the mapping of a file, or of a ConfigMap's entry ``key``; ``{}`` for no file."""
    if file is None:
        return {}
    file = _entry(file, key)
    try:
        data = yaml.load(file.text, file.name)
    except InjectionError as bad:
        problems += bad.problems
        return {}
    if data is not None and not isinstance(data, dict):
        problems.append(error(f"expected a mapping and not {quoted(data)}", Where(file=file.name)))
        return {}
    return data or {}


def _parse(
    texts: Mapping[str, Any], generation: Generation, source: str, problems: list[Problem]
) -> dict[str, Template]:
    parsed: dict[str, Template] = {}
    for name, text in texts.items():
        where = Where(file=source, path=f"{_TEMPLATES}.{name}" if generation == NEW else _TEMPLATE)
        if not isinstance(text, str):
            problems.append(error(f"a template is a text, not {quoted(text)}", where))
            continue
        try:
            parsed[name] = Template.parse(text, generation, name=name)
        except TemplateError as bad:
            problems.append(error("the template cannot be parsed", where, why=str(bad)))
    return parsed


@dataclass(frozen=True, slots=True)
class _Checked:
    """Reads small fields of an inject config and collects what is wrong with them."""

    source: str
    problems: list[Problem]

    def texts(self, data: Mapping[str, Any], key: str) -> list[str]:
        """Return a list of texts; ``[]`` if it is missing."""
        found = data.get(key)
        if found is None:
            return []
        if isinstance(found, list) and all(isinstance(one, str) for one in found):
            return found
        self._wrong(key, "a list of texts", found)
        return []

    def map_of_texts(self, data: Mapping[str, Any], key: str) -> dict[str, tuple[str, ...]]:
        """Return a mapping of lists of texts; ``{}`` if it is missing."""
        found = data.get(key)
        if found is None:
            return {}
        if not isinstance(found, dict):
            self._wrong(key, "a mapping of names to lists of names", found)
            return {}
        return {name: tuple(self.texts(found, name)) for name in found}

    def annotations(self, data: Mapping[str, Any], key: str) -> dict[str, str]:
        """Return a mapping of texts; ``{}`` if it is missing."""
        found = data.get(key)
        if found is None:
            return {}
        if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
            self._wrong(key, "a mapping of texts", found)
            return {}
        return found

    def _wrong(self, key: str, wanted: str, found: object) -> None:
        what = f"expected {wanted} and not {quoted(found)}"
        self.problems.append(error(what, Where(file=self.source, path=key)))
