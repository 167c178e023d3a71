"""The two files of layout 1.0: what they set, what they beat, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from istio_init.config.options import CLUSTER_FILE, SIDECAR_FILE
from istio_init.rules.ranges import IdRange, PortRange
from tests.unit.calls import asked, call, refused

CLUSTER, SIDECAR = CLUSTER_FILE[0], SIDECAR_FILE[0]


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    return tmp_path / "cluster.env"


@pytest.fixture
def sidecar(tmp_path: Path) -> Path:
    return tmp_path / "sidecar.env"


@pytest.fixture
def env(cluster: Path, sidecar: Path) -> dict[str, str]:
    return {CLUSTER: str(cluster), SIDECAR: str(sidecar)}


def test_files_are_found_where_the_original_looks() -> None:
    assert CLUSTER_FILE == ("ISTIO_CLUSTER_CONFIG", "/var/lib/istio/envoy/cluster.env")
    assert SIDECAR_FILE == ("ISTIO_SIDECAR_CONFIG", "/var/lib/istio/envoy/sidecar.env")


def test_missing_files_set_nothing(env: dict[str, str], tmp_path: Path) -> None:
    assert asked(env=env) == asked()
    (tmp_path / "file").touch()
    assert asked(env={CLUSTER: str(tmp_path / "file" / "below")}) == asked()


@pytest.mark.parametrize(
    "line",
    [
        "ISTIO_SERVICE_CIDR=10.0.0.0/8",
        "  ISTIO_SERVICE_CIDR=10.0.0.0/8  ",
        "export ISTIO_SERVICE_CIDR=10.0.0.0/8",
        "export\tISTIO_SERVICE_CIDR=10.0.0.0/8",
        "export   ISTIO_SERVICE_CIDR=10.0.0.0/8",
        "ISTIO_SERVICE_CIDR='10.0.0.0/8'",
        'ISTIO_SERVICE_CIDR="10.0.0.0/8"',
        "ISTIO_SERVICE_CIDR=10.0.0.0/8 # the cluster's",
        "ISTIO_SERVICE_CIDR=10.0.0.0/8\t#",
        "ISTIO_SERVICE_CIDR='10.0.0.0/8'   # the cluster's",
        "# a comment\n\n   # another\nISTIO_SERVICE_CIDR=10.0.0.0/8\r\n#",
        "#ISTIO_SERVICE_CIDR=fd00::/8\nISTIO_SERVICE_CIDR=10.0.0.0/8",
        "ISTIO_SERVICE_CIDR=fd00::/8\nISTIO_SERVICE_CIDR=10.0.0.0/8",
        "UNKNOWN=a=b=c\nISTIO_SERVICE_CIDR=10.0.0.0/8",
    ],
)
def test_lines_are_key_and_value(cluster: Path, env: dict[str, str], line: str) -> None:
    cluster.write_text(line)

    assert asked(env=env) == asked("-i", "10.0.0.0/8")


@pytest.mark.parametrize(
    ("line", "on"),
    [
        ("ENABLE_INBOUND_IPV6=false", True),
        ("ENABLE_INBOUND_IPV6='#'", True),
        ("ENABLE_INBOUND_IPV6=#", True),
        ('ENABLE_INBOUND_IPV6="', True),
        ("ENABLE_INBOUND_IPV6='a", True),
        ("ENABLE_INBOUND_IPV6='a'b", True),
        ("ENABLE_INBOUND_IPV6=", False),
        ("ENABLE_INBOUND_IPV6=''", False),
        ("ENABLE_INBOUND_IPV6= # off for now", False),
        ("ENABLE_INBOUND_IPV6=''  # off for now", False),
        ("# ENABLE_INBOUND_IPV6=1", False),
    ],
)
def test_comment_is_no_value(sidecar: Path, env: dict[str, str], line: str, *, on: bool) -> None:
    sidecar.write_text(line)

    assert asked(env=env).config.ipv6 is on


def test_quotes_keep_what_stands_in_them(cluster: Path, env: dict[str, str]) -> None:
    cluster.write_text("NETWORK_NAMESPACE=' a # b \"c\" '  # d")

    assert asked(env=env).run.network_namespace == ' a # b "c" '


def test_sidecar_beats_cluster_beats_environment_and_a_flag_beats_all(
    cluster: Path, sidecar: Path, env: dict[str, str]
) -> None:
    def found(*argv: str) -> int:
        return asked(*argv, env=env).config.outbound_port

    env["ENVOY_PORT"] = "1"
    assert found() == 1
    cluster.write_text("ENVOY_PORT=2")
    assert found() == 2
    sidecar.write_text("ENVOY_PORT=3")
    assert found() == 3
    assert found("-p", "4") == 4
    sidecar.write_text("OTHER=3")
    assert found() == 2


def test_later_variable_of_a_flag_beats_the_first_wherever_they_stand(
    cluster: Path, env: dict[str, str]
) -> None:
    cluster.write_text("DUAL_STACK=true")
    env["ISTIO_DUAL_STACK"] = "false"

    assert not asked(env=env).config.dual_stack


def test_empty_value_unsets_what_stood_before(
    cluster: Path, sidecar: Path, env: dict[str, str]
) -> None:
    env["ENVOY_PORT"] = "1"
    cluster.write_text("ENVOY_PORT=2")
    sidecar.write_text("ENVOY_PORT=")

    assert asked(env=env).config.outbound_port == 15001


def test_every_setting_of_layout_1_0_may_stand_there(cluster: Path, env: dict[str, str]) -> None:
    cluster.write_text(
        "ENVOY_USER=envoy\nISTIO_INBOUND_PORTS='80, 443'\nDRY_RUN=true\nENABLE_INBOUND_IPV6=1\n"
    )
    resolved = asked(env=env)

    assert resolved.config.proxy_uids == (IdRange(101, 101), IdRange(0, 0))
    assert resolved.config.inbound_ports == (PortRange(80, 80), PortRange(443, 443))
    assert resolved.config.ipv6
    assert resolved.run.dry_run


def test_layout_1_30_reads_neither(cluster: Path, sidecar: Path, env: dict[str, str]) -> None:
    cluster.write_text("ISTIO_INBOUND_PORTS=80")
    sidecar.write_text("this is no setting")

    assert asked("istio-iptables", env=env) == asked("istio-iptables")
    assert asked("--layout", "1.30", env=env) == asked("--layout", "1.30")


def test_files_choose_no_layout(cluster: Path, env: dict[str, str]) -> None:
    cluster.write_text("ISTIO_INIT_LAYOUT=1.30")

    assert asked(env=env).config.layout == "1.0"


def test_empty_variable_means_the_default_file(env: dict[str, str]) -> None:
    # No such file is on any machine that tests run on.
    assert not Path(CLUSTER_FILE[1]).exists()
    assert asked(env={**env, CLUSTER: ""}) == asked()


@pytest.mark.parametrize(
    "line",
    ["no setting", "export", "=1", "A B=1", "A =1", "A-B=1", "1A=1", ". /etc/profile", "if true"],
)
def test_other_lines_are_refused_with_their_place(
    cluster: Path, env: dict[str, str], line: str
) -> None:
    cluster.write_text(f"ENVOY_PORT=1\n{line}\n")

    said = refused(env=env)

    assert "1 bad value" in said
    assert f"{cluster} line 2: {line!r}: expected KEY=VALUE" in said


def test_bad_value_is_reported_with_its_file(cluster: Path, env: dict[str, str]) -> None:
    cluster.write_text("ENVOY_PORT=70000\n")
    env["ENVOY_PORT"] = "80"

    assert f"ENVOY_PORT in {cluster}: '70000': expected a number 1-65535" in refused(env=env)
    assert asked("-p", "80", env=env).config.outbound_port == 80


def test_bad_files_and_bad_flags_are_reported_together(
    cluster: Path, sidecar: Path, env: dict[str, str]
) -> None:
    cluster.write_text("rubbish\nmore rubbish\nENVOY_PORT=x")
    sidecar.mkdir()

    said = refused("-b", "0", env=env)

    assert "5 bad values" in said
    assert f"env {SIDECAR}: '{sidecar}': expected a readable file; it is not a regular file" in said


def test_files_that_are_not_text_are_refused(cluster: Path, env: dict[str, str]) -> None:
    cluster.write_bytes(b"ENVOY_PORT=1\n\xff\xfe\n")

    assert f"env {CLUSTER}: '{cluster}': expected a readable file; not text" in refused(env=env)


@pytest.mark.parametrize(
    "value", ["$(touch {0})", "`touch {0}`", '"$(touch {0})"', "80; touch {0}", "80 && touch {0}"]
)
def test_nothing_is_run(cluster: Path, env: dict[str, str], tmp_path: Path, value: str) -> None:
    witness = tmp_path / "witness"
    cluster.write_text(f"ENVOY_PORT={value.format(witness)}\n")

    assert "expected a number 1-65535" in refused(env=env)

    assert not witness.exists()


def test_variables_are_not_expanded(cluster: Path, env: dict[str, str]) -> None:
    cluster.write_text("PORTS=80\nISTIO_INBOUND_PORTS=$PORTS\n")

    assert "'$PORTS': expected a port" in refused(env=env)


def test_word_clean_reads_them_too(cluster: Path, env: dict[str, str]) -> None:
    cluster.write_text("ISTIO_INBOUND_TPROXY_MARK=77")

    assert asked("clean", env=env).config.tproxy_mark == 77


def test_dry_run_with_files_prints_their_rules(cluster: Path, env: dict[str, str]) -> None:
    cluster.write_text("ISTIO_INBOUND_PORTS=8080")

    done = call("--dry-run", env=env)

    assert done.code == 0
    assert "-A ISTIO_INBOUND -p tcp -m tcp --dport 8080 -j ISTIO_IN_REDIRECT\n" in done.out
