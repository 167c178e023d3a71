"""The commands: what each is for, its help and its examples.

A command with a module of its own takes one entry in COMMANDS, with the module's name.
The module has a function ``command()`` that returns the click command; it is imported
when the command is called, completed or asked for its own help.
"""

from __future__ import annotations

from istio_init.cli.packet import INBOUND, OUTBOUND
from istio_init.config.model import APPLY, CLEAN, ISTIO_IPTABLES
from istio_init.lean import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from istio_init.cli.packet import Direction

AUDIT = "audit"
DOCTOR = "doctor"
EXPLAIN = "explain"
INJECT_MANIFEST = "inject"
UNINJECT = "uninject"
# Other names of commands, for those who come from other programs.
ALIASES = {"kube-inject": INJECT_MANIFEST}
CHECK_INJECT = "check-inject"
WEBHOOK = "webhook"
COMPLETION = "completion"

CHANGE = "Change the rules"
LOOK = "Look, and change nothing"
INJECT = "Inject the sidecar"
SHELL = "For your shell"
# The sections of the help, in order; those without a command are left out.
PURPOSES = (CHANGE, LOOK, INJECT, SHELL)


class CommandHelp(Record):
    """What the help says of a command.

    ``help`` is one paragraph, whose first sentence stands in the list of commands;
    the first of ``examples`` stands in the help of the program. ``module`` is
    imported for a command that is not among those of ``click_app``.
    """

    name: str
    purpose: str
    help: str
    examples: tuple[str, ...]
    module: str = ""

    @property
    def summary(self) -> str:
        """The first sentence of the help."""
        first, _, _ = self.help.partition(". ")
        return first.removesuffix(".") + "."


