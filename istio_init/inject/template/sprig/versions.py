"""Sprig's semantic versions and the constraints on them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from istio_init.inject.template.errors import FunctionError, LimitError
from istio_init.inject.template.functions import Registry
from istio_init.inject.template.values import Struct, StructType, Uint64, Value

FUNCTIONS = Registry()
MAX_LENGTH = 500

_SUFFIX = r"(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
_VERSION = re.compile(rf"v?([0-9]+)(?:\.([0-9]+))?(?:\.([0-9]+))?{_SUFFIX}")
_PART = r"[0-9|xX*]+"
_LOOSE = (
    rf"v?{_PART}(?:\.{_PART})?(?:\.{_PART})?{_SUFFIX.replace('(', '(?:').replace('(?:?:', '(?:')}"
)
_OPERATORS = r"=>|=<|>=|<=|!=|~>|=|>|<|~|\^|"
_ONE = re.compile(rf"\s*({_OPERATORS})\s*v?({_PART})(?:\.({_PART}))?(?:\.({_PART}))?{_SUFFIX}\s*")
_CONSTRAINT = re.compile(rf"(?:{_OPERATORS})\s*{_LOOSE}")
_RANGE = re.compile(rf"\s*({_LOOSE})\s+-\s+({_LOOSE})\s*")


@dataclass(frozen=True, slots=True)
class Version:
    """A semantic version."""

    major: int
    minor: int
    patch: int
    pre: str = ""
    metadata: str = ""

    def __str__(self) -> str:
        text = f"{self.major}.{self.minor}.{self.patch}"
        if self.pre:
            text += f"-{self.pre}"
        return f"{text}+{self.metadata}" if self.metadata else text


def parse_version(text: str) -> Version:
    """Return the version that a text spells; minor and patch may be absent.

    Raises:
        FunctionError: it is no version.
    """
    found = _VERSION.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if found is None:
        raise FunctionError(f'"{text[:MAX_LENGTH]}" is no semantic version')
    major, minor, patch = (int(found[group] or "0") for group in (1, 2, 3))
    pre = found[4] or ""
    leading_zero = any(
        part.isdigit() and len(part) > 1 and part[0] == "0" for part in pre.split(".")
    )
    if leading_zero or max(major, minor, patch) >= 2**64:
        raise FunctionError(f'"{text}" is no semantic version')
    return Version(major, minor, patch, pre, found[5] or "")


def compare(first: Version, second: Version) -> int:
    """Return -1, 0 or 1 as the first version is before, like or after the second."""
    one = (first.major, first.minor, first.patch)
    other = (second.major, second.minor, second.patch)
    if one != other:
        return -1 if one < other else 1
    if first.pre == second.pre:
        return 0
    if not first.pre or not second.pre:
        # A release comes after its pre-releases.
        return 1 if not first.pre else -1
    keys = [_pre_key(first.pre), _pre_key(second.pre)]
    return -1 if keys[0] < keys[1] else int(keys[0] > keys[1])


def _pre_key(pre: str) -> list[tuple[int, int, str]]:
    """Return what orders pre-releases: numbers by value and before words."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in pre.split(".")]


@dataclass(frozen=True, slots=True)
class Bound:
    """One comparison of a constraint, ``>=1.2``; the booleans say which parts are open."""

    operator: str
    version: Version
    dirty: bool
    minor_open: bool
    patch_open: bool

    def holds(self, version: Version) -> bool:
        """Return whether a version satisfies the comparison."""
        wanted = self.version
        order = compare(version, wanted)
        if self.operator == "!=" and not self.dirty:
            return order != 0
        if version.pre and not wanted.pre:
            return False
        match self.operator:
            case "!=":
                return self.differs(version)
            case ">":
                return self.greater(version)
            case "<":
                return order < 0
            case ">=" | "=>":
                return order >= 0
            case "<=" | "=<":
                return self.at_most(version)
            case "~" | "~>":
                return self.tilde(version)
            case "^":
                return self.caret(version)
            case _:
                pass
        return self.tilde(version) if self.dirty else order == 0

    def differs(self, version: Version) -> bool:
        """Return whether ``!=`` holds where parts are open."""
        wanted = self.version
        if wanted.major != version.major:
            return True
        if self.minor_open:
            return False
        if wanted.minor != version.minor:
            return True
        if not self.patch_open:
            return compare(version, wanted) != 0
        return _pre_key(version.pre) != _pre_key(wanted.pre)

    def greater(self, version: Version) -> bool:
        """Return whether ``>`` holds."""
        wanted = self.version
        if self.dirty and version.major != wanted.major:
            return version.major > wanted.major
        if self.dirty and self.minor_open:
            return False
        if self.dirty and self.patch_open:
            return version.minor > wanted.minor
        return compare(version, wanted) > 0

    def at_most(self, version: Version) -> bool:
        """Return whether ``<=`` holds."""
        wanted = self.version
        if not self.dirty:
            return compare(version, wanted) <= 0
        if version.major != wanted.major:
            return version.major < wanted.major
        return self.minor_open or version.minor <= wanted.minor

    def tilde(self, version: Version) -> bool:
        """Return whether ``~`` holds: the same minor version, from here on."""
        wanted = self.version
        if compare(version, wanted) < 0:
            return False
        zero = (wanted.major, wanted.minor, wanted.patch) == (0, 0, 0)
        if zero and not self.minor_open and not self.patch_open:
            return True
        return version.major == wanted.major and (self.minor_open or version.minor == wanted.minor)

    def caret(self, version: Version) -> bool:
        """Return whether ``^`` holds: nothing that counts has changed."""
        wanted = self.version
        if compare(version, wanted) < 0 or version.major != wanted.major:
            return False
        if wanted.major > 0 or self.minor_open:
            return True
        if version.minor != wanted.minor:
            return False
        return wanted.minor > 0 or self.patch_open or version.patch == wanted.patch


