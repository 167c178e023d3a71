"""Both gates of both generations."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.inject import policy, webhooks
from istio_init.inject.gates import DISABLED, ENABLED, RESERVED_NAMESPACES
from istio_init.inject.generation import GENERATIONS, NEW, OLD, Generation
from istio_init.inject.policy import Decision, Gate, InjectionPolicy, InjectionReason, Subject
from istio_init.inject.selectors import parse_selector
from istio_init.inject.webhooks import TAKES_PART

INJECT = TAKES_PART.inject
OLD_ENTRIES = webhooks.installation(OLD)
NEW_ENTRIES = webhooks.installation(NEW)
IN_THE_MESH = {"istio-injection": "enabled"}


def decide_old(
    namespace_labels: dict[str, str], word: str | None, given_policy: str, *, by_default: bool
) -> Decision:
    annotations = {} if word is None else {INJECT: word}
    pod = Subject(annotations=annotations, namespace_labels=namespace_labels)
    entries = webhooks.installation(OLD, by_default=by_default)
    return policy.decide(pod, InjectionPolicy(OLD, given_policy), entries)


# Namespace label, policy, annotation: injected.
SEED_TABLE = [
    ("enabled", ENABLED, None, True),
    ("enabled", ENABLED, "true", True),
    ("enabled", ENABLED, "false", False),
    ("enabled", DISABLED, None, False),
    ("enabled", DISABLED, "true", True),
    ("enabled", DISABLED, "false", False),
    *((label, given, word, False) for label, given, word in product(
        (None, "disabled"), (ENABLED, DISABLED), (None, "true", "false")
    )),
]  # fmt: skip


@pytest.mark.parametrize(("label", "given_policy", "word", "injected"), SEED_TABLE)
def test_status_table_of_1_0(
    label: str | None, given_policy: str, word: str | None, *, injected: bool
) -> None:
    labels = {} if label is None else {"istio-injection": label}

    assert decide_old(labels, word, given_policy, by_default=False).inject is injected


@pytest.mark.parametrize(("label", "given_policy", "word", "injected"), SEED_TABLE[:6])
def test_by_default_no_label_counts_as_enabled(
    label: str, given_policy: str, word: str | None, *, injected: bool
) -> None:
    assert label == "enabled"
    assert decide_old({}, word, given_policy, by_default=True).inject is injected
    assert not decide_old(
        {"istio-injection": "disabled"}, word, given_policy, by_default=True
    ).inject


@pytest.mark.parametrize(
    ("word", "yes"),
    [
        *((word, True) for word in ("y", "yes", "true", "on", "Y", "TRUE", "On")),
        *((word, False) for word in ("t", "1", " true", "n", "off", "0", "enabled")),
    ],
)
@pytest.mark.parametrize("given_policy", [ENABLED, DISABLED])
def test_words_of_1_0(word: str, given_policy: str, *, yes: bool) -> None:
    decision = decide_old(IN_THE_MESH, word, given_policy, by_default=False)

    assert decision.inject is yes
    assert bool(decision.warnings) is (word in ("t", "1", " true", "0", "enabled"))


@pytest.mark.parametrize("given_policy", [ENABLED, DISABLED])
def test_an_empty_annotation_of_1_0_leaves_it_to_the_policy(given_policy: str) -> None:
    decision = decide_old(IN_THE_MESH, "", given_policy, by_default=False)

    assert decision.inject is (given_policy == ENABLED)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("given_policy", ["", "Enabled", "ENABLED", "wrong", "true"])
def test_a_policy_of_another_spelling_injects_nobody(
    generation: Generation, given_policy: str
) -> None:
    pod = Subject(labels={INJECT: "true"}, annotations={INJECT: "true"})

    decision = policy.decide(pod, InjectionPolicy(generation, given_policy))

    assert not decision.inject
    assert decision.reason is InjectionReason.POLICY_INVALID
    assert "inject config" in decision.remedy.text


@pytest.mark.parametrize("generation", GENERATIONS)
def test_host_network_comes_first(generation: Generation) -> None:
    pod = Subject({INJECT: "true"}, {INJECT: "true"}, host_network=True, namespace="kube-system")

    decision = policy.decide(pod, InjectionPolicy(generation, ENABLED))

    assert (decision.inject, decision.reason) == (False, InjectionReason.HOST_NETWORK)
    assert len(decision.steps) == 1
    assert not decision.remedy.edits


@pytest.mark.parametrize(
    ("generation", "own", "of_request", "inject"),
    [
        *((OLD, name, "", False) for name in RESERVED_NAMESPACES[OLD]),
        *((NEW, name, "", False) for name in RESERVED_NAMESPACES[NEW]),
        *((NEW, "", name, False) for name in RESERVED_NAMESPACES[NEW]),
        *((OLD, "", name, True) for name in RESERVED_NAMESPACES[OLD]),
        (OLD, "kube-node-lease", "", True),
        (NEW, "shop", "kube-system", True),
    ],
)
def test_reserved_namespaces(
    generation: Generation, own: str, of_request: str, *, inject: bool
) -> None:
    pod = Subject(annotations={INJECT: "true"}, namespace=own, request_namespace=of_request)

    decision = policy.decide(pod, InjectionPolicy(generation, ENABLED))

    assert decision.inject is inject
    assert (decision.reason is InjectionReason.RESERVED_NAMESPACE) is not inject


TEAM_A = parse_selector({"matchLabels": {"team": "a"}})


@pytest.mark.parametrize(
    ("pod", "reason"),
    [
        (Subject(), InjectionReason.POLICY_DISABLED),
        (Subject({"team": "a"}), InjectionReason.NEVER_SELECTOR),
        (Subject({"job": "x"}), InjectionReason.ALWAYS_SELECTOR),
        (Subject({"team": "a", "job": "x"}), InjectionReason.NEVER_SELECTOR),
        (Subject({"team": "a", INJECT: "true"}), InjectionReason.LABEL_TRUE),
        (Subject({"job": "x", INJECT: "false"}), InjectionReason.LABEL_FALSE),
        (Subject({"job": "x"}, {INJECT: "false"}), InjectionReason.ANNOTATION_FALSE),
        (Subject({"team": "a"}, {INJECT: "true"}), InjectionReason.ANNOTATION_TRUE),
        # The label wins, also where it says nothing.
        (Subject({INJECT: ""}, {INJECT: "true"}), InjectionReason.POLICY_DISABLED),
        (Subject({INJECT: "yes"}, {INJECT: "true"}), InjectionReason.POLICY_DISABLED),
        (Subject({INJECT: "false"}, {INJECT: "true"}), InjectionReason.LABEL_FALSE),
    ],
)
def test_order_of_the_injectors_rules(pod: Subject, reason: InjectionReason) -> None:
    always = parse_selector({"matchExpressions": [{"key": "job", "operator": "Exists"}]})
    settings = InjectionPolicy(NEW, DISABLED, (TEAM_A,), (always,))

    decision = policy.decide(pod, settings)

    assert decision.reason is reason
    assert decision.steps[-1].verdict is decision.inject
    assert all(step.verdict is None for step in decision.steps[:-1])


@pytest.mark.parametrize(
    ("pod", "reason", "remedy"),
    [
        (
            Subject(request_namespace="shop"),
            InjectionReason.NAMESPACE_NOT_LABELLED,
            (
                "set the namespace label istio-injection=enabled "
                "(kubectl label namespace shop istio-injection=enabled --overwrite)"
            ),
        ),
        (
            Subject(namespace_labels={"istio-injection": "true"}),
            InjectionReason.NAMESPACE_DISABLED,
            (
                "set the namespace label istio-injection=enabled "
                "(kubectl label namespace NAMESPACE istio-injection=enabled --overwrite)"
            ),
        ),
        (
            Subject(namespace_labels={"istio.io/rev": "canary"}),
            InjectionReason.OTHER_REVISION,
            (
                "set the namespace label istio.io/rev=default "
                "(kubectl label namespace NAMESPACE istio.io/rev=default --overwrite)"
            ),
        ),
        (
            Subject({INJECT: "false"}, namespace_labels=IN_THE_MESH),
            InjectionReason.LABEL_FALSE,
            (
                "remove the pod label sidecar.istio.io/inject; "
                "a controller's pods take theirs from the pod template"
            ),
        ),
        (
            Subject(annotations={INJECT: "false"}, namespace_labels=IN_THE_MESH),
            InjectionReason.ANNOTATION_FALSE,
            (
                "remove the pod annotation sidecar.istio.io/inject; "
                "a controller's pods take theirs from the pod template"
            ),
        ),
        (
            Subject(namespace_labels={"istio.io/rev": "x"}, host_network=True),
            InjectionReason.OTHER_REVISION,
            "remove hostNetwork from the pod's spec; a pod in the host network is never injected",
        ),
        (
            Subject({"istio.io/rev": "x"}, request_namespace="kube-system"),
            InjectionReason.OTHER_REVISION,
            "run it in another namespace; pods of this one are never injected",
        ),
    ],
)
def test_reason_and_remedy(pod: Subject, reason: InjectionReason, remedy: str) -> None:
    decision = policy.decide(pod, InjectionPolicy(NEW), NEW_ENTRIES)

    assert (decision.reason, decision.remedy.text) == (reason, remedy)


def test_an_annotation_can_only_opt_out() -> None:
    """The text says so to whoever tried."""
    decision = policy.decide(
        Subject(annotations={INJECT: "true"}), InjectionPolicy(NEW), NEW_ENTRIES
    )

    assert not decision.inject
    assert "annotation sidecar.istio.io/inject can only opt out" in decision.text


def test_without_a_webhook_nobody_is_injected() -> None:
    decision = policy.decide(Subject(namespace_labels=IN_THE_MESH), InjectionPolicy(NEW), ())

    assert decision.reason is InjectionReason.NO_WEBHOOK
    assert "istio-init inject" in decision.remedy.text


def test_a_tag_is_a_way_in() -> None:
    entries = webhooks.installation(NEW, revision="1-30", tags=("prod",))
    pod = Subject(namespace_labels={"istio.io/rev": "prod"})

    decision = policy.decide(pod, InjectionPolicy(NEW), entries)

    assert decision.inject
    assert decision.entries == ("rev.namespace.sidecar-injector.istio.io",)
    assert len([step for step in decision.steps if step.result == "matches"]) == 1


def test_by_hand() -> None:
    """1.0 asks for the host network alone; 1.30 for the pod's own word and namespace too."""
    out = Subject(annotations={INJECT: "false"}, namespace="kube-system")

    assert policy.decide_by_hand(out, OLD).reason is InjectionReason.BY_HAND
    assert policy.decide_by_hand(out, NEW).reason is InjectionReason.RESERVED_NAMESPACE
    outer = Subject(request_namespace="kube-system")
    assert policy.decide_by_hand(outer, NEW).reason is InjectionReason.POLICY_ENABLED
    for generation in GENERATIONS:
        in_host = policy.decide_by_hand(Subject(host_network=True), generation)
        assert in_host.reason is InjectionReason.HOST_NETWORK


