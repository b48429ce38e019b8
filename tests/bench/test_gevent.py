"""The gevent engine by itself, and that what runs on it measures what it measures on asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import socket
import struct
import sys
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from time import monotonic_ns
from typing import Any, TypeVar

import gevent
import psutil
import pytest
from driven import QUICK, SEED, Server, on_gevent, starting, texts, together
from gevent.hub import get_hub
from test_driver import DRIVERS, drive

from bench.certificate import make
from bench.drivers.gevent_ import Future, GeventEngine, Timer, Transport, carry_out
from bench.drivers.plan import Plan
from bench.rawlog import StreamRecord
from bench.scenario import Arm, Closed, Scenario
from bench.wire.events import SEPARATOR
from servers.faults import Fault
from servers.pacing import BATCH, LoopTimer, Pacer

WAIT_S = 20.0
"""How long a peer waits for anything, on the slowest machine."""
MIB = 1 << 20
T = TypeVar("T")


def run(work: Callable[[GeventEngine], Coroutine[Any, Any, T]]) -> T:
    """Do some work, of which nothing may be left."""
    done = on_gevent(work, WAIT_S)
    assert (done.left, done.unhandled) == ([], [])
    return done.result


async def turns(engine: GeventEngine, number: int = 5) -> None:
    """Let the hub have so many turns."""
    for _ in range(number):
        await engine.pacer.until(0)


# Waiting.


def test_a_future_may_be_resolved_before_it_is_awaited() -> None:
    async def work(engine: GeventEngine) -> None:
        future = engine.create_future()
        assert not future.done()
        future.set_result(None)
        assert future.done()
        await future

    run(work)


@pytest.mark.parametrize("by", ["hub", "greenlet"])
def test_a_future_wakes_who_awaits_it(by: str) -> None:
    async def work(engine: GeventEngine) -> None:
        future = engine.create_future()

        async def resolve() -> None:
            future.set_result(None)

        if by == "hub":
            engine.call_soon(lambda: future.set_result(None))
        else:
            engine.start(resolve())
        await future
        assert future.done()

    run(work)


def test_who_was_killed_is_not_woken_where_it_waits_next() -> None:
    async def work(engine: GeventEngine) -> None:
        first, second, had = Future(), Future(), []

        async def wait() -> None:
            try:
                await first
            except gevent.GreenletExit:
                had.append("killed")
                await second
                had.append("second")

        waiting = engine.start(wait())
        await turns(engine)
        waiting.cancel()
        first.set_result(None)  # the wake-up is queued behind the end
        await turns(engine)
        assert had == ["killed"]
        second.set_result(None)
        await turns(engine)
        assert had == ["killed", "second"]

    run(work)


def test_a_future_whose_waiter_is_gone_is_done() -> None:
    async def work(engine: GeventEngine) -> None:
        future = Future()

        async def wait() -> None:
            await future

        waiting = engine.start(wait())
        await turns(engine)
        waiting.cancel()
        await turns(engine)
        assert future.done()

    run(work)


def test_a_coroutine_of_another_loop_is_refused() -> None:
    with pytest.raises(RuntimeError, match="another event loop"):
        carry_out(asyncio.sleep(0))


def test_timers_fire_once_or_not_at_all() -> None:
    async def work(engine: GeventEngine) -> list[str]:
        fired: list[str] = []
        over = engine.create_future()
        cancelled = engine.call_later(0.001, lambda: fired.append("cancelled"))
        cancelled.cancel()
        cancelled.cancel()
        at_once = engine.call_later(0.0, lambda: fired.append("at once"))
        engine.call_later(0.02, lambda: (fired.append("later"), over.set_result(None)))
        await over
        at_once.cancel()
        return fired

    assert run(work) == ["at once", "later"]


def test_readers_are_told_as_long_as_there_is_something() -> None:
    async def work(engine: GeventEngine) -> None:
        near, far = os.pipe()
        told: list[str] = []
        try:
            engine.add_reader(near, lambda: told.append("first"))
            await turns(engine)
            assert told == []
            engine.add_reader(near, lambda: told.append("second"))  # instead of the first
            os.write(far, b"x")
            while len(told) < 3:
                await turns(engine)
            assert set(told) == {"second"}
            engine.remove_reader(near)
            engine.remove_reader(near)
            before = len(told)
            await turns(engine)
            assert len(told) == before
        finally:
            os.close(near)
            os.close(far)

    run(work)


@pytest.mark.parametrize("timer", ["timerfd", "loop"])
def test_nobody_is_woken_early(timer: str) -> None:
    async def work(engine: GeventEngine) -> tuple[list[int], list[int]]:
        pacer = engine.pacer if timer == "timerfd" else Pacer(engine, LoopTimer)
        assert pacer.timer == timer
        start_ns, waits = monotonic_ns(), [random.Random(1).randrange(30_000_000) for _ in range(300)]
        order: list[int] = []

        async def wait(wait_ns: int) -> int:
            await pacer.until(start_ns + wait_ns)
            order.append(wait_ns)
            return monotonic_ns() - start_ns - wait_ns

        late_ns = await together(engine, map(wait, waits))
        if pacer is not engine.pacer:
            pacer.close()
        return late_ns, order

    late_ns, order = run(work)
    assert min(late_ns) >= 0
    assert order == sorted(order)


@pytest.fixture
def unhurried() -> Iterator[None]:
    """Without gevent's habit of leaving off after a switch interval: on a stalled machine batches would pile up."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(WAIT_S)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("unhurried")
