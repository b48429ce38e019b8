"""Every fault on every arm it applies to, with streams beside it that must not notice.

The driver's own client meets each fault over a new connection and over a kept one. The stream ends under its own name
within its time-out; those beside it, and those that come after it on what is left of the connections, are byte for
byte what they are where nothing goes wrong; and neither side keeps a task, a socket or memory of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, get_args

import pytest
from driven import (
    MIB,
    QUICK,
    Driven,
    Kept,
    Server,
    client_of,
    kept,
    on_asyncio,
    settled,
    starting,
    stream,
    texts,
    together,
    uncollected,
)

from bench.arrivals import NS
from bench.certificate import Certificate, make
from bench.drivers.client import Client
from bench.drivers.engine import Engine
from bench.rawlog import StreamRecord
from bench.scenario import OFFERS, Timeouts
from bench.wire.events import SEPARATOR, meaning
from servers.faults import APPLIES, BROKEN, HANDSHAKE, Api, Cut, Fault

KINDS = (*get_args(Api), *get_args(Cut), *sorted(BROKEN))
GOOD = "good"
PLACE = 3
"""The content chunk before which it happens; "first" stands for a fault before all of them."""
BYTE = 1200
"""Where `cut_at_byte` cuts: among the content, on either protocol."""
BESIDE = 4
"""Streams at the same time over the same client."""
AT_ONCE = 16
"""Cases under way together."""
AMPLE = Timeouts(connect_s=20, head_s=20, first_s=20, gap_s=20, total_s=60)
SHORT = Timeouts(connect_s=20, head_s=20, first_s=0.5, gap_s=0.5, total_s=60)
"""For faults that only a time-out ends; every stream of such a case has it."""
FOREVER_S = 3600.0
HANGS_S = 60.0
"""After so long they hang, on the slowest machine."""
MEETS = 100
"""The ordinal of a stream that meets a fault."""
GROWTH = 32 * MIB
"""Bytes that a process may have grown by: buffers of the largest events, and the allocator's slack."""

EXPECTED: dict[str, dict[str, tuple[str, str]]] = {
    "http_429": {"sse": ("http_error", "http_429"), "websocket": ("api_error", "error_event")},
    "http_500": {"sse": ("http_error", "http_500"), "websocket": ("api_error", "error_event")},
    "http_503": {"sse": ("http_error", "http_503"), "websocket": ("api_error", "error_event")},
    "slow_head": dict.fromkeys(("sse", "websocket"), ("timed_out", "first_timeout")),
    "invalid_json": dict.fromkeys(("sse", "websocket"), ("protocol_error", "bad_json")),
    "error_event": dict.fromkeys(("sse", "websocket"), ("api_error", "error_event")),
    "stall": dict.fromkeys(("sse", "websocket"), ("timed_out", "gap_timeout")),
    "no_done": {"sse": ("truncated", "no_done"), "websocket": ("timed_out", "gap_timeout")},
    "garbage": {"sse": ("complete", "late_data"), "websocket": ("complete", "late_data")},
    "close": {"sse": ("truncated", "closed"), "websocket": ("truncated", "close_frame")},
    "reset": dict.fromkeys(("sse", "websocket"), ("truncated", "reset")),
    "bad_utf8": dict.fromkeys(("sse", "websocket"), ("protocol_error", "bad_utf8")),
    "huge_event": {"sse": ("protocol_error", "event_too_big"), "websocket": ("protocol_error", "message_too_big")},
    "cut_at_byte": {"sse": ("truncated", "closed"), "websocket": ("truncated", "no_close_frame")},
    "content_type": {"sse": ("protocol_error", "content_type")},
    "content_encoding": {"sse": ("protocol_error", "content_encoding")},
    "bad_status_line": {"sse": ("protocol_error", "bad_head")},
    "bad_header": {"sse": ("protocol_error", "bad_head")},
    "endless_head": {"sse": ("protocol_error", "head_too_long")},
    "endless_line": {"sse": ("protocol_error", "event_too_big")},
    "bad_chunk_length": {"sse": ("protocol_error", "bad_chunk")},
    "short_body": {"sse": ("truncated", "closed")},
    "wrong_accept": {"websocket": ("protocol_error", "bad_accept")},
    "no_upgrade": {"websocket": ("http_error", "http_200")},
    "handshake_429": {"websocket": ("http_error", "http_429")},
    "half_frame": {"websocket": ("truncated", "no_close_frame")},
    "fragmented": {"websocket": ("complete", "")},
    "unended_fragment": {"websocket": ("protocol_error", "bad_fragment")},
    "masked_frame": {"websocket": ("protocol_error", "masked_frame")},
    "reserved_opcode": {"websocket": ("protocol_error", "reserved_opcode")},
    "reserved_bits": {"websocket": ("protocol_error", "reserved_bits")},
    "binary_message": {"websocket": ("protocol_error", "binary_message")},
    "huge_frame": {"websocket": ("protocol_error", "message_too_big")},
    "long_control": {"websocket": ("protocol_error", "bad_control")},
    "bad_close_code": {"websocket": ("protocol_error", "bad_close")},
    "no_close_frame": {"websocket": ("truncated", "no_close_frame")},
}
"""Kind -> protocol -> how a stream that meets it ends."""
BEFORE_ALL = (
    *("http_429", "http_500", "http_503", "slow_head", "content_type", "content_encoding", "bad_status_line"),
    *("bad_header", "endless_head", *HANDSHAKE),
)
"""Kinds that happen before the first content chunk."""
FIRST = ("close", "reset", "stall", "error_event", "half_frame", "short_body")
"""Kinds that are tried before the first content chunk, too."""
OVER_TLS = ("close", "reset", "stall", "half_frame", "cut_at_byte", "http_503", "no_done", "endless_line")


