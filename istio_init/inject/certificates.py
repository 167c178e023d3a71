"""The webhook's own certificate authority, and the certificates that it signs. Pure.

An authority passes through three stages, so that at no moment anybody is shown a certificate that
he has no reason to trust: as ``upcoming`` it is trusted and signs nothing, as ``current`` it
signs, as ``former`` it is trusted for as long as something that it has signed may be in use.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from istio_init.inject.problems import InjectionError, error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Clocks of two machines may differ by this much.
BACKDATED = timedelta(minutes=5)
# A certificate is renewed when this part of its life is over.
RENEWED_AFTER = 2 / 3
_PEM_END = b"-----END CERTIFICATE-----\n"
# The keys of the Secret.
_CURRENT, _UPCOMING, _FORMER = "ca", "upcoming", "former.crt"


@dataclass(frozen=True, slots=True)
class Terms:
    """For how long certificates are good.

    ``overlap`` is how long an authority is trusted before it signs: every replica and every
    API server must have learned of it by then.
    """

    authority: timedelta = timedelta(days=365)
    server: timedelta = timedelta(days=7)
    overlap: timedelta = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its key, both in PEM."""

    certificate: bytes
    key: bytes

    @property
    def parsed(self) -> x509.Certificate:
        """The certificate."""
        return x509.load_pem_x509_certificate(self.certificate)


@dataclass(frozen=True, slots=True)
class Authorities:
    """All authorities that are in use.

    ``former`` are certificates without their keys, the oldest first.
    """

    current: KeyPair
    upcoming: KeyPair | None = None
    former: tuple[bytes, ...] = ()

    @property
    def bundle(self) -> bytes:
        """The certificates that are to be trusted, in an order that does not depend on who asks."""
        pairs = (self.current, *([self.upcoming] if self.upcoming else []))
        return b"".join(sorted({*(pair.certificate for pair in pairs), *self.former}))


def renewed(authorities: Authorities | None, now: datetime, terms: Terms) -> Authorities:
    """Return the authorities as they should be now; the same ones when nothing is due.

    Whoever signs with ``current`` calls this first: a former authority signs no more from the
    moment on at which the current one may, whenever that is noticed.
    """
    if authorities is None or _end(authorities.current.certificate) <= now:
        # Whoever has slept for that long has no time left to be careful.
        former = () if authorities is None else authorities.former
        return Authorities(issue_authority(now, terms), former=_unexpired(former, now))
    current, upcoming, former = authorities.current, authorities.upcoming, authorities.former
    if upcoming is not None and _may_sign(upcoming.certificate, terms) <= now:
        former = (*former, current.certificate)
        current, upcoming = upcoming, None
    elif upcoming is None and is_due(current.certificate, now, terms.authority):
        upcoming = issue_authority(now, terms)
    # The last certificate that a former one has signed expires that long after its successor
    # began to sign.
    successors = (*former, current.certificate)[1:]
    in_use = tuple(
        one
        for one, successor in zip(former, successors, strict=True)
        if _may_sign(successor, terms) + terms.server + BACKDATED > now
    )
    return Authorities(current, upcoming, _unexpired(in_use, now))


def is_due(certificate: bytes, now: datetime, lifetime: timedelta) -> bool:
    """Say whether a certificate is to be renewed: before its own end, and that of ``lifetime``."""
    start, end = _start(certificate) + BACKDATED, _end(certificate)
    return now >= start + min(end - start, lifetime) * RENEWED_AFTER


def _may_sign(certificate: bytes, terms: Terms) -> datetime:
    """Return from when on everybody trusts an authority."""
    return _start(certificate) + BACKDATED + terms.overlap


def is_signed_by(pair: KeyPair, authority: KeyPair) -> bool:
    """Say whether a certificate is of an authority."""
    try:
        pair.parsed.verify_directly_issued_by(authority.parsed)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def issue_authority(now: datetime, terms: Terms) -> KeyPair:
    """Return a new authority, which signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    # The names of two authorities differ: whoever trusts both must find the right one.
    serial = x509.random_serial_number()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"istio-init CA {serial:x}"[:64])])
    certificate = (
        _builder(name, name, key, serial=serial, now=now, end=now + terms.authority)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return _pair(certificate, key)


def issue_server(authority: KeyPair, names: Sequence[str], now: datetime, terms: Terms) -> KeyPair:
    """Return a server's certificate for DNS names; it does not outlive its authority."""
    signer = authority.parsed
    signing_key = serialization.load_pem_private_key(authority.key, None)
    if not isinstance(signing_key, ec.EllipticCurvePrivateKey):
        raise _unusable("its key is of another kind")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    end = min(now + terms.server, signer.not_valid_after_utc)
    serial = x509.random_serial_number()
    certificate = (
        _builder(subject, signer.subject, key, serial=serial, now=now, end=end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()),
            critical=False,
        )
        .sign(signing_key, hashes.SHA256())
    )
    return _pair(certificate, key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    *,
    serial: int,
    now: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - BACKDATED)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    return KeyPair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


# The Secret.


def as_secret_data(authorities: Authorities) -> dict[str, str]:
    """Return the data of the Secret that the replicas share."""
    pairs = {_CURRENT: authorities.current, _UPCOMING: authorities.upcoming}
    data = {_FORMER: b"".join(authorities.former)}
    for name, pair in pairs.items():
        if pair is not None:
            data |= {f"{name}.crt": pair.certificate, f"{name}.key": pair.key}
    return {name: base64.b64encode(value).decode() for name, value in data.items() if value}


def from_secret_data(data: Mapping[str, str]) -> Authorities:
    """Return the authorities of a Secret.

    Raises:
        InjectionError: Somebody else has written into it.
    """
    try:
        content = {name: base64.b64decode(value, validate=True) for name, value in data.items()}
    except (binascii.Error, ValueError) as failure:
        raise _unusable(str(failure)) from failure
    current = _read_pair(content, _CURRENT)
    if current is None:
        raise _unusable(f"{_CURRENT}.crt is missing")
    former = content.get(_FORMER, b"")
    certificates = tuple(part + _PEM_END for part in former.split(_PEM_END) if part)
    for certificate in certificates:
        _checked(certificate)
    return Authorities(current, _read_pair(content, _UPCOMING), certificates)


def _read_pair(content: Mapping[str, bytes], name: str) -> KeyPair | None:
    certificate, key = content.get(f"{name}.crt"), content.get(f"{name}.key")
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise _unusable(f"of {name}.crt and {name}.key one is missing")
    parsed = _checked(certificate)
    try:
        private = serialization.load_pem_private_key(key, None)
    except (ValueError, TypeError) as failure:
        raise _unusable(f"{name}.key: {failure}") from failure
    if private.public_key() != parsed.public_key():
        raise _unusable(f"{name}.key is not the key of {name}.crt")
    return KeyPair(certificate, key)


def _checked(certificate: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(certificate)
    except ValueError as failure:
        raise _unusable(str(failure)) from failure


def _unusable(why: str) -> InjectionError:
    return InjectionError([error("the Secret of the certificate authority is unusable", why=why)])


def _unexpired(certificates: tuple[bytes, ...], now: datetime) -> tuple[bytes, ...]:
    return tuple(one for one in certificates if _end(one) > now)


def _start(certificate: bytes) -> datetime:
    return x509.load_pem_x509_certificate(certificate).not_valid_before_utc


def _end(certificate: bytes) -> datetime:
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc
