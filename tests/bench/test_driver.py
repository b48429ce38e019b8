"""The asyncio driver as a process, against servers that behave and servers that do not: always one record a stream."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.drivers.plan import Done, Hello, PhaseDone, PhaseFacts, Plan, Said, Waits
from bench.rawlog import STREAMS_FILE, StreamRecord
from bench.scenario import AnyPhase, Arm, Closed, Open, Restart, Retry, Scenario, Timeouts
from servers.emitter import Constant, Fixed, Profile

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

SHORT = Timeouts(connect_s=1, head_s=0.3, first_s=0.3, gap_s=0.3, total_s=2)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"p",'
    b'"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}\n\n'
)
CHUNK = b"%x\r\n%b\r\n" % (len(CHUNK), CHUNK)
DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


def plan(folder: Path, port: int, phase: AnyPhase, protocol: str = "sse", timeouts: Timeouts = SHORT) -> Plan:
    profile = Profile(first=Constant(ms=0), gap=Constant(ms=0), length=Fixed(tokens=3))
    scenario = Scenario(
        name="test",
        title="test",
        arms={"arm": Arm(protocol=protocol, stack="aiohttp")},  # type: ignore[arg-type]
        profiles={"p": profile},
        phases={"phase": phase},
        contrasts={},
        timeouts=timeouts,
    )
    return Plan(
        scenario, "arm", "127.0.0.1", port, os.getpid(), seed=1, folder=str(folder), warm_up=0, compression=False
    )


async def drive(made: Plan, during: Callable[[asyncio.subprocess.Process], Awaitable[None]] | None = None) -> Drive:
    """Run the driver on a plan to its end."""
    path = Path(made.folder) / "plan.json"
    path.write_bytes(msgspec.json.encode(made))
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", "bench.drivers.asyncio_", str(path)]
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    said: list[Any] = []

    async def listen() -> None:
        """Hear the driver out, and give it every turn it waits for."""
        assert process.stdin is not None
        assert process.stdout is not None
        async for line in process.stdout:
            said.append(msgspec.json.decode(line, type=Said))
            if isinstance(said[-1], Waits):
                process.stdin.write(b"\n")
        await process.wait()

    heard = asyncio.ensure_future(listen())
    if during is not None:
        await during(process)
    await asyncio.wait_for(heard, 30)
    lines = (Path(made.folder) / STREAMS_FILE).read_bytes().splitlines()
    return Drive(said, [msgspec.json.decode(line, type=StreamRecord) for line in lines], process.returncode)


class Drive:
    """What a driver said and recorded."""

    def __init__(self, said: list[Any], records: list[StreamRecord], code: int | None) -> None:
        self.said = said
        self.records = records
        self.code = code

    @property
    def outcomes(self) -> dict[str, int]:
        return dict(Counter(record.outcome for record in self.records if record.window))

    @property
    def facts(self) -> PhaseFacts:
        return next(line.facts for line in self.said if isinstance(line, PhaseDone))


async def against(handler: Handler, folder: Path, phase: AnyPhase, **more: Any) -> Drive:
    """Run the driver against a server that we hold in hand."""
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    async with server:
        return await drive(plan(folder, server.sockets[0].getsockname()[1], phase, **more))


async def request_read(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next((int(x.split(b":")[1]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-length")), 0)
    return head + await reader.readexactly(length)


def replying(*parts: bytes, then: str = "close") -> Handler:
    """A server that answers every request with the same bytes, then closes, resets, waits, or takes the next."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await request_read(reader)
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                if then == "reset":
                    own = writer.get_extra_info("socket")
                    own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    writer.transport.abort()
                    return
                if then == "close":
                    writer.close()
                    return
                if then == "wait":
                    await reader.read()
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    return handle


ONE = Closed(profile="p", connections="cold", users=1, turns=1)