def test_selectors_that_kubernetes_refuses_are_passed_over_and_named() -> None:
    config = {
        "policy": ENABLED,
        "neverInjectSelector": [{}, {"matchExpressions": [{"key": "a", "operator": "Like"}]}],
        "alwaysInjectSelector": {"matchLabels": {}},
    }

    settings = policy.policy_of(config, NEW)
    decision = policy.decide(Subject(), settings)

    assert (settings.never, settings.always) == ((), ())
    assert len(settings.passed_over) == 3
    assert decision.inject
    assert len(decision.warnings) == 3


def test_1_0_has_no_selectors() -> None:
    config = {"policy": ENABLED, "neverInjectSelector": [{"matchLabels": {"team": "a"}}]}

    settings = policy.policy_of(config, OLD)

    assert policy.decide(Subject({"team": "a"}), settings).inject


def test_a_policy_that_is_no_text_is_none() -> None:
    assert policy.policy_of({"policy": True}, NEW).policy == ""
    assert policy.policy_of({}, OLD).policy == ""


def test_what_is_no_text_is_read_as_istio_reads_it() -> None:
    metadata = {
        "namespace": 7,
        "labels": {INJECT: True, "x": None, 1: 2},
        "annotations": ["none"],
    }

    pod = policy.subject_of(metadata, {"hostNetwork": "true"}, namespace="shop")

    assert pod == Subject({INJECT: "true", "x": "", "1": "2"}, request_namespace="shop")


