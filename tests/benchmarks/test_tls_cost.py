"""What TLS adds to reading one token, and what opening a connection with it costs the client.

    taskset -c 1 python -m pytest tests/benchmarks/test_tls.py --benchmark-only -s

Compare with the plain reads of ``test_decode.py``; the fastest round counts there and here.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from test_decode import EVENTS, FRAMES, READ, TOKENS, http_chunks, in_reads
from websockets.server import ServerProtocol

from bench.certificate import Certificate, make
from bench.wire import make_wire
from bench.wire.events import Secured
from bench.wire.tls import ClientTLS, TLSWire

CHUNKS = http_chunks(EVENTS)
RECORD = 16_384
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make(tmp_path_factory.mktemp("tls"))


class Server:
    """The standard library's server half of one connection."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)

    def shake_hands(self, data: bytes) -> bytes:
        self.incoming.write(data)
        with suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self.outgoing.read()

    def records(self, plain: bytes) -> bytes:
        self.tls.write(plain)
        return self.outgoing.read()


def context_of(certificate: Certificate, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = version
    context.load_cert_chain(certificate.certificate, certificate.key)
    return context


def secure(wire: TLSWire, server: Server) -> None:
    """Have the handshake."""
    data = wire.opening()
    while not any(isinstance(event, Secured) for event in wire.receive(server.shake_hands(data))):
        data = wire.to_send()
    wire.receive(server.shake_hands(wire.to_send()))


def streaming(protocol: str, tls: ClientTLS, server: Server) -> TLSWire:
    """A wire in the middle of a stream."""
    wire = tls.wire(make_wire(protocol, "test:80"))
    secure(wire, server)
    if protocol == "websocket":
        half = ServerProtocol()
        half.receive_data(server.tls.read(READ))
        half.send_response(half.accept(half.events_received()[0]))  # type: ignore[arg-type]
        wire.receive(server.records(b"".join(half.data_to_send())))
    wire.request(1, b"{}")
    if protocol == "sse":
        wire.receive(server.records(HEAD))
    return wire


READS: dict[str, Callable[[Server, list[bytes]], list[bytes]]] = {
    "one token a read": lambda server, pieces: [server.records(piece) for piece in pieces],
    "a record a token, 64 KiB reads": lambda server, pieces: in_reads(
        [server.records(piece) for piece in pieces], READ
    ),
    "records of 16 KiB, 64 KiB reads": lambda server, pieces: in_reads(
        [server.records(part) for part in in_reads(pieces, RECORD)], READ
    ),
}


@pytest.mark.parametrize("reads", READS)
@pytest.mark.parametrize(("protocol", "pieces"), [("sse", CHUNKS), ("websocket", FRAMES)], ids=["sse", "websocket"])
def test_wire(
    benchmark: BenchmarkFixture, certificate: Certificate, protocol: str, pieces: list[bytes], reads: str
) -> None:
    server = Server(context_of(certificate))
    wire = streaming(protocol, ClientTLS(str(certificate.ca_file), certificate.server_name), server)
    rounds = 0

    def encrypted() -> tuple[tuple[list[bytes]], dict[str, object]]:
        return (READS[reads](server, pieces),), {}  # a record can be read once, and in its turn

    def run(received: list[bytes]) -> None:
        nonlocal rounds
        rounds += 1
        receive, to_send = wire.receive, wire.to_send
        for data in received:
            receive(data)
            to_send()

    benchmark.pedantic(run, setup=encrypted, rounds=200, warmup_rounds=3)
    assert wire.sizes.chunks == rounds * TOKENS
    if benchmark.stats is not None:  # None with --benchmark-disable
        per_token = benchmark.stats.stats.min / TOKENS * 1e9
        benchmark.extra_info["ns_per_token"] = round(per_token)
        print(f"{per_token:6.0f} ns/token  {benchmark.name}")


@pytest.mark.parametrize("resume", [False, True], ids=["full", "resumed"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2], ids=lambda v: v.name)
def test_handshake(
    benchmark: BenchmarkFixture, certificate: Certificate, version: ssl.TLSVersion, resume: bool
) -> None:
    """Both halves, from making the wire to its first request: about half of it is the client's."""
    context = context_of(certificate, version)
    tls = ClientTLS(str(certificate.ca_file), certificate.server_name)

    def run() -> TLSWire:
        wire, server = tls.wire(make_wire("sse", "test:80"), resume), Server(context)
        secure(wire, server)
        wire.request(1, b"{}")
        wire.receive(server.records(HEAD))
        return wire

    run().eof()  # keeps its session
    wire = benchmark.pedantic(run, rounds=200, warmup_rounds=3)
    assert (wire.sizes.opening_bytes < 800) is resume, "without the certificate"
    if benchmark.stats is not None:
        print(f"{benchmark.stats.stats.min * 1e6:6.0f} µs  {benchmark.name}")
