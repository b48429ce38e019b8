"""Either driver as a process, against servers that behave and servers that do not: always one record a stream."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.arrivals import NS, ramp_offsets
from bench.drivers.plan import Back, Done, Hello, PhaseDone, PhaseFacts, Plan, Said, Signalled, Waits
from bench.rawlog import STREAMS_FILE, StreamRecord
from bench.scenario import AnyPhase, Arm, Closed, Crowd, Leave, Open, Restart, Retry, Scenario, Slow, Timeouts
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

DRIVERS = {"asyncio": "bench.drivers.asyncio_", "locust": "bench.drivers.locust_"}


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    """The module of each driver in turn."""
    return DRIVERS[request.param]


def plan(
    folder: Path, port: int, phase: AnyPhase | dict[str, AnyPhase], protocol: str = "sse", timeouts: Timeouts = SHORT
) -> Plan:
    profile = Profile(first=Constant(ms=0), gap=Constant(ms=0), length=Fixed(tokens=3))
    phases = phase if isinstance(phase, dict) else {"phase": phase}
    scenario = Scenario(
        name="test",
        title="test",
        arms={"arm": Arm(protocol=protocol, stack="aiohttp")},  # type: ignore[arg-type]
        profiles=dict.fromkeys((phase.profile for phase in phases.values()), profile),
        phases=phases,
        contrasts={},
        timeouts=timeouts,
    )
    return Plan(
        scenario, "arm", "127.0.0.1", port, os.getpid(), seed=1, folder=str(folder), warm_up=0, compression=False
    )


async def drive(
    driver: str,
    made: Plan,
    during: Callable[[asyncio.subprocess.Process], Awaitable[None]] | None = None,
    *,
    turns: int = 1000,
    restarted: Callable[[], Awaitable[Back]] | None = None,
) -> Drive:
    """Run the driver on a plan to its end, or until it has had so many turns and its parent is gone."""
    path = Path(made.folder) / "plan.json"
    path.write_bytes(msgspec.json.encode(made))
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", driver, str(path)]
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
    said: list[Any] = []

    async def listen() -> str:
        """Hear the driver out, and give it every turn it waits for; what it complained of."""
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        left = turns
        async for line in process.stdout:
            said.append(msgspec.json.decode(line, type=Said))
            if isinstance(said[-1], Waits):
                left -= 1
                if left < 0:
                    process.stdin.close()
                else:
                    process.stdin.write(b"\n")
            elif isinstance(said[-1], Signalled) and restarted is not None:
                process.stdin.write(msgspec.json.encode(await restarted()) + b"\n")
        await process.wait()
        return (await process.stderr.read()).decode()

    heard = asyncio.ensure_future(listen())
    try:
        if during is not None:
            await during(process)
        errors = await asyncio.wait_for(heard, 30)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 1:
        assert errors == ""
    lines = (Path(made.folder) / STREAMS_FILE).read_bytes().splitlines()
    return Drive(said, [msgspec.json.decode(line, type=StreamRecord) for line in lines], process.returncode, errors)


class Drive:
    """What a driver said and recorded."""

    def __init__(self, said: list[Any], records: list[StreamRecord], code: int | None, errors: str) -> None:
        self.said = said
        self.records = records
        self.code = code
        self.errors = errors

    @property
    def outcomes(self) -> dict[str, int]:
        return dict(Counter(record.outcome for record in self.records if record.window))

    @property
    def facts(self) -> PhaseFacts:
        """Those of the first phase."""
        return next(line.facts for line in self.said if isinstance(line, PhaseDone))

    def of(self, phase: str) -> tuple[list[StreamRecord], PhaseFacts]:
        """The counted records of one of several phases, and its facts."""
        facts = next(line.facts for line in self.said if isinstance(line, PhaseDone) and line.name == phase)
        return [record for record in self.records if record.phase == phase and record.window], facts


async def against(
    driver: str, handler: Handler, folder: Path, phase: AnyPhase | dict[str, AnyPhase], **more: Any
) -> Drive:
    """Run the driver against a server that we hold in hand."""
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    async with server:
        return await drive(driver, plan(folder, server.sockets[0].getsockname()[1], phase, **more))


async def request_read(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next((int(x.split(b":")[1]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-length")), 0)
    return head + await reader.readexactly(length)


async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *parts: bytes, then: str = "close") -> None:
    """Answer a request that has been read, then close or reset the connection, or wait for its end."""
    for part in parts:
        writer.write(part)
        await writer.drain()
    if then == "reset":
        own = writer.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    elif then == "close":
        writer.close()
    elif then == "wait":
        await reader.read()
        writer.close()


def replying(*parts: bytes, then: str = "close") -> Handler:
    """A server that answers every request with the same bytes, then closes, waits, or takes the next."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing():
                await request_read(reader)
                await reply(reader, writer, *parts, then=then)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    return handle


