"""Flags, environment and files to one Config and one Run.

A flag beats its environment, whose later name beats the earlier one, which
beats the default; in layout 1.0 the two env files beat the environment. Every
bad value is found before any is reported.
"""

from __future__ import annotations

from istio_init.config import values
from istio_init.config.model import (
    CLEAN,
    ISTIO_IPTABLES,
    LAYOUT_1_0,
    LAYOUT_1_30,
    LAYOUTS,
    Config,
    Run,
)
from istio_init.config.options import (
    BY_NAME,
    CLUSTER_FILE,
    ENABLE_INBOUND_IPV6,
    ENVOY_USER,
    OPTIONS,
    SIDECAR_FILE,
)
from istio_init.errors import BadValue, ConfigError
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.rules.names import DEFAULT_PROXY_ID, OUTBOUND_PORT
from istio_init.rules.ranges import IdRange

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from istio_init.config.model import Host, Layout
    from istio_init.config.options import Option


class Resolved(Record):
    """What one call asks for, with warnings about values that were understood but odd."""

    config: Config
    run: Run
    warnings: tuple[str, ...]


class _Input(Record):
    """The text that counts for a flag, and where it came from."""

    text: str
    origin: str
    from_flag: bool


class _Inputs:
    """Finds texts by precedence, parses them, and collects what is wrong with them."""

    def __init__(
        self,
        flags: Mapping[str, str],
        environment: Mapping[str, str],
        origins: Mapping[str, str],
        layout: Layout,
        host: Host,
    ) -> None:
        self._flags = flags
        self._environment = environment
        self._origins = origins
        self._layout = layout
        self.context = values.Context(host)
        self.problems: list[BadValue] = []
        self.warnings: list[str] = []

    def find(self, option: Option) -> _Input | None:
        """Return the text that counts for a flag, or None where there is none."""
        if option.name in self._flags:
            return _Input(self._flags[option.name], option.spelled, from_flag=True)
        if self._layout in option.env_layouts:
            for variable in reversed(option.env):
                if variable in self._environment:
                    origin = self._origins.get(variable, f"env {variable}")
                    return _Input(self._environment[variable], origin, from_flag=False)
        return None

    def setting(self, variable: str) -> str:
        """Return a variable that no flag stands for; empty where it is not set."""
        return self._environment.get(variable, "")

    def fields(self) -> dict[str, Any]:
        """Return the fields of Config and Run that flags and variables set."""
        fields: dict[str, Any] = {}
        origins: dict[str, _Input] = {}
        for option in OPTIONS:
            # The layout was settled before: which variables count depends on it.
            entry = None if option.field == "layout" else self.find(option)
            if entry is None:
                continue
            for field, value in self.values(option, entry):
                # Of Config's fields only ipv6 has two flags, and None for a default.
                default = _RUN_DEFAULTS.get(field)
                if fields.get(field, default) in (default, value):
                    fields[field], origins[field] = value, entry
                elif value != default:
                    other = origins[field]
                    self._refuse(option, entry, reason=f"contradicts {other.origin} {other.text!r}")
        return fields

    def values(self, option: Option, entry: _Input) -> Iterator[tuple[str, object]]:
        """Yield the field that a text sets and its value; nothing where the default counts."""
        if not entry.text.strip() and option.empty != "value":
            if not entry.from_flag or option.empty == "default":
                return
            if option.empty == "warned":
                self._warn(option, f"it is empty, which means the default {option.default}")
                return
        if option.star and values.is_everything(entry.text):
            yield option.star, True
            return
        try:
            value = _parsed(option, entry.text, self.context)
        except ValueError as error:
            self._refuse(option, entry, str(error))
            return
        while self.context.remarks:
            self._warn(option, self.context.remarks.pop(0))
        if option.field and value is not None:
            yield option.field, value

    def refuse_inexpressible(self) -> None:
        """Refuse the flags that this layout has no rules for."""
        for option in OPTIONS:
            entry = None if self._layout in option.layouts else self.find(option)
            if entry is None or not entry.text.strip():
                continue
            off = option.switch and entry.text.strip().lower() in values.FALSE_WORDS
            if not off and (entry.from_flag or entry.text.strip() != option.default):
                remedy = f"use --layout {option.layouts[0]}"
                self._refuse(
                    option, entry, reason=f"not supported in layout {self._layout}; {remedy}"
                )

    def _refuse(
        self, option: Option, entry: _Input, expected: str = "", *, reason: str = ""
    ) -> None:
        problem = BadValue(entry.origin, entry.text, expected, option.annotation, reason)
        self.problems.append(problem)

    def _warn(self, option: Option, text: str) -> None:
        self.warnings.append(f"--{option.name}: {text}")


_RUN_DEFAULTS: dict[str, Any] = {name: getattr(Run(), name) for name in Run.__match_args__}


def _parsed(option: Option, text: str, context: values.Context) -> object:
    """Return the value of a text, None where it leaves the field to its default."""
    if option.switch:
        return option.on if values.boolean(text) else option.off
    if option.parse is values.parse_text and option.choices:
        return values.choice(text, option.choices)
    return option.parse(text, context)


def default_layout(command: str) -> Layout:
    """Return the layout that a way in stands for."""
    return LAYOUT_1_30 if command == ISTIO_IPTABLES else LAYOUT_1_0


