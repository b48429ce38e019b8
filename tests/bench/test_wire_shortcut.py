"""Near misses: bytes that look like a content chunk to everything but the proof, alone in a read or amid a run."""

import pytest
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol
from wire_samples import (
    DONE,
    HEAD,
    ROLE,
    STREAM,
    chunk,
    http_chunks,
    read_event_stream,
    read_payloads,
    sse_wire,
    summary,
    text_frames,
    ws_wire,
)

from bench.wire import SSEWire, WebSocketWire
from bench.wire.events import Accepted, Content, Event, Finished, Idle, Outcome

A, B = chunk({"content": "a"}), chunk({"content": "b"})
EVENT_A, EVENT_B = b"data: " + A + b"\n\n", b"data: " + B + b"\n\n"
FRAME_A, FRAME_B = text_frames([A]), text_frames([B])


def learned_sse() -> SSEWire:
    wire = sse_wire()
    wire.receive(HEAD + http_chunks([b"data: " + ROLE + b"\n\n", EVENT_A]))
    assert wire.receive(http_chunks([EVENT_A])) == [Content(STREAM, 1, b"a")]
    return wire


def learned_websocket() -> WebSocketWire:
    wire = ws_wire()
    wire.receive(text_frames([ROLE, A]))
    assert wire.receive(FRAME_A) == [Content(STREAM, 1, b"a")]
    return wire


def numbered(first: int, *payloads: bytes, label: bytes = b"c") -> list[bytes]:
    return [b"id: %b:%d\ndata: %b\n\n" % (label, first + i, each) for i, each in enumerate(payloads)]


def learned_numbered(ordinal: int = 0) -> SSEWire:
    """The last event read had this ordinal."""
    wire = sse_wire()
    wire.receive(HEAD + http_chunks(numbered(ordinal - 2, ROLE, A)))
    assert wire.receive(http_chunks(numbered(ordinal, A))) == [Content(STREAM, 1, b"a")]
    return wire


def altered(data: bytes) -> list[bytes]:
    return [data[:i] + bytes([byte]) + data[i + 1 :] for i in range(len(data)) for byte in b"!0" if byte != data[i]]


def test_an_event_with_any_byte_altered() -> None:
    for body in altered(EVENT_A):
        for many in (0, 20):
            bodies = [*[EVENT_B] * many, body, *[EVENT_B] * many, EVENT_B]
            wire = learned_sse()
            if many:
                events = wire.receive(http_chunks(bodies))
            else:
                events = [event for each in bodies for event in wire.receive(http_chunks([each]))]
            want = read_payloads([A, *read_event_stream(b"".join(bodies))[0]])
            assert summary(events).text == b"\x1f".join(want.texts[1:])
            assert wire.sizes.faults == want.faults


def same_as_the_full_reading(wire: SSEWire, ordinal: int, bodies: list[bytes], together: bool) -> None:
    reads = [http_chunks(bodies)] if together else [http_chunks([body]) for body in bodies]
    events = [event for data in reads for event in wire.receive(data)]
    payloads, last_id, _ = read_event_stream(b"".join([*numbered(ordinal, A), *bodies]))
    want = read_payloads([A, *payloads])
    assert summary(events).text == b"\x1f".join(want.texts[2:])
    assert (wire.sizes.faults, wire.last_event_id) == (want.faults, last_id)
    assert wire.sizes.payload_bytes == len(ROLE) + len(A) + sum(map(len, payloads))


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("many", [0, 20])
def test_a_numbered_event_with_any_byte_altered(many: int, together: bool) -> None:
    good = numbered(8, *[B] * (2 * many + 2))
    for body in altered(good[many]):
        same_as_the_full_reading(learned_numbered(7), 7, [*good[:many], body, *good[many + 1 :]], together)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("ordinal", [3, 8, 9, 98, 99, 9_950, 9_998, 9_999, 10_000, 10**20])
def test_numbers_count_up(ordinal: int, together: bool) -> None:
    same_as_the_full_reading(learned_numbered(ordinal), ordinal, numbered(ordinal + 1, *[A, B] * 60), together)


NUMBERS = {
    "the same again": (0, 0, 1),
    "one left out": (1, 3, 4),
    "back to the start": (1, 0, 1),
    "backwards": (2, 1, 0),
    "written otherwise": ("01", "2", "+3"),
    "none": ("", "x", ""),
}


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("case", NUMBERS)
@pytest.mark.parametrize("label", [b"c", b"d", b"", b"c:1", b"\xff"])
def test_numbers_that_do_not_count_up(case: str, label: bytes, together: bool) -> None:
    bodies = [b"id: %b:%b\ndata: %b\n\n" % (label, str(n).encode(), B) for n in NUMBERS[case]]
    if label != b"\xff":  # the slow reading has half a surrogate pair where a browser has U+FFFD
        same_as_the_full_reading(learned_numbered(0), 0, [*bodies, *numbered(1, B, B)], together)
    same_as_the_full_reading(learned_numbered(0), 0, [*bodies, EVENT_B, EVENT_B, *numbered(1, B, B)], together)


@pytest.mark.parametrize("label", [b"c", b"\xff\xfe", "\u2713:\u2713".encode()])
@pytest.mark.parametrize("lead", [b"id: ", b"id:", b"id:  "])
def test_ids_of_every_form(label: bytes, lead: bytes) -> None:
    wire = sse_wire()
    wire.receive(HEAD)
    for together in (1, 30):
        for n in range(0, 30, together):
            numbers = range(n, n + together)
            wire.receive(http_chunks([b"%b%b:%d\ndata: %b\n\n" % (lead, label, number, A) for number in numbers]))
        assert wire.last_event_id == lead[4:].decode() + label.decode(errors="replace") + ":29"
    assert wire.sizes.chunks == 60


