"""Flags, environment and files to one Config and one Run.

A flag beats its environment, whose later name beats the earlier one, which
beats the default; in layout 1.0 the two env files beat the environment. Every
bad value is found before any is reported.
"""

from __future__ import annotations

from istio_init.config import values
from istio_init.config.model import (
    BACKENDS,
    CLEAN,
    FORMATS,
    ISTIO_IPTABLES,
    LAYOUT_1_0,
    LAYOUT_1_30,
    LAYOUTS,
    MODES,
    Config,
    Run,
)
from istio_init.config.options import (
    BY_NAME,
    CLUSTER_FILE,
    ENABLE_INBOUND_IPV6,
    ENVOY_USER,
    OPTIONS,
    RULE_GROUPS,
    SIDECAR_FILE,
)
from istio_init.errors import ConfigError, Problem
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.log import LEVELS
from istio_init.rules.names import (
    DEFAULT_LOOPBACK,
    DEFAULT_MARK,
    DEFAULT_PROXY_ID,
    DEFAULT_ROUTE_TABLE,
)
from istio_init.rules.ranges import IdRange

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from istio_init.config.model import Backend, Command, Host, Layout
    from istio_init.log import Level
    from istio_init.rules.ranges import Network, PortRange

    T = TypeVar("T")

# What stands around and between the parts of a list without meaning anything.
_LIST_BLANKS = ", \t\r\n"

# Route tables of the kernel itself: a local default route in one of them would
# cut the pod off.
_MAX_SPARE_TABLE = 252
_FIRST_FREE_TABLE = 256


class Resolved(Record):
    """What one call asks for, with remarks on values that were understood but odd."""

    config: Config
    run: Run
    warnings: tuple[str, ...]


class _Given(Record):
    """A value and where it came from."""

    text: str
    origin: str
    from_flag: bool


class _Inputs:
    """Finds values by precedence, and collects what is wrong with them."""

    def __init__(
        self,
        flags: Mapping[str, str],
        environment: Mapping[str, str],
        origins: Mapping[str, str],
        layout: Layout,
    ) -> None:
        self._flags = flags
        self._environment = environment
        self._origins = origins
        self._layout = layout
        self.problems: list[Problem] = []
        self.warnings: list[str] = []

    def given(self, name: str) -> _Given | None:
        """Return the value that counts for a flag, or None where there is none."""
        option = BY_NAME[name]
        if name in self._flags:
            return _Given(self._flags[name], option.spelled, from_flag=True)
        if self._layout in option.env_layouts:
            for variable in reversed(option.env):
                if variable in self._environment:
                    text = self._environment[variable]
                    return _Given(text, self.origin(variable), from_flag=False)
        return None

    def setting(self, variable: str) -> str:
        """Return a variable that no flag stands for; empty where it is not set."""
        return self._environment.get(variable, "")

    def origin(self, variable: str) -> str:
        """Return where an environment variable was set."""
        return self._origins.get(variable, f"env {variable}")

    def refuse(self, name: str, given: _Given, expected: str) -> None:
        """Record a bad value."""
        annotation = BY_NAME[name].annotation
        self.problems.append(Problem(given.origin, given.text, expected, annotation))

    def value(self, name: str, parse: Callable[[str], T], default: T, *, empty: bool = False) -> T:
        """Return the parsed value of a flag, or the default.

        An empty environment variable counts as unset; an empty flag does only
        where ``empty`` says that callers pass one on purpose.
        """
        given = self.given(name)
        if given is None or (not given.text.strip() and (empty or not given.from_flag)):
            return default
        try:
            return parse(given.text)
        except ValueError as error:
            self.refuse(name, given, str(error))
            return default

    def switch(self, name: str) -> bool:
        """Return the value of a switch; off by default."""
        return self.value(name, values.boolean, default=False)

    def choice(self, name: str, choices: tuple[T, ...], default: T) -> T:
        """Return one of ``choices``, whatever the case of its letters."""

        def parse(text: str) -> T:
            for one in choices:
                if str(one).lower() == text.strip().lower():
                    return one
            raise ValueError(" or ".join(str(one) for one in choices))

        return self.value(name, parse, default)

    def cidrs(self, name: str) -> Callable[[str], tuple[Network, ...]]:
        """Return a parser of address ranges that remarks on cleared host bits."""

        def parse(text: str) -> tuple[Network, ...]:
            found = []
            for part in values.listed(text, "address ranges such as 10.0.0.0/8"):
                network, cleared = values.network(part)
                if cleared:
                    self._remark_on_host_bits(name, part, network)
                found.append(network)
            return tuple(found)

        return parse

    def loopback(self, name: str) -> Callable[[str], Network]:
        """Return a parser of the loopback range that remarks on cleared host bits."""

        def parse(text: str) -> Network:
            network, cleared = values.loopback_range(text.strip())
            if cleared:
                self._remark_on_host_bits(name, text, network)
            return network

        return parse

    def _remark_on_host_bits(self, name: str, part: str, network: Network) -> None:
        self.warnings.append(f"--{name}: {part} has host bits set and means {network}")

    def refuse_inexpressible(self) -> None:
        """Refuse the flags that this layout has no rules for."""
        for option in BY_NAME.values():
            if self._layout in option.layouts:
                continue
            given = self.given(option.name)
            if given is None or not given.text.strip():
                continue
            off = option.switch and given.text.strip().lower() in values.FALSE_WORDS
            if not off and (given.from_flag or given.text.strip() != option.default):
                self.refuse(
                    option.name,
                    given,
                    f"nothing: layout {self._layout} has no rules for it; add --layout 1.30",
                )


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
    layout, layout_problem = _layout(command, flags, environment)
    paths = (CLUSTER_FILE, SIDECAR_FILE) if layout == LAYOUT_1_0 else ()
    files, origins, file_problems = _env_files(environment, paths, host)
    inputs = _Inputs(flags, {**environment, **files}, origins, layout)
    inputs.problems += [*layout_problem, *file_problems]
    run = _run(command, inputs)
    if run.command != "clean":
        inputs.refuse_inexpressible()
    config = _config(layout, inputs, host)
    if inputs.problems:
        raise ConfigError(tuple(inputs.problems))
    return Resolved(config, run, tuple(inputs.warnings))


