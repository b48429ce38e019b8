"""What Locust's own users do not see of token streams, each shown with the real classes: docs/locust-traps.md.

Beside each trap is shown that tokenwire's users do not fall into it.

Nothing here is timed. The server sends a token only when the client has told that it took in all before it and waits
for more, or that something was recorded: what has not been seen or recorded by then was not for want of time.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from websockets.frames import Frame, Opcode
from wire_samples import DONE, HEAD, ROLE, chunk

from bench.swarm.histogram import Histogram, precision_us

PATIENCE_S = 20.0
"""How long to wait for what has to come: only a failure takes so long."""
TOKENS = [f" token{number}" for number in range(12)]
OPENING, *EVENTS = (b"data: %b\n\n" % data for data in [ROLE, *(chunk({"content": text}) for text in TOKENS)])
"""Of the size that chat completions have: one that brings the role and no text, then one a token."""
BLOCK = 1024
"""Bytes of a body that `FastHttpUser.iter_lines` waits for."""
RATE = 50
"""Streams a second, as in `locust_peers`."""


class Peer:
    """The process with Locust in it."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("locust_peers.py"))]
        direct = os.environ | dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=direct)
        self._told: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        self.version: str = self.until("there")["version"]
        self.idle = True

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._told.put(json.loads(line))
        self._told.put({"told": "gone"})

    def begin(self, case: str, **facts: Any) -> None:
        assert self.process.stdin is not None
        self.idle = False
        self.process.stdin.write(json.dumps({"case": case, **facts}) + "\n")
        self.process.stdin.flush()

    def next(self) -> dict[str, Any]:
        """What it tells next."""
        told = self._told.get(timeout=PATIENCE_S)
        assert told["told"] != "gone", "the process with Locust has ended"
        self.idle = told["told"] == "over"
        return told

    def until(self, kind: str) -> dict[str, Any]:
        """The next of a kind."""
        while (told := self.next())["told"] != kind:
            assert told["told"] != "over", f"the case ended without {kind!r}: {told}"
        return told

    def rest(self) -> list[dict[str, Any]]:
        """All to the end of the case, which must be in good order."""
        told = [self.next()]
        while told[-1]["told"] != "over":
            told.append(self.next())
        assert told.pop()["raised"] is None
        return told

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def peers() -> Iterator[Callable[[], Peer]]:
    """One process for all cases, as importing Locust takes a second; a new one after a case that did not end."""
    there: list[Peer] = []

    def get() -> Peer:
        if not there or not there[-1].idle:
            there.append(Peer())
        return there[-1]

    yield get
    for peer in there:
        peer.stop()


@pytest.fixture
def peer(peers: Callable[[], Peer]) -> Peer:
    return peers()


class Server:
    """One connection of a client, by hand."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE_S)
        self.port: int = self._listener.getsockname()[1]
        self._connection: socket.socket | None = None
        self.sent = 0

    def accept(self) -> bytes:
        """Take a connection, and the request with its body."""
        self._connection, _ = self._listener.accept()
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection.settimeout(PATIENCE_S)
        return read_request(self._connection)

    def send(self, data: bytes) -> None:
        assert self._connection is not None
        self.sent += len(data)
        self._connection.sendall(data)

    def send_chunk(self, data: bytes) -> None:
        """An HTTP chunk in a segment of its own."""
        self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def send_text(self, text: str) -> None:
        """A WebSocket message."""
        self.send(Frame(Opcode.TEXT, text.encode()).serialize(mask=False))

    def frame(self) -> str:
        """The next message of a WebSocket client, a short one or of 16 bits."""
        assert self._connection is not None
        length = self._exactly(2)[1] & 0x7F
        if length == 126:
            length = int.from_bytes(self._exactly(2), "big")
        mask = self._exactly(4)
        return bytes(byte ^ mask[place % 4] for place, byte in enumerate(self._exactly(length))).decode()

    def _exactly(self, size: int) -> bytes:
        assert self._connection is not None
        data = self._connection.recv(size, socket.MSG_WAITALL)
        assert len(data) == size
        return data

    def upgrade(self) -> None:
        """Take a connection and make it a WebSocket."""
        key = header(self.accept(), "Sec-WebSocket-Key")
        digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
        self.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % base64.b64encode(digest)
        )

    def close(self) -> None:
        self._listener.close()
        if self._connection is not None:
            self._connection.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def read_request(connection: socket.socket) -> bytes:
    """A request and its body; empty where the connection ends."""
    request = b""
    while b"\r\n\r\n" not in request or len(request) < request.index(b"\r\n\r\n") + 4 + int(
        header(request, "Content-Length") or 0
    ):
        data = connection.recv(65_536)
        if not data:
            return b""
        request += data
    return request


def header(request: bytes, name: str) -> str:
    """A header of a request, empty where it has none."""
    for line in request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.lower() == name.lower():
            return value.strip()
    return ""


def taken_in(peer: Peer, server: Server) -> list[dict[str, Any]]:
    """What the peer tells until it has read all that was sent and waits for more, or its user sees the first token."""
    told = []
    while True:
        told.append(peer.next())
        assert told[-1]["told"] != "over", told[-1]
        if TOKENS[0] in told[-1].get("text", "") or told[-1].get("read") == server.sent:
            return told


def tokens_before_first_seen(peer: Peer, server: Server, case: str) -> int:
    """How many tokens the server has to send before a user's code sees the first; one more than all, where none did.

    A user who sees a token as it comes has 1.
    """
    peer.begin(case, port=server.port)
    server.accept()
    server.send(HEAD)
    server.send_chunk(OPENING)
    for sent, event in enumerate(EVENTS, 1):
        server.send_chunk(event)
        if taken_in(peer, server)[-1]["told"] == "seen":
            return sent
    return len(EVENTS) + 1


def finish(server: Server) -> None:
    """End an event stream in good order."""
    server.send_chunk(b"data: " + DONE + b"\n\n")
    server.send(b"0\r\n\r\n")


# The first token.


def test_fast_http_user_sees_the_first_token_with_the_fifth(peer: Peer, server: Server) -> None:
    sizes = list(accumulate(len(event) for event in (OPENING, *EVENTS)))
    assert sizes[4] < BLOCK <= sizes[5], "the fifth token fills the block"
    assert tokens_before_first_seen(peer, server, "FastHttpUser.iter_lines") == 5
    # What was held back comes in one go, so that there are no gaps either.
    at_once = [peer.next() for _ in range(4)]
    assert [told["told"] for told in at_once] == ["seen", "seen", "seen", "wants"]
    finish(server)
    peer.rest()


@pytest.mark.parametrize("case", ["FastHttpUser", "HttpUser"])
def test_users_without_stream_see_nothing_before_the_end(peer: Peer, server: Server, case: str) -> None:
    assert tokens_before_first_seen(peer, server, case) > len(EVENTS)
    finish(server)
    seen = [told for told in peer.rest() if told["told"] == "seen"]
    assert len(seen) == len([OPENING, *EVENTS, DONE])


def test_http_user_with_stream_sees_tokens_as_they_come(peer: Peer, server: Server) -> None:
    """Here Locust is not blind: what is wrong is what it records."""
    assert tokens_before_first_seen(peer, server, "HttpUser.iter_lines") == 1
    finish(server)
    peer.rest()


def test_openai_user_reads_all_before_it_fails_on_a_stream(peer: Peer, server: Server) -> None:
    assert tokens_before_first_seen(peer, server, "OpenAIUser") > len(EVENTS)
    finish(server)
    while (told := peer.next())["told"] != "over":
        assert told["told"] == "wants", "neither a token nor a record"
    assert told["raised"].startswith("JSONDecodeError: ")


def test_tokenwire_sees_each_token_as_it_comes(peer: Peer, server: Server) -> None:
    assert tokens_before_first_seen(peer, server, "tokenwire, SSE") == 1
    for text, event in zip(TOKENS[1:], EVENTS[1:], strict=True):
        server.send_chunk(event)
        assert peer.until("seen")["text"] == text
    finish(server)
    peer.rest()


# What is recorded as the response time.


def recorded_before_and_after_the_body(peer: Peer, server: Server, case: str) -> tuple[int, int]:
    """How many records are made of a stream while no byte of its body was sent, and how many from then on."""
    peer.begin(case, port=server.port)
    server.accept()
    server.send(HEAD)
    before = sum(told["told"] == "request" for told in taken_in(peer, server))
    server.send_chunk(EVENTS[0])
    finish(server)
    return before, sum(told["told"] == "request" for told in peer.rest())


@pytest.mark.parametrize("case", ["FastHttpUser.iter_lines", "HttpUser.iter_lines"])
def test_a_stream_is_recorded_once_and_before_its_body(peer: Peer, server: Server, case: str) -> None:
    assert recorded_before_and_after_the_body(peer, server, case) == (1, 0)


@pytest.mark.parametrize("case", ["FastHttpUser", "HttpUser"])
def test_a_whole_answer_is_recorded_after_its_body(peer: Peer, server: Server, case: str) -> None:
    """So a stream is either seen as it comes or recorded to its end, and never both."""
    assert recorded_before_and_after_the_body(peer, server, case) == (0, 1)


@pytest.mark.parametrize("case", ["FastHttpUser.catch_response", "HttpUser.catch_response"])
def test_what_is_recorded_at_the_end_of_a_block_is_the_time_of_the_head(peer: Peer, server: Server, case: str) -> None:
    peer.begin(case, port=server.port)
    server.accept()
    server.send(HEAD)
    opened_ms = peer.until("opened")["ms"]
    server.send_chunk(EVENTS[0])
    finish(server)
    (recorded,) = (told["response_time"] for told in peer.rest() if told["told"] == "request")
    assert 0 < recorded <= opened_ms


def test_tokenwire_records_a_stream_when_it_is_over(peer: Peer, server: Server) -> None:
    """And has the first token's time besides: seen as it comes, and recorded to its end."""
    assert recorded_before_and_after_the_body(peer, server, "tokenwire, SSE") == (0, 1)


def test_tokenwire_records_the_time_of_the_whole_stream(peer: Peer, server: Server) -> None:
    assert tokens_before_first_seen(peer, server, "tokenwire, SSE") == 1
    finish(server)
    told = peer.rest()
    (recorded,) = (one["response_time"] for one in told if one["told"] == "request")
    (record,) = (one for one in told if one["told"] == "record")
    assert recorded == record["whole_ms"] > record["first_ms"] > 0


# What becomes of it in the statistics.


def medians_kept(peer: Peer, times_ms: list[float]) -> list[float]:
    """What Locust's statistics make of each time, ten of which are all they get."""
    peer.begin("percentiles", response_times_ms=times_ms)
    (told,) = peer.rest()
    medians: list[float] = told["ms"]
    return medians


def test_percentiles_are_rounded_to_ms_and_then_to_two_digits(peer: Peer) -> None:
    times_ms = [0.4, 0.674, 1.4, 99.6, 104.9, 147.3, 1449.0, 58760.0]
    assert medians_kept(peer, times_ms) == [0, 1, 1, 100, 100, 150, 1400, 59000]


def test_tokenwire_keeps_microseconds() -> None:
    for time_us in (400, 674, 1_400, 99_600, 104_900, 147_300, 1_449_000, 58_760_000):
        kept = Histogram()
        kept.add(time_us, 10)
        kept.add(2 * time_us)  # else the median is the greatest, which is kept as it is
        kept.add(time_us // 2)
        assert kept.percentile(50) == pytest.approx(time_us, abs=precision_us(time_us))


# What is asked for.


def codings_asked_for(peer: Peer, server: Server, case: str) -> set[str]:
    """What the request of a client who says nothing of codings accepts; empty where it accepts none."""
    peer.begin(case, port=server.port)
    request = server.accept()
    server.send(HEAD)
    finish(server)
    peer.rest()
    return set(header(request, "Accept-Encoding").split(", ")) - {""}


@pytest.mark.parametrize("case", ["FastHttpUser.iter_lines", "HttpUser.iter_lines"])
def test_compression_is_asked_for(peer: Peer, server: Server, case: str) -> None:
    assert "gzip" in codings_asked_for(peer, server, case)


def test_compressed_lines_are_no_lines(peer: Peer, server: Server) -> None:
    """`FastHttpUser.iter_lines` asks for compression, and hands over what is compressed as it is."""
    peer.begin("FastHttpUser.iter_lines", port=server.port)
    server.accept()
    server.send(HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n"))
    server.send_chunk(gzip.compress(b"".join(EVENTS)))
    server.send(b"0\r\n\r\n")
    seen = [told["text"] for told in peer.rest() if told["told"] == "seen"]
    assert seen
    assert not any("data:" in text for text in seen)


def test_tokenwire_asks_for_no_compression(peer: Peer, server: Server) -> None:
    assert codings_asked_for(peer, server, "tokenwire, SSE") <= {"identity"}


def test_tokenwire_tells_of_compression(peer: Peer, server: Server) -> None:
    peer.begin("tokenwire, SSE", port=server.port)
    server.accept()
    server.send(HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n"))
    record = peer.until("record")
    assert (record["outcome"], record["reason"]) == ("protocol_error", "content_encoding")
    peer.rest()


# WebSocket.


def test_the_socketio_user_records_0_ms_for_every_message(peer: Peer, server: Server) -> None:
    peer.begin("SocketIOUser", port=server.port)
    server.upgrade()
    server.send_text('0{"sid":"a","upgrades":[],"pingInterval":60000,"pingTimeout":60000}')  # Engine.IO opens
    assert server.frame() == "40{}"  # Socket.IO connects
    server.send_text('40{"sid":"b"}')
    assert peer.until("request")["response_time"] > 0, "connecting is measured"
    assert server.frame().startswith('42["ask"')
    assert peer.until("request")["response_time"] == 0
    for text in TOKENS:
        server.send_text(f'42["token",{json.dumps(text)}]')
        recorded = peer.until("request")
        assert (recorded["type"], recorded["name"], recorded["response_time"]) == ("WSR", "token", 0)
    server.close()
    assert peer.until("stats")["p99"] == 0
    peer.rest()


def recorded_before_and_after_the_messages(peer: Peer, server: Server, case: str) -> tuple[int, int]:
    """How many records are made over a WebSocket while no message was sent, and how many from then on."""
    peer.begin(case, port=server.port)
    server.upgrade()
    assert json.loads(server.frame())["stream"] is True
    before = sum(told["told"] == "request" for told in taken_in(peer, server))
    for text in TOKENS:
        server.send_text(text)
        assert peer.until("seen")["text"] == text
    server.send_text("[DONE]")
    return before, sum(told["told"] == "request" for told in peer.rest())


def test_measuring_what_a_websocket_user_does_measures_the_send(peer: Peer, server: Server) -> None:
    """The user sees each token as it comes: what is wrong is what is recorded."""
    assert recorded_before_and_after_the_messages(peer, server, "websocket-client") == (1, 0)


def test_tokenwire_records_a_websocket_stream_when_it_is_over(peer: Peer, server: Server) -> None:
    peer.begin("tokenwire, WebSocket", port=server.port)
    server.upgrade()
    assert json.loads(server.frame())["stream"] is True
    for text in TOKENS:
        server.send_text(chunk({"content": text}).decode())
        told = peer.next()
        while told["told"] != "seen":
            assert told["told"] == "wants", "nothing is recorded yet"
            told = peer.next()
        assert told["text"] == text
    server.send_text(DONE.decode())
    told_after = peer.rest()
    (recorded,) = (one["response_time"] for one in told_after if one["told"] == "request")
    (record,) = (one for one in told_after if one["told"] == "record")
    assert record["outcome"] == "complete"
    assert recorded == record["whole_ms"] > record["first_ms"] > 0


# When streams begin.


class Stalling:
    """Answers no request before it is told to, and from then on each at once."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port: int = self._listener.getsockname()[1]
        self.arrived: queue.Queue[bytes] = queue.Queue()
        self.answer = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            while request := read_request(connection):
                self.arrived.put(request)
                self.answer.wait()
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        except OSError:
            pass  # users are killed at the end of a test
        finally:
            connection.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.answer.set()


@pytest.fixture
def stalling() -> Iterator[Stalling]:
    made = Stalling()
    yield made
    made.close()


def due(peer: Peer, number: int) -> dict[str, Any]:
    """What has been started when a stream of the schedule is due."""
    while (told := peer.until("due"))["due"] < number:
        pass
    return told


WAITS = ["constant", "constant_pacing", "constant_throughput", "poisson"]


def begun_in_a_stall(peer: Peer, stalling: Stalling, case: str, streams: int, **more: Any) -> int:
    """How many streams are begun by the time that so many are due, while no answer comes."""
    peer.begin(case, port=stalling.port, streams=streams, **more)
    begun: int = due(peer, streams)["started"]
    stalling.answer.set()
    peer.rest()
    return begun


@pytest.mark.parametrize("users", [1, 4])
@pytest.mark.parametrize("wait", ["constant", "constant_pacing", "constant_throughput", "poisson"])
def test_a_stall_holds_back_all_but_the_first_stream_of_each_user(
    peer: Peer, stalling: Stalling, wait: str, users: int
) -> None:
    assert begun_in_a_stall(peer, stalling, "throughput", 10, wait=wait, users=users) == users


def test_a_load_shape_sets_users_and_not_streams(peer: Peer, stalling: Stalling) -> None:
    assert begun_in_a_stall(peer, stalling, "shape", 10, users=4) == 4


def arrive_before_any_answer(peer: Peer, stalling: Stalling, case: str, streams: int) -> None:
    """So many requests come while none is answered. An open loop does that; users fewer than streams never do."""
    peer.begin(case, port=stalling.port, streams=streams)
    for _ in range(streams):
        stalling.arrived.get(timeout=PATIENCE_S)
    stalling.answer.set()
    peer.rest()


def test_an_open_loop_begins_every_stream_whatever_becomes_of_the_others(peer: Peer, stalling: Stalling) -> None:
    """The same client of Locust's, begun by the clock."""
    arrive_before_any_answer(peer, stalling, "open loop", 10)


def test_tokenwire_begins_every_stream_whatever_becomes_of_the_others(peer: Peer, stalling: Stalling) -> None:
    arrive_before_any_answer(peer, stalling, "tokenwire, open loop", 10)


def test_what_a_stall_held_back_comes_late_or_never(peer: Peer, stalling: Stalling) -> None:
    stalled, scheduled = 10, 30
    peer.begin("throughput", port=stalling.port, wait="constant_throughput", users=1, streams=scheduled)
    assert due(peer, stalled)["started"] == 1
    stalling.answer.set()
    started_ns = due(peer, scheduled)["started_ns"]
    period_ns = 1_000_000_000 // RATE
    # The second was due after one period, and began after the stall, which lasted nine; one is for early timers.
    assert started_ns[1] - period_ns > (stalled - 3) * period_ns
    assert len(started_ns) < scheduled - stalled / 2, "users go on at their pace and make up for nothing"
    peer.rest()


# Who gives users to workers.


def dealt(peer: Peer, *, even: bool, workers: int, users: int, fixed: int = 0) -> list[dict[str, int]]:
    """The users of each class that each worker gets."""
    peer.begin("dispatch", even=even, workers=workers, users=users, fixed=fixed)
    (told,) = peer.rest()
    found: list[dict[str, int]] = told["users"]
    return found


@pytest.mark.parametrize("users", [2, 8, 100])
def test_each_of_two_workers_has_a_class_of_its_own(peer: Peer, users: int) -> None:
    """So what is compared are two machines."""
    half = users // 2
    assert dealt(peer, even=False, workers=2, users=users) == [
        {"SSEUser": half, "WebSocketUser": 0},
        {"SSEUser": 0, "WebSocketUser": half},
    ]


@pytest.mark.parametrize(("workers", "users"), [(1, 2), (2, 4), (2, 8), (3, 12), (4, 8), (5, 100)])
def test_tokenwire_gives_every_worker_as_many_users_of_each_class(peer: Peer, workers: int, users: int) -> None:
    each = users // workers // 2
    assert dealt(peer, even=True, workers=workers, users=users) == [{"SSEUser": each, "WebSocketUser": each}] * workers


@pytest.mark.parametrize("users", [5, 6, 7, 9])
def test_tokenwire_deals_evenly_where_users_do_not_go_up(peer: Peer, users: int) -> None:
    shares = dealt(peer, even=True, workers=2, users=users)
    assert sum(sum(share.values()) for share in shares) == users
    for kind in ("SSEUser", "WebSocketUser"):
        assert abs(shares[0][kind] - shares[1][kind]) <= 1


def test_tokenwire_deals_no_more_of_a_fixed_class_than_there_are_to_be(peer: Peer) -> None:
    shares = dealt(peer, even=True, workers=2, users=9, fixed=1)
    assert sum(share["Fixed"] for share in shares) == 1
    assert [share["SSEUser"] for share in shares] == [share["WebSocketUser"] for share in shares] == [2, 2]