class Arm(NamedTuple):
    """Whom to talk to, and how."""

    stack: str
    tls: bool
    protocol: str = ""
    """Empty for a process, which serves several."""
    fault: str = ""
    """What meets every handshake of a process."""

    def __str__(self) -> str:
        return "-".join(filter(None, (self.stack, "tls" if self.tls else "", self.protocol, self.fault)))


class Figures(NamedTuple):
    """What is counted of a stream, but for times."""

    outcome: str
    reason: str
    text: str
    chunks: int
    bytes: tuple[int, ...]
    on_the_wire: tuple[int, ...]


def figures(record: StreamRecord) -> Figures:
    r = record
    counted = (r.payload_bytes, r.content_bytes, r.text_bytes)
    return Figures(r.outcome, r.reason, r.text, r.chunks, counted, (r.sent_bytes, r.received_bytes, r.head_bytes))


class Case(NamedTuple):
    """A fault on an arm."""

    stack: str
    protocol: str
    kind: str
    first: bool = False
    tls: bool = False

    def __str__(self) -> str:
        first, tls = "-first" if self.first else "", "-tls" if self.tls else ""
        return f"{self.kind}{first}-{self.stack}{tls}-{self.protocol}"

    @property
    def model(self) -> str:
        """The profile whose streams meet it."""
        return f"{self.kind}-first" if self.first else self.kind

    @property
    def expected(self) -> tuple[str, str]:
        outcome, reason = EXPECTED[self.kind][self.protocol]
        return outcome, "first_timeout" if self.first and reason == "gap_timeout" else reason

    @property
    def arm(self) -> Arm:
        """That of the streams beside it: of another protocol, where a fault meets every handshake."""
        return Arm(self.stack, self.tls, "sse" if self.kind in HANDSHAKE else self.protocol)

    @property
    def process(self) -> Arm:
        return Arm(self.stack, self.tls, fault=self.kind if self.kind in HANDSHAKE else "")

    @property
    def fault(self) -> Fault:
        place = 0 if self.first else PLACE
        return Fault(kind=self.kind, at=(place, place), wait_s=FOREVER_S, attempts=0, byte=BYTE)  # type: ignore[arg-type]

    @property
    def waits(self) -> bool:
        """Whether only a time-out ends it."""
        return self.expected[0] == "timed_out"

    @property
    def outlived(self) -> bool:
        """Whether the rest of the stream comes all the same."""
        outlived = ("invalid_json", "garbage", "no_done", "fragmented")
        return self.kind in outlived or (self.kind, self.protocol) == ("bad_utf8", "sse")

    @property
    def untimely(self) -> bool:
        """Whether what is wrong may come in the read that ends the stream, which the reason tells, or in any later one.

        Nothing ends what follows [DONE] over a WebSocket, so that it may even meet the next stream on the connection.
        """
        return (self.kind, self.protocol) == ("garbage", "websocket")

    @property
    def timeouts(self) -> Timeouts:
        return SHORT if self.waits else AMPLE


