"""Stands where OpenSSL would: pyroute2 and asyncio name it, istio-init never encrypts.

With OpenSSL and SQLite the image would be a third larger.
"""


class SSLError(OSError):
    """Never raised."""


class SSLWantReadError(SSLError):
    """Never raised."""


class SSLSyscallError(SSLError):
    """Never raised."""


class SSLSocket:
    """Never made: asyncio asks of every socket whether it is one."""