ONE = Closed(profile="p", connections="cold", users=1, turns=1)


FATES: dict[str, tuple[tuple[bytes, ...], str, tuple[str, str]]] = {
    "complete": ((HEAD, CHUNK, DONE), "close", ("complete", "")),
    "cut": ((HEAD, CHUNK), "close", ("truncated", "closed")),
    "reset": ((HEAD, CHUNK), "reset", ("truncated", "reset")),
    "silent": ((), "wait", ("timed_out", "first_timeout")),
    "head-only": ((HEAD,), "wait", ("timed_out", "first_timeout")),
    "stall": ((HEAD, CHUNK), "wait", ("timed_out", "gap_timeout")),
    "503": ((b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",), "close", ("http_error", "http_503")),
    "html": (
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi",),
        "close",
        ("protocol_error", "content_type"),
    ),
    "garbage": ((b"\x16\x03\x01 this is no HTTP\r\n\r\n",), "close", ("protocol_error", "bad_head")),
}
"""Fate -> what the server writes, what it does then, outcome and reason."""
BIG = 200
"""Chunks of a stream that does not fit into the buffers of a slow client."""
LOADS: dict[str, AnyPhase] = {
    **{fate: Closed(profile=fate, connections="cold", users=1, turns=1) for fate in FATES},
    "warm": Closed(profile="kept", connections="warm", users=3, turns=4),
    "think": Closed(profile="kept", connections="cold", users=3, turns=3, think_s=0.02, ramp_s=0.06, slices=3),
    "slow": Closed(profile="big", connections="cold", users=2, turns=1, slow=Slow(share=1, bytes_per_s=200_000)),
    "leave": Closed(profile="long", connections="cold", users=2, turns=2, leave=Leave(share=1, at=(2, 4))),
    "crowd": Crowd(profile="long", connections="cold", sizes=[3, 7], hold_s=0.05, rate=500),
}


async def serve_loads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server on which every profile of `LOADS` has what it needs."""
    try:
        while not writer.is_closing():
            model = json.loads((await request_read(reader)).partition(b"\r\n\r\n")[2])["model"]
            if model == "long":  # until the client leaves
                writer.write(HEAD)
                while not reader.at_eof():
                    writer.write(CHUNK)
                    await asyncio.sleep(0.005)
            elif model in FATES:
                parts, then, _ = FATES[model]
                await reply(reader, writer, *parts, then=then)
            else:
                await reply(reader, writer, HEAD, CHUNK * (BIG if model == "big" else 3), DONE, then="next")
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


@pytest.fixture(scope="module", params=DRIVERS)
def loads(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Drive:
    """One run of all of them."""
    driver = DRIVERS[request.param]
    result = asyncio.run(against(driver, serve_loads, tmp_path_factory.mktemp("loads"), LOADS))
    assert result.code == 0
    return result


@pytest.mark.parametrize("fate", FATES)
def test_each_fate_has_its_name(loads: Drive, fate: str) -> None:
    (record,), _ = loads.of(fate)
    assert (record.outcome, record.reason) == FATES[fate][2]
    assert 0 < record.started_ns <= record.connected_ns <= record.requested_ns <= record.ended_ns


@pytest.mark.parametrize(
    ("driver", "protocol"), [("asyncio", "sse"), ("asyncio", "websocket"), ("locust", "sse")], indirect=["driver"]
)
def test_a_refused_connection_is_a_record_and_not_a_storm(driver: str, tmp_path: Path, protocol: str) -> None:
    async def scenario() -> Drive:
        server = await asyncio.start_server(replying(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        load = Closed(profile="p", connections="cold", users=2, duration_s=0.35)
        return await drive(driver, plan(tmp_path, port, load, protocol))

    result = asyncio.run(scenario())
    assert set(result.outcomes) == {"refused"}
    assert 2 <= len(result.records) <= 8  # a pause of 0.1 s between tries, whatever the machine


def test_a_handshake_that_never_comes(driver: str, tmp_path: Path) -> None:
    result = asyncio.run(against(driver, replying(then="wait"), tmp_path, ONE, protocol="websocket"))
    assert [(record.outcome, record.reason) for record in result.records] == [("timed_out", "head_timeout")]


def test_warm_connections_are_primed_and_reused(loads: Drive) -> None:
    counted, facts = loads.of("warm")
    primed = [record for record in loads.records if record.phase == "warm" and not record.window]
    assert len(primed) == 3
    assert all(record.cold for record in primed)
    assert len(counted) == 12
    assert not any(record.cold for record in counted)
    assert all(record.started_ns == record.requested_ns > 0 for record in counted)
    assert all(record.started_ns >= facts.window_start_ns >= max(p.ended_ns for p in primed) for record in counted)
    assert sorted(record.ordinal for record in counted) == list(range(12))


@pytest.mark.parametrize("driver", ["asyncio"], indirect=True)
def test_a_server_that_closes_makes_the_next_stream_cold(driver: str, tmp_path: Path) -> None:
    load = Closed(profile="p", connections="warm", users=1, turns=3)
    result = asyncio.run(against(driver, replying(HEAD, CHUNK, DONE), tmp_path, load))
    assert result.outcomes == {"complete": 3} or set(result.outcomes) == {"complete", "truncated"}
    # The primed connection was closed by the server: whoever finds none idle opens one and says so.
    assert any(record.cold for record in result.records if record.window)


def test_open_load_starts_on_time_and_drops_what_does_not_fit(driver: str, tmp_path: Path) -> None:
    load = Open(profile="p", connections="cold", rate=40, duration_s=0.5, arrivals="constant", max_open=2)
    result = asyncio.run(against(driver, replying(then="wait"), tmp_path, load))
    assert result.outcomes["dropped"] + result.outcomes["timed_out"] == 20
    assert result.facts.dropped == result.outcomes["dropped"] >= 1
    intended = sorted(record.intended_ns - result.facts.window_start_ns for record in result.records)
    assert intended == [i * 25_000_000 for i in range(20)]
    for record in result.records:
        if record.outcome != "dropped":
            assert record.started_ns >= record.intended_ns  # never early


def test_a_signal_cancels_what_is_open(driver: str, tmp_path: Path) -> None:
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
            return await drive(driver, made, stop)

    result = asyncio.run(scenario())
    assert result.code == 130
    assert [(record.outcome, record.detail) for record in result.records] == [("cancelled", "the run was stopped")]
    assert isinstance(result.said[-1], Done)
    assert result.said[-1].stopped


STOPPED: dict[str, AnyPhase] = {
    "thinks": Closed(profile="p", connections="cold", users=2, turns=2, think_s=3600),
    "retries": Closed(
        profile="p", connections="cold", users=2, turns=1, retry=Retry(delay_ms=3_600_000, most_ms=3_600_000)
    ),
    "restarts": Closed(profile="p", connections="cold", users=2, turns=1, restart=Restart(after_s=3600)),
    "arrives": Open(profile="p", connections="cold", rate=0.001, duration_s=86_400, arrivals="constant"),
}


@pytest.mark.parametrize(
    ("driver", "waits"),
    [*(("asyncio", waits) for waits in STOPPED), ("locust", "thinks"), ("locust", "arrives")],
    indirect=["driver"],
)
def test_a_stop_waits_for_nobody(driver: str, tmp_path: Path, waits: str) -> None:
    """Ends by the time-out of `drive`, where it would have gone on for an hour."""

    async def scenario() -> Drive:
        asked = asyncio.Event()
        phase = STOPPED[waits]
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
            return await drive(driver, made, stop)

    result = asyncio.run(scenario())
    assert result.code == 130
    assert isinstance(result.said[-1], Done)
    assert result.said[-1].stopped


def test_the_driver_says_who_it_is(loads: Drive) -> None:
    hello, done = loads.said[0], loads.said[-1]
    assert isinstance(hello, Hello)
    libraries = {"uvloop": {"uvloop"}, "gevent, by Locust": {"gevent", "locust"}}[hello.loop]
    assert set(hello.versions) == {"python", "websockets", "httptools", "msgspec"} | libraries
    assert hello.timer == ("timerfd" if sys.platform == "linux" else "loop")
    assert "off during phases" in hello.gc
    streams = len(loads.records)
    assert json.loads(msgspec.json.encode(done)) == {"event": "done", "streams": streams, "stopped": False}
    assert loads.facts.starts == 1
    assert loads.facts.driver_cpu_ns > 0


def test_a_connection_that_nobody_answers(driver: str, tmp_path: Path) -> None:
    with socket.socket() as deaf, socket.socket() as before:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        before.connect(deaf.getsockname())  # fills the backlog: from here on the kernel takes no notice of a SYN
        made = plan(tmp_path, deaf.getsockname()[1], ONE, timeouts=Timeouts(connect_s=0.3))
        result = asyncio.run(drive(driver, made))
    (record,) = result.records
    assert (record.outcome, record.reason) == ("timed_out", "connect_timeout")
    assert record.ended_ns - record.started_ns >= 0.3 * NS
    assert record.connected_ns == 0


def test_a_parent_that_is_gone_is_noticed(driver: str, tmp_path: Path) -> None:
    async def scenario() -> Drive:
        server = await asyncio.start_server(replying(HEAD, CHUNK, DONE), "127.0.0.1", 0)
        async with server:
            load = Closed(profile="p", connections="cold", users=2, turns=2, slices=2)
            return await drive(driver, plan(tmp_path, server.sockets[0].getsockname()[1], load), turns=2)

    result = asyncio.run(scenario())
    assert result.code == 130
    assert result.outcomes == {"complete": 2}, "the second slice had no turn"
    assert result.said[-1] == Done(2, stopped=True)


def test_users_come_one_after_another_and_think(loads: Drive) -> None:
    records, facts = loads.of("think")
    assert [record.outcome for record in records] == ["complete"] * 9
    assert sorted(record.ordinal for record in records) == list(range(9))
    starts = [one.start_ns for one in facts.slices]
    for record in records:
        turn, user = divmod(record.ordinal, 3)
        assert record.intended_ns == starts[turn] + ramp_offsets(3, 0.06)[user]
        assert record.started_ns >= record.intended_ns
    assert len(starts) == 3
    for one in facts.slices:  # a user is over when it has thought
        last_ns = max(record.ended_ns for record in records if one.start_ns < record.ended_ns < one.end_ns)
        assert one.end_ns >= last_ns + 0.02 * NS


def test_slow_readers_take_their_time_and_get_everything(loads: Drive) -> None:
    records, _ = loads.of("slow")
    assert [(record.outcome, record.chunks, record.slow) for record in records] == [("complete", BIG, True)] * 2
    # What comes last may be one read, of which they take no longer than of any other.
    assert all(record.ended_ns - record.started_ns > record.received_bytes / 2 / 200_000 * NS for record in records)


def test_leavers_leave_where_they_should(loads: Drive) -> None:
    records, _ = loads.of("leave")
    assert [(record.outcome, record.reason) for record in records] == [("cancelled", "left")] * 4
    assert all(record.chunks >= 2 and record.left_ns for record in records)


def test_a_crowd_is_all_there_when_it_is_held(loads: Drive) -> None:
    records, facts = loads.of("crowd")
    assert [(held.size, held.open) for held in facts.held] == [(0, 0), (3, 3), (7, 7)]
    assert [(record.outcome, record.reason) for record in records] == [("cancelled", "left")] * 7
    assert facts.peak_open == 7
    assert all(held.chunks > 0 and held.hold_ns >= 0.05 * NS for held in facts.held[1:])


def test_a_server_that_dies_and_comes_back(driver: str, tmp_path: Path) -> None:
    """The process that is told to die is another one here; the server's part in it is played by the test."""

    async def scenario() -> tuple[Drive, int | None, Back]:
        held: list[asyncio.StreamWriter] = []
        back = None

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request_read(reader)
            writer.write(HEAD + CHUNK + (DONE if back else b""))
            held.append(writer)
            await reader.read()
            writer.close()

        first = await asyncio.create_subprocess_exec("sleep", "600")
        second = await asyncio.create_subprocess_exec("sleep", "600")
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]

        async def restarted() -> Back:
            nonlocal back, server
            await first.wait()
            server.close()
            for writer in held:
                writer.transport.abort()
            back = Back(second.pid, at_ns=12345)
            server = await asyncio.start_server(handle, "127.0.0.1", port)
            return back

        retry = Retry(delay_ms=20, most_ms=20, tries=1000)
        load = Closed(
            profile="p", connections="cold", users=3, turns=1, retry=retry, restart=Restart(after_s=0.1, down_s=0.01)
        )
        made = plan(tmp_path, port, load, timeouts=Timeouts())
        made.server_pid = first.pid
        try:
            result = await drive(driver, made, restarted=restarted)
        finally:
            server.close()
            for process in (first, second):
                if process.returncode is None:
                    process.kill()
                await process.wait()
        assert back is not None
        return result, first.returncode, back

    result, code, back = asyncio.run(scenario())
    assert (result.code, code) == (0, -signal.SIGKILL)
    assert result.facts.back_ns == back.at_ns
    assert result.facts.signalled_ns >= result.facts.window_start_ns + 0.1 * NS
    last = {record.ordinal: record for record in sorted(result.records, key=lambda record: record.attempt)}
    assert sorted(last) == [0, 1, 2]
    assert all(record.outcome == "complete" and record.attempt for record in last.values())
    assert {record.outcome for record in result.records} <= {"complete", "truncated", "refused"}


ROOMY: dict[str, AnyPhase] = {
    "users": Closed(profile="p", connections="cold", users=100, turns=1),
    "priming": Closed(profile="p", connections="warm", users=100, turns=1),
    "crowd": Crowd(profile="p", connections="cold", sizes=[100], hold_s=3600),
}


@pytest.mark.parametrize(
    ("driver", "load"),
    [("asyncio", "users"), ("asyncio", "crowd"), ("locust", "users"), ("locust", "priming")],
    indirect=["driver"],
)
def test_a_machine_without_room_ends_the_driver_in_a_line(driver: str, tmp_path: Path, load: str) -> None:
    """The failure of one of many ends all of them, wherever they wait."""

    async def scenario() -> Drive:
        async def limit(process: asyncio.subprocess.Process) -> None:
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (64, 64))

        server = await asyncio.start_server(replying(HEAD, then="wait"), "127.0.0.1", 0)
        async with server:
            made = plan(tmp_path, server.sockets[0].getsockname()[1], ROOMY[load], timeouts=Timeouts())
            return await drive(driver, made, limit)

    result = asyncio.run(scenario())
    assert result.code == 1
    *_, last = result.errors.splitlines()
    assert "InstrumentFault: this machine has no more for the driver: [Errno 24]" in result.errors
    assert "[Errno 24] Too many open files" in last
    assert "never awaited" not in result.errors
    assert not any(isinstance(line, PhaseDone | Done) for line in result.said)
