"""Whatever a peer sends: no exception, one end, no more kept than a message or a head, no cycle left behind."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Close, Frame, Opcode
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

from bench.wire import SSEWire, WebSocketWire
from bench.wire.events import REASONS, Closed, Event, Finished, meaning

A = chunk({"content": "a"})
ANY = SSEWire | WebSocketWire


def frame(opcode: Opcode, data: bytes = b"", fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=False)


def opening_ws() -> WebSocketWire:
    wire = WebSocketWire("test:80")
    wire.opening()
    return wire


def idle_ws() -> WebSocketWire:
    wire = WebSocketWire("test:80")
    wire.receive(handshake(wire, ServerProtocol()))
    return wire


def compressed_ws() -> WebSocketWire:
    wire = WebSocketWire("test:80", compression=True)
    wire.receive(handshake(wire, ServerProtocol(extensions=[ServerPerMessageDeflateFactory()])))
    wire.request(STREAM, b"{}")
    return wire


def after(make: Callable[[], ANY], *reads: bytes) -> Callable[[], ANY]:
    def begun() -> ANY:
        wire = make()
        for data in reads:
            wire.receive(data)
        return wire

    return begun


BEGUN = HEAD + http_chunks([b"data: " + ROLE + b"\n\n", b"data: " + A + b"\n\n"])
STATES: dict[str, Callable[[], ANY]] = {
    "sse, nothing asked": lambda: SSEWire("test:80"),
    "sse, asked": sse_wire,
    "sse, in the body": after(sse_wire, BEGUN),
    "sse, in an error": after(sse_wire, b"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "sse, idle again": after(sse_wire, sse_reply(reply("a"))),
    "websocket, in the handshake": opening_ws,
    "websocket, nothing asked": idle_ws,
    "websocket, asked": ws_wire,
    "websocket, in the stream": after(ws_wire, text_frames([ROLE, A])),
    "websocket, in a message": after(ws_wire, b"\x01\x01{"),
    "websocket, compressed": compressed_ws,
}

PIECES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            HEAD,
            BEGUN,
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 3\r\n\r\nabc",
            b"0\r\n\r\n",
            b"data: ",
            b"retry: 1" + b"0" * 5000 + b"\n\n",
            b"id: \xff\n\n",
            b'{"x":' + b"[" * 20_000,
            *(text_frames([payload]) for payload in (ROLE, A, DONE, b"{", b'{"x":' + b"[" * 20_000)),
            *(http_chunks([b"data: " + payload + b"\n\n"]) for payload in (ROLE, A, DONE, b'{"x":' + b"[" * 20_000)),
            frame(Opcode.PING, b"x"),
            frame(Opcode.CLOSE),
            frame(Opcode.CLOSE, Close(1001, "bye").serialize()),
            frame(Opcode.TEXT, b"{", fin=False),
            frame(Opcode.CONT, b"}"),
            b"\xc1\x05aaaaa",
            b"\x81\x7f\xff",
        ]
    ),
)
STEPS = st.lists(st.one_of(PIECES, st.sampled_from(["eof", "cancel", "close", "request"])), max_size=12)


def check(events: list[Event]) -> None:
    """One end for each stream, and nothing behind the end of the connection."""
    ends = [event.stream for event in events if isinstance(event, Finished)]
    assert len(ends) == len(set(ends))
    assert not [event for event in events[:-1] if isinstance(event, Closed)]
    assert all(event.reason == "" or meaning(event.reason) for event in events if isinstance(event, Finished))


@settings(deadline=None)
@given(state=st.sampled_from(list(STATES)), steps=STEPS)
def test_nothing_raises(state: str, steps: list[bytes | str]) -> None:
    wire = STATES[state]()
    events: list[Event] = []
    stream = STREAM
    for step in steps:
        if isinstance(step, bytes):
            events += wire.receive(step)
        elif step == "eof":
            events += wire.eof()
        elif step == "cancel":
            wire.cancel(stream)
        elif step == "close":
            wire.close()
        elif wire.ready:
            stream += 1
            wire.request(stream, b"{}", wire.last_event_id)
        wire.to_send()
        assert wire.retry_after_s is None or wire.retry_after_s >= 0
        assert len(wire.sizes) == 11
    events += wire.eof()
    check(events)
    assert isinstance(wire.last_event_id, str)
    assert not wire.ready


GOOD = {
    "sse": (sse_wire, sse_reply(reply("a", "b", "😀", "c"))),
    "sse in few chunks": (
        sse_wire,
        HEAD
        + http_chunks([b"".join(b"id: 1\ndata: " + each + b"\r\n\r\n" for each in reply("a", "b"))])
        + b"0\r\n\r\n",
    ),
    "sse of a length": (
        sse_wire,
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 500\r\n\r\ndata: " + A + b"\n\n",
    ),
    "an error": (sse_wire, b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 3\r\n\r\nabc"),
    "a refused handshake": (opening_ws, b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 3\r\n\r\nabc"),
    "websocket": (ws_wire, text_frames(reply("a", "b", "😀", "c"))),
    "websocket with all kinds of frames": (
        ws_wire,
        text_frames([ROLE, A])
        + frame(Opcode.PING, b"x")
        + frame(Opcode.TEXT, A[:9], fin=False)
        + frame(Opcode.PONG)
        + frame(Opcode.CONT, A[9:])
        + text_frames([A, b"x" * 70_000, DONE])
        + frame(Opcode.CLOSE, Close(1000, "bye").serialize()),
    ),
}


def outline(wire: ANY, data: bytes, cuts: set[int]) -> tuple[object, ...]:
    events = read(wire, data, cuts) + wire.eof()
    check(events)
    got = summary(events)
    kinds = tuple(kind for kind, _ in got.finished)
    sizes = wire.sizes
    return got.chunks, got.text, kinds, got.reasons, sizes.faults, wire.last_event_id


@settings(deadline=None)
@given(data=st.data(), name=st.sampled_from(list(GOOD)))
def test_a_damaged_reply_is_read_the_same_however_it_is_cut(data: st.DataObject, name: str) -> None:
    make, good = GOOD[name]
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        kind = data.draw(st.sampled_from(["flip", "set", "cut", "double", "insert"]))
        if kind == "flip":
            damaged[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "set":
            damaged[at] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del damaged[at : at + data.draw(st.integers(1, 30))]
        elif kind == "double":
            damaged[at:at] = damaged[at : at + data.draw(st.integers(1, 30))]
        else:
            damaged[at:at] = data.draw(st.binary(max_size=5))
        if not damaged:
            return
    whole = outline(make(), bytes(damaged), set())
    cuts = data.draw(st.one_of(st.sets(st.integers(0, len(damaged)), max_size=30), st.just(set(range(2000)))))
    assert outline(make(), bytes(damaged), cuts) == whole


MIB = 2**20
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
# name: (state, what comes once, what comes without end, MiB of it, reason of the end; None: it is read on)
ENDLESS: dict[str, tuple[Callable[[], ANY], bytes, bytes, float, str | None]] = {
    "a head line": (sse_wire, b"HTTP/1.1 200 OK\r\nX: ", b"x", 50, "head_too_long"),
    "head lines": (sse_wire, b"HTTP/1.1 200 OK\r\n", b"X-%d: y\r\n", 50, "head_too_long"),
    "blank heads": (sse_wire, b"", b"\r\n", 50, "head_too_long"),
    "interim heads": (sse_wire, b"", b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n", 50, "head_too_long"),
    "a chunk extension": (sse_wire, BEGUN + b"5;", b"x", 50, "head_too_long"),
    "a trailer line": (sse_wire, BEGUN + b"0\r\nX: ", b"x", 50, "head_too_long"),
    "trailer lines": (sse_wire, BEGUN + b"0\r\n", b"X: y\r\n", 50, "head_too_long"),
    "a data line": (sse_wire, BEGUN + b"ffffffff\r\ndata: ", b"x", 50, "event_too_big"),
    "data lines": (sse_wire, BEGUN + b"ffffffff\r\n", b"data: x\n", 50, "event_too_big"),
    "empty data lines": (sse_wire, BEGUN + b"ffffffff\r\n", b"data\n", 50, "event_too_big"),
    "a comment line": (sse_wire, BEGUN + b"ffffffff\r\n:", b"x", 50, "event_too_big"),
    "an id line": (sse_wire, BEGUN + b"ffffffff\r\nid: ", b"x", 50, "event_too_big"),
    "comment lines": (sse_wire, BEGUN + b"ffffffff\r\n", b": keep-alive\n\n" * 100, 1, None),
    "an error's body": (sse_wire, b"HTTP/1.1 500 Oops\r\n\r\n", b"x", 50, "http_500"),
    "tokens": (sse_wire, BEGUN, http_chunks([b"data: " + A + b"\n\n"]), 10, None),
    "late tokens": (
        sse_wire,
        BEGUN + http_chunks([b"data: [DONE]\n\n"]),
        http_chunks([b"data: " + A + b"\n\n"]),
        4,
        "",
    ),
    "unreadable events": (sse_wire, BEGUN, http_chunks([b"data: {\n\n" * 100]), 0.15, None),
    "a 101's line": (opening_ws, b"HTTP/1.1 101 S\r\nX: ", b"x", 50, "head_too_long"),
    "a 101's lines": (opening_ws, b"HTTP/1.1 101 S\r\n", b"X: y\r\n", 50, "head_too_long"),
    "a refusal's body": (opening_ws, b"HTTP/1.1 500 Oops\r\n\r\n", b"x", 50, "http_500"),
    "a frame of a petabyte": (ws_wire, b"\x81\x7f\0\x04\0\0\0\0\0\0", b"x", 50, "message_too_big"),
    "a message in fragments": (ws_wire, b"\x01\0", b"\0\x7e\xff\xff" + b"x" * 65535, 50, "message_too_big"),
    "empty fragments": (ws_wire, b"\x01\0", b"\0\0", 0.02, None),
    "frames of tokens": (ws_wire, text_frames([ROLE, A]), text_frames([A]), 5, None),
    "frames nobody asked for": (idle_ws, b"", text_frames([b"x" * 60_000]), 50, None),
    "pings": (ws_wire, b"", frame(Opcode.PING, b"x" * 125), 0.3, None),
    "pongs": (ws_wire, b"", frame(Opcode.PONG, b"x" * 125), 0.3, None),
    "frames after a close": (ws_wire, frame(Opcode.CLOSE), text_frames([A]), 50, "close_frame"),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_without_end(case: str) -> None:
    """What is refused is refused within a few MiB; what is read on is not kept."""
    make, once, unit, mib, reason = ENDLESS[case]
    wire = make()
    got = [event for event in wire.receive(once) if isinstance(event, Finished)]
    piece = unit * max(1, min(65_536, int(mib * MIB)) // len(unit))
    tracemalloc.start()
    try:
        received = 0
        while received < mib * MIB:
            got += [event for event in wire.receive(piece) if isinstance(event, Finished)]
            wire.to_send()
            received += len(piece)
            if got and reason:
                break
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [event.reason for event in got] == ([] if reason is None else [reason])
    assert received < 6 * MIB or not reason
    assert kept < (MIB / 16 if reason is None else 2 * MIB)
    assert peak < 20 * MIB


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("tail", ["eof", "garbage", "close frame", "reset"])
def test_a_closed_wire_leaves_nothing_for_the_collector(state: str, tail: str) -> None:
    """A driver measures with the collector off."""
    gc.disable()
    gc.freeze()  # only what comes now is looked through: what all tests left takes long
    try:
        wire = STATES[state]()
        if tail == "garbage":
            wire.receive(b"\xff" * 9)
        elif tail == "close frame":
            wire.receive(frame(Opcode.CLOSE, Close(1011, "fault").serialize()))
        elif tail == "reset":
            wire.cancel(STREAM)
        wire.eof()
        wire.to_send()
        del wire
        assert gc.collect() == 0
    finally:
        gc.enable()
        gc.unfreeze()


def test_every_reason_has_a_meaning() -> None:
    assert all(meaning(reason) for reason in REASONS)
    assert meaning("http_503") == REASONS["http_<status>"]
    assert meaning("http_99") == meaning("") == meaning("tired") == ""
    assert all(len(line) < 90 and line[0].islower() for line in REASONS.values())
