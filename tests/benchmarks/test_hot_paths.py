"""The code that runs once a token or once a stream, each path alone, as a multiple of a loop that never changes.

A shared machine drifts within seconds, so that times of two revisions cannot be compared; what a path takes as a
multiple of the reference loop, run in turn with it in the same process, can. `make bench-micro` prints the multiples,
and the gate compares those of two revisions: this very file then measures either one's code. So every path imports what
it needs by itself, and is skipped where a revision has no such thing.
"""

from __future__ import annotations

import base64
import gc
import hashlib
import json
import os
import statistics
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

PASSES = 7
ROUNDS = 40
WARM_UP = 3
"""Of a pass, whose multiple is its fastest round over the fastest of the reference. A round is short enough to find a
fast moment, and the passes are spread over seconds: see `whole`."""
SLOW = 1.2
"""Passes in which even the reference took so much longer than in another are left out: what shares the machine slows
paths down by different factors."""
TIMER = time.process_time
"""What others do on this core is none of ours."""
TOKENS = 256
TEXTS = [*(f" token{i}" for i in range(248)), "\n", ' "', "\\", "é", "中文", "😀", "👩‍👩‍👧", "\t"]
ID = "chatcmpl-" + "0" * 29
SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
MS = 1_000_000


# The reference: what the paths do, without any of their code.


class _Place:
    """An object with state and a method, as the paths have."""

    __slots__ = ("at", "seen")

    def __init__(self) -> None:
        self.at = 0
        self.seen: list[bytes] = []

    def take(self, piece: bytes, number: int) -> None:
        self.at = (self.at * 31 + number) & 0xFFFF_FFFF
        if piece:
            self.seen.append(piece)


_DATA = bytes(range(33, 127)) * 24
_NUMBERS = {_DATA[at : at + 8]: at for at in range(94)}


def reference() -> int:
    """The same work in every revision: slices of bytes, look-ups, whole numbers, calls, appends.

    Short, a quarter of a ms, like a round of any path. To change it is to change the unit of every figure.
    """
    place = _Place()
    find, data = _NUMBERS.get, _DATA
    for at in range(550):
        piece = data[at : at + 8]
        place.take(piece, find(piece, 0) ^ at)
    return place.at + len(b"".join(place.seen))


# Bytes as a server sends them.


def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
    """A chunk of the size that real APIs send."""
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    value = {"id": ID, "object": "chat.completion.chunk", "created": 1_760_000_000, "model": "chat", "choices": choices}
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def contents(count: int) -> list[bytes]:
    return [chunk({"content": TEXTS[i % len(TEXTS)]}) for i in range(count)]


def http_chunk(payload: bytes) -> bytes:
    event = b"data: " + payload + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


def frame(payload: bytes) -> bytes:
    size = len(payload)
    return (bytes((0x81, size)) if size < 126 else b"\x81\x7e" + size.to_bytes(2, "big")) + payload


FRAMES: dict[str, Callable[[bytes], bytes]] = {"sse": http_chunk, "websocket": frame}