def test_a_payload_in_a_frame_with_any_byte_altered() -> None:
    for payload in altered(A):
        for many in (0, 20):
            wire = learned_websocket()
            payloads = [*[B] * many, payload, *[B] * many, B]
            if many:
                events = wire.receive(text_frames(payloads))
            else:
                events = [event for each in payloads for event in wire.receive(text_frames([each]))]
            want = read_payloads([A, *payloads])
            assert summary(events).text == b"\x1f".join(want.texts[1:])
            assert wire.sizes.faults == want.faults


def test_a_frame_with_any_bit_of_its_head_flipped() -> None:
    for bit in range(32):
        head = bytearray(FRAME_A[:4])
        head[bit // 8] ^= 0x80 >> bit % 8
        frame = bytes(head) + FRAME_A[4:]
        for data, before in ((frame, b""), (FRAME_B * 20 + frame, b"\x1f".join([b"b"] * 20))):
            wire = learned_websocket()
            got = summary(wire.receive(data) + wire.eof())
            assert got.text == before, bit
            assert got.closed != ()


@pytest.mark.parametrize(
    "begun", [b"data: x\n", b"id: 5\n", b"junk", b"data: {}\r", b"data: {}\r\n", b"\nx: ", b"data"]
)
def test_an_event_after_something_unfinished(begun: bytes) -> None:
    for bodies in ([begun, EVENT_B], [begun, EVENT_B, EVENT_A], [begun, b"\n", EVENT_B]):
        for together in (False, True):
            wire = learned_sse()
            reads = [http_chunks(bodies)] if together else [http_chunks([body]) for body in bodies]
            events = [event for data in reads for event in wire.receive(data)]
            payloads, last_id, _ = read_event_stream(b"".join(bodies))
            want = read_payloads([A, *payloads])
            assert summary(events).text == b"\x1f".join(want.texts[1:])
            assert (wire.sizes.faults, wire.last_event_id) == (want.faults, last_id)


def test_a_content_chunk_after_the_end() -> None:
    events: list[Event] = []
    sse, websocket = learned_sse(), learned_websocket()
    for payload in (DONE, A, A):
        events += sse.receive(http_chunks([b"data: " + payload + b"\n\n"]))
        events += websocket.receive(text_frames([payload]))
    assert events == [Finished(STREAM, Outcome.COMPLETE, ""), Finished(STREAM, Outcome.COMPLETE, ""), Idle()]
    assert (sse.sizes.late, websocket.sizes.late) == (2, 2)
    sse, websocket = learned_sse(), learned_websocket()
    sse.receive(http_chunks([EVENT_A, b"data: [DONE]\n\n", *[EVENT_A] * 30]))
    websocket.receive(text_frames([A, DONE, *[A] * 30]))
    assert (sse.sizes.late, websocket.sizes.late) == (30, 30)


@pytest.mark.parametrize(
    "begun",
    [
        b"\x81\x7e" + len(FRAME_A).to_bytes(2, "big"),
        b"\x81\x7f" + len(FRAME_A).to_bytes(8, "big"),
        b"\x81\x7e",
        b"\x81",
        b"\x01\x01{",
    ],
)
def test_a_frame_inside_something_begun(begun: bytes) -> None:
    """What would be a content chunk by itself is the inside of a message, a length, or a message inside another."""
    wire = learned_websocket()
    assert wire.receive(begun) == []
    got = summary(wire.receive(FRAME_A) + wire.eof())
    assert got.text == b""
    assert got.finished[0][0] in ("protocol_error", "truncated")


def test_a_plain_frame_where_compression_was_agreed() -> None:
    """RFC 7692 section 6.1 lets an endpoint leave a message uncompressed."""
    wire = WebSocketWire("test:80", compression=True)
    server = ServerProtocol(extensions=[ServerPerMessageDeflateFactory()])
    server.receive_data(wire.opening())
    server.send_response(server.accept(server.events_received()[0]))
    assert wire.receive(b"".join(server.data_to_send())) == [Accepted(101), Idle()]
    server.receive_data(wire.request(STREAM, b"{}"))
    server.send_text(A)
    server.send_text(A)
    events = wire.receive(b"".join(server.data_to_send()))
    events += (
        wire.receive(FRAME_B) + wire.receive(Frame(Opcode.PING, b"").serialize(mask=False)) + wire.receive(FRAME_B)
    )
    assert summary(events).text == b"a\x1fa\x1fb\x1fb"


def test_the_next_stream_of_a_connection_has_its_own_template() -> None:
    other = A.replace(b"chatcmpl-0", b"chatcmpl-1")
    sse, websocket = learned_sse(), learned_websocket()
    sse.receive(http_chunks([b"data: [DONE]\n\n"]) + b"0\r\n\r\n")
    websocket.receive(text_frames([DONE]))
    for wire, end in ((sse, HEAD), (websocket, b"")):
        wire.request(STREAM, b"{}")
        wire.receive(end)
        for payload in (A, other, other, A):
            wire.receive(http_chunks([b"data: " + payload + b"\n\n"]) if wire is sse else text_frames([payload]))
        assert wire.sizes.chunks == 4
