"""What a dry run prints is, byte for byte, what the kernel then shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import strategies as st

from tests.namespace import TOOLS, Namespace, program_for_all
from tests.snapshot import counted, tables_in_use
from tests.strategies import drawn, id_ranges, interface_names, networks, port_ranges

if TYPE_CHECKING:
    from subprocess import CompletedProcess

    from hypothesis.strategies import SearchStrategy

CALLS = 40
# So many shares, for as many processes at a time.
SHARES = 4
LEGACY = {"iptables": TOOLS["ipv4"], "ip6tables": TOOLS["ipv6"]}


def lists(items: SearchStrategy[str], most: int = 4, least: int = 0) -> SearchStrategy[str]:
    return st.lists(items, min_size=least, max_size=most).map(",".join)


def starred(items: SearchStrategy[str]) -> SearchStrategy[str]:
    return st.one_of(st.just("*"), st.just("*"), items)


ports = lists(port_ranges.map(str))
dashed_ports = lists(port_ranges.map(lambda one: str(one).replace(":", "-")))
single_port = st.integers(1, 65535).map(str)
cidrs = lists(
    st.one_of(
        networks("ipv4").map(str),
        networks("ipv6").map(str),
        st.sampled_from(
            ("10.0.0.5/8", "10.1.2.3", "127.0.0.1/32", "fd00::5/8", "::1", "0.0.0.0/0")
        ),
    )
)
ids = lists(id_ranges.map(str), least=1)
many_ids = lists(id_ranges.map(str), most=64, least=1)
interfaces = lists(interface_names.filter(lambda name: "," not in name and "=" not in name))
servers = lists(
    st.one_of(
        networks("ipv4", shortest=32).map(lambda one: one.address),
        networks("ipv6", shortest=128).map(lambda one: one.address),
    ),
    most=3,
)
one_family_servers = st.one_of(st.just("10.0.0.10"), st.just("fd00::10,fd00::11"))
tproxy_marks = st.one_of(
    st.integers(1, 0xFFFFFFFF).map(str), st.sampled_from(("0x539", "0xffffffff", "1338", "1"))
)
tables = st.one_of(st.integers(1, 252), st.integers(256, 0xFFFFFFFF)).map(str)

COMMON = {
    "envoy-port": single_port,
    "inbound-capture-port": single_port,
    "istio-inbound-interception-mode": st.sampled_from(("REDIRECT", "TPROXY", "tproxy")),
    "istio-inbound-ports": starred(ports),
    "istio-local-exclude-ports": ports,
    "istio-service-cidr": starred(cidrs),
    "istio-service-exclude-cidr": cidrs,
    "istio-inbound-tproxy-mark": tproxy_marks,
    "istio-inbound-tproxy-route-table": tables,
    "proxy-uid": ids,
    "proxy-gid": ids,
    "ipv6": st.sampled_from(("true", "false")),
}
ONLY_NEW = {
    "inbound-tunnel-port": single_port,
    "istio-outbound-ports": ports,
    "istio-local-outbound-ports-exclude": dashed_ports,
    "istio-exclude-interfaces": interfaces,
    "kube-virt-interfaces": interfaces,
    "redirect-dns": st.sampled_from(("true", "true", "false")),
    "capture-all-dns": st.sampled_from(("true", "false", "false")),
    "dns-servers": st.one_of(servers, one_family_servers),
    "drop-invalid": st.sampled_from(("true", "false")),
    "outbound-owner-groups": st.one_of(st.just("*"), many_ids),
    "outbound-owner-groups-exclude": many_ids,
    "outbound-ipv4-loopback-cidr": st.sampled_from(("127.0.0.1/32", "127.0.0.0/8", "127.5.5.5/16")),
}


def calls() -> list[tuple[str, ...]]:
    """Return the flags of both layouts, every one used in some call and missing in another."""

    def spelled(layout: str, flags: dict[str, str]) -> tuple[str, ...]:
        return ("--layout", layout, *(f"--{name}={value}" for name, value in flags.items()))

    # Whether there is IPv6 and what resolv.conf says, the host must not decide.
    sure = ("ipv6", "dns-servers")
    new = {**COMMON, **ONLY_NEW}
    layouts = {
        "1.30": st.fixed_dictionaries(
            {name: new[name] for name in sure},
            optional={name: new[name] for name in new if name not in sure},
        ),
        "1.0": st.fixed_dictionaries({}, optional=COMMON),
    }
    shares = {"1.30": CALLS * 3 // 4, "1.0": CALLS // 4}
    return [
        spelled(layout, flags)
        for layout, strategy in layouts.items()
        for flags in drawn(strategy, shares[layout])
    ]


def sections(text: str) -> dict[str, list[str]]:
    """Return the lines of a dry run under the command that heads each of its sections."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("# "):
            lines = found.setdefault(line.removeprefix("# "), [])
        else:
            lines.append(line)
    return found


