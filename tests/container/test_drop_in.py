"""The image in the place of Istio's: called by its templates, as their containers are run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cases import CASES, Case
from tests.container.runtime import Context
from tests.namespace import Namespace
from tests.snapshot import snapshot

if TYPE_CHECKING:
    from tests.container.runtime import Runtime

# What Docker and containerd give a container of which nothing is said, and what
# the template of 1.0.2 adds.
USUAL = (
    *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD"),
    *("NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
)
OLD_CONTEXT = Context((*USUAL, "NET_ADMIN"))
# The template of 1.30 drops everything and adds these.
NEW_CONTEXT = Context(("NET_ADMIN", "NET_RAW"))

# A template of 1.0.2 renders a list of ports with a comma behind each.
OLD = ("-p", "15001", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "80, ", "-d", "")
NEW = (
    *("istio-iptables", "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*"),
    *("-x", "", "-b", "*", "-d", "15090,15021,15020", "--log_output_level=default:info"),
)
# The same calls, spelled by hand and without what the pod would have to say.
OLD_RULES = """\
-P PREROUTING ACCEPT
-P INPUT ACCEPT
-P OUTPUT ACCEPT
-P POSTROUTING ACCEPT
-N ISTIO_INBOUND
-N ISTIO_IN_REDIRECT
-N ISTIO_OUTPUT
-N ISTIO_REDIRECT
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A ISTIO_INBOUND -p tcp -m tcp --dport 80 -j ISTIO_IN_REDIRECT
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15001
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -j ISTIO_REDIRECT
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
"""
NEW_RULES = """\
-P PREROUTING ACCEPT
-P INPUT ACCEPT
-P OUTPUT ACCEPT
-P POSTROUTING ACCEPT
-N ISTIO_INBOUND
-N ISTIO_IN_REDIRECT
-N ISTIO_OUTPUT
-N ISTIO_REDIRECT
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN
-A ISTIO_INBOUND -p tcp -m tcp --dport 15090 -j RETURN
-A ISTIO_INBOUND -p tcp -m tcp --dport 15021 -j RETURN
-A ISTIO_INBOUND -p tcp -m tcp --dport 15020 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 \
-j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --gid-owner 1337 \
-j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
"""
TEMPLATES = pytest.mark.parametrize(
    ("arguments", "context", "rules"),
    [(OLD, OLD_CONTEXT, OLD_RULES), (NEW, NEW_CONTEXT, NEW_RULES)],
    ids=["1.0.2", "1.30"],
)


@TEMPLATES
def test_a_template(
    runtime: Runtime, arguments: tuple[str, ...], context: Context, rules: str
) -> None:
    with Namespace() as pod:
        done = runtime.run(*arguments, pod=pod, context=context)
        assert done.returncode == 0, done.stderr
        found = pod.rules("ipv4", "nat")

    assert found == rules.splitlines()


@TEMPLATES
def test_the_kubelet_runs_it_again_in_the_same_sandbox(
    runtime: Runtime, arguments: tuple[str, ...], context: Context, rules: str
) -> None:
    """As it does when the node comes back, or a container's record has been lost."""
    with Namespace() as pod:
        runtime.run(*arguments, pod=pod, context=context)
        before = snapshot(pod)
        again = runtime.run(*arguments, pod=pod, context=context)
        after = snapshot(pod)
        # What others may have done to it meanwhile is mended.
        pod.run("iptables-legacy", "-t", "nat", "-F", "ISTIO_OUTPUT")
        mended = runtime.run(*arguments, pod=pod, context=context)
        found = pod.rules("ipv4", "nat")

    assert (again.returncode, mended.returncode) == (0, 0)
    assert "already in place" in again.stderr
    assert after == before
    assert found == rules.splitlines()


def test_templates_that_name_the_command(runtime: Runtime) -> None:
    """Some between the two have ``command`` where today's has ``args``."""
    with Namespace() as pod:
        done = runtime.run(program=NEW, pod=pod, context=NEW_CONTEXT)
        found = pod.rules("ipv4", "nat")

    assert done.returncode == 0, done.stderr
    assert found == NEW_RULES.splitlines()


def test_one_generation_follows_the_other(runtime: Runtime) -> None:
    with Namespace() as pod:
        runtime.run(*OLD, pod=pod, context=OLD_CONTEXT)
        done = runtime.run(*NEW, pod=pod, context=NEW_CONTEXT)
        found = pod.rules("ipv4", "nat")

    assert done.returncode == 0, done.stderr
    assert found == NEW_RULES.splitlines()


def test_what_it_cannot_read_it_refuses(runtime: Runtime) -> None:
    with Namespace() as pod:
        before = snapshot(pod)
        done = runtime.run(*NEW, "-x", "-b", "-o", "70000", pod=pod, context=NEW_CONTEXT)
        after = snapshot(pod)

    assert done.returncode == 2
    assert "2 bad values, nothing was changed" in done.stderr
    assert after == before


# The image has no users but root, istio-proxy and nobody.
OF_THE_IMAGE = [case for case in CASES if "ENVOY_USER" not in case.env]


@pytest.mark.parametrize("case", OF_THE_IMAGE, ids=str)
def test_the_kernel_holds_what_the_original_left(runtime: Runtime, case: Case) -> None:
    context = Context(env=tuple(f"{name}={value}" for name, value in case.env.items()))
    with Namespace() as pod:
        done = runtime.run(*case.argv, pod=pod, context=context)
        assert done.returncode == 0, done.stderr
        found = pod.state(case.route_table)

    assert found == case.expected