def test_sockets_are_looked_at_while_many_start_at_once() -> None:
    async def work(engine: GeventEngine) -> list[str]:
        had: list[str] = []
        near, far = os.pipe()

        async def start() -> None:
            await engine.pacer.until(0)
            if not had:
                os.write(far, b"x")
            had.append("start")

        def read() -> None:
            had.append("read")
            engine.remove_reader(near)

        engine.add_reader(near, read)
        await together(engine, (start() for _ in range(10 * BATCH)))
        os.close(near)
        os.close(far)
        return had

    had = run(work)
    assert had.count("start") == 10 * BATCH
    assert had.index("read") <= 2 * BATCH


# Tasks.


class Trouble(Exception):
    """What goes wrong in these tests."""


def test_a_group_waits_for_all() -> None:
    async def work(engine: GeventEngine) -> list[int]:
        had: list[int] = []

        async def one(number: int) -> None:
            await turns(engine, number)
            had.append(number)
            if number == 2:
                group.create_task(one(9))  # while the others are waited for

        async with engine.group() as group:
            for number in (3, 1, 2):
                group.create_task(one(number))
        return had

    assert run(work) == [1, 2, 3, 9]


async def forever(had: list[str]) -> None:
    """Wait until ended, which takes a turn."""
    try:
        await Future()
    finally:
        had.append("ended")


@pytest.mark.parametrize("body", ["waits", "has left"])
def test_the_first_failure_ends_the_others_and_the_body(body: str) -> None:
    async def work(engine: GeventEngine) -> list[str]:
        had: list[str] = []

        async def fail() -> None:
            await turns(engine)
            raise Trouble

        with pytest.raises(Trouble):  # noqa: PT012
            async with engine.group() as group:
                group.create_task(forever(had))
                group.create_task(forever(had))
                group.create_task(fail())
                if body == "waits":
                    await Future()
                    had.append("went on")
        await turns(engine)
        return had

    assert run(work) == ["ended", "ended"]


def test_a_failure_is_not_taken_for_one_of_what_the_body_waits_for() -> None:
    async def work(engine: GeventEngine) -> list[str]:
        had: list[str] = []

        async def fail() -> None:
            raise ConnectionRefusedError

        with pytest.raises(ConnectionRefusedError):  # noqa: PT012
            async with engine.group() as group:
                group.create_task(fail())
                with contextlib.suppress(OSError):
                    await Future()
                had.append("went on")
        return had

    assert run(work) == []


def test_a_failure_does_not_reach_who_has_left() -> None:
    async def work(engine: GeventEngine) -> None:
        future = Future()

        async def fail() -> None:
            future.set_result(None)  # the body goes on before the failure can end it
            raise Trouble

        with pytest.raises(Trouble):  # noqa: PT012
            async with engine.group() as group:
                group.create_task(fail())
                await future
        await turns(engine)

    run(work)