def head(protocol: str, opening: bytes) -> bytes:
    """The head of the reply: 200 or, to this handshake, 101."""
    if protocol == "sse":
        return SSE_HEAD
    key = opening.lower().index(b"sec-websocket-key:") + len("sec-websocket-key:")
    accept = hashlib.sha1(opening[key:].split(b"\r\n")[0].strip() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    lines = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    return lines + b"Sec-WebSocket-Accept: " + base64.b64encode(accept) + b"\r\n\r\n"


# The paths. Each makes what it needs in an empty folder, tries it once, and returns what is to be timed.

Work = Callable[[], object]


def decoding(protocol: str, reads: list[bytes]) -> Work:
    """Reads of one endless stream."""
    from bench.wire import make_wire
    from bench.wire.events import Content

    wire = make_wire(protocol, "test:80")
    if protocol == "sse":
        wire.request(1, b"{}")
        wire.receive(SSE_HEAD)
    else:
        wire.receive(head(protocol, wire.opening()))
        wire.request(1, b"{}")

    def run() -> None:
        receive, to_send = wire.receive, wire.to_send
        for data in reads:
            receive(data)
            to_send()

    events = [event for data in reads for event in wire.receive(data)]
    assert sum(event.chunks for event in events if isinstance(event, Content)) % TOKENS == 0 < len(events)
    return run


def one_a_read(protocol: str) -> list[bytes]:
    return [FRAMES[protocol](payload) for payload in contents(TOKENS)]


def coalesced(protocol: str) -> list[bytes]:
    data = b"".join(one_a_read(protocol))
    return [data[at : at + 65_536] for at in range(0, len(data), 65_536)]


def decode_sse_one(_folder: Path) -> Work:
    """Decoding SSE, one token a read"""
    return decoding("sse", one_a_read("sse"))


def decode_sse_coalesced(_folder: Path) -> Work:
    """Decoding SSE, reads of 64 KiB"""
    return decoding("sse", coalesced("sse") * 2)


def decode_websocket_one(_folder: Path) -> Work:
    """Decoding WebSocket, one token a read"""
    return decoding("websocket", one_a_read("websocket"))


def decode_websocket_coalesced(_folder: Path) -> Work:
    """Decoding WebSocket, reads of 64 KiB"""
    return decoding("websocket", coalesced("websocket") * 2)


def nowhere(folder: Path) -> None:
    """Let a raw log lead nowhere: what a disk makes of it is another matter, and differs from moment to moment."""
    from bench.rawlog import READS_FILE, STREAMS_FILE

    for file in (READS_FILE, STREAMS_FILE):
        (folder / file).symlink_to(os.devnull)


def session(protocol: str, folder: Path) -> Work:
    """Whole streams, each on a connection of its own, from the request to the record in the log."""
    from bench.rawlog import RawLog, StreamRecord
    from bench.scenario import Timeouts
    from bench.session import Counters, Session
    from bench.wire import make_wire

    nowhere(folder)
    log, counters, timeouts = RawLog(folder), Counters(), Timeouts()
    framed = FRAMES[protocol]
    role, stop, done = (framed(p) for p in (chunk({"role": "assistant", "content": ""}), chunk({}, "stop"), b"[DONE]"))
    tokens = [framed(payload) for payload in contents(150)]
    end = b"0\r\n\r\n" if protocol == "sse" else b""

    def stream(number: int) -> StreamRecord:
        record = StreamRecord(number, "p", 0, True, number, 1, True, 0)
        one = Session(make_wire(protocol, "test:80"), timeouts, log, counters)

        def sent() -> bytes:
            out, one.out = one.out, b""
            one.sending(4 * MS)
            return out

        one.ask(record, b"{}")
        one.connecting(MS)
        one.connected(2 * MS)
        out = sent()
        one.received(3 * MS, head(protocol, out))
        if protocol != "sse":
            sent()
        now_ns = 5 * MS
        received = one.received
        for data in (role, *tokens, stop, done + end):
            now_ns += MS
            received(now_ns, data)
        return record

    def run() -> None:
        stream(1)

    record = stream(1)
    assert (record.outcome, record.chunks) == ("complete", len(tokens))
    return run


def session_sse(folder: Path) -> Work:
    """Session with SSE, a stream of 150 tokens"""
    return session("sse", folder)


def session_websocket(folder: Path) -> Work:
    """Session with WebSocket, a stream of 150 tokens"""
    return session("websocket", folder)


def raw_log(folder: Path) -> Work:
    """Raw log, ended streams of 150 reads"""
    from bench.rawlog import RawLog, StreamRecord

    nowhere(folder)
    log = RawLog(folder)
    record = StreamRecord(7, "p", 0, True, 7, 10**14, True, 10**15, started_ns=10**15, chunks=150, completion_id=ID)
    record.outcome, record.text = "complete", "\x1f".join(TEXTS[100:])
    stamps, counts = array("q", range(10**15, 10**15 + 150 * MS, MS)), array("I", [1] * 150)

    def run() -> None:
        for _ in range(40):
            log.ended(record, stamps, counts)

    run()
    return run


def histogram(_folder: Path) -> Work:
    """Histogram, the gaps of streams of 150 tokens"""
    from bench.swarm.histogram import Histogram

    gaps = [[20 * MS + (7919 * (i + 1) * (j + 1)) % (30 * MS) for j in range(150)] for i in range(5)]
    excess = [[gap - 30 * MS for gap in stream] for stream in gaps]

    above, both = Histogram(), Histogram()

    def run() -> None:
        for stream, late in zip(gaps, excess, strict=True):
            above.add_ns(stream)
            both.add_ns(late)

    run()
    assert above.total == both.total == 5 * 150
    return run


def profile() -> Any:
    """A hosted chat model, its numbers kept here: the project's own may change."""
    from servers.emitter import Lognormal, LognormalLength, Profile

    return Profile(Lognormal(250, 0.35), Lognormal(20, 0.4), LognormalLength(120, 0.6, 600))


def schedule(_folder: Path) -> Work:
    """Drawing the schedules of streams"""
    from servers.emitter import schedule as draw

    model = profile()

    def run() -> list[int]:
        return [len(draw(model, seed).due_ns) for seed in range(10)]

    assert min(run()) >= 1
    return run


def payloads(_folder: Path) -> Work:
    """Making the messages of streams"""
    from servers.emitter import completion_id
    from servers.generation import MESSAGES, SSE, Generation
    from servers.payloads.chat_completions import parse_request

    request = parse_request(b'{"model":"chat","stream":true,"messages":[{"role":"user","content":"hello"}]}')
    model = profile()
    generations = [Generation(completion_id("chat", seed, 0), request, model, seed, MS) for seed in range(6)]
    for number, generation in enumerate(generations):
        generation.framing = (SSE, MESSAGES)[number % 2]

    def run() -> int:
        return sum(len(message) for generation in generations for _, _, message in generation.messages())

    assert run() > 10_000
    return run


def server_frames(_folder: Path) -> Work:
    """Framing messages for WebSocket, in the server without a library"""
    from servers.bare.frames import text_frame

    messages = contents(TOKENS) * 2

    def run() -> None:
        for message in messages:
            text_frame(message)

    assert text_frame(messages[0]) == frame(messages[0])
    return run


def emission_log(folder: Path) -> Work:
    """Emission log, a record a token"""
    from servers.emission_log import EmissionLog, read_emissions

    log = EmissionLog(folder / "emissions.bin")

    def run() -> None:
        token = log.token
        for ordinal in range(750):
            token(7, ordinal, 10**15 + ordinal, 10**15 + ordinal + 50_000)

    run()
    assert len(read_emissions(folder / "emissions.bin")) == 750 * 24
    return run


class _Waiter:
    """Who waits for a deadline."""

    __slots__ = ("_woken", "is_done")

    def __init__(self, woken: list[_Waiter]) -> None:
        self._woken = woken
        self.is_done = False

    def done(self) -> bool:
        return self.is_done

    def set_result(self, _result: None) -> None:
        self.is_done = True
        self._woken.append(self)


class _Loop:
    """An event loop without sockets, and its timer, on a clock that leaps to the next deadline."""

    name = "fake"

    def __init__(self) -> None:
        self.now_ns = 10**15
        self.due_ns = 0
        self.soon: list[Callable[[], object]] = []
        self.woken: list[_Waiter] = []
        self.call_soon = self.soon.append

    def create_future(self) -> _Waiter:
        return _Waiter(self.woken)

    def timer(self, _loop: object, fire: Callable[[], None]) -> _Loop:
        self.fire = fire
        return self

    def arm(self, due_ns: int) -> None:
        self.due_ns = due_ns

    def disarm(self) -> None:
        self.due_ns = 0

    def turn(self) -> None:
        """Sleep until the timer fires, and do what is to be done then."""
        assert self.due_ns, "nothing would ever wake this loop"
        self.now_ns = self.due_ns
        self.fire()
        while self.soon:
            self.soon.pop(0)()


def pacing(_folder: Path) -> Work:
    """Pacing 100 streams, a deadline a token"""
    from servers.pacing import Pacer

    loop = _Loop()
    pacer = Pacer(loop, loop.timer, lambda: loop.now_ns)  # type: ignore[arg-type]

    def run() -> int:
        until, woken = pacer.until, loop.woken
        for asked in range(100):
            until(loop.now_ns + MS + 100_000 * asked)
        released, asked = 0, 100
        while released < 250:
            loop.turn()
            released += len(woken)
            for _ in range(min(len(woken), 250 - asked)):
                # Gaps from 15 to 25 ms on a grid: some deadlines fall together.
                asked += 1
                until(loop.now_ns + 15 * MS + 50_000 * (7919 * asked % 200))
            woken.clear()
        return released

    assert run() == 250
    return run


PATHS: list[Callable[[Path], Work]] = [
    decode_sse_one,
    decode_sse_coalesced,
    decode_websocket_one,
    decode_websocket_coalesced,
    session_sse,
    session_websocket,
    raw_log,
    histogram,
    schedule,
    payloads,
    server_frames,
    emission_log,
    pacing,
]


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """No collections, as in the driver."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Pass(NamedTuple):
    """What a pass found of a path."""

    reference_s: float
    multiple: float


def whole(passes: list[Pass]) -> float:
    """The multiple of a path over its passes."""
    fastest = min(one.reference_s for one in passes)
    return statistics.median(one.multiple for one in passes if one.reference_s <= SLOW * fastest)


@pytest.fixture(scope="module")
def passes() -> Iterator[dict[str, list[Pass]]]:
    """Passes by the title of their path; what they come to is said when all are done."""
    found: dict[str, list[Pass]] = {}
    yield found
    for title, those in found.items():
        print(f"\n{whole(those):7.3f} times the reference  {title}", end="")
    print()


def name(path: Callable[[Path], Work]) -> str:
    return path.__name__.replace("_", "-")


# All paths in turn, several times: while the machine is slow, it is so for one pass of some of them.
@pytest.mark.parametrize(
    ("path", "again"),
    [pytest.param(path, again, id=f"{name(path)}-{again}") for again in range(PASSES) for path in PATHS],
)
@pytest.mark.benchmark(timer=TIMER)
def test_hot_path(
    benchmark: BenchmarkFixture,
    path: Callable[[Path], Work],
    again: int,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    passes: dict[str, list[Pass]],
) -> None:
    # What the gate reads, in the JUnit report: name, title, whose code it was and, with the last pass, the multiple.
    title = path.__doc__ or ""
    record_property("path", name(path))
    record_property("title", title)
    try:
        work = path(tmp_path)
    except (ImportError, AttributeError, TypeError) as error:
        pytest.skip(f"this revision has no such thing: {type(error).__name__}: {error}")
    for top in ("bench", "servers"):
        if top in sys.modules:
            record_property("code", sys.modules[top].__file__)
    times: list[float] = []

    def refer() -> None:
        start = TIMER()
        reference()
        times.append(TIMER() - start)

    benchmark.pedantic(work, setup=refer, rounds=ROUNDS, warmup_rounds=WARM_UP)
    if benchmark.stats is None:  # with --benchmark-disable
        return
    unit = min(times[WARM_UP:])
    multiple = benchmark.stats.stats.min / unit
    benchmark.extra_info.update(reference_us=round(unit * 1e6, 3), multiple=round(multiple, 4))
    passes.setdefault(title, []).append(Pass(unit, multiple))
    if again == PASSES - 1:
        record_property("multiple", whole(passes[title]))