def _is_open(part: str | None) -> bool:
    return part is None or part in {"x", "X", "*"}


def parse_bound(text: str) -> Bound:
    """Return one comparison; raises FunctionError if it is none."""
    found = _ONE.fullmatch(text)
    if found is None:
        raise FunctionError(f'"{text}" is no constraint on versions')
    operator, major, minor, patch, pre, _ = found.groups()
    suffix = f"-{pre}" if pre else ""
    minor_open = patch_open = False
    if _is_open(major):
        version = parse_version(f"0.0.0{suffix}")
        return Bound(operator, version, dirty=True, minor_open=False, patch_open=False)
    if _is_open(minor):
        minor_open, spelled = True, f"{major}.0.0"
    elif _is_open(patch):
        patch_open, spelled = True, f"{major}.{minor}.0"
    else:
        spelled = f"{major}.{minor}.{patch}"
    version = parse_version(spelled + suffix)
    return Bound(operator, version, minor_open or patch_open, minor_open, patch_open)


def parse_constraint(text: str) -> list[list[Bound]]:
    """Return a constraint: one of the lists must hold, all of it.

    Raises:
        FunctionError: it is no constraint.
    """
    if len(text) > MAX_LENGTH:
        raise LimitError(f"a constraint has at most {MAX_LENGTH} characters")
    ranged = _RANGE.sub(lambda found: f">= {found[1]}, <= {found[2]} ", text)
    return [_conjunction(part) for part in ranged.split("||")]


def _conjunction(text: str) -> list[Bound]:
    """Return comparisons with blanks or commas between them."""
    bounds: list[Bound] = []
    pos = 0
    trimmed = text.strip()
    while pos < len(trimmed):
        found = _CONSTRAINT.match(trimmed, pos)
        if found is None:
            raise FunctionError(f'"{text.strip()}" is no constraint on versions')
        bounds.append(parse_bound(found.group()))
        gap = re.compile(r"\s*,\s*|\s+|\Z").match(trimmed, found.end())
        if gap is None:
            raise FunctionError(f'"{text.strip()}" is no constraint on versions')
        pos = gap.end()
    if not bounds:
        raise FunctionError(f'"{text.strip()}" is no constraint on versions')
    return bounds


@FUNCTIONS.add("semverCompare", "string; string", gives_text=False)
def _semver_compare(constraint: str, version: str) -> bool:
    alternatives = parse_constraint(constraint)
    found = parse_version(version)
    return any(all(bound.holds(found) for bound in bounds) for bounds in alternatives)


def _of(struct: Struct | None) -> Version:
    version = struct.data.get("version") if struct is not None else None
    if not isinstance(version, Version):
        raise FunctionError("there is no version")
    return version


VERSION = StructType(
    "semver.Version",
    methods={
        "Major": lambda struct: Uint64(_of(struct).major),
        "Minor": lambda struct: Uint64(_of(struct).minor),
        "Patch": lambda struct: Uint64(_of(struct).patch),
        "Prerelease": lambda struct: _of(struct).pre,
        "Metadata": lambda struct: _of(struct).metadata,
        "Original": lambda struct: str(struct.data["original"]) if struct else "",
        "String": lambda struct: str(_of(struct)),
    },
    show=lambda struct: str(_of(struct)),
    encode=lambda struct: str(_of(struct)),
    pointer=True,
)


@FUNCTIONS.add("semver", "string", gives_text=False)
def _semver(text: str) -> Value:
    return Struct(VERSION, {"version": parse_version(text), "original": text}, "a version")
