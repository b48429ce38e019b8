"""What goes wrong, protocol by protocol: one outcome, one end, never an exception, whole or byte by byte."""

import gc
import json
import re
import weakref

import pytest
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from wire_samples import (
    DONE,
    HEAD,
    ROLE,
    STREAM,
    chunk,
    handshake,
    http_chunks,
    read,
    reply,
    sse_reply,
    sse_wire,
    summary,
    text_frames,
    ws_wire,
)

from bench.wire import SSEWire, WebSocketWire, make_wire
from bench.wire.events import MAX_MESSAGE, NO_STREAM, REASONS, Closed, Finished, Outcome

A = chunk({"content": "a"})
ERROR = json.dumps({"error": {"message": "no such model", "type": "invalid_request_error", "code": None}}).encode()
LIMITED = json.dumps({"error": {"message": "slow down", "type": "requests", "code": "rate_limit"}}).encode()


def plain(status: str, body: bytes, headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def events_of(*bodies: bytes) -> bytes:
    return HEAD + http_chunks(bodies) + b"0\r\n\r\n"


BEGUN = HEAD + http_chunks([b"data: " + ROLE + b"\n\n", b"data: " + A + b"\n\n"])

# name: (bytes of the reply, outcome, reason, pattern of the detail, whether the connection can be used again)
# None there: for a while
SSE = {
    "404 with the API's message": (
        plain("404 Not Found", ERROR, "Content-Type: application/json\r\n"),
        "http_error",
        "http_404",
        "404: invalid_request_error: no such model",
        True,
    ),
    "429 with retry-after": (
        plain("429 Too Many Requests", LIMITED, "Retry-After: 1\r\n"),
        "http_error",
        "http_429",
        r"429: rate_limit: slow down \(retry-after: 1\)",
        True,
    ),
    "500 in chunks": (
        b"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n" + http_chunks([b"fa", b"ult"]) + b"0\r\n\r\n",
        "http_error",
        "http_500",
        "500: fault",
        True,
    ),
    "503 and close": (
        plain("503 Busy", b"<html>", "Connection: close\r\n"),
        "http_error",
        "http_503",
        "503: <html>",
        False,
    ),
    "302": (plain("302 Found", b"", "Location: /x\r\n"), "http_error", "http_302", "302: ", True),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", "complete", "nothing_to_resume", "204.*", True),
    "JSON instead of events": (
        plain("200 OK", b"{}", "Content-Type: application/json\r\n"),
        "protocol_error",
        "content_type",
        "content-type application/json .*",
        False,
    ),
    "no content-type": (plain("200 OK", b"{}"), "protocol_error", "content_type", "content-type missing .*", False),
    "gzip": (
        HEAD.replace(b"Transfer", b"Content-Encoding: gzip\r\nTransfer") + b"1\r\nx\r\n",
        "protocol_error",
        "content_encoding",
        "content-encoding gzip .*",
        False,
    ),
    "101": (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nx",
        "protocol_error",
        "bad_upgrade",
        "the server switched protocols",
        False,
    ),
    "not HTTP": (b"SSH-2.0-OpenSSH\r\n\r\n", "protocol_error", "bad_head", "HTTP: .*", False),
    "an endless head": (
        b"HTTP/1.1 200 OK\r\n" + b"X: 0123456789\r\n" * 5000,
        "protocol_error",
        "head_too_long",
        "an HTTP head of more .*",
        False,
    ),
    "bad chunk length": (BEGUN + b"zz\r\n", "protocol_error", "bad_chunk", "HTTP: .*", False),
    "a chunk longer than it says": (BEGUN + b"2\r\nabc\r\n", "protocol_error", "bad_chunk", "HTTP: .*", False),
    "no [DONE]": (BEGUN + b"0\r\n\r\n", "truncated", "no_done", "the reply ended before .*", True),
    "an error event": (
        BEGUN + http_chunks([b"data: " + LIMITED + b"\n\n"]) + b"0\r\n\r\n",
        "api_error",
        "error_event",
        "rate_limit: slow down",
        True,
    ),
    "an error that is text": (
        BEGUN + http_chunks([b'data: {"error":"out of memory"}\n\n']) + b"0\r\n\r\n",
        "api_error",
        "error_event",
        "out of memory",
        True,
    ),
    "invalid JSON, read on": (
        sse_reply([ROLE, b"{", A, b"nonsense", DONE]),
        "protocol_error",
        "bad_json",
        "2 unreadable payloads, first: .*truncated",
        True,
    ),
    "invalid JSON and no [DONE]": (
        sse_reply([ROLE, A, b"[1]"]),
        "protocol_error",
        "bad_json",
        "1 unreadable payloads, first: .*; then the reply ended .*",
        True,
    ),
    "not UTF-8": (
        sse_reply([ROLE, A.replace(b"a", b"\xff"), DONE]),
        "protocol_error",
        "bad_utf8",
        "1 unreadable .*utf-8.*",
        True,
    ),
    "an upgrade nobody asked for, without a header": (
        b"HTTP/1.1 101 S\r\n\r\n",
        "protocol_error",
        "bad_upgrade",
        "the server switched protocols",
        False,
    ),
    "a folded header": (HEAD[:-2] + b" folded\r\n\r\n", "protocol_error", "bad_head", "HTTP: .*", False),
    "a header with a space in its name": (
        HEAD[:-2] + b"a b: c\r\n\r\n",
        "protocol_error",
        "bad_head",
        "HTTP: .*",
        False,
    ),
    "bare line feeds": (
        b"HTTP/1.1 200 OK\nContent-Type: text/event-stream\n\n",
        "protocol_error",
        "bad_head",
        "HTTP: .*",
        False,
    ),
    "status 99": (b"HTTP/1.1 099 Odd\r\n\r\n", "protocol_error", "bad_head", "HTTP: status 99", False),
    "a transfer coding": (
        HEAD.replace(b"chunked", b"gzip, chunked"),
        "protocol_error",
        "content_encoding",
        "transfer-encoding gzip, chunked was not asked for",
        False,
    ),
    "an endless error": (
        b"HTTP/1.1 500 Oops\r\nContent-Length: 9999999\r\n\r\n" + b"x" * 65_536,
        "http_error",
        "http_500",
        "500: x+",
        False,
    ),
    "an event too deep": (
        sse_reply([ROLE, b'{"x":' + b"[" * 9000, DONE]),
        "protocol_error",
        "bad_json",
        "1 unreadable payloads, first: .*recursion.*",
        True,
    ),
    "no [DONE] and something behind": (
        BEGUN + b"0\r\n\r\nmore",
        "truncated",
        "no_done",
        "the reply ended before .*",
        None,
    ),
    "an event too big": (
        events_of(b"data: " + ROLE + b"\n\n", b"data: " + b" " * MAX_MESSAGE, b"\n\ndata: [DONE]\n\n"),
        "protocol_error",
        "event_too_big",
        "an event of more than 1048576 bytes",
        False,
    ),
}


@pytest.mark.parametrize("case", SSE)
def test_sse(case: str) -> None:
    data, outcome, reason, detail, reusable = SSE[case]
    step = 1 if len(data) < 10_000 else 997
    for cuts in ((), range(0, len(data), step)):
        wire = sse_wire()
        got = summary(read(wire, data, cuts))
        assert ([kind for kind, _ in got.finished], got.reasons) == ([outcome], (reason,))
        assert re.fullmatch(detail, got.finished[0][1]), got.finished
        if reusable is None:  # idle for as long as a read takes, or not at all
            assert (wire.ready, got.closed) == (False, (0,))
            continue
        assert (wire.ready, got.idle, got.closed) == ((True, 1, ()) if reusable else (False, 0, (0,)))
        assert summary(wire.eof()).finished == ()


def frame(opcode: Opcode, data: bytes, **bits: bool) -> bytes:
    return Frame(opcode, data, **bits).serialize(mask=False)


TEXT, CONT, PING, CLOSE = Opcode.TEXT, Opcode.CONT, Opcode.PING, Opcode.CLOSE
RESERVED = bytes([text_frames([A])[0] | 0x20]) + text_frames([A])[1:]

# name: (frames after ROLE and A, outcome, reason, pattern of the detail, close code; None: still open)
WEBSOCKET = {
    "masked": (Frame(TEXT, A).serialize(mask=True), "protocol_error", "masked_frame", "1002: a masked frame", 1002),
    "reserved opcode": (b"\x83\x00", "protocol_error", "reserved_opcode", "1002: a frame with opcode 3", 1002),
    "RSV1 without an extension": (
        bytes([0xC1]) + text_frames([A])[1:],
        "protocol_error",
        "reserved_bits",
        "1002: .*reserved bits.*",
        1002,
    ),
    "RSV2": (RESERVED, "protocol_error", "reserved_bits", "1002: .*reserved bits.*", 1002),
    "a continuation of nothing": (
        frame(CONT, A),
        "protocol_error",
        "bad_fragment",
        "1002: a continuation of nothing",
        1002,
    ),
    "a message inside another": (
        b"\x01\x01{" + text_frames([A]),
        "protocol_error",
        "bad_fragment",
        "1002: a message inside a message",
        1002,
    ),
    "a long ping": (
        b"\x89\x7e\x00\x7e" + b"x" * 126,
        "protocol_error",
        "bad_control",
        "1002: a control frame of 126 bytes",
        1002,
    ),
    "a fragmented ping": (
        b"\x09\x00",
        "protocol_error",
        "bad_control",
        "1002: a control frame of 0 bytes, not final",
        1002,
    ),
    "a binary message": (frame(Opcode.BINARY, A), "protocol_error", "binary_message", "1003: a binary message", 1003),
    "not UTF-8": (frame(TEXT, A.replace(b'"a"', b'"\xff"')), "protocol_error", "bad_utf8", ".*not UTF-8.*", 1007),
    "not UTF-8 in fragments": (
        b"\x01\x01\xff" + frame(CONT, b"x"),
        "protocol_error",
        "bad_utf8",
        ".*not UTF-8.*",
        1007,
    ),
    "too big": (frame(TEXT, b" " * (MAX_MESSAGE + 1)), "protocol_error", "message_too_big", "1009: .*", 1009),
    "too big by its head alone": (b"\x81\x7f\x7f" + b"\xff" * 7, "protocol_error", "message_too_big", "1009: .*", 1009),
    "too big in fragments": (
        b"\x01\x7f" + MAX_MESSAGE.to_bytes(8, "big") + b" " * MAX_MESSAGE + b"\x80\x01 ",
        "protocol_error",
        "message_too_big",
        "1009: .*",
        1009,
    ),
    "close": (
        frame(CLOSE, Close(1011, "fault").serialize()),
        "truncated",
        "close_frame",
        r"closed by the server: 1011 \(internal error\) fault",
        1011,
    ),
    "close without a code": (frame(CLOSE, b""), "truncated", "close_frame", "closed by the server: 1005 .*", 1005),
    "close with one byte": (frame(CLOSE, b"x"), "protocol_error", "bad_close", "1002: .*close frame too short", 1002),
    "close with a reserved code": (
        frame(CLOSE, b"\x03\xed"),
        "protocol_error",
        "bad_close",
        "1002: .*invalid status code",
        1002,
    ),
    "close within a message": (
        b"\x01\x01{" + frame(CLOSE, b""),
        "protocol_error",
        "bad_fragment",
        "1002: a close frame inside a message",
        1002,
    ),
    "an error message": (text_frames([LIMITED]), "api_error", "error_event", "rate_limit: slow down", None),
    "nothing to resume": (
        text_frames([LIMITED.replace(b"rate_limit", b"nothing_to_resume")]),
        "complete",
        "nothing_to_resume",
        "nothing to resume",
        None,
    ),
    "invalid JSON, read on": (
        text_frames([b"{", A, b"nonsense", DONE]),
        "protocol_error",
        "bad_json",
        "2 unreadable payloads, first: .*truncated",
        None,
    ),
}


@pytest.mark.parametrize("case", WEBSOCKET)
def test_websocket(case: str) -> None:
    tail, outcome, reason, detail, code = WEBSOCKET[case]
    data = text_frames([ROLE, A]) + tail
    step = 1 if len(data) < 10_000 else 997
    for cuts in ((), range(0, len(data), step)):
        wire = ws_wire()
        got = summary(read(wire, data, cuts))
        assert ([kind for kind, _ in got.finished], got.reasons) == ([outcome], (reason,))
        assert re.fullmatch(detail, got.finished[0][1]), got.finished
        assert got.text.startswith(b"a")
        assert (wire.ready, got.idle, got.closed) == ((True, 1, ()) if code is None else (False, 0, (code,)))
        if code is not None:
            assert wire.receive(text_frames([A])) == []
            server = ServerProtocol(state=State.OPEN)
            server.receive_data(wire.to_send())
            assert server.close_rcvd is not None
            assert server.close_rcvd.code == code
        assert summary(wire.eof()).finished == ()


# name: (what replaces the 101, outcome, reason, pattern of the detail)
HANDSHAKE = {
    "401": (plain("401 Unauthorized", ERROR), "http_error", "http_401", "401: invalid_request_error: no such model"),
    "429": (
        plain("429 Busy", LIMITED, "Retry-After: 2\r\n"),
        "http_error",
        "http_429",
        r"429: rate_limit: slow down \(retry-after: 2\)",
    ),
    "503 in chunks": (
        b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n" + http_chunks([b"bu", b"sy"]) + b"0\r\n\r\n",
        "http_error",
        "http_503",
        "503: busy",
    ),
    "200": (plain("200 OK", b"hello"), "http_error", "http_200", "200: hello"),
    "not HTTP": (b"SSH-2.0-OpenSSH\r\n\r\n", "protocol_error", "bad_head", "HTTP: .*"),
    "no accept key": (
        b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "protocol_error",
        "bad_accept",
        ".*Sec-WebSocket-Accept.*",
    ),
    "a wrong accept key": (
        b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n",
        "protocol_error",
        "bad_accept",
        ".*Sec-WebSocket-Accept.*",
    ),
    "no upgrade": (b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\n\r\n", "protocol_error", "bad_upgrade", ".*Upgrade.*"),
}


@pytest.mark.parametrize("case", HANDSHAKE)
def test_handshake(case: str) -> None:
    data, outcome, reason, detail = HANDSHAKE[case]
    for cuts in ((), range(len(data))):
        wire = WebSocketWire("test:80")
        wire.opening()
        events = read(wire, data, cuts)
        finished, closed = events
        assert isinstance(finished, Finished)
        assert (finished.stream, finished.outcome, finished.reason) == (NO_STREAM, outcome, reason)
        assert re.fullmatch(detail, finished.detail), finished
        assert isinstance(closed, Closed)
        assert not wire.ready
        assert wire.eof() == wire.receive(b"x") == []


def test_a_handshake_cut_anywhere() -> None:
    """A status that was read counts, as it does over SSE."""
    data = plain("503 Busy", b"busy")
    head = data.index(b"\r\n\r\n") + 4
    for cut in range(len(data)):
        wire = WebSocketWire("test:80")
        wire.opening()
        finished, closed = read(wire, data[:cut]) + wire.eof()
        if cut < head:
            detail = "the connection ended during the handshake"
            assert finished == Finished(NO_STREAM, Outcome.TRUNCATED, detail, "handshake_closed")
        else:
            detail = f"503: {data[head:cut].decode()}"
            assert finished == Finished(NO_STREAM, Outcome.HTTP_ERROR, detail, "http_503")
        assert isinstance(closed, Closed)
        assert wire.eof() == wire.receive(data) == []
        assert wire.close() == b""


def test_a_refusal_that_ends_with_the_connection() -> None:
    wire = WebSocketWire("test:80")
    wire.opening()
    events = read(wire, b"HTTP/1.1 503 Busy\r\n\r\n" + ERROR) + wire.eof()
    detail = "503: invalid_request_error: no such model"
    assert events[0] == Finished(NO_STREAM, Outcome.HTTP_ERROR, detail, "http_503")


def test_an_error_body_that_ends_with_the_connection() -> None:
    wire = sse_wire()
    events = read(wire, b"HTTP/1.1 503 Busy\r\n\r\n" + ERROR) + wire.eof()
    assert events == [
        Finished(STREAM, Outcome.HTTP_ERROR, "503: invalid_request_error: no such model", "http_503"),
        Closed(0, "end of the connection"),
    ]


def test_an_extension_nobody_offered() -> None:
    wire, server = WebSocketWire("test:80"), ServerProtocol()
    server.receive_data(wire.opening())
    response = server.accept(server.events_received()[0])
    response.headers["Sec-WebSocket-Extensions"] = "permessage-deflate"
    server.send_response(response)
    (finished, _) = wire.receive(b"".join(server.data_to_send()))
    assert isinstance(finished, Finished)
    assert finished == Finished(NO_STREAM, Outcome.PROTOCOL_ERROR, "no extensions supported", "not_negotiated")


# name: (how to make the frame from a good one, reason, close code)
COMPRESSED = {
    "not deflate": (lambda good: good[:2] + b"\xff" * (len(good) - 2), "bad_compression", 1002),
    "RSV2": (lambda good: bytes([good[0] | 0x20]) + good[1:], "reserved_bits", 1002),
    "RSV1 on a ping": (lambda _: b"\xc9\x00", "reserved_bits", 1002),
    "RSV1 on a continuation": (lambda _: b"\x01\x01{\xc0\x00", "reserved_bits", 1002),
    "masked": (lambda _: b"\x81\x80abcd", "masked_frame", 1002),
    "too big when it is decompressed": (lambda _: None, "message_too_big", 1009),
}


@pytest.mark.parametrize("case", COMPRESSED)
def test_compressed(case: str) -> None:
    make, reason, code = COMPRESSED[case]
    for whole in (True, False):
        wire = WebSocketWire("test:80", compression=True)
        server = ServerProtocol(extensions=[ServerPerMessageDeflateFactory()])
        wire.receive(handshake(wire, server))
        server.receive_data(wire.request(STREAM, b"{}"))
        server.send_text(A)
        data = make(b"".join(server.data_to_send()))
        if data is None:
            server.send_text(b" " * (MAX_MESSAGE + 1))
            data = b"".join(server.data_to_send())
        got = summary(read(wire, data, () if whole else range(len(data))))
        assert got.finished[0][0] == "protocol_error"
        assert (got.reasons, got.closed) == ((reason,), (code,))


SESSION_WORDS = {"reset", "late_data", "refused", "unreachable", "stopped"}
"""And time-outs: a wire has no socket and no clock."""


def test_every_reason_of_a_wire_has_a_case() -> None:
    cases = [
        *(reason for _, _, reason, *_ in (*SSE.values(), *WEBSOCKET.values(), *HANDSHAKE.values())),
        *(reason for _, reason, _ in COMPRESSED.values()),
        *("not_negotiated", "handshake_closed", "closed", "no_close_frame", "left"),  # each in a test of its own
    ]
    wire_words = {
        word for word in REASONS if word not in SESSION_WORDS and not word.startswith("tls_") and "_timeout" not in word
    }
    assert {re.sub("^http_[0-9]+$", "http_<status>", word) for word in cases} == wire_words


@pytest.mark.parametrize("cancelled", [False, True])
def test_the_end_of_the_connection(cancelled: bool) -> None:
    sse, websocket = sse_wire(), ws_wire()
    for wire, reason in ((sse, "closed"), (websocket, "no_close_frame")):
        wire.receive(BEGUN if wire is sse else text_frames([ROLE, A]))
        if cancelled:
            wire.cancel(STREAM)
        got = summary(wire.eof())
        assert got.reasons == (("left" if cancelled else reason),)
        assert got.finished[0][0] == ("cancelled" if cancelled else "truncated")


# name: (Retry-After, Date, seconds)
RETRY_AFTER = {
    "seconds": ("120", "", 120),
    "none": ("0", "", 0),
    "for ever": ("9" * 400, "", 1e9),
    "a date": ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:07 GMT", 30),
    "a date in the past": ("Sun, 06 Nov 1994 08:49:37 GMT", "Mon, 07 Nov 1994 08:49:37 GMT", 0),
    "an old form of date": ("Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:07 1994", None),
    "a date and no Date": ("Sun, 06 Nov 1994 08:49:37 GMT", "", None),
    "not readable": ("soon", "Sun, 06 Nov 1994 08:49:07 GMT", None),
    "negative": ("-1", "", None),
    "a fraction": ("1.5", "", None),
    "a year beyond reason": ("Sun, 06 Nov 99999 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:07 GMT", None),
    "absent": ("", "", None),
}


@pytest.mark.parametrize("case", RETRY_AFTER)
def test_retry_after(case: str) -> None:
    value, date, seconds = RETRY_AFTER[case]
    fields = "".join(f"{name}: {text}\r\n" for name, text in (("Retry-After", value), ("Date", date)) if text)
    sse, websocket = sse_wire(), WebSocketWire("test:80")
    websocket.opening()
    assert (sse.retry_after_s, websocket.retry_after_s) == (None, None)
    for wire in (sse, websocket):
        wire.receive(plain("429 Busy", LIMITED, fields))
        assert wire.retry_after_s == seconds


def test_wires_are_made_by_name() -> None:
    assert isinstance(make_wire("sse", "test:80"), SSEWire)
    assert isinstance(make_wire("websocket", "test:80"), WebSocketWire)
    assert b"permessage-deflate" in make_wire("websocket", "test:80", compression=True).opening()
    with pytest.raises(KeyError):
        make_wire("carrier-pigeon", "test:80")


def test_a_reply_after_an_error_on_the_same_connection() -> None:
    wire = sse_wire()
    wire.receive(SSE["404 with the API's message"][0])
    wire.request(STREAM, b"{}")
    assert summary(wire.receive(sse_reply(reply("x")))).finished == (("complete", ""),)


@pytest.mark.parametrize("case", ["eof", "close frame", "handshake refused"])
def test_a_closed_wire_leaves_no_cycle(case: str) -> None:
    """A driver measures with the garbage collector off, and opens a connection for every cold stream."""
    gc.disable()
    try:
        wires: list[SSEWire | WebSocketWire] = [sse_wire(), ws_wire()]
        wires[0].receive(BEGUN)
        wires[1].receive(text_frames([ROLE, A]))
        if case == "close frame":
            wires[1].receive(frame(CLOSE, b""))
        elif case == "handshake refused":
            wires[1] = WebSocketWire("test:80")
            wires[1].opening()
            wires[1].receive(HANDSHAKE["401"][0])
        for wire in wires:
            wire.eof()
        inner = [weakref.ref(wires[0]._http), weakref.ref(wires[1]._protocol)]  # type: ignore[union-attr]
        del wires, wire
        assert [ref() for ref in inner] == [None, None]
    finally:
        gc.enable()
