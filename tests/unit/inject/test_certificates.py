"""The authority's life: whatever moment it is, what is shown is trusted."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store
from hypothesis import given, settings
from hypothesis import strategies as st

from istio_init.inject.certificates import (
    Authorities,
    KeyPair,
    Terms,
    as_secret_data,
    from_secret_data,
    is_due,
    is_signed_by,
    issue_server,
    renewed,
)
from istio_init.inject.problems import InjectionError

START = datetime(2026, 1, 1, tzinfo=UTC)
NAME = "webhook.mesh.svc"
TERMS = Terms(timedelta(days=30), timedelta(days=2), timedelta(hours=6))


def is_trusted(pair: KeyPair, bundle: bytes, moment: datetime) -> bool:
    """Say what a client says that checks as strictly as web browsers do."""
    store = Store(x509.load_pem_x509_certificates(bundle))
    verifier = PolicyBuilder().store(store).time(moment)
    try:
        verifier.build_server_verifier(x509.DNSName(NAME)).verify(pair.parsed, [])
    except x509.verification.VerificationError:
        return False
    return True


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 96), min_size=1, max_size=40), st.data())
def test_what_is_shown_is_always_trusted(hours: list[int], data: st.DataObject) -> None:
    """Replicas that look at different times, and API servers that learn late, never disagree."""
    now, authorities, shown = START, renewed(None, START, TERMS), []
    # What an API server may still believe, with the moment from which it must have learned.
    bundle = authorities.bundle
    for step in hours:
        now += timedelta(hours=step)
        before = authorities
        authorities = renewed(authorities, now, TERMS)
        pair = issue_server(authorities.current, [NAME], now, TERMS)
        shown.append(pair)
        # A reader learns of an authority while it is upcoming.
        if before.upcoming is None and authorities.current == before.current:
            bundle = before.bundle
        alive = [one for one in shown if one.parsed.not_valid_after_utc > now]
        assert all(is_trusted(one, authorities.bundle, now) for one in alive)
        if authorities.current == before.current:
            assert is_trusted(pair, bundle, now)
        # Two replicas that do the same with the same Secret agree.
        assert from_secret_data(as_secret_data(authorities)) == authorities
        if data.draw(st.booleans()):
            assert renewed(authorities, now, TERMS) == authorities


def test_the_stages_of_an_authority() -> None:
    first = renewed(None, START, TERMS)
    assert renewed(first, START + timedelta(days=19), TERMS) is not None
    assert renewed(first, START + timedelta(days=19), TERMS) == first

    due = START + timedelta(days=20)
    second = renewed(first, due, TERMS)
    assert second.current == first.current
    assert second.upcoming is not None
    assert second.upcoming.certificate in second.bundle
    assert renewed(second, due + timedelta(hours=5), TERMS) == second

    third = renewed(second, due + timedelta(hours=6), TERMS)
    assert third == Authorities(second.upcoming, None, (first.current.certificate,))
    assert third.bundle == second.bundle

    # The last certificate of the former one expires, two days later.
    assert renewed(third, due + timedelta(hours=53), TERMS).former == third.former
    assert renewed(third, due + timedelta(hours=55), TERMS).former == ()


def test_an_authority_that_has_expired_is_replaced_at_once() -> None:
    first = renewed(None, START, TERMS)
    later = renewed(first, START + timedelta(days=31), TERMS)

    assert later.current != first.current
    assert later.upcoming is None


def test_a_server_does_not_outlive_its_authority() -> None:
    first = renewed(None, START, TERMS)
    moment = START + timedelta(days=29)
    pair = issue_server(first.current, [NAME], moment, TERMS)

    assert pair.parsed.not_valid_after_utc == first.current.parsed.not_valid_after_utc
    assert is_signed_by(pair, first.current)
    assert not is_signed_by(pair, renewed(None, START, TERMS).current)
    assert not is_due(pair.certificate, moment, TERMS.server)
    assert is_due(pair.certificate, moment + timedelta(hours=17), TERMS.server)
    # Who shortens the terms does not wait for what was issued under others.
    assert is_due(pair.certificate, moment + timedelta(hours=2), timedelta(hours=3))


def test_openssl_takes_the_pair(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("pair")
    pair = issue_server(renewed(None, START, TERMS).current, [NAME], START, TERMS)
    for name, content in (("crt", pair.certificate), ("key", pair.key)):
        (folder / name).write_bytes(content)

    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(folder / "crt", folder / "key")


GOOD = as_secret_data(renewed(None, START, TERMS))
OTHER = as_secret_data(renewed(None, START, TERMS))
BAD: dict[str, dict[str, str]] = {
    "nothing": {},
    "no base64": {**GOOD, "ca.crt": "%"},
    "no certificate": {**GOOD, "ca.crt": "YQ=="},
    "no key": {**GOOD, "ca.key": "YQ=="},
    "one missing": {"ca.crt": GOOD["ca.crt"]},
    "another's key": {**GOOD, "ca.key": OTHER["ca.key"]},
    "half of an upcoming one": {**GOOD, "upcoming.key": OTHER["ca.key"]},
    "a former one that is none": {**GOOD, "former.crt": "YQ=="},
}


@pytest.mark.parametrize("name", BAD)
def test_a_secret_that_somebody_else_wrote(name: str) -> None:
    with pytest.raises(InjectionError, match="the Secret of the certificate authority"):
        from_secret_data(BAD[name])