def cases() -> Iterator[Case]:
    """Every kind on every stack and protocol that can have it; some of them before the first chunk, and over TLS."""
    for stack, protocols in OFFERS.items():
        for kind in KINDS:
            if kind in BROKEN and stack != "faulty":
                continue
            for protocol in set(protocols) & set(APPLIES[kind]):
                for tls in (False, True) if kind in OVER_TLS else (False,):
                    yield Case(stack, protocol, kind, tls=tls)
                if kind in FIRST:
                    yield Case(stack, protocol, kind, first=True)


CASES = sorted(cases())


class Met(NamedTuple):
    """What came of a case."""

    faulted: list[StreamRecord]
    """Over a new connection, and over a kept one where there can be one."""
    beside: list[StreamRecord]
    """At the same time, and afterwards."""
    busy: int
    """Connections that the client still took for busy at the end."""


class Matrix(NamedTuple):
    """What came of all of them."""

    met: dict[Case, Met]
    usual: dict[Arm, dict[tuple[int, bool], Figures]]
    """Of the streams with the same seeds where nothing goes wrong: by arm, ordinal, and whether cold."""
    tasks: list[str]
    unhandled: list[str]
    idle: dict[str, int]
    """Descriptors that a process had before its first stream; the driver is one of them."""
    before: dict[str, Kept]
    after: dict[str, Kept]
    """The faults, that is."""
    cycles: dict[str, int]
    """What of ours only the garbage collector would have freed: it is off while the driver works."""


class Run:
    """The whole matrix, on one engine."""

    def __init__(self, folder: Path, servers: dict[Arm, Server], engine: Engine) -> None:
        self._folder = folder
        self._servers = servers
        self._engine = engine
        self._clients = 0

    async def everything(self) -> Matrix:
        processes = {f"{arm}": server.pid for arm, server in self._servers.items()} | {"driver": os.getpid()}
        idle = {name: kept(pid).descriptors for name, pid in processes.items()}
        usual = {case.arm: await self._usual(case) for case in {case.arm: case for case in CASES}.values()}
        before = {name: await settled(self._engine, pid, idle[name]) for name, pid in processes.items()}
        # Cases that wait for a time-out are nothing to the machine, so they need no room.
        patient, busy = [case for case in CASES if case.waits], [case for case in CASES if not case.waits]
        met: dict[Case, Met] = {}
        async with self._engine.group() as both:
            both.create_task(self._meet(patient, len(patient), met))
            both.create_task(self._meet(busy, AT_ONCE, met))
        after = {name: await settled(self._engine, pid, idle[name]) for name, pid in processes.items()}
        return Matrix(met, usual, [], [], idle, before, after, {})

    async def _meet(self, cases: list[Case], at_once: int, met: dict[Case, Met]) -> None:
        met.update(zip(cases, await together(self._engine, map(self._case, cases), at_once), strict=True))

    def _client(self, case: Case, protocol: str) -> Client:
        self._clients += 1
        folder = self._folder / f"{self._clients}"
        return client_of(self._engine, folder, self._servers[case.process], protocol, case.timeouts)

    async def _usual(self, case: Case) -> dict[tuple[int, bool], Figures]:
        client = self._client(case, case.arm.protocol)
        found = await self._good(client, range(3 * BESIDE + 1), "cold")
        await client.prime(3 * BESIDE + 1)
        found += await self._good(client, range(3 * BESIDE + 1))
        client.hang_up_pool()
        client.log.close()
        return {(record.ordinal, record.cold): figures(record) for record in found}

    async def _good(self, client: Client, ordinals: range, connections: str = "warm") -> list[StreamRecord]:
        return await together(self._engine, (stream(client, ordinal, GOOD, connections) for ordinal in ordinals))

    async def _case(self, case: Case) -> Met:
        client = self._client(case, case.protocol)
        others = client if case.arm.protocol == case.protocol else self._client(case, case.arm.protocol)
        faulted, *beside = await together(
            self._engine,
            [
                stream(client, MEETS, case.model, "cold"),
                *(stream(others, ordinal, GOOD, "cold") for ordinal in range(BESIDE)),
            ],
        )
        records = [faulted]
        if case.kind not in HANDSHAKE:
            await client.prime(BESIDE + 1)
            faulted, *more = await together(
                self._engine,
                [
                    stream(client, MEETS + 1, case.model),
                    *(stream(client, ordinal, GOOD) for ordinal in range(BESIDE, 2 * BESIDE)),
                ],
            )
            records.append(faulted)
            if case.untimely:
                client.hang_up_pool()
            beside += more
            beside += await self._good(client, range(2 * BESIDE, 3 * BESIDE + 1))
        for one in {client, others}:
            one.hang_up_pool()
            one.log.close()
        return Met(records, beside, len(client.busy) + len(others.busy))


