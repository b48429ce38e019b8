"""The session, told what happened at hand-written times: every stamp, every outcome, one record per stream."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from pathlib import Path

import msgspec
import pytest

from bench.rawlog import STREAMS_FILE, RawLog, StreamRecord, content_reads
from bench.scenario import Timeouts
from bench.session import NEVER, Counters, Session
from bench.wire import make_wire

S = 1_000_000_000
PROTOCOLS = ["sse", "websocket"]
TIMEOUTS = Timeouts(connect_s=1, head_s=2, first_s=3, gap_s=4, total_s=20)


class Peer:
    """A session with the files it writes, and the replies of a server in whichever protocol."""

    def __init__(self, protocol: str, folder: Path) -> None:
        self.protocol = protocol
        self.folder = folder
        self.log = RawLog(folder)
        self.counters = Counters()
        self.session = Session(make_wire(protocol, "localhost:1"), TIMEOUTS, self.log, self.counters)

    def ask(self, stream: int = 1, cold: bool = True) -> StreamRecord:
        record = StreamRecord(stream, "phase", 0, True, stream - 1, 5, cold, intended_ns=90)
        self.session.ask(record, b'{"model":"m"}')
        return record

    def sent(self, now: int) -> bytes:
        """What the driver would write at `now`."""
        out, self.session.out = self.session.out, b""
        if out:
            self.session.sending(now)
        return out

    def open(self, connect: int, up: int, ready: int) -> None:
        """Connect, and shake hands where the protocol does: connected at `up`, able to ask from `ready` on."""
        self.session.connecting(connect)
        self.session.connected(up)
        request = self.sent(up + 1)
        if self.protocol == "websocket":
            key = next(line for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:"))
            accept = base64.b64encode(
                hashlib.sha1(key.split(b":")[1].strip() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
            )
            head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            assert self.session.received(ready, head + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
            self.sent(ready + 1)

    def head(self) -> bytes:
        """What comes before the first chunk."""
        if self.protocol == "websocket":
            return b""
        return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

    def message(self, text: str) -> bytes:
        """One chunk as the server frames it."""
        data = text.encode()
        if self.protocol == "websocket":
            if len(data) < 126:
                return bytes((0x81, len(data))) + data
            return b"\x81\x7e" + struct.pack(">H", len(data)) + data
        data = b"data: " + data + b"\n\n"
        return b"%x\r\n%b\r\n" % (len(data), data)

    def chunk(self, **delta: str) -> bytes:
        return self.message(
            json.dumps(
                {
                    "id": "chatcmpl-7",
                    "object": "chat.completion.chunk",
                    "created": 1,
                    "model": "m",
                    "choices": [{"index": 0, "delta": delta, "finish_reason": None}],
                },
                separators=(",", ":"),
            )
        )

    def done(self) -> bytes:
        return self.message("[DONE]") + (b"0\r\n\r\n" if self.protocol == "sse" else b"")

    def records(self) -> list[StreamRecord]:
        self.log.close()
        lines = (self.folder / STREAMS_FILE).read_bytes().splitlines()
        return [msgspec.json.decode(line, type=StreamRecord) for line in lines]


@pytest.fixture(params=PROTOCOLS)
def peer(request: pytest.FixtureRequest, tmp_path: Path) -> Peer:
    return Peer(request.param, tmp_path)


def test_a_cold_stream_from_connect_to_done(peer: Peer) -> None:
    peer.ask()
    peer.open(connect=100, up=200, ready=300)
    session = peer.session
    session.received(400, peer.head() + peer.chunk(role="assistant", content=""))
    assert session.received(500, peer.chunk(content="a"))  # from here on the gap is what may run out
    assert not session.received(600, peer.chunk(content=" b") + peer.chunk(content="é"))
    assert session.received(700, peer.done())
    assert session.idle
    assert session.deadline_ns == NEVER
    (record,) = peer.records()
    assert record.started_ns == 100
    assert record.connected_ns == 200
    assert record.ready_ns == (200 if peer.protocol == "sse" else 300)
    assert record.requested_ns == (201 if peer.protocol == "sse" else 301)
    assert record.first_byte_ns == 400
    assert record.head_ns == (400 if peer.protocol == "sse" else 0)
    assert (record.first_content_ns, record.ended_ns) == (500, 700)
    assert (record.outcome, record.detail, record.completion_id) == ("complete", "", "chatcmpl-7")
    assert record.text.split("\x1f") == ["a", " b", "é"]
    assert (record.chunks, record.text_bytes) == (3, 5)
    assert [(n, list(stamps), list(counts)) for n, stamps, counts in content_reads(peer.folder)] == [
        (1, [500, 600], [1, 2])
    ]
    assert peer.counters.chunks == 3


def test_a_warm_stream_starts_at_its_request(peer: Peer) -> None:
    peer.ask()
    peer.open(100, 200, 300)
    peer.session.received(400, peer.head() + peer.chunk(content="x") + peer.done())
    peer.ask(stream=2, cold=False)
    assert not peer.session.idle
    assert peer.sent(1000)
    peer.session.received(1100, peer.head() + peer.chunk(content="y") + peer.done())
    cold, warm = peer.records()
    assert (warm.started_ns, warm.requested_ns, warm.first_content_ns, warm.ended_ns) == (1000, 1000, 1100, 1100)
    assert (warm.connected_ns, warm.ready_ns) == (0, 0)
    assert warm.sent_bytes < cold.sent_bytes or peer.protocol == "sse"
    assert warm.text == "y"


def test_every_wait_has_an_end_of_its_own(tmp_path: Path) -> None:
    for protocol in PROTOCOLS:
        for number, (stage, what) in enumerate(
            [("connect", "connect"), ("head", "head"), ("first", "first"), ("gap", "gap")]
        ):
            folder = tmp_path / f"{protocol}{number}"
            folder.mkdir()
            peer = Peer(protocol, folder)
            peer.ask()
            session = peer.session
            if stage == "head" and protocol == "sse":
                continue  # over SSE the request goes out at once, so the wait is already for the first content
            session.connecting(0)
            at = 0
            if stage == "head":
                session.connected(at := 10)
                peer.sent(at)
            elif stage in ("first", "gap"):
                peer.open(0, 10, 20)
                at = 21 if protocol == "websocket" else 11
                if stage == "gap":
                    session.received(at := 30, peer.head() + peer.chunk(content="x"))
            seconds = {"connect": 1, "head": 2, "first": 3, "gap": 4}[stage]
            assert session.deadline_ns == at + seconds * S
            assert not session.expired(at + seconds * S - 1)
            assert session.expired(at + seconds * S)
            assert session.close
            (record,) = peer.records()
            assert (record.outcome, record.reason) == ("timed_out", f"{what}_timeout")


def test_the_total_bounds_a_stream_that_keeps_coming(peer: Peer) -> None:
    peer.ask()
    peer.open(0, 1, 2)
    peer.session.received(3, peer.head())
    for second in range(1, 20):
        peer.session.received(second * S, peer.chunk(content="x"))
    assert peer.session.deadline_ns == 20 * S
    assert peer.session.expired(20 * S)
    (record,) = peer.records()
    assert (record.outcome, record.reason, record.chunks) == ("timed_out", "total_timeout", 19)


def test_a_refused_connection(peer: Peer) -> None:
    peer.ask()
    peer.session.connecting(5)
    peer.session.lost(9, ConnectionRefusedError(111, "Connect call failed"))
    (record,) = peer.records()
    assert (record.outcome, record.started_ns, record.ended_ns) == ("refused", 5, 9)
    assert "ConnectionRefusedError" in record.detail
    assert not peer.session.alive


def test_a_cut_stream_is_truncated_with_what_it_got(peer: Peer) -> None:
    peer.ask()
    peer.open(0, 1, 2)
    peer.session.received(3, peer.head() + peer.chunk(content="x"))
    peer.session.lost(4, ConnectionResetError(104, "reset by peer"))
    peer.session.lost(5, None)
    (record,) = peer.records()
    assert (record.outcome, record.chunks, record.text, record.ended_ns) == ("truncated", 1, "x", 4)


def test_cancelling_ends_the_stream_and_the_connection(peer: Peer) -> None:
    peer.ask()
    peer.open(0, 1, 2)
    peer.session.received(3, peer.head() + peer.chunk(content="x"))
    peer.session.cancel(4, "enough")
    assert peer.session.close
    assert bool(peer.sent(4)) == (peer.protocol == "websocket")
    peer.session.lost(5, None)
    (record,) = peer.records()
    assert (record.outcome, record.detail, record.ended_ns) == ("cancelled", "enough", 4)


def test_an_error_event_is_an_api_error(peer: Peer) -> None:
    peer.ask()
    peer.open(0, 1, 2)
    peer.session.received(3, peer.head() + peer.chunk(content="x"))
    peer.session.received(4, peer.message('{"error":{"message":"out of tokens","type":"server_error","code":null}}'))
    peer.session.lost(5, None)
    (record,) = peer.records()
    assert (record.outcome, record.ended_ns) == ("api_error", 4)
    assert "out of tokens" in record.detail


def test_the_bytes_behind_the_last_event_belong_to_the_stream(peer: Peer) -> None:
    reply = peer.head() + peer.chunk(content="x") + peer.done()
    sizes = set()
    for stream, parts in enumerate(([reply], [reply[:-5], reply[-5:]], [reply[:-1], reply[-1:]]), 1):
        peer.ask(stream, cold=stream == 1)
        if stream == 1:
            peer.open(0, 1, 2)
        peer.sent(10 * stream)
        for part in parts:
            peer.session.received(10 * stream + 1, part)
        assert peer.session.idle
    for record in peer.records():
        opening = 0 if peer.protocol == "sse" or not record.cold else record.head_bytes
        sizes.add(record.received_bytes - opening)
    assert sizes == {len(reply)}


def test_a_connection_lost_while_idle_ends_no_stream(peer: Peer) -> None:
    peer.ask()
    peer.open(0, 1, 2)
    peer.session.received(3, peer.head() + peer.chunk(content="x") + peer.done())
    peer.session.lost(4, None)
    assert not peer.session.idle
    assert len(peer.records()) == 1
