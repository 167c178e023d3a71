"""Can this machine do the plan? Asked without writing anything or loading a module.

What the kernel has is told from /proc, /sys and netlink, from the lists of
modules and, where it is to be had, its configuration. What none of these tells
is said to be unknown: the kernel loads many modules only when they are used.
"""

from __future__ import annotations

import os

from istio_init.apply import detect
from istio_init.apply.nftables import needs
from istio_init.config.model import BACKENDS
from istio_init.errors import ApplyError, IstioInitError, UnsupportedError
from istio_init.kernel import host, lock, modules
from istio_init.lean import TYPE_CHECKING, Record
from istio_init.rules import matches as m
from istio_init.rules.diff import Change
from istio_init.rules.model import Rule
from istio_init.rules.names import PASSTHROUGH
from istio_init.rules.ranges import FAMILIES, IPV4, IPV6

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from istio_init.apply.detect import Evidence
    from istio_init.config.model import Run
    from istio_init.rules.model import Plan, Ruleset
    from istio_init.rules.ranges import Family

    CheckVerdict = Literal["ok", "note", "problem"]
    Presence = Literal["present", "loadable", "missing", "unknown"]

# Bits of CapEff in /proc/self/status. Source: linux/capability.h.
_CAPABILITIES = {"SETGID": 6, "SETUID": 7, "NET_ADMIN": 12, "NET_RAW": 13, "SYS_ADMIN": 21}
_ALL_IDS = 4294967295
_OLDEST_FOR_NFTABLES = (5, 10)
# The kernel's option for a module, where its name does not tell.
_OPTIONS = {
    "ip_tables": "IP_NF_IPTABLES",
    "ip6_tables": "IP6_NF_IPTABLES",
    "iptable_raw": "IP_NF_RAW",
    "iptable_mangle": "IP_NF_MANGLE",
    "iptable_nat": "IP_NF_NAT",
    "iptable_filter": "IP_NF_FILTER",
    "ip6table_raw": "IP6_NF_RAW",
    "ip6table_mangle": "IP6_NF_MANGLE",
    "ip6table_nat": "IP6_NF_NAT",
    "ip6table_filter": "IP6_NF_FILTER",
    "ipt_REJECT": "IP_NF_TARGET_REJECT",
    "ip6t_REJECT": "IP6_NF_TARGET_REJECT",
    "xt_tcpudp": "NETFILTER_XTABLES",
    "xt_mark": "NETFILTER_XT_MARK",
    "xt_connmark": "NETFILTER_XT_CONNMARK",
    "xt_REDIRECT": "NETFILTER_XT_TARGET_REDIRECT",
    "xt_TPROXY": "NETFILTER_XT_TARGET_TPROXY",
    "xt_CT": "NETFILTER_XT_TARGET_CT",
    "nft_chain_nat": "NFT_NAT",
    "nf_tables_inet": "NF_TABLES_INET",
}
_IPTABLES_NFT = (
    *("iptables-nft-save", "iptables-nft-restore"),
    *("ip6tables-nft-save", "ip6tables-nft-restore"),
)


class Check(Record):
    """One thing that was looked at; ``remedy`` says what to do about a problem."""

    name: str
    verdict: CheckVerdict
    text: str
    remedy: str = ""


class Kernel:
    """What the kernel has, as far as can be told without loading any of it."""

    def __init__(self) -> None:
        release = os.uname().release
        folder = f"/lib/modules/{release}"
        self._builtin = _names(f"{folder}/modules.builtin")
        self._loadable = _names(f"{folder}/modules.dep")
        self._modular = os.path.exists("/proc/modules")
        self._options = _configuration(release)
        self.version = tuple(
            int(part) for part in release.partition("-")[0].split(".")[:2] if part.isdigit()
        )

    def has(self, module: str) -> Presence:
        """Return whether a module is there, can be loaded, or neither."""
        name = module.replace("-", "_")
        if name in self._builtin or os.path.exists(f"/sys/module/{name}"):
            return "present"
        if name in self._loadable:
            return "loadable"
        return self.option(_option_of(module))

    def option(self, name: str) -> Presence:
        """Return whether the kernel was built with an option."""
        if not self._options:
            return "unknown"
        built = self._options.get(f"CONFIG_{name}", "n")
        if built == "y":
            return "present"
        # A module that this file system does not have may be on the node's.
        return "loadable" if built == "m" and self._modular else "missing"


