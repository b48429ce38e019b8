"""TLS under any wire half: records in, the inner wire's events out. Memory BIOs, so still no sockets and no clock.

The event loop's own TLS would decrypt before a read could be stamped, and would hide the bytes on the wire. Here a read
is stamped as it comes off the socket, its records are decrypted together, and the inner wire takes them as one read.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Final

from bench.wire.events import NO_STREAM, Closed, Event, Finished, Outcome, Secured, Sizes, Wire

RECORD: Final = 16_384
"""Bytes of the largest plaintext of a record (RFC 8446 section 5.1): reading that many takes a record whole."""


class ClientTLS:
    """What the connections of a process share: whom to trust, whom to expect, and a session to resume."""

    def __init__(self, ca_file: str, server_name: str) -> None:
        """Trust the authorities in ``ca_file`` (PEM) and nobody else. Raises OSError when they cannot be read."""
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificates and names
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.options |= ssl.OP_NO_RENEGOTIATION
        self.context.load_verify_locations(ca_file)
        self.server_name = server_name
        self.session: ssl.SSLSession | None = None
        """That of the last full handshake whose stream is over. A ticket is used many times, as OpenSSL's servers
        allow, because getting a session out of OpenSSL takes about 0.14 ms."""

    def wire(self, inner: Wire, resume: bool = False) -> TLSWire:
        """A connection that carries ``inner``, which must be unused. With ``resume`` it offers the session, if any."""
        return TLSWire(inner, self, resume)


class TLSWire:
    """A wire half whose bytes are TLS records. Its handshake comes before everything that the inner wire says.

    ``sizes`` counts the records: what comes and goes before the first request is the opening.
    """

    def __init__(self, inner: Wire, tls: ClientTLS, resume: bool = False) -> None:
        self._inner = inner
        self._tls = tls
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = tls.session if resume else None
        self._records = tls.context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=tls.server_name, session=session
        )
        self._secured = False
        self._writable = False  # between the handshake and a close_notify, either side's
        self._over = False
        self._wanted = resume  # the session of this connection is yet to be taken
        self._asked = False
        self._sent = self._received = 0  # since the last request
        self._opening_sent = self._opening_received = 0

    # What goes out.

    def opening(self) -> bytes:
        """The ClientHello."""
        with suppress(ssl.SSLWantReadError):
            self._records.do_handshake()
        return self.to_send()

    def request(self, stream: int, body: bytes, last_event_id: str | None = None) -> bytes:
        """The inner wire's request, behind what is due of the handshake. Raises RuntimeError unless ``ready``."""
        if not self.ready:
            raise RuntimeError("the connection is not secured, or closed, or a request is under way")
        due = self.to_send()
        if not self._asked:
            self._asked = True
            self._opening_received = self._received
        data = self._encrypted(self._inner.request(stream, body, last_event_id))
        self._sent, self._received = len(data), 0
        return due + data

    def cancel(self, stream: int) -> bytes | None:
        """What the inner wire sends to stop a stream, or None when only closing the socket does it."""
        data = self._inner.cancel(stream)
        if not data:
            return data
        records = self._encrypted(data)
        self._sent += len(records)
        return records

    def close(self) -> bytes:
        """The inner wire's farewell, and close_notify."""
        self._encrypt(self._inner.close())
        self._notify()
        return self.to_send()

    def to_send(self) -> bytes:
        """The inner wire's pongs, and what TLS itself has to say: its handshake, alerts, close_notify."""
        self._encrypt(self._inner.to_send())
        if not self._outgoing.pending:  # asked after every read
            return b""
        data = self._outgoing.read()
        if not self._asked:
            self._opening_sent += len(data)
        return data

    # What comes in.

    def receive(self, data: bytes) -> list[Event]:
        """Take the bytes of one read."""
        self._received += len(data)
        if self._over:
            return []
        self._incoming.write(data)
        events: list[Event] = []
        if not self._secured and not self._shake_hands(events):
            return events
        read, incoming = self._records.read, self._incoming
        parts: list[bytes] = []
        notified, trouble = False, ""
        try:
            while part := read(RECORD):
                parts.append(part)
                if not incoming.pending:  # asking once more would cost as much as a record
                    break
            else:
                notified = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # instead of b"" once our own close_notify is out
            notified = True
        except ssl.SSLError as error:
            trouble = _words(error)
        if parts:
            received = self._inner.receive(parts[0] if len(parts) == 1 else b"".join(parts))
            events = events + received if events else received
        if trouble:
            self._fail(Outcome.PROTOCOL_ERROR, f"TLS: {trouble}", "tls_record", events)
        elif notified:
            events += self._ended()
            self._notify()
        elif self._wanted and self._asked and self._inner.ready:
            self._keep_session()
        return events

    def eof(self) -> list[Event]:
        """The connection is gone."""
        events = self._ended()
        self._writable = False
        return events

    @property
    def ready(self) -> bool:
        """Whether the connection is secured and the inner wire takes a request."""
        return self._writable and self._inner.ready

    @property
    def last_event_id(self) -> str:
        """The inner wire's."""
        return self._inner.last_event_id

    @property
    def retry_ms(self) -> int | None:
        """The inner wire's."""
        return self._inner.retry_ms

    @property
    def retry_after_s(self) -> float | None:
        """The inner wire's."""
        return self._inner.retry_after_s

    @property
    def sizes(self) -> Sizes:
        """The inner wire's, with bytes on the wire in place of plaintext where all bytes are meant."""
        return self._inner.sizes._replace(
            sent_bytes=self._sent,
            total_bytes=self._received if self._asked else 0,
            opening_sent_bytes=self._opening_sent,
            opening_bytes=self._opening_received if self._asked else self._received,
        )

    # Inside.

    def _shake_hands(self, events: list[Event]) -> bool:
        """Go on with the handshake; return whether it is done."""
        try:
            self._records.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLCertVerificationError as error:
            detail = f"the server's certificate was not accepted: {error.verify_message}"
            self._fail(Outcome.PROTOCOL_ERROR, detail, "tls_certificate", events)
            return False
        except ssl.SSLError as error:
            self._fail(Outcome.PROTOCOL_ERROR, f"TLS handshake: {_words(error)}", "tls_handshake", events)
            return False
        self._secured = self._writable = True
        resumed = bool(self._records.session_reused)
        self._wanted = self._wanted and not resumed
        self._encrypt(self._inner.opening())
        events.append(Secured(resumed))
        return True

    def _keep_session(self) -> None:
        """Have later connections resume this one. With TLS 1.3 its ticket has come since the handshake."""
        if self._wanted:
            self._wanted = False
            session = self._records.session
            if session is not None and session.has_ticket:
                self._tls.session = session

    def _encrypt(self, data: bytes) -> None:
        if data and self._writable:
            self._records.write(data)  # all of it: a memory BIO takes any amount

    def _encrypted(self, data: bytes) -> bytes:
        self._encrypt(data)
        return self._outgoing.read()

    def _notify(self) -> None:
        """Send what the inner wire still has to say, and close_notify."""
        if not self._writable:
            return
        self._encrypt(self._inner.to_send())
        self._writable = False
        self._keep_session()
        with suppress(ssl.SSLError):  # the peer's has not come, or it goes on sending
            self._records.unwrap()

    def _ended(self) -> list[Event]:
        """Nothing more comes: the connection is gone, or the peer's close_notify says so."""
        events: list[Event] = []
        if self._secured and not self._over:
            self._over = True
            self._keep_session()
            events = self._inner.eof()
        elif not self._over:
            self._fail(Outcome.TRUNCATED, "the connection ended during the TLS handshake", "closed", events)
        return events

    def _fail(self, outcome: Outcome, detail: str, reason: str, events: list[Event]) -> None:
        """End the inner wire, and say why in its place."""
        self._over = True
        self._writable = False
        finished = False
        for event in self._inner.eof():
            if type(event) is Finished:
                finished = True
                if event.outcome is not Outcome.CANCELLED:
                    event = Finished(event.stream, outcome, detail, reason)
            elif type(event) is Closed:
                if not (self._secured or finished):
                    events.append(Finished(NO_STREAM, outcome, detail, reason))
                event = Closed(event.code, detail)
            events.append(event)


def _words(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")
