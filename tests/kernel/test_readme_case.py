"""The case that the README walks through is a real one."""

from __future__ import annotations

import re
import shlex

from tests.documents import README
from tests.inside import init
from tests.kernel.test_network_namespace import sleeper
from tests.namespace import Namespace

TITLE = "## Why is this pod's traffic not intercepted?\n"
FLAGS = (
    *("istio-iptables", "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT"),
    *("-i", "*", "-b", "*", "-d", "15090,15021,15020"),
)
PID = "4711"


def parts(kind: str) -> list[str]:
    """Return the code blocks of a kind in the README's case."""
    section = README.read_text(encoding="utf-8").partition(TITLE)[2].partition("\n## ")[0]
    return re.findall(rf"```{kind}\n(.*?)```", section, re.DOTALL)


def test_what_is_said_is_what_the_readme_shows() -> None:
    shown = parts("console")
    (healing,) = parts("sh")
    assert len(shown) == 4
    with Namespace() as pod, Namespace() as node, sleeper(pod) as pid:
        init(pod, *FLAGS, "--backend", "legacy", "--no-ipv6")
        for rule in (
            "-I OUTPUT 1 -p tcp -j RETURN",
            "-I ISTIO_INBOUND 2 -p tcp --dport 8080 -j RETURN",
        ):
            pod.run("iptables-legacy", "-t", "nat", *rule.split())
        for block in shown:
            command, _, expected = block.partition("\n")
            words = shlex.split(command.replace(PID, pid))
            assert words[:2] == ["$", "istio-init"]
            done = init(node, *words[2:], code=3 if words[2] == "audit" else 0)
            assert (done.out, done.err) == (expected, "")
        for line in healing.splitlines():
            name, *words = shlex.split(line.replace(PID, pid).partition(" && ")[0])
            if name == "istio-init":
                init(node, *words)
            else:
                node.run(name, *words)
