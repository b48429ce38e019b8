"""Going on after a cut, on both protocols; and after a cancel, which a WebSocket survives."""

from __future__ import annotations

import json

import pytest
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from wire_samples import (
    DONE,
    HEAD,
    ID,
    ROLE,
    STREAM,
    chunk,
    handshake,
    http_chunks,
    read,
    reply,
    summary,
    text_frames,
    ws_wire,
)

from bench.wire import SSEWire, WebSocketWire
from bench.wire.event_id import EventId, split_event_id
from bench.wire.events import Content, Finished, Identified, Idle, Outcome

PAYLOADS = reply("a", "b", "a", "c", "b", "a")
OTHER = ID[:-1] + "2"
A = chunk({"content": "a"})


def renamed(*payloads: bytes) -> list[bytes]:
    return [payload.replace(ID.encode(), OTHER.encode()) for payload in payloads]


def numbered(payloads: list[bytes], first: int = 0) -> list[bytes]:
    return [b"id: %b:%d\ndata: %b\n\n" % (ID.encode(), first + i, each) for i, each in enumerate(payloads)]


def idle() -> WebSocketWire:
    wire = WebSocketWire("test:80")
    wire.receive(handshake(wire, ServerProtocol()))
    return wire


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("chatcmpl-1:0", EventId("chatcmpl-1", 0)),
        ("a:b:12", EventId("a:b", 12)),
        ("", None),
        (":1", None),
        ("chatcmpl-1", None),
        ("chatcmpl-1:", None),
        ("chatcmpl-1:-1", None),
        ("chatcmpl-1:\u0663", None),
        ("x:" + "9" * 5000, None),
    ],
)
def test_an_event_id_in_parts(text: str, parts: EventId | None) -> None:
    assert split_event_id(text) == parts
    if parts:
        assert str(parts) == text


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("resume", [0, 1, 4, len(PAYLOADS) - 1])
def test_both_protocols_know_the_same_last_event(resume: int, size: int) -> None:
    """However they are cut, wherever the connection ends, from the beginning or gone on with."""
    start = f"{ID}:{resume - 1}" if resume else ""
    for count in range(len(PAYLOADS) - resume + 1):
        payloads = PAYLOADS[resume : resume + count]
        sse, websocket = SSEWire("test:80"), idle()
        for wire, data in (
            (sse, HEAD + http_chunks(numbered(payloads, resume))),
            (websocket, text_frames(payloads)),
        ):
            wire.request(STREAM, b"{}", start)
            assert wire.last_event_id == start
            read(wire, data, range(0, len(data), size))
            wire.eof()
        last = f"{ID}:{resume + count - 1}" if count else start
        assert (sse.last_event_id, websocket.last_event_id) == (last, last)


def test_over_sse_only_the_server_gives_ids() -> None:
    wire = SSEWire("test:80")
    wire.request(STREAM, b"{}")
    wire.receive(HEAD + http_chunks(b"data: " + payload + b"\n\n" for payload in PAYLOADS))
    assert wire.last_event_id == ""


def test_what_counts_as_an_event() -> None:
    wire = ws_wire()
    steps = [
        (text_frames([ROLE])[:-1], ""),
        (text_frames([ROLE])[-1:], f"{ID}:0"),
        (text_frames([A]), f"{ID}:1"),
        (text_frames([A, A]), f"{ID}:3"),
        (Frame(Opcode.PING, b"").serialize(mask=False), f"{ID}:3"),
        (text_frames([b"{"]), f"{ID}:4"),  # it was sent, though it cannot be read
        (b"\x01\x01{", f"{ID}:4"),
        (b"\x80\x01}", f"{ID}:5"),
        (text_frames([b'{"error":{"message":"m"}}']), f"{ID}:5"),  # stands in place of what failed
        (text_frames([A, DONE]), f"{ID}:5"),  # late
    ]
    for data, last in steps:
        wire.receive(data)
        assert wire.last_event_id == last
    wire.request(STREAM + 1, b"{}")
    assert wire.last_event_id == ""


@pytest.mark.parametrize("start", [f"{OTHER}:7", "5"])
def test_a_server_that_begins_anew_is_counted_anew(start: str) -> None:
    wire = idle()
    wire.request(STREAM, b"{}", start)
    wire.receive(text_frames([ROLE, A]))
    assert wire.last_event_id == f"{ID}:1"