def resolve(
    command: str, flags: Mapping[str, str], environment: Mapping[str, str], host: Host
) -> Resolved:
    """Return what a call asks for.

    ``flags`` maps long flag names to their text, switches to ``true`` or
    ``false``. ``host`` is asked for names and for layout 1.0's env files, and only
    where a value leaves it to them.

    Raises:
        ConfigError: one or more values are bad; all of them are in it.
    """
    layout, problems = _layout(command, flags, environment, host)
    paths = (CLUSTER_FILE, SIDECAR_FILE) if layout == LAYOUT_1_0 else ()
    files, origins, file_problems = _env_files(environment, paths, host)
    inputs = _Inputs(flags, {**environment, **files}, origins, layout, host)
    inputs.problems += [*problems, *file_problems]
    fields = inputs.fields()
    if command == CLEAN:
        fields["command"] = "clean"
    if fields.get("command") != "clean":
        inputs.refuse_inexpressible()
    _settle_proxy(fields, inputs, layout)
    if layout == LAYOUT_1_0:
        _settle_layout_1_0(fields, inputs)
    if inputs.problems:
        raise ConfigError(tuple(inputs.problems))
    run = Run(**{name: value for name, value in fields.items() if name in _RUN_DEFAULTS})
    config = {name: value for name, value in fields.items() if name not in _RUN_DEFAULTS}
    return Resolved(Config(layout, **config), run, tuple(inputs.warnings))


def asks_for_rules(flags: Mapping[str, str], environment: Mapping[str, str]) -> bool:
    """Whether a call says, by any flag or variable, which rules it wants."""
    return any(
        option.name in flags
        or any(environment.get(variable, "").strip() for variable in option.env)
        for option in OPTIONS
        if option.of_config
    )


def _layout(
    command: str, flags: Mapping[str, str], environment: Mapping[str, str], host: Host
) -> tuple[Layout, list[BadValue]]:
    default = default_layout(command)
    inputs = _Inputs(flags, environment, {}, default, host)
    option = BY_NAME["layout"]
    entry = inputs.find(option)
    for _, value in inputs.values(option, entry) if entry else ():
        for layout in LAYOUTS:
            if layout == value:
                return layout, []
    return default, inputs.problems


def _settle_proxy(fields: dict[str, Any], inputs: _Inputs, layout: Layout) -> None:
    """Set the proxy's users and groups; groups are the users' numbers unless they are given.

    Source: proxy_init 1.0.2, istio-iptables.sh; istio 1.30, cmd/root.go,
    constructConfig.
    """
    host = inputs.context.host
    uids = fields.get("proxy_uids")
    gids = fields.get("proxy_gids")
    if uids:
        entry = inputs.find(BY_NAME["proxy-uid"])
        if not gids and entry is not None:
            # A user's name stands for the group of the same name.
            try:
                gids = values.parse_gids(entry.text, inputs.context)
            except ValueError:
                gids = uids
    else:
        uid = host.uid(inputs.setting(ENVOY_USER) or "istio-proxy")
        proxy = DEFAULT_PROXY_ID if uid is None else IdRange(uid, uid)
        uids = (proxy, IdRange(0, 0)) if layout == LAYOUT_1_0 else (proxy,)
    fields["proxy_uids"], fields["proxy_gids"] = uids, gids or uids


def _settle_layout_1_0(fields: dict[str, Any], inputs: _Inputs) -> None:
    """Set what layout 1.0 derives from other settings.

    Source: proxy_init 1.0.2, istio-iptables.sh.
    """
    fields.setdefault("inbound_port", fields.get("outbound_port", OUTBOUND_PORT))
    fields.setdefault("ipv6", bool(inputs.setting(ENABLE_INBOUND_IPV6)))


def _env_files(
    environment: Mapping[str, str], paths: tuple[tuple[str, str], ...], host: Host
) -> tuple[dict[str, str], dict[str, str], list[BadValue]]:
    """Return the settings of layout 1.0's env files, where each was set, and problems.

    Lines are ``KEY=VALUE``, with or without ``export`` and quotes; nothing is
    run. The second file is read after, and so beats, the first.
    """
    settings: dict[str, str] = {}
    origins: dict[str, str] = {}
    problems: list[BadValue] = []
    for variable, default in paths:
        path = environment.get(variable) or default
        try:
            text = host.text(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, UnicodeDecodeError, ValueError) as error:
            why = getattr(error, "strerror", None) or "not text"
            problems.append(BadValue(f"env {variable}", path, f"a readable file; {why}"))
            continue
        for number, line in enumerate(text.splitlines(), 1):
            setting = line.replace("\t", " ").strip().removeprefix("export ").lstrip()
            if not setting or setting.startswith("#"):
                continue
            key, equals, value = setting.partition("=")
            if not equals or not key.isidentifier():
                problems.append(BadValue(f"{path} line {number}", line, "KEY=VALUE"))
                continue
            settings[key] = _env_value(value)
            origins[key] = f"{key} in {path}"
    return settings, origins, problems


def _env_value(text: str) -> str:
    """Return what stands behind ``KEY=``, without its quotes and what follows `` #``."""
    quote = text[:1]
    closed = text.find(quote, 1) if quote in ("'", '"') else -1
    if closed > 0 and not text[closed + 1 :].partition(" #")[0].strip():
        return text[1:closed]
    return text.partition(" #")[0].strip()