def _option_of(module: str) -> str:
    if module in _OPTIONS:
        return _OPTIONS[module]
    if module.startswith("xt_"):
        return f"NETFILTER_XT_MATCH_{module.removeprefix('xt_').upper()}"
    return module.upper()


def _names(path: str) -> frozenset[str]:
    """Return the names of the modules that a list of modules names."""
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            files = [line.partition(":")[0].strip() for line in lines]
    except OSError:
        return frozenset()
    return frozenset(
        file.rpartition("/")[2].partition(".ko")[0].replace("-", "_") for file in files
    )


def _configuration(release: str) -> dict[str, str]:
    """Return the options the kernel was built with, empty where nothing tells them."""
    import gzip

    for path in ("/proc/config.gz", f"/boot/config-{release}"):
        try:
            with open(path, "rb") as handle:
                data = handle.read()
            text = (gzip.decompress(data) if path.endswith(".gz") else data).decode()
        except (OSError, ValueError):
            continue
        pairs = (line.partition("=") for line in text.splitlines() if line.startswith("CONFIG_"))
        return {name: value for name, _, value in pairs}
    return {}


def checks(plan: Plan, run: Run) -> Iterator[Check]:
    """Yield the checks of whether this host can apply a plan."""
    backend, of_backend = _backend(run)
    yield from _capabilities(backend, run)
    yield from _user_namespace(plan)
    yield _root()
    yield from _lock()
    yield from of_backend
    yield from _tools(backend)
    kernel = Kernel()
    yield from _features(plan, backend, kernel)
    yield from _elsewhere(plan, backend, kernel)
    yield from _ipv6(plan)
    yield from _routing(plan, kernel)


def _backend(run: Run) -> tuple[str, list[Check]]:
    """Return the backend that a run would use, and what there is to say about it."""
    name = "backend"
    try:
        evidence = detect.look()
        kind = detect.choose(evidence) if run.backend == "auto" else run.backend
    except IstioInitError as error:
        remedy = error.remedy or "see the capabilities"
        return "", [Check(name, "problem", _what(error), remedy)]
    checks = []
    if kind not in evidence.available:
        text = f"this kernel has nothing for --backend {kind}"
        others = " or ".join(sorted(evidence.available)) or "none"
        checks.append(Check(name, "problem", text, f"use --backend {others}"))
    else:
        by = "as --backend says" if run.backend == kind else _why(kind, evidence)
        checks.append(Check(name, "ok", f"{kind}, {by}"))
    for other in BACKENDS:
        if other != kind and other in evidence.ours:
            text = f"{other} holds rules of istio-init too; a run removes them"
            checks.append(Check(name, "note", text))
        elif other != kind and other in evidence.others:
            text = f"other programs have rules in {other}, which every packet meets too"
            checks.append(Check(name, "note", text))
    if evidence.unseen:
        named = ", ".join(sorted(evidence.unseen))
        text = f"this user namespace may not know which tables of {named} exist"
        checks.append(Check(name, "note", text))
    return kind, checks


def _why(kind: str, evidence: Evidence) -> str:
    if kind in evidence.ours:
        return "it holds rules of istio-init already"
    return "where others have rules" if kind in evidence.others else "the first that there is"


def _what(error: IstioInitError) -> str:
    if isinstance(error, ApplyError):
        return f"{error.what} ({error.where}): {error.why}"
    return error.what if isinstance(error, UnsupportedError) else str(error)


def _capabilities(backend: str, run: Run) -> Iterator[Check]:
    effective = int(_status("CapEff") or "0", 16)
    held = {name for name, bit in _CAPABILITIES.items() if effective & (1 << bit)}
    needed = {"NET_ADMIN": "every backend"}
    if backend in ("legacy", ""):
        needed["NET_RAW"] = "the legacy backend"
    if run.network_namespace:
        needed["SYS_ADMIN"] = "--network-namespace"
    if run.run_validation:
        needed |= {"SETUID": "--run-validation as root", "SETGID": "--run-validation as root"}
    for name, what in needed.items():
        if name in held:
            yield Check("capabilities", "ok", name)
            continue
        remedy = f"add {name} under securityContext.capabilities of the container"
        if os.geteuid() != 0:
            remedy += ", and run it as root: Kubernetes gives others none of what is added"
        text = f"{name} is missing, for {what} (this is uid {os.geteuid()})"
        yield Check("capabilities", "problem", text, remedy)