COMMANDS: tuple[CommandHelp, ...] = (
    CommandHelp(
        APPLY,
        CHANGE,
        "Put the rules of layout 1.0 in place (layout 1.30 with --layout).",
        (
            "istio-init -p 15001 -u 1337 -m REDIRECT -i '*' -x '' -b 80 -d ''",
            "istio-init -u 1337 -i 10.0.0.0/8 -b '*' --dry-run --format save",
        ),
    ),
    CommandHelp(
        ISTIO_IPTABLES,
        CHANGE,
        "Put the rules of layout 1.30 in place, called as Istio calls it.",
        (
            (
                "istio-init istio-iptables -p 15001 -z 15006 -u 1337 -m REDIRECT -i '*' -b '*' "
                "-d 15090"
            ),
            "istio-init istio-iptables -i '*' -b '*' --no-ipv6 --dry-run",
            "istio-init istio-iptables -i '*' -b '*' --skip-rule-apply --run-validation",
        ),
    ),
    CommandHelp(
        CLEAN,
        CHANGE,
        "Remove every rule of istio-init or of an earlier sidecar, whatever flags built it.",
        ("istio-init clean", "istio-init clean --network-namespace 4711 --dry-run"),
    ),
    CommandHelp(
        AUDIT,
        LOOK,
        "Compare the live rules with the planned ones, and explain each difference. Takes the "
        "flags of the run; without any it infers them from the live rules.",
        (
            "istio-init audit --network-namespace 4711",
            "istio-init audit istio-iptables -p 15001 -z 15006 -u 1337 -i '*' -b '*' -d 15090",
            "istio-init audit --all",
            "istio-init audit --all --format prometheus --output /var/lib/node_exporter/istio.prom",
        ),
    ),
    CommandHelp(
        EXPLAIN,
        LOOK,
        "Follow one packet through the rules, and say where it goes and why.",
        (
            "istio-init explain outbound --to 10.1.2.3:443 --uid 1000 --live",
            (
                "istio-init explain inbound --from 10.0.0.9 --to-port 8080 istio-iptables -b '*' "
                "-d 15090"
            ),
        ),
    ),
    CommandHelp(
        DOCTOR,
        LOOK,
        "Check whether this host can apply the plan; write nothing. Takes the flags of the run; "
        "without any it plans what Istio's injection template asks for.",
        ("istio-init doctor", "istio-init doctor istio-iptables -m TPROXY -b '*' --ipv6"),
    ),
    CommandHelp(
        INJECT_MANIFEST,
        INJECT,
        (
            "Put the sidecar and its init container into the workloads of manifests. Changes "
            "nothing but what it adds. Asks no cluster unless --from-cluster says so. Without a "
            "configuration of your own the built-in one is used. Ends with 2 for bad input; then "
            "nothing is written."
        ),
        (
            "istio-init inject -f app.yaml | kubectl apply -f -",
            (
                "istio-init inject -f app.yaml --inject-config c.yaml --values v.json "
                "--mesh-config m.yaml"
            ),
            "istio-init inject -f manifests/ --in-place --diff",
            "istio-init inject -f app.yaml --explain-rules",
            "istio-init inject --print-config",
        ),
        module="istio_init.cli.inject",
    ),
    CommandHelp(
        UNINJECT,
        INJECT,
        (
            "Take the sidecar and its init container out of manifests again, whoever injected "
            "them. Text that istio-init injected comes back byte for byte; of what istioctl or a "
            "cluster injected, the values come back."
        ),
        (
            "istio-init uninject -f injected.yaml",
            "istio-init uninject -f injected.yaml -o app.yaml",
            "istio-init uninject -f manifests/ --in-place",
        ),
        module="istio_init.cli.uninject",
    ),
    CommandHelp(
        CHECK_INJECT,
        INJECT,
        (
            "Say for each workload of a manifest whether its pods would be injected, and why. "
            "Asks no cluster unless --from-cluster says so. Ends with 0 whatever the answer, with "
            "2 for bad input and pods that would be refused; with --require, with 3 if any is not "
            "injected."
        ),
        (
            "istio-init check-inject -f app.yaml --namespace-labels istio-injection=enabled",
            "istio-init check-inject -f app.yaml --namespace-labels istio.io/rev=a -r a --explain",
            "istio-init check-inject -f app.yaml --from-cluster --context prod --format json",
            "istio-init check-inject --table --release 1.0",
        ),
        module="istio_init.cli.check_inject",
    ),
    CommandHelp(
        WEBHOOK,
        INJECT,
        (
            "Serve the admission webhook, which injects pods of labelled namespaces as they are "
            "created. Ends with 0 after SIGTERM, once every review is answered."
        ),
        (
            "istio-init webhook --tls-cert-file tls.crt --tls-private-key-file tls.key",
            "istio-init webhook --inject-config config --values values --manage-certificates",
        ),
        module="istio_init.cli.webhook",
    ),
    CommandHelp(
        COMPLETION,
        SHELL,
        "Print the script by which a shell completes commands, flags and their values.",
        ("istio-init completion bash >/etc/bash_completion.d/istio-init",),
    ),
)
# What the help says of each direction of a packet that is explained, with examples.
DIRECTIONS: dict[Direction, tuple[str, tuple[str, ...]]] = {
    OUTBOUND: (
        "Explain where a packet goes that a process of the pod sends.",
        (
            "istio-init explain outbound --to 10.1.2.3:443 --uid 1000 istio-iptables -x 10.0.0.0/8",
            "istio-init explain outbound --to [fd00::a]:53 --udp --uid 1000 --live",
            "istio-init explain outbound --to 10.1.2.3:443 --live --network-namespace 4711",
        ),
    ),
    INBOUND: (
        "Explain where a packet goes that comes into the pod.",
        (
            (
                "istio-init explain inbound --from 10.0.0.9 --to-port 8080 istio-iptables -b '*' "
                "-d 15090"
            ),
            (
                "istio-init explain inbound --from 10.0.0.9 --to-port 8080 --via eth1 --live "
                "--format json"
            ),
        ),
    ),
}
BY_NAME = {command.name: command for command in COMMANDS}

EXIT_CODES = (
    ("0", "done, or already in place; audit and doctor found no problem"),
    ("1", "could not apply, clean or look; the previous rules are back in place"),
    ("2", "bad input; nothing was changed"),
    ("3", "audit found drift; with --require, a pod would not be injected"),
    ("126", "validation failed"),
)
