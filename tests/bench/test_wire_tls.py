"""TLS under both client halves, against the standard library's server half in memory."""

from __future__ import annotations

import gc
import ssl
from collections.abc import Callable, Iterable
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.server import ServerProtocol
from wire_samples import HEAD, STREAM, Summary, http_chunks, reply, summary, text_frames

from bench.certificate import SERVER_NAME, Certificate, make
from bench.wire import make_wire
from bench.wire.events import NO_STREAM, Closed, Content, Event, Finished, Outcome, Secured
from bench.wire.tls import ClientTLS, TLSWire

PROTOCOLS = ["sse", "websocket"]
VERSIONS = [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2]
TEXTS = ["Hello", " world", "\n", "é", "😀", "Hello"]
OVERHEAD = 5 + 1 + 16
"""Bytes that TLS 1.3 adds to a record (RFC 8446 section 5.2): head, type, tag."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make(tmp_path_factory.mktemp("tls"))


@cache
def server_context(certificate: Certificate, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = version
    context.load_cert_chain(certificate.certificate, certificate.key)
    return context


def client(certificate: Certificate) -> ClientTLS:
    return ClientTLS(str(certificate.ca_file), certificate.server_name)


class Peer:
    """A server that answers every request with these messages, a record each; `whole` says that they are all."""

    def __init__(self, context: ssl.SSLContext, protocol: str, messages: list[bytes]) -> None:
        self.protocol = protocol
        self.messages = messages
        self.whole = True
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.received = self.sent = 0
        self.plain = b""
        self.secured = self.upgraded = self.notified = False

    def answer(self, data: bytes) -> bytes:
        """Take what the client sent, and return what goes back."""
        self.received += len(data)
        self.incoming.write(data)
        try:
            if not self.secured:
                self.tls.do_handshake()
                self.secured = True
            while part := self.tls.read(65_536):
                self.plain += part
            self.notified = True
        except ssl.SSLZeroReturnError:
            self.notified = True
        except ssl.SSLWantReadError:
            pass
        for record in self.replies():
            self.tls.write(record)
        return self.out()

    def out(self) -> bytes:
        data = self.outgoing.read()
        self.sent += len(data)
        return data

    def replies(self) -> list[bytes]:
        if not self.plain:
            return []
        if self.protocol == "sse":
            events = [http_chunks([b"data: %b\n\n" % message]) for message in self.messages]
            return [HEAD, *events, *([b"0\r\n\r\n"] if self.whole else [])]
        if not self.upgraded:
            self.upgraded = True
            websocket = ServerProtocol()
            websocket.receive_data(self.plain)
            websocket.send_response(websocket.accept(websocket.events_received()[0]))  # type: ignore[arg-type]
            self.plain = b""
            return websocket.data_to_send()
        return [text_frames([message]) for message in self.messages]

    def say_goodbye(self) -> bytes:
        """close_notify."""
        self.plain = b""
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self.out()


class Talk:
    """A wire and its server, exchanging bytes as a driver would, with reads cut at these offsets of what comes."""

    def __init__(
        self,
        certificate: Certificate,
        protocol: str,
        tls: ClientTLS | None = None,
        *,
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        resume: bool = False,
        cuts: Iterable[int] = (),
        texts: Iterable[str] = TEXTS,
        asking: bool = True,
    ) -> None:
        self.wire: TLSWire = (tls or client(certificate)).wire(make_wire(protocol, "test:80"), resume)
        self.peer = Peer(server_context(certificate, version), protocol, reply(*texts))
        self.cuts = sorted(cuts)
        self.events: list[Event] = []
        self.asking = asking
        self.body = b"{}"
        self.out = self.wire.opening()

    def run(self) -> list[Event]:
        """Go on until neither has anything to say."""
        while self.out:
            out, self.out = self.out, b""
            self.read(self.peer.answer(out))
        return self.events

    def read(self, data: bytes) -> None:
        start = self.peer.sent - len(data)
        edges = [0, *(cut - start for cut in self.cuts if 0 < cut - start < len(data)), len(data)]
        for begin, end in pairwise(edges):
            received = self.wire.receive(data[begin:end]) if end else []
            assert sum(isinstance(event, Content) for event in received) <= 1
            self.events += received
            if self.asking and self.wire.ready:
                self.asking = False
                self.out += self.wire.request(STREAM, self.body)
            self.out += self.wire.to_send()

    def ask(self) -> list[Event]:
        """Have the stream on a connection that is idle."""
        self.out = self.wire.request(STREAM, self.body)
        self.events.clear()
        return self.run()


def expected(protocol: str) -> Summary:
    accepted, idle = ((200,), 1) if protocol == "sse" else ((101,), 2)
    text = "\x1f".join(TEXTS).encode()
    return Summary(accepted, ("chatcmpl-00000000000000000000000000001",), len(TEXTS), text, (("complete", ""),), idle)


def under_way(certificate: Certificate, protocol: str) -> Talk:
    """A talk whose server has more to say."""
    talk = Talk(certificate, protocol)
    talk.peer.messages, talk.peer.whole = talk.peer.messages[:3], False
    talk.run()
    assert summary(talk.events).chunks == 2
    assert not summary(talk.events).finished
    talk.events.clear()
    return talk


# A stream, however its bytes come.


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("version", VERSIONS)
def test_whole_reads(certificate: Certificate, protocol: str, version: ssl.TLSVersion) -> None:
    talk = Talk(certificate, protocol, version=version)
    assert not talk.wire.ready
    first, *rest = talk.run()
    assert first == Secured(resumed=False)
    assert summary(rest) == expected(protocol)
    assert sum(isinstance(event, Content) for event in rest) == 1, "records of one read are one read"
    assert talk.wire.ready
    assert summary(talk.ask()).chunks == len(TEXTS)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("version", VERSIONS)
def test_byte_by_byte(certificate: Certificate, protocol: str, version: ssl.TLSVersion) -> None:
    first, *rest = Talk(certificate, protocol, version=version, cuts=range(10_000)).run()
    assert first == Secured(resumed=False)
    assert summary(rest) == expected(protocol)
    assert sum(isinstance(event, Content) for event in rest) == len(TEXTS)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(cuts=st.sets(st.integers(0, 5000), max_size=30), version=st.sampled_from(VERSIONS))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cut_anywhere(certificate: Certificate, protocol: str, cuts: set[int], version: ssl.TLSVersion) -> None:
    first, *rest = Talk(certificate, protocol, version=version, cuts=cuts).run()
    assert first == Secured(resumed=False)
    assert summary(rest) == expected(protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_records_of_the_largest_size_and_requests_of_many(certificate: Certificate, protocol: str) -> None:
    text = "long" * 50_000
    talk = Talk(certificate, protocol, texts=[text, "short"], asking=False)
    talk.run()
    talk.body = b'{"messages":"%b"}' % (b"x" * 100_000)
    got = summary(talk.ask())
    assert got.text == f"{text}\x1fshort".encode()
    assert len(talk.peer.plain) >= 100_000


def test_no_request_before_the_handshake_is_done(certificate: Certificate) -> None:
    talk = Talk(certificate, "sse")
    with pytest.raises(RuntimeError, match="not secured"):
        talk.wire.request(STREAM, b"{}")


def test_cancel_is_the_inner_wires(certificate: Certificate) -> None:
    talk = under_way(certificate, "sse")
    assert talk.wire.cancel(STREAM) is None
    assert summary(talk.wire.eof()).finished[0][0] == "cancelled"

    talk = under_way(certificate, "websocket")
    talk.peer.plain, talk.peer.messages = b"", []
    sent = talk.wire.sizes.sent_bytes
    records = talk.wire.cancel(STREAM)
    assert records is not None
    talk.peer.answer(records)
    assert len(talk.peer.plain) == 6 + len(b'{"type":"cancel"}')
    assert talk.wire.sizes.sent_bytes == sent + len(records)


# What is counted.


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_bytes_are_those_on_the_wire(certificate: Certificate, protocol: str) -> None:
    talk = Talk(certificate, protocol, asking=False)
    talk.run()
    idle = talk.wire.sizes
    assert (idle.sent_bytes, idle.total_bytes) == (0, 0)
    assert (idle.opening_sent_bytes, idle.opening_bytes) == (talk.peer.received, talk.peer.sent)
    for _ in range(2):
        talk.peer.plain = b""
        sent_before, received_before = talk.peer.received, talk.peer.sent
        talk.ask()
        sizes = talk.wire.sizes
        assert sizes.sent_bytes == talk.peer.received - sent_before == len(talk.peer.plain) + OVERHEAD
        records = talk.peer.replies()
        assert sizes.total_bytes == talk.peer.sent - received_before
        assert sizes.total_bytes == sum(map(len, records)) + OVERHEAD * len(records)
        assert (sizes.chunks, sizes.payload_bytes) == (len(TEXTS), sum(map(len, talk.peer.messages)))
        assert (sizes.opening_sent_bytes, sizes.opening_bytes) == (idle.opening_sent_bytes, idle.opening_bytes)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("version", VERSIONS)
def test_no_byte_is_counted_twice_or_not_at_all(
    certificate: Certificate, protocol: str, version: ssl.TLSVersion
) -> None:
    talk = Talk(certificate, protocol, version=version)
    talk.run()
    sizes = talk.wire.sizes
    assert sizes.opening_sent_bytes + sizes.sent_bytes == talk.peer.received
    assert sizes.opening_bytes + sizes.total_bytes == talk.peer.sent
    overhead = OVERHEAD if version is ssl.TLSVersion.TLSv1_3 else 5 + 8 + 16  # RFC 5288 section 3
    assert sizes.sent_bytes == len(talk.peer.plain) + overhead


# Sessions.


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("version", VERSIONS)
def test_resumption(certificate: Certificate, protocol: str, version: ssl.TLSVersion) -> None:
    tls = client(certificate)
    resumed, opening = [], []
    for resume in (False, True, True, True, False):
        talk = Talk(certificate, protocol, tls, version=version, resume=resume)
        first, *rest = talk.run()
        assert summary(rest) == expected(protocol)
        assert isinstance(first, Secured)
        resumed.append(first.resumed)
        opening.append(talk.wire.sizes.opening_bytes)
    assert resumed == [False, False, True, True, False]
    assert min(opening[0], opening[1], opening[4]) > 1.5 * max(opening[2:4]), "no certificate was sent"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_that_has_forgotten_the_session(certificate: Certificate, version: ssl.TLSVersion) -> None:
    tls = client(certificate)
    Talk(certificate, "sse", tls, version=version, resume=True).run()
    server_context.cache_clear()  # a new process has new keys to its tickets
    firsts = [Talk(certificate, "sse", tls, version=version, resume=True).run()[0] for _ in range(2)]
    assert firsts == [Secured(resumed=False), Secured(resumed=True)]


def test_a_session_is_kept_when_the_connection_ends_first(certificate: Certificate) -> None:
    tls = client(certificate)
    talk = Talk(certificate, "websocket", tls, resume=True, asking=False)
    talk.run()
    assert tls.session is None
    talk.wire.close()
    assert Talk(certificate, "sse", tls, resume=True).run()[0] == Secured(resumed=True)


def test_a_session_without_a_ticket_is_not_kept(certificate: Certificate) -> None:
    """With TLS 1.3 the ticket comes behind the handshake."""
    tls = client(certificate)
    talk = Talk(certificate, "sse", tls, resume=True)
    assert talk.wire.receive(talk.peer.answer(talk.out)) == [Secured(resumed=False)]
    talk.wire.eof()
    assert tls.session is None


def test_the_trust_is_read_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ClientTLS(str(tmp_path / "none.pem"), SERVER_NAME)


# Handshakes that fail.


def failed(events: list[Event], stream: int, outcome: Outcome, reason: str, protocol: str) -> str:
    """Check how a stream ended and that the connection did; return the detail."""
    *_, finished, closed = events
    assert isinstance(finished, Finished)
    assert (finished.stream, finished.outcome, finished.reason) == (stream, outcome, reason)
    assert closed == Closed(0 if protocol == "sse" else 1006, finished.detail)
    return finished.detail


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_certificate_of_another_authority(
    certificate: Certificate, tmp_path: Path, protocol: str, version: ssl.TLSVersion
) -> None:
    other = make(tmp_path)
    talk = Talk(certificate, protocol, client(other), version=version)
    with pytest.raises(ssl.SSLError, match=r"(?i)alert.unknown.ca"):
        talk.run()
    assert len(talk.events) == 2
    detail = failed(talk.events, NO_STREAM, Outcome.PROTOCOL_ERROR, "tls_certificate", protocol)
    assert "unable to get local issuer certificate" in detail or "self-signed" in detail
    assert not talk.wire.ready
    assert talk.wire.eof() == talk.wire.receive(b"x") == []
    assert talk.wire.close() == talk.wire.to_send() == b""


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_certificate_for_another_name(certificate: Certificate, protocol: str) -> None:
    talk = Talk(certificate, protocol, ClientTLS(str(certificate.ca_file), "other.test"))
    with pytest.raises(ssl.SSLError):
        talk.run()
    assert "other.test" in failed(talk.events, NO_STREAM, Outcome.PROTOCOL_ERROR, "tls_certificate", protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("data", [b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(100), b"\x15\x03\x03\x00\x02\x02\x28"])
def test_something_else_than_tls(certificate: Certificate, protocol: str, data: bytes) -> None:
    wire = Talk(certificate, protocol).wire
    detail = failed(wire.receive(data), NO_STREAM, Outcome.PROTOCOL_ERROR, "tls_handshake", protocol)
    assert detail.startswith("TLS handshake: ")
    assert wire.eof() == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_only_old_versions(certificate: Certificate, protocol: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.load_cert_chain(certificate.certificate, certificate.key)
    talk = Talk(certificate, protocol)
    talk.peer = Peer(context, protocol, [])
    with pytest.raises(ssl.SSLError):
        talk.run()
    events = talk.wire.receive(talk.peer.outgoing.read())
    detail = failed(events, NO_STREAM, Outcome.PROTOCOL_ERROR, "tls_handshake", protocol)
    assert "alert protocol version" in detail


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_connection_ends_in_the_handshake(certificate: Certificate, protocol: str, version: ssl.TLSVersion) -> None:
    whole = Talk(certificate, protocol, version=version)
    flight = len(whole.peer.answer(whole.out))
    for cut in [*range(0, flight - 50, 61), flight - 50]:
        talk = Talk(certificate, protocol, version=version)
        assert talk.wire.receive(talk.peer.answer(talk.out)[:cut]) == []
        events = talk.wire.eof()
        assert failed(events, NO_STREAM, Outcome.TRUNCATED, "closed", protocol)
        assert len(events) == 2
        assert talk.wire.eof() == []


# How connections end.


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("notified", [True, False])
def test_cut_in_the_stream(certificate: Certificate, protocol: str, notified: bool) -> None:
    """The stream is as truncated with a close_notify as without."""
    talk = under_way(certificate, protocol)
    events = talk.wire.receive(talk.peer.say_goodbye()) if notified else talk.wire.eof()
    got = summary(events)
    assert [outcome for outcome, _ in got.finished] == ["truncated"]
    assert got.closed == (0 if protocol == "sse" else 1006,)
    assert talk.wire.eof() == []
    if notified:
        talk.peer.answer(talk.wire.to_send())
        assert talk.peer.notified, "the server waits for our own"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_close_notify_between_streams(certificate: Certificate, protocol: str, version: ssl.TLSVersion) -> None:
    talk = Talk(certificate, protocol, version=version)
    talk.run()
    (closed,) = talk.wire.receive(talk.peer.say_goodbye())
    assert isinstance(closed, Closed)
    assert not talk.wire.ready
    talk.peer.answer(talk.wire.to_send())
    assert talk.peer.notified
    assert talk.wire.close() == b""


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_close_notify_right_behind_the_stream(certificate: Certificate, protocol: str) -> None:
    talk = Talk(certificate, protocol, asking=False)
    talk.run()
    events = talk.wire.receive(talk.peer.answer(talk.wire.request(STREAM, b"{}")) + talk.peer.say_goodbye())
    got = summary(events)
    assert (got.chunks, got.finished, len(got.closed)) == (len(TEXTS), (("complete", ""),), 1)
    assert isinstance(events[-1], Closed)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("version", VERSIONS)
def test_closing_in_good_order(certificate: Certificate, protocol: str, version: ssl.TLSVersion) -> None:
    talk = Talk(certificate, protocol, version=version)
    talk.run()
    talk.peer.plain, talk.peer.messages = b"", []
    talk.peer.answer(talk.wire.close())
    assert talk.peer.notified
    assert len(talk.peer.plain) == (0 if protocol == "sse" else 8), "a close frame before close_notify"
    assert not talk.wire.ready
    talk.peer.tls.unwrap()
    (closed,) = talk.wire.receive(talk.peer.out())
    assert isinstance(closed, Closed)
    assert "TLS" not in closed.reason, "an answer is no error"
    assert talk.wire.eof() == []


def test_closing_before_the_handshake_is_done(certificate: Certificate) -> None:
    talk = Talk(certificate, "websocket")
    assert talk.wire.close() == b""


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_corrupt_record(certificate: Certificate, protocol: str, version: ssl.TLSVersion) -> None:
    talk = Talk(certificate, protocol, version=version, asking=False)
    talk.run()
    talk.out = talk.wire.request(STREAM, b"{}")
    data = bytearray(talk.peer.answer(talk.out))
    data[-1 if protocol == "websocket" else -40] ^= 1  # in the tag of the last record, or of the last but one
    *before, finished, closed = talk.wire.receive(bytes(data))
    assert summary(before).chunks == len(TEXTS), "what came before it counts"
    detail = failed([finished, closed], STREAM, Outcome.PROTOCOL_ERROR, "tls_record", protocol)
    assert "bad record mac" in detail
    with pytest.raises(ssl.SSLError, match=r"(?i)alert.bad.record.mac"):
        talk.peer.answer(talk.wire.to_send())
    assert talk.wire.receive(bytes(data)) == talk.wire.eof() == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_text_in_the_stream_is_no_fault_of_a_cancelled_one(certificate: Certificate, protocol: str) -> None:
    talk = under_way(certificate, protocol)
    talk.wire.cancel(STREAM)
    assert summary(talk.wire.receive(b"plain")).finished[0][0] == "cancelled"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_garbage_on_an_idle_connection(certificate: Certificate, protocol: str) -> None:
    talk = Talk(certificate, protocol)
    talk.run()
    (closed,) = talk.wire.receive(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert isinstance(closed, Closed)
    assert closed.reason.startswith("TLS: ")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(reads=st.lists(st.binary(max_size=80), max_size=8), secured=st.booleans(), record=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_raise(
    certificate: Certificate, protocol: str, reads: list[bytes], secured: bool, record: bool
) -> None:
    talk = Talk(certificate, protocol)
    if secured:
        talk.run()
        talk.events.clear()
    for data in reads:
        head = b"\x17\x03\x03" + len(data).to_bytes(2, "big") if record else b""
        talk.events += talk.wire.receive(head + data)
        talk.wire.to_send()
    talk.events += talk.wire.eof()
    assert len(summary(talk.events).closed) == 1
    assert talk.wire.close() == b""
    assert talk.wire.sizes.total_bytes >= 0


# What is left behind.


def complete(talk: Talk) -> None:
    talk.run()
    talk.wire.close()
    talk.wire.eof()


def notified(talk: Talk) -> None:
    talk.run()
    talk.wire.receive(talk.peer.say_goodbye())


def garbage(talk: Talk) -> None:
    talk.wire.receive(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def garbage_later(talk: Talk) -> None:
    talk.run()
    talk.wire.receive(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def untrusted(talk: Talk) -> None:
    (finished, _closed) = talk.wire.receive(talk.peer.answer(talk.out))
    assert isinstance(finished, Finished)


def lost(talk: Talk) -> None:
    talk.wire.receive(talk.peer.answer(talk.out)[:100])
    talk.wire.eof()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("end", [complete, notified, garbage, garbage_later, untrusted, lost])
def test_no_cycles_are_left(certificate: Certificate, protocol: str, end: Callable[[Talk], None]) -> None:
    """The collector is off while streams are timed: what it would find would stay."""
    tls = client(certificate)
    Talk(certificate, protocol, tls, resume=True).run()
    if end is untrusted:
        tls = ClientTLS(str(certificate.ca_file), "other.test")
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        talk = Talk(certificate, protocol, tls, resume=True)
        end(talk)
        peer = talk.peer  # not what is judged here
        del talk
        gc.collect()
        assert gc.garbage == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    del peer