def test_a_body_that_fails_ends_its_tasks() -> None:
    async def work(engine: GeventEngine) -> list[str]:
        had: list[str] = []
        with pytest.raises(Trouble):  # noqa: PT012
            async with engine.group() as group:
                group.create_task(forever(had))
                await turns(engine)
                raise Trouble
        return had

    assert run(work) == ["ended"]


@pytest.mark.parametrize("where", ["body", "exit"])
def test_who_is_killed_takes_its_tasks_along(where: str) -> None:
    async def work(engine: GeventEngine) -> list[str]:
        had: list[str] = []

        async def own() -> None:
            async with engine.group() as group:
                group.create_task(forever(had))
                if where == "body":
                    await Future()
            had.append("went on")

        running = engine.start(own())
        await turns(engine)
        running.cancel()
        await turns(engine)
        return had

    assert run(work) == ["ended"]


def test_what_has_not_begun_never_does() -> None:
    async def work(engine: GeventEngine) -> list[str]:
        had: list[str] = []

        async def begin() -> None:
            had.append("begun")

        engine.start(begin()).cancel()
        with contextlib.suppress(Trouble):
            async with engine.group() as group:
                group.create_task(begin())
                raise Trouble
        await turns(engine)
        return had

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert run(work) == []
        gc.collect()
    assert [str(warning.message) for warning in warned] == []


def test_users_have_numbers_and_fail_together() -> None:
    async def work(engine: GeventEngine) -> list[int]:
        had: list[int] = []

        async def user(number: int) -> None:
            had.append(number)
            if number == 2:
                raise Trouble
            await Future()

        async with engine.users(3) as users:
            with pytest.raises(Trouble):
                await users(user)
        return had

    assert run(work) == [0, 1, 2]


# Sockets.


@contextlib.contextmanager
def peer(serve: Callable[[socket.socket], object]) -> Iterator[int]:
    """A server in a thread, for one connection after another; yields its port."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        listening.settimeout(WAIT_S)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    one, _ = listening.accept()
                    with one:
                        one.settimeout(WAIT_S)
                        serve(one)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def reset(one: socket.socket) -> None:
    """Have it closed by a reset."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def read_all(one: socket.socket) -> bytes:
    """What comes until the other side is done."""
    found = bytearray()
    with contextlib.suppress(ConnectionError):
        while part := one.recv(65536):
            found += part
    return bytes(found)


class Recorder:
    """A connection that writes down what it is told."""

    options: tuple[tuple[int, int, int], ...] = ()

    def __init__(self) -> None:
        self.told: list[str] = []
        self.data = b""
        self.error: Exception | None = None
        self.lost = Future()
        self.came = Future()
        self.transport: Transport

    def connection_made(self, transport: Transport) -> None:
        self.told.append("made")
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.told.append("data")
        self.data += data
        self.came.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        assert self.transport.get_extra_info("socket").fileno() >= 0, "it can still be asked"
        self.told.append("lost")
        self.error = error
        self.lost.set_result(None)


async def connected(engine: GeventEngine, port: int, options: tuple[tuple[int, int, int], ...] = ()) -> Recorder:
    recorder = Recorder()
    recorder.options = options
    await engine.connect(recorder, "127.0.0.1", port, WAIT_S)  # type: ignore[arg-type]
    return recorder


def test_what_is_written_arrives_whole_however_slowly_it_is_read() -> None:
    """In order, also what is written while there is more to send; and close() comes after all of it."""
    parts = [random.Random(size).randbytes(size) for size in (5 * MIB, 1, 100_000, 2 * MIB)]
    written, found = threading.Event(), []

    def serve(one: socket.socket) -> None:
        assert written.wait(WAIT_S)
        found.append(read_all(one))

    async def work(engine: GeventEngine) -> Recorder:
        one = await connected(engine, port)
        for part in parts:
            one.transport.write(part)
        one.transport.close()
        one.transport.write(b"too late")
        written.set()
        await one.lost
        return one

    with peer(serve) as port:
        one = run(work)
    assert found == [b"".join(parts)]
    assert one.told == ["made", "lost"]
    assert one.error is None


