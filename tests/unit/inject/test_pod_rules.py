"""The rules of injected pods, as text."""

from __future__ import annotations

import pytest

from istio_init.formats import listing
from istio_init.inject.init_container import rules_of
from istio_init.inject.pod_rules import explain_rules
from istio_init.inject.problems import InjectionError, Where

WEB = Where(kind="Deployment", namespace="shop", name="web")
INIT = {"name": "istio-init", "args": ["istio-iptables", "-u", "1337", "-i", "*", "-b", "*"]}


@pytest.mark.parametrize("ipv6", [False, True])
def test_the_planners_own_listing_below_the_workload(*, ipv6: bool) -> None:
    text = explain_rules({"initContainers": [{"name": "other"}, INIT]}, WEB, ipv6=ipv6)

    title, _, rest = text.partition("\n")
    assert title == "# Deployment shop/web: the rules that istio-init writes"
    assert rest == listing.render(rules_of(INIT, ipv6=ipv6))


def test_a_plugins_rules_are_the_same() -> None:
    validation = {
        "name": "istio-validation",
        "args": [*INIT["args"], "--run-validation", "--skip-rule-apply"],
    }

    text = explain_rules({"initContainers": [validation]}, WEB)

    assert text.startswith("# Deployment shop/web: the rules that a CNI plugin writes\n")
    assert text.partition("\n")[2] == listing.render(rules_of(INIT))


def test_what_the_planner_warns_of_is_said() -> None:
    container = {**INIT, "args": [*INIT["args"], "-x", "0.0.0.0/0"]}

    assert "\n# warning: -x 0.0.0.0/0 " in explain_rules({"initContainers": [container]}, WEB)


def test_without_an_init_container_there_are_no_rules() -> None:
    text = explain_rules({"containers": []}, Where(kind="Pod", name="\x1b"))

    assert text == "# Pod \\x1b: no init container, and so no rules\n"


def test_a_container_that_would_fail() -> None:
    with pytest.raises(InjectionError, match="Deployment shop/web"):
        explain_rules({"initContainers": [{**INIT, "args": ["-b", "0"]}]}, WEB)
