"""How large the image and its parts are, and what docs/container.md says of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.container.runtime import Image

WHOLE, COMPRESSED = "the image", "the image, compressed"
# The first pattern that a file's path has decides which part it belongs to.
_PARTS = {
    "licences, package lists, names": r"^(\./)?(usr/share|var|etc)/",
    "istio-init": r"python3\.\d+/istio_init/|usr/bin/istio-i",
    "its libraries: click, python-iptables": (
        r"python3\.\d+/(click|iptc|python_iptables|libxtwrapper)"
    ),
    "Python's standard library, what is used of it": r"python3\.\d+/",
    "Python's interpreter": r"usr/bin/python3",
    "iptables and nft with their libraries": (
        r"sbin/|xtables|lib(ip[46]tc|nftables|nftnl|mnl|netfilter_conntrack|nfnetlink)\."
        r"|lib(gmp|jansson|edit|tinfo|bsd|md)\."
    ),
    "the C library, zlib, libffi and others": r"",
}
_ROW = re.compile(r"^\| ([^|]+) \| +([\d.]+) \|$", re.MULTILINE)
_BLOCK = re.compile(r"<!-- image -->\n(.*?)<!-- end of image -->", re.DOTALL)


def parts(image: Image) -> dict[str, int]:
    """Return the size of each part, of the whole and of its archive, in bytes."""
    found = dict.fromkeys(_PARTS, 0)
    for file in image.files:
        part = next(name for name, pattern in _PARTS.items() if re.search(pattern, file.name))
        found[part] += file.size
    found[WHOLE] = sum(found.values())
    found[COMPRESSED] = sum(layer["size"] for layer in image.layers)
    return found


def megabytes(size: int) -> float:
    return round(size / 10**6, 1)


def table(image: Image) -> str:
    """Return the lines of docs/container.md's table."""
    return "".join(f"| {name} | {megabytes(size)} |\n" for name, size in parts(image).items())


def shown(readme: str) -> dict[str, float]:
    """Return the sizes that docs/container.md states, in megabytes."""
    block = _BLOCK.search(readme)
    assert block, "docs/container.md states no sizes"
    return {name: float(size) for name, size in _ROW.findall(block[1])}