def test_abort_waits_for_nothing() -> None:
    aborted, found = threading.Event(), []

    def serve(one: socket.socket) -> None:
        assert aborted.wait(WAIT_S)
        found.append(read_all(one))

    async def work(engine: GeventEngine) -> Recorder:
        one = await connected(engine, port)
        one.transport.write(bytes(20 * MIB))
        one.transport.abort()
        one.transport.abort()
        await one.lost
        aborted.set()
        return one

    with peer(serve) as port:
        one = run(work)
    assert len(found[0]) < 20 * MIB
    assert one.told == ["made", "lost"]


@pytest.mark.parametrize("end", ["close", "reset"])
def test_the_end_is_told_once_and_after_it_nothing_matters(end: str) -> None:
    said = threading.Event()

    def serve(one: socket.socket) -> None:
        one.sendall(b"hello")
        assert said.wait(WAIT_S)
        if end == "reset":
            reset(one)

    async def work(engine: GeventEngine) -> Recorder:
        one = await connected(engine, port)
        await one.came
        said.set()
        await one.lost
        transport = one.transport
        assert transport.is_closing()
        transport.write(b"x")
        transport.pause_reading()
        transport.resume_reading()
        transport.close()
        transport.abort()
        await turns(engine)
        assert transport.get_extra_info("socket").fileno() < 0
        assert transport.get_extra_info("peername") is None
        return one

    with peer(serve) as port:
        one = run(work)
    assert one.told == ["made", "data", "lost"]
    assert one.data == b"hello"
    assert (type(one.error) is ConnectionResetError) == (end == "reset")


def test_a_write_to_who_has_reset_ends_the_connection() -> None:
    made = threading.Event()  # a reset that comes before the connection is seen is a connection that failed

    def serve(one: socket.socket) -> None:
        assert made.wait(WAIT_S)
        reset(one)

    async def work(engine: GeventEngine) -> Recorder:
        one = await connected(engine, port)
        one.transport.pause_reading()  # so that only the write can notice
        made.set()
        while not one.transport.is_closing():
            one.transport.write(bytes(100))
            await turns(engine)
        await one.lost
        return one

    with peer(serve) as port:
        one = run(work)
    assert one.told == ["made", "lost"]
    assert isinstance(one.error, ConnectionError)


def test_what_comes_while_reading_is_paused_is_kept() -> None:
    paused, sent = threading.Event(), threading.Event()

    def serve(one: socket.socket) -> None:
        assert paused.wait(WAIT_S)
        one.sendall(b"hello")
        sent.set()
        read_all(one)

    async def work(engine: GeventEngine) -> None:
        one = await connected(engine, port)
        one.transport.pause_reading()
        paused.set()
        assert sent.wait(WAIT_S)
        await turns(engine)
        assert one.told == ["made"]
        one.transport.resume_reading()
        one.transport.resume_reading()
        await one.came
        assert one.data == b"hello"
        one.transport.close()
        await one.lost

    with peer(serve) as port:
        run(work)


def test_a_connection_is_made_before_anything_is_read_and_as_it_was_wanted() -> None:
    def serve(one: socket.socket) -> None:
        one.sendall(b"at once")

    async def work(engine: GeventEngine) -> list[Recorder]:
        options = ((socket.SOL_SOCKET, socket.SO_RCVBUF, 4096),)
        own = [await connected(engine, port, options) for _ in range(20)]
        for one in own:
            assert one.told[0] == "made", "it is made when connect() is over"
            await one.lost
        return own

    async def look(engine: GeventEngine) -> tuple[int, int, int]:
        one = await connected(engine, port, ((socket.SOL_SOCKET, socket.SO_RCVBUF, 4096),))
        used = one.transport.get_extra_info("socket")
        found = (
            used.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF),
            used.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
            used.gettimeout(),
        )
        one.transport.close()
        await one.lost
        return found

    with peer(serve) as port:
        assert {tuple(one.told) for one in run(work)} == {("made", "data", "lost")}
        size, no_delay, timeout_s = run(look)
    assert size <= 2 * 4096  # Linux doubles it
    assert no_delay == 1
    assert timeout_s == 0.0


