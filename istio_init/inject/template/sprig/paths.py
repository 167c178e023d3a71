"""Sprig's functions over paths and URLs, and durations that are given."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import quote, unquote

from istio_init.inject.template.durations import NANOSECONDS, duration_text, parse_duration
from istio_init.inject.template.errors import FunctionError
from istio_init.inject.template.functions import Registry
from istio_init.inject.template.values import Int64, Value, kind_name

FUNCTIONS = Registry()


def _cleaned(path: str) -> str:
    """Return Go's path.Clean."""
    if not path:
        return "."
    clean = posixpath.normpath(path)
    return "/" + clean.lstrip("/") if clean.startswith("/") else clean


@FUNCTIONS.add("base osBase", "string")
def _base(path: str) -> str:
    if not path:
        return "."
    return path.rstrip("/").rpartition("/")[2] or "/"


@FUNCTIONS.add("dir osDir", "string")
def _dir(path: str) -> str:
    return _cleaned(path[: path.rfind("/") + 1])


@FUNCTIONS.add("clean osClean", "string")
def _clean(path: str) -> str:
    return _cleaned(path)


@FUNCTIONS.add("ext osExt", "string")
def _ext(path: str) -> str:
    name = path.rpartition("/")[2]
    dot = name.rfind(".")
    return name[dot:] if dot >= 0 else ""


@FUNCTIONS.add("isAbs osIsAbs", "string", gives_text=False)
def _is_abs(path: str) -> bool:
    return path.startswith("/")


# URLs

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


@FUNCTIONS.add("urlParse", "string")
def _url_parse(text: str) -> dict[str, Value]:
    if re.search(r"[\x00-\x20\x7f]", text.partition("#")[0].partition("?")[0].strip(" ")):
        raise FunctionError("the URL has a control character or blank in it")
    rest, _, fragment = text.partition("#")
    found = _SCHEME.match(rest)
    scheme = found[1].lower() if found else ""
    rest = rest[found.end() :] if found else rest
    if not found and rest.startswith(":"):
        raise FunctionError("the URL has no scheme before its colon")
    rest, _, query = rest.partition("?")
    parts: dict[str, Value] = {
        "scheme": scheme, "host": "", "hostname": "", "path": "", "query": query,
        "opaque": "", "fragment": _unescaped(fragment), "userinfo": "",
    }  # fmt: skip
    if scheme and not rest.startswith("/"):
        parts["opaque"] = rest
        return parts
    if not scheme and ":" in rest.partition("/")[0] and not rest.startswith("//"):
        raise FunctionError("the first part of a relative path has a colon")
    if rest.startswith("//"):
        authority, slash, path = rest[2:].partition("/")
        userinfo, _, host = authority.rpartition("@")
        parts["userinfo"] = _userinfo(userinfo)
        parts["host"] = _unescaped(host)
        parts["hostname"] = _hostname(host)
        rest = slash + path
    parts["path"] = _unescaped(rest)
    return parts


def _unescaped(text: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise FunctionError("the URL has a percent sign without two hexadecimal digits")
    return unquote(text, errors="surrogateescape")


def _userinfo(text: str) -> str:
    if not text:
        return ""
    name, colon, password = text.partition(":")
    shown = quote(_unescaped(name), safe="$&+,;=!*'()~-._")
    return shown + (colon and ":" + quote(_unescaped(password), safe="$&+,;=!*'()~-._"))


def _hostname(host: str) -> str:
    """Return a host without its port and brackets."""
    if host.startswith("["):
        end = host.rfind("]")
        if end < 0:
            raise FunctionError("the URL's host lacks a ]")
        return host[1:end]
    name, colon, port = host.rpartition(":")
    if not colon:
        return host
    if port and not port.isdigit():
        raise FunctionError(f'the port "{port}" is no number')
    return name


@FUNCTIONS.add("urlJoin", "map[string]any")
def _url_join(parts: dict[str, Value]) -> str:
    def part(name: str) -> str:
        value = parts.get(name, "")
        if not isinstance(value, str):
            raise FunctionError(f'"{name}" must be a string, not a {kind_name(value)}')
        return value

    scheme, host, path, userinfo = part("scheme"), part("host"), part("path"), part("userinfo")
    text = f"{scheme}:" if scheme else ""
    if part("opaque"):
        text += part("opaque")
    else:
        if scheme or host or userinfo:
            if host or userinfo or path.startswith("//"):
                text += "//"
            if userinfo:
                text += _userinfo(userinfo) + "@"
            text += quote(host, safe="!$&'()*+,;=:[]<>\"~-._")
        escaped = quote(path, safe="$&+,/:;=@!'()*~-._")
        if escaped and not escaped.startswith("/") and host:
            text += "/"
        if not text and ":" in escaped.partition("/")[0]:
            text += "./"
        text += escaped
    if part("query"):
        text += "?" + part("query")
    if part("fragment"):
        text += "#" + quote(part("fragment"), safe="$&+,/:;=?@!'()*~-._")
    return text


# Durations


@FUNCTIONS.add("duration", "any", gives_text=False)
def _duration(value: Value) -> str:
    seconds = 0
    if isinstance(value, str):
        found = re.fullmatch(r"[+-]?[0-9]{1,30}", value)
        seconds = int(value) if found else 0
        seconds = max(-(2**63), min(2**63 - 1, seconds))
    elif isinstance(value, Int64):
        seconds = int(value)
    nanoseconds = (seconds * NANOSECONDS + 2**63) % 2**64 - 2**63
    return duration_text(nanoseconds)


@FUNCTIONS.add("durationRound", "any", gives_text=False)
def _duration_round(value: Value) -> str:
    nanoseconds = 0
    if isinstance(value, str):
        nanoseconds = parse_duration(value) or 0
    elif isinstance(value, Int64):
        nanoseconds = int(value)
    size = abs(nanoseconds)
    hour = 3600 * NANOSECONDS
    for unit, length in (
        ("y", 365 * 24 * hour), ("mo", 30 * 24 * hour), ("d", 24 * hour), ("h", hour),
        ("m", 60 * NANOSECONDS), ("s", NANOSECONDS),
    ):  # fmt: skip
        if size > length:
            return f"{size // length}{unit}"
    return "0s"