def _status(field: str) -> str:
    with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith(f"{field}:"):
                return line.partition(":")[2].strip()
    return ""


def _user_namespace(plan: Plan) -> Iterator[Check]:
    """Yield whether this user namespace knows everybody whom the rules name."""
    unknown: dict[str, None] = {}
    whole = True
    for kind in ("uid", "gid"):
        with open(f"/proc/self/{kind}_map", encoding="ascii") as lines:
            ranges = [tuple(int(word) for word in line.split()) for line in lines]
        mapped = [(first, first + count - 1) for first, _, count in ranges]
        whole = whole and any(count == _ALL_IDS for _, _, count in ranges)
        for rule in _rules(plan):
            for one in rule.matches:
                if isinstance(one, m.Owner) and one.kind == kind:
                    ids = one.ids
                    if not any(low <= ids.low and ids.high <= high for low, high in mapped):
                        unknown[f"{kind} {ids}"] = None
    for name in unknown:
        text = f"this user namespace does not know {name}: the kernel refuses rules that name it"
        remedy = "map it into the namespace, or set hostUsers: true for the pod"
        yield Check("user namespace", "problem", text, remedy)
    if not unknown:
        where = "the node's own" if whole else "one of its own, which knows all that rules name"
        yield Check("user namespace", "ok", where)


def _rules(plan: Plan) -> Iterator[Rule]:
    for ruleset in plan.rulesets:
        for table in ruleset.tables:
            for chain in table.chains:
                yield from (rule for rule in chain.rules if isinstance(rule, Rule))


def _root() -> Check:
    read_only = os.statvfs("/").f_flag & os.ST_RDONLY
    return Check("root file system", "ok", "read-only, which will do" if read_only else "writable")


def _lock() -> Iterator[Check]:
    name = "lock"
    path = os.environ.get(lock.LOCK_VARIABLE) or lock.LOCK_FILE
    folder = os.path.dirname(path) or "."
    if os.path.exists(path):
        usable = os.access(path, os.R_OK)
    else:
        usable = os.access(folder, os.W_OK | os.X_OK)
    if not usable:
        text = f"{path} cannot be opened: the network namespace's own inode stands in for it"
        yield Check(name, "note", text)
        path = lock.NAMESPACE_FILE
    try:
        holder = lock.holder(os.stat(path))
    except OSError:
        holder = ""
    if holder:
        text = f"{path} is held by {holder} now: a run waits for it, up to --wait"
        yield Check(name, "note", text)
    elif usable:
        yield Check(name, "ok", path)


def _tools(backend: str) -> Iterator[Check]:
    """Yield whether the libraries are there; only the backend's have to be."""
    yield _library("problem" if backend == "legacy" else "note")
    if backend != "legacy":
        yield Check("tools", "ok", f"backend {backend} needs no program and no library")


def _library(missing: CheckVerdict) -> Check:
    from istio_init.kernel import libiptc

    name = "tools"
    try:
        for family in FAMILIES:
            libiptc.load(family)
    except ImportError as error:
        remedy = "install python-iptables and iptables, or use --backend nft or nftables"
        return Check(name, missing, f"python-iptables does not work: {error}", remedy)
    return Check(name, "ok", f"python-iptables {libiptc.version()}")


def _features(plan: Plan, backend: str, kernel: Kernel) -> Iterator[Check]:
    """Yield the tables, matches and targets of the plan, each with its module."""
    if not backend:
        return
    try:
        wanted = dict(_needed(plan, backend))
    except UnsupportedError as error:
        others = " or ".join(one for one in BACKENDS if one != backend)
        yield Check("plan", "problem", _what(error), error.remedy or f"use --backend {others}")
        return
    if backend == "nftables" and kernel.version < _OLDEST_FOR_NFTABLES:
        text = f"Linux {'.'.join(map(str, kernel.version))} is too old for {backend}"
        yield Check("kernel", "problem", text, "use --backend nft or legacy, or Linux 5.10")
    present, loadable, unknown = [], [], []
    for what, module in wanted.items():
        match kernel.has(module):
            case "present":
                present.append(what)
            case "loadable":
                loadable.append(f"{what} ({module})")
            case "unknown":
                unknown.append(f"{what} ({module})")
            case "missing":
                others = " or ".join(one for one in BACKENDS if one != backend)
                remedy = f"load the module {module} on the node, or use --backend {others}"
                yield Check("kernel", "problem", f"lacks {what} ({module})", remedy)
    if present:
        yield Check("kernel", "ok", f"has {', '.join(present)}")
    if loadable:
        text = f"loads when first used: {', '.join(loadable)}"
        yield Check("kernel", "ok", text)
    if unknown:
        text = f"nothing here tells whether it has {', '.join(unknown)}"
        yield Check("kernel", "note", text)