def servers_for(cases: list[Case], folder: Path, certificate: Certificate, servers: list[Server]) -> dict[Arm, Server]:
    """A process for every arm, and one for every fault that meets a whole process; all start at once."""
    found = {}
    for process in dict.fromkeys(case.process for case in cases):
        own = {case.model: case.fault for case in cases if case.process == process}
        tls = certificate if process.tls else None
        profiles = dict.fromkeys((*own, GOOD), QUICK)
        found[process] = Server(folder / f"{process}", process.stack, profiles, own, tls)
        servers.append(found[process])
    return {process: server.ready() for process, server in found.items()}


def all_met(folder: Path, on: Callable[..., Driven[Matrix]]) -> Iterator[Matrix]:
    """The matrix on an engine, with its servers, which end when it has been looked at."""
    with starting() as started:
        servers = servers_for(CASES, folder, make(folder), started)
        with uncollected() as cycles:
            done = on(lambda engine: Run(folder / "clients", servers, engine).everything(), HANGS_S)
            found = done.result._replace(tasks=done.left, unhandled=done.unhandled)
            del done
            found = found._replace(cycles=cycles())
        yield found
        assert {f"{arm}": server.stop() for arm, server in servers.items()} == {f"{arm}": (0, "") for arm in servers}


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    yield from all_met(tmp_path_factory.mktemp("matrix"), on_asyncio)


def chunks_of(record: StreamRecord) -> list[str]:
    return record.text.split(SEPARATOR.decode()) if record.chunks else []


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_ends_under_its_own_name(matrix: Matrix, case: Case) -> None:
    for record in matrix.met[case].faulted:
        fates = {case.expected, ("complete", "")} if case.untimely else {case.expected}
        assert (record.outcome, record.reason) in fates
        assert record.cold == (record.ordinal == MEETS)
        assert not record.reason or meaning(record.reason)
        found, whole = chunks_of(record), texts(QUICK, record.seed)
        assert len(found) == record.chunks
        if case.outlived:
            assert found == [text for at, text in enumerate(whole) if case.kind != "bad_utf8" or at != PLACE]
        elif case.kind in BEFORE_ALL or case.first:
            assert found == []
        elif case.kind in ("cut_at_byte", "reset"):  # a reset may overtake what is not read yet
            assert found == whole[: len(found)]
        else:
            assert found == whole[:PLACE]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_ends_in_time(matrix: Matrix, case: Case) -> None:
    for record in matrix.met[case].faulted:
        assert 0 < record.intended_ns <= record.started_ns <= record.ended_ns
        assert record.ended_ns - record.started_ns < HANGS_S * NS
        if case.waits:
            waited_ns = record.ended_ns - (record.first_content_ns or record.requested_ns)
            assert waited_ns >= SHORT.gap_s * NS == SHORT.first_s * NS


@pytest.mark.parametrize("case", CASES, ids=str)
def test_streams_beside_it_are_what_they_always_are(matrix: Matrix, case: Case) -> None:
    met, usual = matrix.met[case], matrix.usual[case.arm]
    assert len(met.beside) == (BESIDE if case.kind in HANDSHAKE else 3 * BESIDE + 1)
    for record in met.beside:
        found, known = figures(record), usual[record.ordinal, record.cold]
        if case.tls:  # how many records the same bytes take depends on when they are written
            found, known = found._replace(on_the_wire=()), known._replace(on_the_wire=())
        assert found == known
        assert found.outcome == "complete"
        assert chunks_of(record) == texts(QUICK, record.seed)


def test_nothing_is_kept(matrix: Matrix) -> None:
    assert not any(met.busy for met in matrix.met.values())
    assert matrix.tasks == []
    assert matrix.unhandled == []
    assert matrix.cycles == {}
    assert {name: held.descriptors for name, held in matrix.after.items()} == matrix.idle
    grown = {name: matrix.after[name].memory - before.memory for name, before in matrix.before.items()}
    assert {name: by for name, by in grown.items() if by > GROWTH} == {}


def test_every_kind_is_there() -> None:
    assert {kind: set(fates) for kind, fates in EXPECTED.items()} == {kind: set(APPLIES[kind]) for kind in KINDS}
    assert {case.kind for case in CASES} == set(KINDS) == set(APPLIES)
    assert len(KINDS) >= 30