def asks_for_rules(flags: Mapping[str, str], environment: Mapping[str, str]) -> bool:
    """Whether a call says, by any flag or variable, which rules it wants."""
    named = ("layout", "ipv6", "dual-stack")
    return any(
        option.name in flags
        or any(environment.get(variable, "").strip() for variable in option.env)
        for option in OPTIONS
        if option.group in RULE_GROUPS or option.name in named
    )


def _layout(
    command: str, flags: Mapping[str, str], environment: Mapping[str, str]
) -> tuple[Layout, list[Problem]]:
    default = default_layout(command)
    probe = _Inputs(flags, environment, {}, default)
    return probe.choice("layout", LAYOUTS, default), probe.problems


def _env_files(
    environment: Mapping[str, str], paths: tuple[tuple[str, str], ...], host: Host
) -> tuple[dict[str, str], dict[str, str], list[Problem]]:
    """Return the settings of layout 1.0's env files, where each was set, and problems.

    Lines are ``KEY=VALUE``, with or without ``export`` and quotes; nothing is
    run. The second file is read after, and so beats, the first.
    """
    settings: dict[str, str] = {}
    origins: dict[str, str] = {}
    problems: list[Problem] = []
    for variable, default in paths:
        path = environment.get(variable) or default
        try:
            text = host.text(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, UnicodeDecodeError, ValueError) as error:
            why = getattr(error, "strerror", None) or "not text"
            problems.append(Problem(f"env {variable}", path, f"a readable file; {why}"))
            continue
        for number, line in enumerate(text.splitlines(), 1):
            setting = line.replace("\t", " ").strip().removeprefix("export ").lstrip()
            if not setting or setting.startswith("#"):
                continue
            key, equals, value = setting.partition("=")
            if not equals or not key.isidentifier():
                problems.append(Problem(f"{path} line {number}", line, "KEY=VALUE"))
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


def _run(command: str, inputs: _Inputs) -> Run:
    cleanup = inputs.switch("cleanup-only") or command == CLEAN
    verb: Command = "clean" if cleanup else "apply"
    for accepted in ("reconcile", "force-apply", "cni-mode"):
        inputs.switch(accepted)
    return Run(
        command=verb,
        dry_run=inputs.switch("dry-run"),
        format=inputs.choice("format", FORMATS, "rules"),
        backend=_backend(inputs),
        network_namespace=inputs.value("network-namespace", str, "", empty=True),
        wait=inputs.value("wait", values.duration, 30.0),
        degrade=inputs.choice("on-missing", ("fail", "degrade"), "fail") == "degrade",
        skip_rule_apply=inputs.switch("skip-rule-apply"),
        run_validation=inputs.switch("run-validation"),
        probe_port=inputs.value("iptables-probe-port", values.port, 15002),
        probe_timeout=inputs.value("probe-timeout", values.duration, 5.0),
        log_level=inputs.value("log_output_level", _log_level, "info", empty=True),
        log_json=inputs.switch("log_as_json"),
    )


