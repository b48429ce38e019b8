"""The driver's own client in this process, against server processes; and what either must not keep of that."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from time import monotonic_ns
from typing import Any, Generic, NamedTuple, TypeVar

import gevent
import msgspec
import psutil
import uvloop
from gevent.hub import get_hub

from bench.certificate import Certificate
from bench.drivers.asyncio_ import AsyncioEngine
from bench.drivers.client import Client
from bench.drivers.engine import Engine
from bench.drivers.gevent_ import GeventEngine, carry_out
from bench.drivers.plan import Plan
from bench.rawlog import StreamRecord
from bench.scenario import PRIME, PRIME_PROFILE, Arm, Closed, Scenario, Timeouts
from servers.emitter import Constant, Fixed, Profile, schedule
from servers.faults import Fault

MIB = 1 << 20
SEED = 5
PHASE = "phase"
SETTLE_S = 10.0
"""How long sockets may take to be closed, on the slowest machine."""
QUICK = Profile(first=Constant(ms=2), gap=Constant(ms=1), length=Fixed(tokens=12), text="mixed")
T = TypeVar("T")


class Driven(NamedTuple, Generic[T]):
    """What came of work on an engine."""

    result: T
    left: list[str]
    """Tasks or greenlets that were still there at the end."""
    unhandled: list[str]
    """Errors that nobody awaited."""


def on_asyncio(work: Callable[[AsyncioEngine], Coroutine[Any, Any, T]], timeout_s: float = 60.0) -> Driven[T]:
    """Do some work on uvloop, in this process."""
    unhandled: list[str] = []

    async def all_of_it() -> Driven[T]:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: unhandled.append(repr(context)))
        await _used(loop)
        engine = AsyncioEngine(loop)
        async with asyncio.timeout(timeout_s):
            result = await work(engine)
        engine.pacer.close()
        left = [repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        return Driven(result, left, unhandled)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(all_of_it())


async def _used(loop: asyncio.AbstractEventLoop) -> None:
    """Have a first connection closed: with it libuv takes a spare descriptor, which it keeps."""
    near, far = socket.socketpair()
    with far:
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
        transport.abort()
        while near.fileno() >= 0:  # noqa: ASYNC110
            await asyncio.sleep(0)


def on_gevent(work: Callable[[GeventEngine], Coroutine[Any, Any, T]], timeout_s: float = 60.0) -> Driven[T]:
    """Do some work on gevent, in this process, where nothing is patched."""
    hub = get_hub()
    unhandled: list[str] = []
    hub.handle_error = lambda context, kind, error, _trace: unhandled.append(f"{context!r}: {kind.__name__}: {error}")
    engine = GeventEngine()
    try:
        with gevent.Timeout(timeout_s):
            result: T = carry_out(work(engine))
        # Who was killed, or has just been told that it is over, has its turn.
        gevent.sleep(0)
        left = [repr(thing) for thing in gc.get_objects() if isinstance(thing, gevent.Greenlet) and not thing.dead]
    finally:
        engine.pacer.close()
        del engine.pacer  # each knows the other, once in a process
        del hub.handle_error
    return Driven(result, left, unhandled)


ENGINES = {"asyncio": on_asyncio, "gevent": on_gevent}


async def together(engine: Engine, works: Iterable[Coroutine[Any, Any, T]], at_once: int = 1000) -> list[T]:
    """Have all the work done, so many at a time, and return the results in order."""
    numbered = list(enumerate(works))
    results: dict[int, T] = {}
    waiting = iter(numbered)

    async def some() -> None:
        for number, work in waiting:
            results[number] = await work

    async with engine.group() as group:
        for _ in numbered[:at_once]:
            group.create_task(some())
    return [results[number] for number, _ in numbered]


class Server:
    """A server process, which may still be starting: `ready` waits for it."""

    def __init__(
        self,
        folder: Path,
        stack: str,
        profiles: dict[str, Profile],
        faults: dict[str, Fault],
        certificate: Certificate | None = None,
    ) -> None:
        folder.mkdir(parents=True)
        settings: dict[str, Any] = {"profiles": {**profiles, PRIME_PROFILE: PRIME}, "faults": faults}
        if certificate is not None:
            settings["tls"] = {"certificate": str(certificate.certificate), "key": str(certificate.key)}
        config = folder / "server.json"
        config.write_bytes(msgspec.json.encode(settings))
        command = [sys.executable, "-m", "servers", stack, "--config", str(config)]
        self._errors = folder / "stderr"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        self.certificate = certificate
        self.port = 0

    def ready(self) -> Server:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self._errors.read_text()
        self.port = json.loads(line)["port"]
        return self

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> tuple[int, str]:
        """End it in good order; its exit code, and what it complained of."""
        self._process.terminate()
        try:
            return self._process.wait(10), self._errors.read_text()
        finally:
            self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextlib.contextmanager
def starting() -> Iterator[list[Server]]:
    """A list for servers, which end with the block however that ends."""
    servers: list[Server] = []
    try:
        yield servers
    finally:
        for server in servers:
            server.kill()


def client_of(
    engine: Engine,
    folder: Path,
    server: Server | None,
    protocol: str,
    timeouts: Timeouts,
    port: int = 0,
) -> Client:
    """The clients of one trial, as the driver has them; `port` where it is not that of the server."""
    folder.mkdir(parents=True)
    load = closed("")
    scenario = Scenario(
        name="driven",
        title="driven",
        arms={"arm": Arm(protocol=protocol, stack="faulty")},  # type: ignore[arg-type]
        profiles={},
        phases={PHASE: load},
        contrasts={},
        timeouts=timeouts,
    )
    at, pid = (port or server.port, server.pid) if server is not None else (port, 0)
    plan = Plan(scenario, "arm", "127.0.0.1", at, pid, SEED, str(folder), warm_up=0, compression=False)
    if server is not None and server.certificate is not None:
        plan.ca_file, plan.server_name = str(server.certificate.ca_file), server.certificate.server_name
    client = Client(plan, engine)
    client.enter(PHASE, load)
    return client


def closed(profile: str, connections: str = "warm") -> Closed:
    return Closed(profile=profile, connections=connections, users=1, turns=1)  # type: ignore[arg-type]


async def stream(client: Client, ordinal: int, profile: str, connections: str = "warm") -> StreamRecord:
    """One stream as a load has it. Its seed comes from the ordinal alone."""
    return await client.counted_stream(client.record(ordinal, monotonic_ns()), closed(profile, connections))


def texts(profile: Profile, seed: int) -> list[str]:
    """What a stream has to bring, chunk by chunk."""
    return schedule(profile, seed).texts


class Kept(NamedTuple):
    """What a process holds."""

    descriptors: int
    memory: int
    """Bytes resident."""


def kept(pid: int) -> Kept:
    process = psutil.Process(pid)
    return Kept(process.num_fds(), process.memory_info().rss)


async def settled(engine: Engine, pid: int, descriptors: int) -> Kept:
    """What a process holds once it has no more descriptors than that, or `SETTLE_S` later."""
    deadline = time.monotonic() + SETTLE_S
    while (found := kept(pid)).descriptors > descriptors and time.monotonic() < deadline:
        await engine.pacer.until(monotonic_ns() + 10_000_000)
    return found


@contextlib.contextmanager
def uncollected() -> Iterator[Callable[[], dict[str, int]]]:
    """The garbage collector is off, as in the driver; the call tells what of ours only it would have freed."""

    def cycles() -> dict[str, int]:
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            gc.collect()
            return dict(Counter(type(thing).__qualname__ for thing in gc.garbage if _ours(type(thing))))
        finally:
            gc.set_debug(0)
            gc.garbage.clear()

    gc.collect()
    gc.disable()
    try:
        yield cycles
    finally:
        gc.enable()


def _ours(kind: type) -> bool:
    """Whether a connection is made of such things."""
    return kind.__module__.split(".")[0] in ("bench", "websockets", "httptools", "_ssl", "ssl", "uvloop", "gevent")