def live(pod: Namespace, command: str) -> list[str]:
    """Return what a command of a dry run prints about this program's work."""
    program, *arguments = command.split(" ")
    printed = pod.run(LEGACY.get(program, program), *arguments).stdout.splitlines()
    if program in LEGACY:
        return printed
    squeezed = [" ".join(line.split()) for line in printed]
    if "rule" in arguments:
        return [line for line in squeezed if "fwmark" in line]
    if "addr" in arguments:
        return [line for line in squeezed if line.startswith("inet6") and "::1/128" not in line]
    return squeezed


def touched(command: str) -> set[str]:
    """Return the sections of a snapshot that a section of a dry run speaks of."""
    match command.split(" "):
        case [("iptables" | "ip6tables") as program, "-t", table, "-S"]:
            return {f"{LEGACY[program]} {table}"}
        case ["ip", family, ("rule" | "route") as what, "show", *_]:
            return {f"ip {family} {what}"}
        case ["ip", "addr", "show", "dev", "lo"]:
            # The kernel adds routes of its own for an address.
            return {"ip address", "ip -6 route"}
        case _:
            raise AssertionError(command)


@pytest.mark.parametrize("share", range(SHARES))
def test_the_kernel_shows_what_a_dry_run_printed(share: int) -> None:
    with Namespace() as pod:
        before = counted(pod)
    for flags in calls()[share::SHARES]:
        with Namespace() as pod:
            printed = sections(pod.init(*flags, "--dry-run").stdout)
            assert tables_in_use(pod) == ""
            pod.init(*flags)
            used = tables_in_use(pod).split()
            for command, lines in printed.items():
                assert live(pod, command) == lines, (command, flags)
            after = counted(pod)
            pod.init("clean", *flags)
            cleaned = counted(pod)

        names = {section for command in printed for section in touched(command)}
        assert {section for section in before if after[section] != before[section]} <= names, flags
        # Other tables were not even read, which would create them.
        tables = [command.split(" ")[2] for command in printed if command.endswith(" -S")]
        assert sorted(used) == sorted(tables), flags
        assert cleaned == before, flags


def test_the_calls_leave_no_flag_out() -> None:
    given = {word.partition("=")[0] for flags in calls() for word in flags}

    assert len(calls()) == CALLS
    assert given == {"--layout", "1.30", "1.0", *(f"--{name}" for name in {**COMMON, **ONLY_NEW})}


@pytest.mark.parametrize("count", [1000, 5000])
def test_thousands_of_ranges_fit(count: int) -> None:
    ranges = [f"10.{number >> 8}.{number & 255}.0/24" for number in range(count)]
    with Namespace() as pod:
        flags = ("istio-iptables", "-i", "*", "-x", ",".join(ranges), "--no-ipv6")
        printed = sections(pod.init(*flags, "--dry-run").stdout)
        pod.init(*flags)
        shown = pod.rules("ipv4", "nat")
        again = pod.init(*flags)
        pod.init("clean")
        cleaned = pod.rules("ipv4", "nat")

    assert shown == printed["iptables -t nat -S"]
    left_alone = [line for line in shown if line.startswith("-A ISTIO_OUTPUT -d 10.")]
    assert left_alone == [f"-A ISTIO_OUTPUT -d {one} -j RETURN" for one in ranges]
    assert "already in place" in again.stderr
    assert all(line.startswith("-P") for line in cleaned)


HOST_FILES = ("passwd", "group", "services", "resolv.conf")
# The program may open none of these files, and would say so.
UNREADABLE = """\
install --mode=000 /dev/null {folder}/trap
for file in {files}; do mount --bind {folder}/trap /etc/$file; done
exec setpriv --reuid=1337 --regid=1337 --clear-groups env --ignore-environment PATH= "$0" "$@"
"""


def test_a_dry_run_needs_neither_privileges_nor_files(tmp_path: Path) -> None:
    flags = ("-u", "1337", "-g", "1337", "-i", "*", "-b", "80", "--dry-run")
    new = ("istio-iptables", "--no-ipv6", "--redirect-dns", "--dns-servers", "10.0.0.10", *flags)
    present = [file for file in HOST_FILES if Path("/etc", file).exists()]
    trap = UNREADABLE.format(folder=tmp_path, files=" ".join(present))
    with Namespace() as pod:

        def trapped(*arguments: str) -> CompletedProcess[str]:
            return pod.run("unshare", "--mount", "sh", "-e", "-c", trap, *arguments, check=False)

        for call in (flags, new):
            expected = pod.init(*call)
            done = trapped(program_for_all(), *call)
            assert done.returncode == 0, done.stderr
            assert done.stdout == expected.stdout
        # The traps do shut.
        caught = trapped(program_for_all(), *flags, "-g", "somegroup")
        tables = tables_in_use(pod)

    assert "Permission denied" in caught.stderr
    assert tables == ""