def _backend(inputs: _Inputs) -> Backend:
    backend = inputs.choice("backend", BACKENDS, "auto")
    if inputs.switch("native-nftables"):
        backend = _agreed(inputs, "native-nftables", backend, "nftables")
    forced: tuple[Backend, ...] = ("legacy", "nft")
    binary = inputs.choice("force-iptables-binary", (*forced, "auto"), "auto")
    if binary in forced:
        backend = _agreed(inputs, "force-iptables-binary", backend, binary)
    return backend


def _agreed(inputs: _Inputs, name: str, backend: Backend, asked: Backend) -> Backend:
    given = inputs.given(name)
    if backend not in ("auto", asked) and given is not None:
        inputs.refuse(name, given, f"no second backend beside {backend}")
    return asked


def _log_level(text: str) -> Level:
    """Return the level of the default scope in ``SCOPE:LEVEL,...`` or a bare level."""
    level: Level = "info"
    for part in text.split(","):
        scope, colon, word = part.strip().rpartition(":")
        known = [one for one in LEVELS if one == word]
        if not known:
            raise ValueError(f"SCOPE:LEVEL with a level of {', '.join(LEVELS)}")
        if not colon or scope in ("default", "all"):
            level = known[0]
    return level


def _config(layout: Layout, inputs: _Inputs, host: Host) -> Config:
    def ports(text: str) -> tuple[PortRange, ...]:
        parts = values.listed(text, "ports 1-65535, ranges such as 8000:9000 or service names")
        return tuple(values.port_range(part, host.service) for part in parts)

    def uids(text: str) -> tuple[IdRange, ...]:
        parts = values.listed(text, "user ids or names")
        return tuple(values.id_range(part, host.uid, "passwd") for part in parts)

    def gids(text: str) -> tuple[IdRange, ...]:
        parts = values.listed(text, "group ids or names")
        return tuple(values.id_range(part, host.gid, "group") for part in parts)

    def owner_groups(text: str) -> tuple[IdRange, ...]:
        found = gids(text)
        if len(found) > values.MAX_OWNER_GROUPS:
            raise ValueError(f"at most {values.MAX_OWNER_GROUPS} groups, not {len(found)}")
        return found

    def interfaces(text: str) -> tuple[str, ...]:
        return tuple(values.interface(part) for part in values.listed(text, "interface names"))

    def servers(text: str) -> tuple[Network, ...]:
        return tuple(values.address(part) for part in values.listed(text, "addresses"))

    inbound_all, inbound_ports = _star(inputs, "istio-inbound-ports", ports)
    cidrs = inputs.cidrs("istio-service-cidr")
    outbound_all, outbound_cidrs = _star(inputs, "istio-service-cidr", cidrs)
    outbound_port = inputs.value("envoy-port", values.port, 15001)
    old = layout == LAYOUT_1_0
    proxy_uids, proxy_gids = _proxy_ids(inputs, host, uids, gids, root_too=old)
    return Config(
        layout,
        mode=inputs.choice("istio-inbound-interception-mode", MODES, MODES[0]),
        outbound_port=outbound_port,
        inbound_port=inputs.value(
            "inbound-capture-port", values.port, outbound_port if old else 15006
        ),
        tunnel_port=inputs.value("inbound-tunnel-port", values.port, 15008),
        proxy_uids=proxy_uids,
        proxy_gids=proxy_gids,
        inbound_all=inbound_all,
        inbound_ports=inbound_ports,
        inbound_exclude_ports=inputs.value("istio-local-exclude-ports", ports, (), empty=True),
        outbound_all=outbound_all,
        outbound_cidrs=outbound_cidrs,
        outbound_exclude_cidrs=inputs.value(
            "istio-service-exclude-cidr",
            inputs.cidrs("istio-service-exclude-cidr"),
            (),
            empty=True,
        ),
        outbound_ports=inputs.value("istio-outbound-ports", ports, (), empty=True),
        outbound_exclude_ports=inputs.value(
            "istio-local-outbound-ports-exclude", ports, (), empty=True
        ),
        exclude_interfaces=inputs.value("istio-exclude-interfaces", interfaces, (), empty=True),
        virtual_interfaces=inputs.value("kube-virt-interfaces", interfaces, (), empty=True),
        tproxy_mark=inputs.value("istio-inbound-tproxy-mark", _mark, DEFAULT_MARK),
        tproxy_table=inputs.value(
            "istio-inbound-tproxy-route-table", _route_table, DEFAULT_ROUTE_TABLE
        ),
        redirect_dns=inputs.switch("redirect-dns"),
        capture_all_dns=inputs.switch("capture-all-dns"),
        dns_servers=inputs.value("dns-servers", servers, None),
        drop_invalid=inputs.switch("drop-invalid"),
        owner_groups=_owner_groups(inputs, owner_groups),
        owner_groups_exclude=inputs.value(
            "outbound-owner-groups-exclude", owner_groups, (), empty=True
        ),
        loopback=inputs.value(
            "outbound-ipv4-loopback-cidr",
            inputs.loopback("outbound-ipv4-loopback-cidr"),
            DEFAULT_LOOPBACK,
        ),
        ipv6=_ipv6(inputs, old=old),
        dual_stack=inputs.switch("dual-stack"),
    )


