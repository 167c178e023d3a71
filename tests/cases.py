"""One table of cases for every level of the tests.

A case is a call and the state it must lead to in an empty namespace. The
conformance cases were taken from kernels after the original programs had run;
the calls beside them reach what those leave out. Flags say all that the host
would, so that every machine gives the same rules.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

CONFORMANCE = Path(__file__).parent / "conformance"


@dataclass(frozen=True)
class Call:
    """A call of ``istio-init``; its name begins with the layout it asks for."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str]

    @property
    def layout(self) -> str:
        """The layout whose rules the call builds."""
        return self.name.partition("-")[0]

    @property
    def claim(self) -> tuple[str, ...]:
        """The flags without which nobody can tell the rules of ``-c`` from those of others."""
        given = dict(zip(self.argv, self.argv[1:], strict=False))
        names = given.get("-c") or self.env.get("ISTIO_EXCLUDE_INTERFACES")
        return ("-c", names) if names else ()

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Case(Call):
    """A call of ``istio-init`` and the state of a namespace after it."""

    expected: dict[str, Any]

    @property
    def route_table(self) -> str:
        """The route table whose routes ``expected`` lists."""
        return self.env.get("ISTIO_INBOUND_TPROXY_ROUTE_TABLE", "133")


def _read(path: Path) -> Case:
    data = json.loads(path.read_text(encoding="utf-8"))
    return Case(data["name"], tuple(data["argv"]), data["env"], data["expected"])


CASES = tuple(_read(path) for path in sorted(CONFORMANCE.glob("*.json")))


# A rule with 64 matches: more than any iptables-restore can read.
GROUPS_64 = ",".join(str(gid) for gid in range(4000, 4064))

# Name, arguments after ``istio-init`` as a shell reads them, environment.
_MORE: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("1.0-by-layout-flag", "istio-iptables --layout 1.0 -u 1337 -b '*'", {}),
    ("1.0-exclude-everything", "-u 1337 -i '*' -x 0.0.0.0/0", {}),
    ("1.0-families-mixed", "-u 1337 -i 10.0.0.0/8,fd00::/8 -x fd01::/32,10.1.0.0/16", {}),
    ("1.0-families-ipv6-alone", "-u 1337 -i fd00::/8", {}),
    ("1.0-ids-ranges", "-u 1000-2000,0 -g 4294967294 -b 80", {}),
    ("1.0-tproxy-own-mark", "-u 1337 -m tproxy -b 8000-8010 -t 0x2a -p 15011 -z 15016", {}),
    ("1.0-tproxy-without-ports", "-u 1337 -m TPROXY -i '*'", {}),
    ("1.30-by-layout-variable", "-u 1337 --no-ipv6", {"ISTIO_INIT_LAYOUT": "1.30"}),
    (
        "1.30-template",
        (
            "istio-iptables -p 15001 -z 15006 -u 1337 -m REDIRECT -i '*' -x '' -b '*' "
            "-d 15090,15021,15020 --log_output_level=default:info --no-ipv6"
        ),
        {},
    ),
    (
        "1.30-template-dual-stack",
        (
            "istio-iptables -p 15001 -z 15006 -u 1337 -m REDIRECT -i '*' -x '' -b '*' "
            "-d 15090,15021,15020 --log_output_level=default:info --dual-stack --ipv6"
        ),
        {},
    ),
    (
        "1.30-ports-of-its-own",
        "istio-iptables -u 1337 -p 15011 -z 15016 -e 15018 -b 80 -i '*' --no-ipv6",
        {},
    ),
    ("1.30-ids-ranges", "istio-iptables -u 1000-2000 -g 0,3000-4000 --no-ipv6", {}),
    (
        "1.30-tproxy-list",
        "istio-iptables -u 1337 -m TPROXY -b 80,8000-8010 -t 0x2a -c eth9,eth+ -i '*' --ipv6",
        {},
    ),
    ("1.30-tproxy-without-ports", "istio-iptables -u 1337 -m TPROXY -i '*' --no-ipv6", {}),
    (
        "1.30-tproxy-with-everything",
        (
            "istio-iptables -u 1337 -g 2000 -m TPROXY -b '*' -d 15090,9000:9010 -o 25 -q 443 "
            "-c eth9 -k eth1 -i 10.0.0.0/8,fd00::/8 -x 10.1.0.0/16,fd01::/32 --drop-invalid "
            "--redirect-dns --dns-servers 10.96.0.10,fd00::a --ipv6"
        ),
        {"ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": "202"},
    ),
    (
        "1.30-dns-capture-all",
        "istio-iptables -u 1337 --redirect-dns --capture-all-dns -i '*' --ipv6",
        {},
    ),
    (
        "1.30-dns-ipv4-servers-alone",
        "istio-iptables -u 1337 --redirect-dns --dns-servers 10.96.0.10,10.96.0.11 --ipv6",
        {},
    ),
    (
        "1.30-dns-servers-of-absent-family",
        "istio-iptables -u 1337 --redirect-dns --dns-servers fd00::a --no-ipv6",
        {},
    ),
    (
        "1.30-outbound-ports-excluded",
        "istio-iptables -u 1337 -o 25,8000-8010 -q 443,9000:9010 -i '*' --no-ipv6",
        {},
    ),
    (
        "1.30-owner-groups-excluded",
        "istio-iptables -u 1337 -i '*' --no-ipv6",
        {"ISTIO_OUTBOUND_OWNER_GROUPS": "*", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": "202,4001"},
    ),
    (
        "1.30-owner-groups-none",
        "istio-iptables -u 1337 -i '*' --no-ipv6",
        {"ISTIO_OUTBOUND_OWNER_GROUPS": ""},
    ),
    (
        "1.30-owner-groups-64",
        "istio-iptables -u 1337 -i '*' --no-ipv6",
        {"ISTIO_OUTBOUND_OWNER_GROUPS": GROUPS_64},
    ),
    ("1.30-loopback-captured", "istio-iptables -u 1337 -i 127.0.0.0/8,10.0.0.0/8 --ipv6", {}),
    (
        "1.30-virtual-interfaces-and-ranges",
        (
            "istio-iptables -u 1337 -k eth1,eth2 -c eth3 -b 80 "
            "-i 10.0.0.0/8,10.9.0.0/16,fd00::/8 --ipv6"
        ),
        {},
    ),
    ("1.30-interfaces-oddly-named", "istio-iptables -u 1337 -c 'eth+,0eth,a$b&c' --no-ipv6", {}),
    (
        "1.30-exclude-everything",
        "istio-iptables -u 1337 -i '*' -x 10.0.0.5/8,0.0.0.0/0,::/0 --ipv6",
        {},
    ),
)
CALLS: tuple[Call, ...] = (
    *CASES,
    *(Call(name, tuple(shlex.split(line)), env) for name, line, env in _MORE),
)