def test_selectors_that_are_no_list_are_passed_over() -> None:
    settings = policy.policy_of({"policy": ENABLED, "neverInjectSelector": "team=a"}, NEW)

    assert settings.passed_over == ('neverInjectSelector is a list of selectors, not "team=a"',)


def entry(**settings: object) -> webhooks.WebhookEntry:
    """Return the entry of a configuration that is nobody's chart."""
    name = f"ours.{webhooks.SUFFIX}"
    rule = {"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]}
    webhook = {"name": name, "rules": [rule], **settings}
    data = {"kind": "MutatingWebhookConfiguration", "webhooks": [webhook]}
    (only,), _ = webhooks.entries_of(data)
    return only


def needs(key: str, operator: str, *values: str) -> dict[str, object]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("settings", "pod", "text"),
    [
        ({"objectSelector": needs("mesh", "Exists")}, Subject(), "set the pod label mesh=true;"),
        (
            {"objectSelector": needs("mesh", "NotIn", "no")},
            Subject({"mesh": "no"}),
            "remove the pod label mesh;",
        ),
        (
            {"namespaceSelector": needs("team", "In", "a", "b")},
            Subject(),
            "set the namespace label team=a (",
        ),
        (
            {"namespaceSelector": needs("kubernetes.io/metadata.name", "NotIn", "shop")},
            Subject(namespace="shop"),
            "no label or annotation leads into the mesh here",
        ),
        ({"rules": []}, Subject(), "no label or annotation leads into the mesh here"),
    ],
)
def test_remedies_for_entries_of_others(
    settings: dict[str, object], pod: Subject, text: str
) -> None:
    decision = policy.decide(pod, InjectionPolicy(NEW), (entry(**settings),))

    assert not decision.inject
    assert decision.remedy.text.startswith(text)