@pytest.mark.parametrize(
    ("handler", "outcome", "reason"),
    [
        (replying(HEAD, CHUNK, DONE), "complete", ""),
        (replying(HEAD, CHUNK), "truncated", "closed"),
        (replying(HEAD, CHUNK, then="reset"), "truncated", "reset"),
        (replying(then="wait"), "timed_out", "first_timeout"),
        (replying(HEAD, then="wait"), "timed_out", "first_timeout"),
        (replying(HEAD, CHUNK, then="wait"), "timed_out", "gap_timeout"),
        (replying(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"), "http_error", "http_503"),
        (
            replying(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi"),
            "protocol_error",
            "content_type",
        ),
        (replying(b"\x16\x03\x01 this is no HTTP\r\n\r\n"), "protocol_error", "bad_head"),
    ],
    ids=["complete", "cut", "reset", "silent", "head-only", "stall", "503", "html", "garbage"],
)
def test_each_fate_has_its_name(tmp_path: Path, handler: Handler, outcome: str, reason: str) -> None:
    drive = asyncio.run(against(handler, tmp_path, ONE))
    assert drive.code == 0
    (record,) = drive.records
    assert (record.outcome, record.reason) == (outcome, reason)
    assert 0 < record.started_ns <= record.ended_ns


@pytest.mark.parametrize("protocol", ["sse", "websocket"])
def test_a_refused_connection_is_a_record_and_not_a_storm(tmp_path: Path, protocol: str) -> None:
    async def scenario() -> Drive:
        server = await asyncio.start_server(replying(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        load = Closed(profile="p", connections="cold", users=2, duration_s=0.35)
        return await drive(plan(tmp_path, port, load, protocol))

    result = asyncio.run(scenario())
    assert set(result.outcomes) == {"refused"}
    assert 2 <= len(result.records) <= 8  # a pause of 0.1 s between tries, whatever the machine


def test_a_handshake_that_never_comes(tmp_path: Path) -> None:
    drive = asyncio.run(against(replying(then="wait"), tmp_path, ONE, protocol="websocket"))
    assert [(record.outcome, record.reason) for record in drive.records] == [("timed_out", "head_timeout")]


def test_warm_connections_are_primed_and_reused(tmp_path: Path) -> None:
    load = Closed(profile="p", connections="warm", users=3, turns=4)
    drive = asyncio.run(against(replying(HEAD, CHUNK, DONE, then="next"), tmp_path, load))
    primed = [record for record in drive.records if not record.window]
    assert len(primed) == 3
    assert all(record.cold for record in primed)
    counted = [record for record in drive.records if record.window]
    assert len(counted) == 12
    assert not any(record.cold for record in counted)
    assert all(record.started_ns == record.requested_ns > 0 for record in counted)
    assert all(
        record.started_ns >= drive.facts.window_start_ns >= max(p.ended_ns for p in primed) for record in counted
    )
    assert sorted(record.ordinal for record in counted) == list(range(12))


def test_a_server_that_closes_makes_the_next_stream_cold(tmp_path: Path) -> None:
    load = Closed(profile="p", connections="warm", users=1, turns=3)
    drive = asyncio.run(against(replying(HEAD, CHUNK, DONE), tmp_path, load))
    assert drive.outcomes == {"complete": 3} or set(drive.outcomes) == {"complete", "truncated"}
    # The primed connection was closed by the server: whoever finds none idle opens one and says so.
    assert any(record.cold for record in drive.records if record.window)


def test_open_load_starts_on_time_and_drops_what_does_not_fit(tmp_path: Path) -> None:
    load = Open(profile="p", connections="cold", rate=40, duration_s=0.5, arrivals="constant", max_open=2)
    drive = asyncio.run(against(replying(then="wait"), tmp_path, load))
    assert drive.outcomes["dropped"] + drive.outcomes["timed_out"] == 20
    assert drive.facts.dropped == drive.outcomes["dropped"] >= 1
    intended = sorted(record.intended_ns - drive.facts.window_start_ns for record in drive.records)
    assert intended == [i * 25_000_000 for i in range(20)]
    for record in drive.records:
        if record.outcome != "dropped":
            assert record.started_ns >= record.intended_ns  # never early


def test_a_signal_cancels_what_is_open(tmp_path: Path) -> None:
    async def scenario() -> Drive:
        arrived = asyncio.Event()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request_read(reader)
            writer.write(HEAD + CHUNK)
            arrived.set()
            await reader.read()
            writer.close()

        async def stop(process: asyncio.subprocess.Process) -> None:
            await arrived.wait()
            process.terminate()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            made = plan(tmp_path, port, ONE, timeouts=Timeouts())
            return await drive(made, stop)

    result = asyncio.run(scenario())
    assert result.code == 130
    assert [(record.outcome, record.detail) for record in result.records] == [("cancelled", "the run was stopped")]
    assert isinstance(result.said[-1], Done)
    assert result.said[-1].stopped


@pytest.mark.parametrize(
    "phase",
    [
        Closed(profile="p", connections="cold", users=2, turns=2, think_s=3600),
        Closed(profile="p", connections="cold", users=2, turns=1, retry=Retry(delay_ms=3_600_000, most_ms=3_600_000)),
        Closed(profile="p", connections="cold", users=2, turns=1, restart=Restart(after_s=3600)),
        Open(profile="p", connections="cold", rate=0.001, duration_s=86_400, arrivals="constant"),
    ],
    ids=["thinks", "retries", "restarts", "arrives"],
)
def test_a_stop_waits_for_nobody(tmp_path: Path, phase: AnyPhase) -> None:
    """Ends by the time-out of `drive`, where it would have gone on for an hour."""

    async def scenario() -> Drive:
        asked = asyncio.Event()
        breaks = phase.retry is not None

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request_read(reader)
            writer.write(HEAD + CHUNK + (b"" if breaks else DONE))
            asked.set()
            if not breaks:
                await reader.read()
            writer.close()

        async def stop(process: asyncio.subprocess.Process) -> None:
            await asked.wait()
            process.terminate()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        async with server:
            made = plan(tmp_path, server.sockets[0].getsockname()[1], phase, timeouts=Timeouts())
            return await drive(made, stop)

    result = asyncio.run(scenario())
    assert result.code == 130
    assert isinstance(result.said[-1], Done)
    assert result.said[-1].stopped


def test_the_driver_says_who_it_is(tmp_path: Path) -> None:
    drive = asyncio.run(against(replying(HEAD, CHUNK, DONE), tmp_path, ONE))
    hello = drive.said[0]
    assert isinstance(hello, Hello)
    assert {"python", "uvloop", "websockets", "httptools"} <= set(hello.versions)
    assert "off during phases" in hello.gc
    assert json.loads(msgspec.json.encode(drive.said[-1])) == {"event": "done", "streams": 1, "stopped": False}
    assert drive.facts.starts == 1
    assert drive.facts.driver_cpu_ns > 0
