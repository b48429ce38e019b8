"""The driver's own client in this process, against server processes; and what either must not keep of that."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic_ns
from typing import Any, NamedTuple

import msgspec
import psutil

from bench.certificate import Certificate
from bench.drivers.client import Client
from bench.drivers.engine import Engine
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


async def settled(pid: int, descriptors: int) -> Kept:
    """What a process holds once it has no more descriptors than that, or `SETTLE_S` later."""
    deadline = time.monotonic() + SETTLE_S
    while (found := kept(pid)).descriptors > descriptors and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
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
    return kind.__module__.split(".")[0] in ("bench", "websockets", "httptools", "_ssl", "ssl", "uvloop")