def test_entries_that_do_not_name_pods_or_have_conditions_say_so() -> None:
    both = (entry(rules=[]), entry(matchConditions=[{"name": "x"}]))

    first, second, *_ = policy.decide(Subject(), InjectionPolicy(NEW), both).steps

    assert first.result == "does not match: its rules do not name the creation of pods"
    assert second.result == "matches, if its matchConditions do, which are not evaluated here"


words = st.sampled_from(["true", "false", "", "yes", "enabled", "default", "canary", "\x1b[31m"])
keys = st.sampled_from([INJECT, "istio.io/rev", "istio-injection", "team"])
labels = st.dictionaries(keys, words)
installations = st.sampled_from(
    [
        None,
        NEW_ENTRIES,
        OLD_ENTRIES,
        webhooks.installation(NEW, revision="canary", tags=("default",)),
        webhooks.installation(NEW, by_default=True),
    ]
)
policies = st.builds(
    InjectionPolicy,
    st.sampled_from(GENERATIONS),
    st.sampled_from([ENABLED, DISABLED, "\x1b]0;"]),
    st.sampled_from([(), (TEAM_A,), (parse_selector({"matchLabels": {"team": "true"}}),)]),
    st.sampled_from([(), (parse_selector({"matchLabels": {"team": "true"}}),)]),
)
subjects = st.builds(
    Subject,
    labels,
    labels,
    host_network=st.booleans(),
    namespace=st.sampled_from(["", "shop", "kube-system"]),
    request_namespace=st.sampled_from(["", "shop", "kube-public"]),
    namespace_labels=labels,
)


@given(subjects, policies, installations)
def test_every_decision_has_a_reason_that_can_be_printed_and_a_remedy_that_works(
    pod: Subject,
    settings: InjectionPolicy,
    entries: tuple[webhooks.WebhookEntry, ...] | None,
) -> None:
    decision = policy.decide(pod, settings, entries)

    assert decision.text.isprintable()
    assert all(step.result.isprintable() for step in decision.steps)
    assert bool(decision.remedy) is not decision.inject
    assert decision.steps
    if decision.remedy.edits:
        assert policy.decide(pod.edited(decision.remedy.edits), settings, entries).inject
    if decision.gate is Gate.WEBHOOK:
        assert entries is not None
        assert not any(one.matches(pod.labels_of_namespace, pod.labels) for one in entries)
