"""WebSocket, client half: the frames read here and those read by ``websockets`` mix freely."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri
from wire_samples import (
    DONE,
    ID,
    ROLE,
    STOP,
    STREAM,
    Summary,
    chunk,
    handshake,
    read,
    read_payloads,
    reply,
    summary,
    text_frames,
    ws_wire,
)
from wire_strategies import CUTS, PAYLOADS

from bench.wire import WebSocketWire
from bench.wire.events import Accepted, Closed, Content, Event, Finished, Identified, Idle, Outcome

TEXTS = ["Hello", " world", "\n", ' "quoted" \\', "é", "😀", "中文", "Hello"]
PLAIN = text_frames(reply(*TEXTS))
JOINED = "\x1f".join(TEXTS).encode()
COMPLETE = Summary((), (ID,), len(TEXTS), JOINED, (("complete", ""),), 1)


def test_one_read() -> None:
    assert ws_wire().receive(PLAIN) == [
        Identified(STREAM, ID),
        Content(STREAM, len(TEXTS), JOINED),
        Finished(STREAM, Outcome.COMPLETE, ""),
        Idle(),
    ]


def test_byte_by_byte() -> None:
    assert summary(read(ws_wire(), PLAIN, range(len(PLAIN)))) == COMPLETE


def test_frame_by_frame() -> None:
    wire = ws_wire()
    events = [event for payload in reply(*TEXTS) for event in wire.receive(text_frames([payload]))]
    assert summary(events) == COMPLETE


def test_cut_in_two_anywhere() -> None:
    for cut in range(len(PLAIN)):
        assert summary(read(ws_wire(), PLAIN, [cut])) == COMPLETE


def test_the_end_of_the_connection_anywhere() -> None:
    ends = [len(text_frames(reply(*TEXTS)[:n])) for n in range(1, len(reply(*TEXTS)) + 1)]
    for cut in range(len(PLAIN) + 1):
        wire = ws_wire()
        got = summary(read(wire, PLAIN[:cut]) + wire.eof())
        frames = sum(end <= cut for end in ends)
        assert [outcome for outcome, _ in got.finished] == ["complete" if cut == len(PLAIN) else "truncated"], cut
        assert got.chunks == min(max(frames - 1, 0), len(TEXTS))
        assert got.closed == (1006,)
        assert wire.eof() == []
        assert not wire.ready


FRAMES = st.one_of(
    PAYLOADS.map(lambda payload: [Frame(Opcode.TEXT, payload)]),
    PAYLOADS.map(lambda payload: [Frame(Opcode.TEXT, payload)]),
    PAYLOADS.map(lambda payload: [Frame(Opcode.TEXT, payload)]),
    st.sampled_from([Opcode.PING, Opcode.PONG]).map(lambda opcode: [Frame(opcode, b"p")]),
    st.tuples(PAYLOADS, st.integers(0, 300), st.integers(0, 300), st.booleans()).map(
        lambda drawn: [
            Frame(Opcode.TEXT, drawn[0][: drawn[1]], fin=False),
            *([Frame(Opcode.PING, b"in between")] if drawn[3] else []),
            Frame(Opcode.CONT, drawn[0][drawn[1] : drawn[2]], fin=False),
            Frame(Opcode.CONT, drawn[0][max(drawn[1:3]) :]),
        ]
    ),
)


def messages(data: bytes) -> tuple[list[bytes], int]:
    """Text messages and number of pings in these frames, by ``websockets`` alone."""
    protocol = ClientProtocol(parse_uri("ws://test"), state=State.OPEN)
    protocol.receive_data(data)
    assert protocol.parser_exc is None
    texts, pings = [], 0
    for frame in protocol.events_received():
        assert isinstance(frame, Frame)
        if frame.opcode is Opcode.TEXT:
            texts.append(bytes(frame.data))
        elif frame.opcode is Opcode.CONT:
            texts[-1] += frame.data
        pings += frame.opcode is Opcode.PING
    return texts, pings


@given(groups=st.lists(FRAMES, max_size=30), cuts=CUTS)
def test_same_as_websockets_and_json(groups: list[list[Frame]], cuts: set[int]) -> None:
    data = b"".join(frame.serialize(mask=False) for group in groups for frame in group)
    texts, pings = messages(data)
    want = read_payloads(texts)
    wire = ws_wire()
    got = summary(read(wire, data, cuts))
    sizes = wire.sizes
    assert got.identified == want.identified
    assert (got.chunks, got.text) == (len(want.texts), b"\x1f".join(want.texts))
    assert (sizes.faults, sizes.late) == (want.faults, want.late)
    assert (sizes.chunks, sizes.text_bytes) == (len(want.texts), sum(map(len, want.texts)))
    assert (sizes.total_bytes, sizes.payload_bytes) == (len(data), sum(map(len, texts)))

    server = ServerProtocol(state=State.OPEN)
    server.receive_data(wire.to_send())
    pongs = server.events_received()
    assert len(pongs) == pings
    assert {frame.opcode for frame in pongs if isinstance(frame, Frame)} <= {Opcode.PONG}

    assert (got.idle, wire.ready, bool(got.finished)) == (int(want.ended), want.ended, want.ended)
    last = summary(wire.eof())
    assert [outcome for outcome, _ in got.finished + last.finished] == [want.outcome]


def test_every_length_form() -> None:
    for length in (0, 1, 125, 126, 127, 65_535, 65_536, 200_000):
        payload = chunk({"content": "x" * length})
        data = text_frames([ROLE, payload, payload, DONE])
        for cuts in ((), range(0, len(data), 1000), [len(data) // 2]):
            got = summary(read(ws_wire(), data, cuts))
            assert got.finished == (("complete", ""),)
            assert got.text == b"\x1f".join([b"x" * length] * 2 if length else [])


def test_short_frames() -> None:
    payloads = [b'{"choices":[{"delta":{"content":"%b"}}]}' % text for text in (b"a", b"b", b"a", b"c" * 100)]
    got = summary(ws_wire().receive(text_frames([*payloads, DONE])))
    assert got.text == b"a\x1fb\x1fa\x1f" + b"c" * 100


def test_pings_are_answered_and_not_counted() -> None:
    wire = ws_wire()
    frames = [ROLE, *(chunk({"content": "a"}) for _ in range(3))]
    data = b"".join(text_frames([payload]) + Frame(Opcode.PING, b"42").serialize(mask=False) for payload in frames)
    assert summary(wire.receive(data)).text == b"a\x1fa\x1fa"
    server = ServerProtocol(state=State.OPEN)
    server.receive_data(wire.to_send())
    assert server.events_received() == [Frame(Opcode.PONG, b"42")] * 4
    assert wire.to_send() == b""


def test_handshake_and_requests_one_after_another() -> None:
    wire = WebSocketWire("test:80", path="/v1/x?y=1", api_key="secret", headers=[("X-Trial", "1")])
    server = ServerProtocol()
    assert not wire.ready
    opening = wire.opening()
    server.receive_data(opening)
    (request,) = server.events_received()
    assert request.path == "/v1/x?y=1"
    assert request.headers["Host"] == "test"
    assert request.headers["Authorization"] == "Bearer secret"
    assert request.headers["X-Trial"] == "1"
    assert "Sec-WebSocket-Extensions" not in request.headers
    server.send_response(server.accept(request))
    head = b"".join(server.data_to_send())
    assert read(wire, head, range(len(head))) == [Accepted(101), Idle()]
    for stream in (1, 2, 3):
        assert wire.ready
        sent = wire.request(stream, b'{"stream":true}', 'id"5' if stream == 2 else None)
        with pytest.raises(RuntimeError):
            wire.request(9, b"{}")
        server.receive_data(sent)
        (frame,) = server.events_received()
        resume = {"last_event_id": 'id"5'} if stream == 2 else {}
        assert json.loads(frame.data) == {"stream": True, **resume}
        data = text_frames(reply(f"text {stream}"))
        assert wire.receive(data)[1:] == [
            Content(stream, 1, f"text {stream}".encode()),
            Finished(stream, Outcome.COMPLETE, ""),
            Idle(),
        ]
        sizes = wire.sizes
        assert (sizes.sent_bytes, sizes.total_bytes, sizes.head_bytes) == (len(sent), len(data), 0)
        assert (sizes.opening_sent_bytes, sizes.opening_bytes) == (len(opening), len(head))


def test_resume_with_an_empty_body() -> None:
    wire, server = WebSocketWire("test:80"), ServerProtocol()
    wire.receive(handshake(wire, server))
    server.receive_data(wire.request(1, b" { } ", "5"))
    (frame,) = server.events_received()
    assert json.loads(frame.data) == {"last_event_id": "5"}


def test_frames_right_behind_the_handshake() -> None:
    wire, server = WebSocketWire("test:80"), ServerProtocol()
    data = handshake(wire, server) + Frame(Opcode.PING, b"x").serialize(mask=False)
    assert wire.receive(data) == [Accepted(101), Idle()]
    assert wire.sizes.opening_bytes == len(data) - 3
    server.receive_data(wire.to_send())
    assert server.events_received() == [Frame(Opcode.PONG, b"x")]


@pytest.mark.parametrize("fragment", [False, True])
def test_compression(fragment: bool) -> None:
    for cuts in ((), range(3000)):
        wire = WebSocketWire("test:80", compression=True)
        server = ServerProtocol(extensions=[ServerPerMessageDeflateFactory()])
        wire.receive(handshake(wire, server))
        wire.request(STREAM, b"{}")
        for payload in reply(*TEXTS):
            if fragment:
                server.send_text(payload[:5], fin=False)
                server.send_continuation(payload[5:], fin=True)
            else:
                server.send_text(payload)
        data = b"".join(server.data_to_send())
        assert len(data) < len(PLAIN) / 2
        assert summary(read(wire, data, cuts)) == COMPLETE
        assert wire.sizes.payload_bytes == sum(map(len, reply(*TEXTS)))


def test_compression_offered_and_refused() -> None:
    wire = WebSocketWire("test:80", compression=True)
    wire.receive(handshake(wire, ServerProtocol()))
    wire.request(STREAM, b"{}")
    assert summary(wire.receive(PLAIN)) == COMPLETE


def test_cancel() -> None:
    wire = ws_wire()
    server = ServerProtocol(state=State.OPEN)
    assert summary(wire.receive(text_frames([ROLE, chunk({"content": "a"})]))).chunks == 1
    assert wire.cancel(STREAM + 1) == b""
    server.receive_data(wire.cancel(STREAM) or b"")
    assert json.loads(server.events_received()[0].data) == {"type": "cancel"}
    assert not wire.ready
    got = wire.receive(text_frames([chunk({"content": "b"}), DONE]))
    assert got == [Content(STREAM, 1, b"b"), Finished(STREAM, Outcome.CANCELLED, "", "left"), Idle()]
    assert wire.cancel(STREAM) == b""


def test_closing_in_good_order() -> None:
    wire, server = WebSocketWire("test:80"), ServerProtocol()
    wire.receive(handshake(wire, server))
    server.receive_data(wire.close())
    assert server.close_rcvd is not None
    assert server.close_rcvd.code == 1000
    assert not wire.ready
    assert wire.receive(b"".join(server.data_to_send())) == [Closed(1000, "")]
    assert wire.close() == b""


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "bye"), (1011, "fault"), (4000, "own")])
def test_closed_by_the_server(code: int, reason: str) -> None:
    for cuts in ((), range(2000)):
        wire, server = WebSocketWire("test:80"), ServerProtocol()
        wire.receive(handshake(wire, server))
        server.receive_data(wire.request(STREAM, b"{}"))
        for payload in (ROLE, chunk({"content": "a"}), chunk({"content": "b"})):
            server.send_text(payload)
        server.send_close(code, reason)
        events: list[Event] = read(wire, b"".join(server.data_to_send()), cuts)
        got = summary(events)
        assert got.text == b"a\x1fb"
        assert [outcome for outcome, _ in got.finished] == ["truncated"]
        assert f"{code} (" in got.finished[0][1]
        assert events[-1] == Closed(code, reason)
        server.receive_data(wire.to_send())
        assert server.close_sent is not None
        assert server.close_rcvd == server.close_sent
        assert wire.receive(text_frames([STOP])) == wire.eof() == []


def test_another_choice_or_another_shape_is_read_in_full() -> None:
    payloads = [ROLE]
    for i in range(40):
        payloads.append(chunk({"content": f"a{i % 3}"}, index=i % 2))
        payloads.append(json.dumps(json.loads(chunk({"content": f"b{i % 3}"}))).encode())  # with spaces
    got = summary(ws_wire().receive(text_frames([*payloads, DONE])))
    assert got.text == b"\x1f".join(b"%c%d" % (kind, i % 3) for i in range(40) for kind in b"ab")


def test_a_length_that_lies_is_no_content_chunk() -> None:
    wire = ws_wire()
    good = text_frames([chunk({"content": "a"})])
    wire.receive(text_frames([ROLE]) + good + good)
    lying = good[:3] + bytes([good[3] - 1]) + good[4:]
    got = summary(wire.receive(lying + good))
    assert got.text == b""
    assert wire.sizes.faults == 1
