"""TLS for the listening sockets of all stacks: the same context, the same patience."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from servers.settings import TLS, SettingsError
from servers.stacks import PATIENCE_S

if TYPE_CHECKING:
    import ssl

HANDSHAKE_S = 10.0
"""How long a client may take over its handshake. Libraries allow 10 or 60 s."""

SHUTDOWN_S = PATIENCE_S
"""How long a closed connection waits for the client's close_notify. Libraries allow 10 or 30 s."""


def listening(tls: TLS | None) -> dict[str, Any]:
    """What `create_server` is given so as to speak TLS; nothing for None. Raises `SettingsError`."""
    if tls is None:
        return {}
    return {"ssl": _context(tls), "ssl_handshake_timeout": HANDSHAKE_S, "ssl_shutdown_timeout": SHUTDOWN_S}


def in_force(tls: TLS | None) -> dict[str, object] | None:
    """What holds of TLS on every stack, or None without TLS."""
    if tls is None:
        return None
    import ssl

    return {
        "library": ssl.OPENSSL_VERSION,
        "minimum": "1.2",
        "tickets": True,
        "handshake_s": HANDSHAKE_S,
        "shutdown_s": SHUTDOWN_S,
    }


def _context(tls: TLS) -> ssl.SSLContext:
    """TLS 1.2 and 1.3 with OpenSSL's own ciphers and session tickets. Raises `SettingsError`."""
    import ssl  # a server that speaks plain text has no use for it

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A client that asks for another handshake in mid-stream would stall its tokens; TLS 1.3 has none.
    context.options |= ssl.OP_NO_RENEGOTIATION
    for key, path in (("certificate", tls.certificate), ("key", tls.key)):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise SettingsError(f"tls.{key} = {path}: {error.strerror}") from error
    try:
        context.load_cert_chain(tls.certificate, tls.key, password=_no_password)
    except (ssl.SSLError, _Encrypted) as error:
        reason = "the key is encrypted" if isinstance(error, _Encrypted) else _words(error)
        wanted = "a chain of certificates and the unencrypted key to the first, in PEM"
        raise SettingsError(
            f"tls.certificate = {tls.certificate}, tls.key = {tls.key}: {reason}; wanted are {wanted}"
        ) from error
    return context


class _Encrypted(Exception):
    """A key asks for a password, and nobody is there to type one."""


def _no_password() -> str:
    raise _Encrypted


def _words(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")