def test_nobody_there_and_nobody_answering() -> None:
    async def refused(engine: GeventEngine) -> None:
        with pytest.raises(ConnectionRefusedError):
            await connected(engine, port)

    async def unanswered(engine: GeventEngine) -> int:
        one, start_ns = Recorder(), monotonic_ns()
        with pytest.raises(TimeoutError):
            await engine.connect(one, "127.0.0.1", port, 0.1)  # type: ignore[arg-type]
        assert one.told == []
        return monotonic_ns() - start_ns

    before = psutil.Process().num_fds()
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        port = deaf.getsockname()[1]
        run(refused)
        deaf.listen(0)
        with socket.socket() as first:
            first.connect(("127.0.0.1", port))  # fills the backlog
            assert run(unanswered) > 90_000_000
    assert psutil.Process().num_fds() == before


def test_every_address_of_a_host_is_tried_and_the_host_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[str] = []

    class Resolver:
        def getaddrinfo(self, host: str, port: int, **_more: object) -> list[Any]:
            looked_up.append(host)
            addresses = ("127.0.0.2", "127.0.0.1", "127.0.0.3")  # the server listens at one of them
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    async def reached(engine: GeventEngine) -> str:
        one = Recorder()
        await engine.connect(one, "host.example", port, WAIT_S)  # type: ignore[arg-type]
        one.transport.close()
        found = one.transport.get_extra_info("socket").getpeername()[0]
        await one.lost
        return str(found)

    async def work(engine: GeventEngine) -> None:
        assert await reached(engine) == "127.0.0.1"
        with socket.create_server(("127.0.0.2", port)):  # too late
            assert await reached(engine) == "127.0.0.1"
        with pytest.raises(ConnectionRefusedError):
            await engine.connect(Recorder(), "host.example", closed, WAIT_S)  # type: ignore[arg-type]

    monkeypatch.setattr(get_hub(), "resolver", Resolver())
    with socket.socket() as unused, peer(read_all) as port:
        unused.bind(("127.0.0.1", 0))
        closed = unused.getsockname()[1]
        run(work)
    assert looked_up == ["host.example", "host.example"], "once for each port"


def test_a_client_that_ends_while_it_connects_leaves_nothing() -> None:
    """Whether the end comes before the connection is made, in the same turn, or behind it."""

    async def work(engine: GeventEngine) -> set[tuple[str, ...]]:
        fates = set()
        for number in range(40):
            one = Recorder()
            near, far = os.pipe()
            client = engine.start(engine.connect(one, "127.0.0.1", port, WAIT_S))  # type: ignore[arg-type]
            ended = Future()

            def end(client: Any = client, near: int = near, ended: Future = ended) -> None:
                engine.remove_reader(near)
                client.cancel()
                ended.set_result(None)

            if number % 2:
                await engine.pacer.until(0)
            engine.add_reader(near, end)
            os.write(far, b"x")
            await ended
            await turns(engine)
            if one.told == ["made"]:  # it was connected before it ended: the connection is its owner's
                one.transport.close()
                await one.lost
            fates.add(tuple(one.told))
            os.close(near)
            os.close(far)
        return fates

    with peer(read_all) as port:
        run(work)  # the hub takes what it needs
        before = psutil.Process().num_fds()
        assert run(work) <= {(), ("made", "lost")}
        assert psutil.Process().num_fds() == before


def test_nothing_is_kept_of_a_connection() -> None:
    """200 connections, ended in every way."""

    def serve(one: socket.socket) -> None:
        how = one.recv(1)
        if how == b"r":
            reset(one)
        elif how != b"e":
            read_all(one)

    async def work(engine: GeventEngine) -> None:
        for number in range(200):
            how = "eraw"[number % 4]
            one = await connected(engine, port)
            one.transport.write(how.encode())
            if how == "a":
                one.transport.abort()
            elif how == "w":
                one.transport.close()
            await one.lost
            assert one.told == ["made", "lost"]

    with peer(serve) as port:
        before = psutil.Process().num_fds()
        run(work)
        assert psutil.Process().num_fds() == before
    assert [thing for thing in gc.get_objects() if isinstance(thing, Timer)] == []