def _elsewhere(plan: Plan, backend: str, kernel: Kernel) -> Iterator[Check]:
    """Yield why a backend that is not going to be used could not be."""
    for kind in BACKENDS:
        if kind == backend:
            continue
        try:
            wanted = dict(_needed(plan, kind))
        except UnsupportedError as error:
            yield Check("plan", "note", f"{kind} could not do it: {_what(error)}")
            continue
        lacking = [
            f"{what} ({module})"
            for what, module in wanted.items()
            if kernel.has(module) == "missing"
        ]
        if lacking:
            yield Check("kernel", "note", f"{kind} could not do it: lacks {', '.join(lacking)}")


def _needed(plan: Plan, backend: str) -> Iterator[tuple[str, str]]:
    """Yield what a plan needs of the kernel, with the module that brings it."""
    if backend == "nftables":
        yield "nf_tables", "nf_tables"
        yield from needs(plan)
        return
    if backend == "nft":
        yield "nf_tables", "nf_tables"
        yield "the matches and targets of iptables", "nft_compat"
    for ruleset in plan.rulesets:
        steps = [
            Change("append", chain.name, rule=rule)
            for table in ruleset.tables
            for chain in table.chains
            for rule in chain.rules
        ]
        if backend == "legacy":
            yield from _legacy_tables(ruleset)
        for feature in modules.needed(steps, ruleset.family):
            kind = "target" if feature.is_target else "match"
            yield f"the {kind} {feature.name}", feature.module


def _legacy_tables(ruleset: Ruleset) -> Iterator[tuple[str, str]]:
    prefix = "ip" if ruleset.family == IPV4 else "ip6"
    for table in ruleset.tables:
        yield f"the {ruleset.family} table {table.name}", f"{prefix}table_{table.name}"


def _ipv6(plan: Plan) -> Iterator[Check]:
    name = "IPv6"
    captured = bool(plan.ruleset(IPV6).tables)
    if not host.has_ipv6():
        yield Check(name, "ok", "this kernel has none")
        return
    off = [one for one in ("all", "lo") if _setting(f"ipv6/conf/{one}/disable_ipv6") == "1"]
    if plan.addresses and "lo" in off:
        text = f"is switched off on lo, which needs {PASSTHROUGH[IPV6]}"
        remedy = "set net.ipv6.conf.lo.disable_ipv6=0 for the pod, or use --no-ipv6"
        yield Check(name, "problem", text, remedy)
        return
    addresses = [one.address for one in host.usable_addresses() if one.family == IPV6]
    if addresses and not captured:
        text = f"is not captured, and this pod has {', '.join(addresses)}"
        yield Check(name, "note", text, "add --dual-stack or --ipv6, or --no-ipv6 if it is meant")
    else:
        state = "is captured" if captured else "is not captured, and there is no address"
        yield Check(name, "ok", f"{state}{', switched off for all interfaces' if off else ''}")


def _setting(path: str) -> str:
    try:
        with open(f"/proc/sys/net/{path}", encoding="ascii") as lines:
            return lines.read().strip()
    except OSError:
        return ""


def _routing(plan: Plan, kernel: Kernel) -> Iterator[Check]:
    """Yield whether marked packets can be led to another route table."""
    name = "policy routing"
    families: list[Family] = [route.family for route in plan.routes]
    if not families:
        return
    options = {IPV4: "IP_MULTIPLE_TABLES", IPV6: "IPV6_MULTIPLE_TABLES"}
    missing = [one for one in families if kernel.option(options[one]) == "missing"]
    for family in missing:
        remedy = f"use -m REDIRECT, or a kernel with CONFIG_{options[family]}"
        yield Check(name, "problem", f"this kernel has no {family} rules by mark", remedy)
    if not missing:
        yield Check(name, "ok", f"rules by mark, {' and '.join(families)}")
