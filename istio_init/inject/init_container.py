"""The call that an init container makes, read by the program's own parser and planner.

Nothing of this machine is looked at: the container has its own files, names and
addresses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from istio_init import planner
from istio_init.config import fast_arguments
from istio_init.config.model import ISTIO_IPTABLES, Facts
from istio_init.config.resolve import resolve
from istio_init.errors import ConfigError
from istio_init.inject.problems import InjectionError, Where, error, quoted, warning
from istio_init.rules.names import DEFAULT_PROXY_ID
from istio_init.rules.ranges import IPV4, IPV6, Network

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from istio_init.config.model import Config
    from istio_init.config.resolve import Resolved
    from istio_init.inject.problems import Problem
    from istio_init.rules.model import Plan

# `istio-validation` is what Istio calls it where a CNI plugin has written the rules.
INIT, VALIDATION = "istio-init", "istio-validation"
_NAMES = (INIT, VALIDATION)
_PROGRAMS = ("istio-init", ISTIO_IPTABLES)
_PROXY_ID = DEFAULT_PROXY_ID.low

# Stand for addresses that only the pod has; which ones makes no difference to the rules.
_POD_ADDRESSES = {
    IPV4: Network(IPV4, bytes((10, 0, 0, 1)), 32),
    IPV6: Network(IPV6, bytes((0xFD, *[0] * 14, 1)), 128),
}


@dataclass(frozen=True, slots=True)
class InitCall:
    """A call of the program: the command, its flags by long name, and the environment."""

    command: str
    flags: Mapping[str, str]
    environment: Mapping[str, str]


class _Image:
    """What Istio's images have in their files; other names are noted as unknown."""

    def __init__(self) -> None:
        self.unknown: list[str] = []

    def uid(self, name: str) -> int | None:
        """Return the uid of a user, or None."""
        return self._number(name, {"root": 0, "istio-proxy": _PROXY_ID})

    def gid(self, name: str) -> int | None:
        """Return the gid of a group, or None."""
        return self.uid(name)

    def service(self, name: str) -> int | None:
        """Return the port of a service, or None."""
        return self._number(name, {"http": 80, "https": 443})

    def text(self, path: str) -> str:
        """Return nothing: the env files of an image are not known."""
        raise FileNotFoundError(path)

    def _number(self, name: str, known: Mapping[str, int]) -> int | None:
        if name not in known:
            self.unknown.append(name)
        return known.get(name)


def find(spec: Mapping[str, Any]) -> tuple[int, dict[str, Any]] | None:
    """Return the init container that writes the rules, and its place; None where there is none.

    One that writes them wins over one that looks whether they are there.
    """
    containers = spec.get("initContainers")
    for wanted in _NAMES:
        for place, container in enumerate(containers if isinstance(containers, list) else ()):
            if isinstance(container, dict) and container.get("name") == wanted:
                return place, container
    return None


def call_of(container: Mapping[str, Any]) -> InitCall | None:
    """Return the call, or None where the container runs something else, or reads otherwise."""
    command, words = [*_words(container.get("command"))], [*_words(container.get("args"))]
    if command:
        program = command.pop(0).rpartition("/")[2]
        words = [*command, *words]
        if program not in _PROGRAMS:
            return None
        if program == ISTIO_IPTABLES:
            words.insert(0, program)
    environment = {
        entry["name"]: _word(entry.get("value", ""))
        for entry in container.get("env") or ()
        if isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and "valueFrom" not in entry
    }
    call = fast_arguments.read(words, environment)
    return None if call is None else InitCall(*call, environment)


def _words(data: object) -> Iterator[str]:
    for one in data if isinstance(data, list) else ():
        yield _word(one)


def _word(value: object) -> str:
    """Return an argument as Kubernetes reads it."""
    return "" if value is None else str(value)


def settings_of(container: Mapping[str, Any], where: Where | None = None) -> Resolved:
    """Return what the container's call asks for.

    Raises:
        InjectionError: it runs something else, or one or more values are bad;
            all of them are in it.
    """
    where = where or Where()
    call = call_of(container)
    if call is None:
        what = "its arguments are none that istio-init takes"
        why = "the rules that it writes are not known"
        raise InjectionError([warning(what, where, why=why)])
    image = _Image()
    try:
        return resolve(call.command, call.flags, call.environment, image)
    except ConfigError as bad:
        raise InjectionError(_bad_values(bad, image.unknown, where)) from None


def _bad_values(bad: ConfigError, unknown: list[str], where: Where) -> Iterator[Problem]:
    for problem in bad.problems:
        place = Where(annotation=problem.annotation).filled(where)
        # A name may well be in the image's own files.
        say = warning if any(one in problem.value for one in unknown) else error
        yield say(
            f"bad value {quoted(problem.value)} of {problem.flag}",
            place,
            why="the init container would end with it",
            remedy=f"expected {problem.expected}",
        )


def rules_of(container: Mapping[str, Any], *, ipv6: bool = False) -> Plan:
    """Return the plan of the rules that the init container writes in a pod with IPv4.

    With ``ipv6`` the pod has addresses of both families. A call without
    ``--dns-servers`` takes them from the pod's resolv.conf, which is not known here.

    Raises:
        InjectionError: as ``settings_of``.
    """
    return planned(settings_of(container).config, ipv6=ipv6)


def planned(config: Config, *, ipv6: bool = False) -> Plan:
    """Return the plan of a call's settings, in a pod as ``rules_of`` has it."""
    addresses = (_POD_ADDRESSES[IPV6], _POD_ADDRESSES[IPV4]) if ipv6 else (_POD_ADDRESSES[IPV4],)
    return planner.plan(config, Facts(addresses))
