"""The TLS of the webhook's port: one context, whose certificate is exchanged while it serves."""

from __future__ import annotations

import os
import ssl

from istio_init.inject.certificates import KeyPair


class ServerTls:
    """Serves with one certificate after the other; a connection keeps the one it began with."""

    def __init__(self) -> None:
        self.context = _context()

    def install(self, pair: KeyPair) -> None:
        """Serve a certificate from the next connection on.

        Raises:
            ssl.SSLError: It is none, or the key is another's; the one before stays.
        """
        for context in (_context(), self.context):
            _load(context, pair)


def read_pair(certificate_file: str, key_file: str) -> KeyPair:
    """Return what two files hold.

    Raises:
        OSError: One of them cannot be read.
    """
    with open(certificate_file, "rb") as certificate, open(key_file, "rb") as key:
        return KeyPair(certificate.read(), key.read())


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _load(context: ssl.SSLContext, pair: KeyPair) -> None:
    # OpenSSL reads files alone; these exist in memory, and nowhere else.
    files = [os.memfd_create(name) for name in ("certificate", "key")]
    try:
        for file, content in zip(files, (pair.certificate, pair.key), strict=True):
            with open(file, "wb", closefd=False) as stream:
                stream.write(content)
        context.load_cert_chain(*(f"/proc/self/fd/{file}" for file in files))
    finally:
        for file in files:
            os.close(file)