def _star(
    inputs: _Inputs, name: str, parse: Callable[[str], tuple[T, ...]]
) -> tuple[bool, tuple[T, ...]]:
    """Return whether a list is ``*``, and its parts where it is not."""
    given = inputs.given(name)
    if given is not None and given.text.strip(_LIST_BLANKS) == "*":
        return True, ()
    return False, inputs.value(name, parse, (), empty=True)


def _mark(text: str) -> int:
    # Mark 0 is every unmarked packet: its ip rule would swallow all traffic.
    return values.number(text.strip(), 1, values.MAX_U32, hexadecimal=True)


def _route_table(text: str) -> int:
    table = values.number(text.strip(), 1, values.MAX_U32)
    if _MAX_SPARE_TABLE < table < _FIRST_FREE_TABLE:
        raise ValueError("a route table that is not the kernel's default, main or local (253-255)")
    return table


def _proxy_ids(
    inputs: _Inputs,
    host: Host,
    uids: Callable[[str], tuple[IdRange, ...]],
    gids: Callable[[str], tuple[IdRange, ...]],
    *,
    root_too: bool,
) -> tuple[tuple[IdRange, ...], tuple[IdRange, ...]]:
    """Return the proxy's users and groups; groups are the users' numbers unless given.

    Source: proxy_init 1.0.2, istio-iptables.sh; istio 1.30, cmd/root.go,
    constructConfig.
    """
    none: tuple[IdRange, ...] = ()
    found = inputs.value("proxy-uid", uids, none, empty=True)
    given = inputs.given("proxy-uid")
    named = given is not None and bool(given.text.strip(_LIST_BLANKS))
    if not named:
        found = _default_ids(inputs, host, root_too=root_too)
    default_gids = found
    group = inputs.given("proxy-gid")
    if named and given is not None and (group is None or not group.text.strip(_LIST_BLANKS)):
        # A user's name stands for the group of the same name.
        try:
            default_gids = gids(given.text)
        except ValueError:
            default_gids = found
    return found, inputs.value("proxy-gid", gids, none, empty=True) or default_gids


def _default_ids(inputs: _Inputs, host: Host, *, root_too: bool) -> tuple[IdRange, ...]:
    uid = host.uid(inputs.setting(ENVOY_USER) or "istio-proxy")
    proxy = DEFAULT_PROXY_ID if uid is None else IdRange(uid, uid)
    return (proxy, IdRange(0, 0)) if root_too else (proxy,)


def _owner_groups(
    inputs: _Inputs, parse: Callable[[str], tuple[IdRange, ...]]
) -> tuple[IdRange, ...] | None:
    """Return the groups to capture, None for all.

    An empty list has a meaning of its own in Istio: no group is captured.
    """
    given = inputs.given("outbound-owner-groups")
    if given is None or given.text.strip() == "*":
        return None
    if not given.text.strip(_LIST_BLANKS):
        return ()
    return inputs.value("outbound-owner-groups", parse, None)


def _ipv6(inputs: _Inputs, *, old: bool) -> bool | None:
    if inputs.given("ipv6") is not None:
        return inputs.switch("ipv6")
    if old:
        return bool(inputs.setting(ENABLE_INBOUND_IPV6))
    return None