@pytest.mark.parametrize("start", ["x:1\u20ac", "\ufffd:3"])
def test_any_id_can_be_sent_back(start: str) -> None:
    """As UTF-8, whatever a server made of it (WHATWG HTML 9.2.4)."""
    assert f"Last-Event-ID: {start}\r\n".encode() in SSEWire("test:80").request(STREAM, b"{}", start)
    server = ServerProtocol(state=State.OPEN)
    server.receive_data(idle().request(STREAM, b"{}", start))
    (frame,) = server.events_received()
    assert json.loads(frame.data)["last_event_id"] == start  # type: ignore[union-attr]


# What is under way, or comes, once the client has sent its cancel.
TAILS = {
    "the answer": [DONE],
    "chunks and the answer": [A, chunk({"content": "b"}), DONE],
    "the end that it crossed": [chunk({}, "stop"), DONE],
}


@pytest.mark.parametrize("tail", ["the answer", "chunks and the answer", "the end that it crossed"])
@pytest.mark.parametrize("before", [0, 1, 2, 5])
@pytest.mark.parametrize("size", [1, 10_000])
def test_a_cancel_keeps_the_connection(tail: str, before: int, size: int) -> None:
    wire = ws_wire()
    wire.receive(text_frames(PAYLOADS[:before]))
    assert wire.cancel(STREAM)
    assert wire.cancel(STREAM) == b""  # once is enough
    data = text_frames(TAILS[tail])
    events = read(wire, data, range(0, len(data), size))
    assert events[-2:] == [Finished(STREAM, Outcome.CANCELLED, "", "left"), Idle()]
    assert wire.request(8, b"{}")
    data = text_frames(renamed(*PAYLOADS))
    events = read(wire, data, range(0, len(data), size))
    assert events[0] == Identified(8, OTHER)
    assert events[-2:] == [Finished(8, Outcome.COMPLETE, ""), Idle()]
    assert b"\x1f".join(event.text for event in events if isinstance(event, Content)) == b"a\x1fb\x1fa\x1fc\x1fb\x1fa"
    assert wire.last_event_id == f"{OTHER}:{len(PAYLOADS) - 1}"
    assert (wire.sizes.late, wire.sizes.faults) == (0, 0)


@pytest.mark.parametrize("stale", [[A], [DONE], [A, A, DONE], [ROLE, A, chunk({}, "stop"), DONE]])
@pytest.mark.parametrize("size", [1, 10_000])
def test_the_rest_of_a_cancelled_stream_is_not_the_next_ones(stale: list[bytes], size: int) -> None:
    """A cancel that crosses the last message may be answered with a second [DONE]."""
    wire = ws_wire()
    wire.receive(text_frames([ROLE, A, A]))
    wire.cancel(STREAM)
    wire.receive(text_frames([DONE]))
    wire.request(8, b"{}")
    data = text_frames([*stale, *renamed(ROLE, A, A), DONE])
    events = read(wire, data, range(0, len(data), size))
    assert events[0] == Identified(8, OTHER)
    assert [event for event in events if isinstance(event, Finished)] == [Finished(8, Outcome.COMPLETE, "")]
    assert b"\x1f".join(event.text for event in events if isinstance(event, Content)) == b"a\x1fa"
    assert wire.last_event_id == f"{OTHER}:3"
    assert wire.sizes.late == 0


def test_a_cancelled_stream_can_be_gone_on_with() -> None:
    wire = ws_wire()
    wire.receive(text_frames([ROLE, A]))
    wire.cancel(STREAM)
    wire.receive(text_frames([DONE]))
    wire.request(STREAM, b"{}", f"{ID}:1")
    got = summary(wire.receive(text_frames([A, DONE])))
    assert (got.text, got.finished, wire.last_event_id) == (b"a", (("complete", ""),), f"{ID}:3")


def test_a_cancelled_stream_that_the_server_ends_otherwise() -> None:
    for tail, outcome in ((b"\x88\x00", "cancelled"), (b"\x83\x00", "protocol_error"), (b"", "cancelled")):
        wire = ws_wire()
        wire.receive(text_frames([ROLE, A]))
        wire.cancel(STREAM)
        got = summary(wire.receive(tail) + wire.eof())
        assert [kind for kind, _ in got.finished] == [outcome]
        assert not wire.ready


def test_frames_before_the_request_are_not_its_reply() -> None:
    wire = idle()
    assert wire.receive(text_frames([ROLE, A, DONE])) == []
    assert wire.ready
    wire.request(STREAM, b"{}")
    assert (wire.sizes.late, wire.last_event_id) == (0, "")
    assert summary(wire.receive(text_frames([ROLE, A, DONE]))).text == b"a"