# Both drivers.

PHASES = {
    "cold": Closed(profile="good", connections="cold", users=3, turns=2),
    "warm": Closed(profile="good", connections="warm", users=3, turns=3),
    "closed": Closed(profile="close", connections="cold", users=2, turns=1),
    "refused": Closed(profile="http_503", connections="warm", users=2, turns=1),
    "broken": Closed(profile="invalid_json", connections="cold", users=2, turns=1),
}
FAULTS = ("close", "http_503", "invalid_json")


def figures(record: StreamRecord, *, tls: bool) -> tuple[object, ...]:
    """All that is the same whenever it happens.

    How many TLS records the same bytes take depends on when, and what ends a stream that is given up may not be read.
    """
    r = record
    key = (r.phase, r.window, r.ordinal, r.attempt)
    counted = (r.payload_bytes, r.content_bytes, r.text_bytes, r.chunks, r.first_content_ns > 0, r.segments >= 0)
    on_the_wire = () if tls or r.outcome != "complete" else (r.sent_bytes, r.received_bytes, r.head_bytes)
    return (*key, r.seed, r.cold, r.outcome, r.reason, r.text, *counted, *on_the_wire)


def test_both_drivers_have_the_same_streams(tmp_path: Path) -> None:
    """The same plan, over every protocol, plain and over TLS: everything but the times."""
    arms = [(protocol, tls) for protocol in ("sse", "websocket") for tls in (False, True)]
    certificate = make(tmp_path)
    faults = {kind: Fault(kind=kind, at=(3, 3), attempts=0) for kind in FAULTS}  # type: ignore[arg-type]

    def plan(driver: str, protocol: str, tls: bool, server: Server) -> Plan:
        folder = tmp_path / f"{driver}-{protocol}-{tls}"
        folder.mkdir()
        scenario = Scenario(
            name="both",
            title="both",
            arms={"arm": Arm(protocol=protocol, stack="aiohttp")},  # type: ignore[arg-type]
            profiles=dict.fromkeys((phase.profile for phase in PHASES.values()), QUICK),
            phases=PHASES,  # type: ignore[arg-type]
            contrasts={},
        )
        made = Plan(
            scenario, "arm", "127.0.0.1", server.port, server.pid, SEED, str(folder), warm_up=1, compression=False
        )
        if tls:
            made.ca_file, made.server_name = str(certificate.ca_file), certificate.server_name
        return made

    async def all_of_them(servers: dict[bool, Server]) -> dict[tuple[str, str, bool], list[StreamRecord]]:
        found = {}
        for protocol, tls in arms:  # two processes at a time
            drives = (drive(DRIVERS[driver], plan(driver, protocol, tls, servers[tls])) for driver in DRIVERS)
            for driver, result in zip(DRIVERS, await asyncio.gather(*drives), strict=True):
                assert result.code == 0
                found[driver, protocol, tls] = result.records
        return found

    with starting() as started:
        for tls in (False, True):
            profiles = dict.fromkeys(("good", *FAULTS), QUICK)
            own = certificate if tls else None
            started.append(Server(tmp_path / f"server-{tls}", "aiohttp", profiles, faults, own))
        plain, over_tls = (server.ready() for server in started)
        found = asyncio.run(all_of_them({False: plain, True: over_tls}))
    for protocol, tls in arms:
        ours, theirs = (found[driver, protocol, tls] for driver in DRIVERS)
        assert len(ours) == 1 + 6 + 3 + 9 + 2 + 2 + 2 + 2
        assert sorted(figures(r, tls=tls) for r in ours) == sorted(figures(r, tls=tls) for r in theirs)
        whole = [record for record in theirs if record.window and record.phase in ("cold", "warm")]
        assert all(r.text.split(SEPARATOR.decode()) == texts(QUICK, r.seed) for r in whole)
        assert {r.outcome for r in theirs} > {"complete", "truncated"}
