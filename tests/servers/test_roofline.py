"""What the stack without a library has to know of HTTP and WebSocket itself, byte by byte on plain sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator

import pytest
from serving import CHAT, Server, body
from websockets.frames import Frame, Opcode

from servers.bare.connection import Connection
from servers.bare.frames import TOO_BIG, Fault, FrameReader
from servers.emission_log import EmissionLog, Ended
from servers.generation import GONE, MESSAGES, Generation
from servers.pacing import Pacer
from servers.payloads.chat_completions import parse_request
from servers.service import Service
from servers.settings import Settings

HANDSHAKE = (
    b"GET %b HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: keep-alive, Upgrade\r\n"
    b"sec-websocket-version: %b\r\nsec-websocket-key: %b\r\n\r\n"
)
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455, 1.3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("roofline"), "roofline", {})
    yield running
    assert running.stop() == (0, "", "")


@pytest.fixture
def client(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        yield connection


def post(data: bytes, *headers: bytes) -> bytes:
    lines = (b"POST %b HTTP/1.1" % CHAT.encode(), b"host: x", b"content-length: %d" % len(data), *headers)
    return b"\r\n".join(lines) + b"\r\n\r\n" + data


def rest(client: socket.socket) -> bytes:
    """All that comes until the server closes."""
    seen = b""
    while part := client.recv(65536):
        seen += part
    return seen


def until(client: socket.socket, mark: bytes, count: int = 1) -> bytes:
    """All that comes until there are `count` times `mark`."""
    seen = b""
    while seen.count(mark) < count:
        part = client.recv(65536)
        assert part, seen
        seen += part
    return seen


def asked(**fields: object) -> bytes:
    return json.dumps(body("instant", max_tokens=2, **fields)).encode()


def test_requests_sent_at_once_are_answered_in_order(client: socket.socket) -> None:
    client.sendall(post(asked(seed=1)) + b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n" + post(asked(stream=False)))
    seen = until(client, b'"usage":')
    assert seen.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert seen.index(b"[DONE]") < seen.index(b'{"status":"ok"}') < seen.index(b'"chat.completion"')


def test_more_requests_than_may_wait(client: socket.socket) -> None:
    client.sendall(post(asked()) * 100)
    assert until(client, b"\r\n0\r\n\r\n", 100).count(b"data: [DONE]") == 100


def test_a_request_byte_by_byte(client: socket.socket) -> None:
    for byte in post(asked()):
        client.sendall(bytes((byte,)))
    until(client, b"\r\n0\r\n\r\n")


def test_a_chunked_body(client: socket.socket) -> None:
    data = asked()
    client.sendall(b"POST %b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" % CHAT.encode())
    client.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))
    until(client, b"\r\n0\r\n\r\n")


def test_a_client_that_expects_a_go_ahead(client: socket.socket) -> None:
    head, data = post(asked(), b"expect: 100-continue").split(b"\r\n\r\n", 1)
    client.sendall(head + b"\r\n\r\n")
    assert until(client, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(data)
    assert until(client, b"\r\n0\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1048577\r\n\r\n", 413),
        (post(asked()).replace(b"HTTP/1.1", b"HTTP/1.0"), 505),
        (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
        (post(asked(), b"connection: close"), 200),
        (b"GET /healthz HTTP/1.1\r\nhost: x\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n", 200),
        (HANDSHAKE % (CHAT.encode(), b"8", KEY), 426),
        (HANDSHAKE % (CHAT.encode(), b"13", b"c2hvcnQ="), 400),
        (HANDSHAKE.replace(b"keep-alive, Upgrade", b"close") % (CHAT.encode(), b"13", KEY), 400),
    ],
)
def test_replies_after_which_the_connection_ends(client: socket.socket, request_: bytes, status: int) -> None:
    client.sendall(request_)
    seen = rest(client)
    assert seen.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nconnection: close\r\n" in seen


def test_a_head_without_end(client: socket.socket) -> None:
    client.sendall(b"GET / HTTP/1.1\r\nx: ")
    client.sendall(b"x" * 1_000_000)
    assert rest(client).startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")


def test_a_reply_to_head_has_no_body(client: socket.socket) -> None:
    client.sendall(b"HEAD /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    seen = rest(client)
    assert b"\r\ncontent-length: 15\r\n" in seen
    assert seen.endswith(b"\r\n\r\n")


def framed(opcode: Opcode, data: bytes, **bits: bool) -> bytes:
    """A frame of a client."""
    return Frame(opcode, data, **bits).serialize(mask=True)


@pytest.fixture
def open_socket(client: socket.socket) -> socket.socket:
    client.sendall(HANDSHAKE % (CHAT.encode(), b"13", KEY))
    assert b"\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in until(client, b"\r\n\r\n")
    return client


def test_a_frame_right_behind_the_handshake(client: socket.socket) -> None:
    client.sendall(HANDSHAKE % (CHAT.encode(), b"13", KEY) + framed(Opcode.TEXT, asked()))
    until(client, b"[DONE]")


def test_a_message_in_pieces_with_a_ping_between(open_socket: socket.socket) -> None:
    data = asked()
    pieces = framed(Opcode.TEXT, data[:5], fin=False) + framed(Opcode.PING, b"hi")
    pieces += framed(Opcode.CONT, data[5:9], fin=False) + framed(Opcode.CONT, data[9:])
    for byte in pieces:
        open_socket.sendall(bytes((byte,)))
    assert until(open_socket, b"[DONE]").startswith(b"\x8a\x02hi\x81")


@pytest.mark.parametrize("code", [b"", (1000).to_bytes(2, "big"), (4001).to_bytes(2, "big")])
def test_a_close_is_answered_with_its_code(open_socket: socket.socket, code: bytes) -> None:
    open_socket.sendall(framed(Opcode.CLOSE, code and code + b"bye"))
    assert rest(open_socket) == bytes((0x88, len(code))) + code


@pytest.mark.parametrize(
    "data",
    [
        Frame(Opcode.TEXT, b"{}").serialize(mask=False),
        bytes((0xC1, 0x80)) + bytes(4),
        framed(Opcode.CONT, b"{}"),
        framed(Opcode.TEXT, b"{", fin=False) + framed(Opcode.TEXT, b"}"),
        bytes((0x83, 0x80)) + bytes(4),
        bytes((0x09, 0x80)) + bytes(4),
        bytes((0x89, 0xFE)) + bytes(2),
        framed(Opcode.CLOSE, b"x"),
        framed(Opcode.CLOSE, (1005).to_bytes(2, "big")),
    ],
    ids=[
        *("unmasked", "reserved bit", "continues nothing", "unended fragment", "reserved opcode", "ping in pieces"),
        *("long ping", "close of one byte", "close with 1005"),
    ],  # masks are random: parametrized by bytes, a test would have another name in every process
)
def test_a_broken_protocol_closes_with_1002(open_socket: socket.socket, data: bytes) -> None:
    open_socket.sendall(data)
    assert rest(open_socket) == bytes((0x88, 2)) + (1002).to_bytes(2, "big")


def test_a_write_behind_the_loss_of_a_connection_is_no_fault_of_ours() -> None:
    """Where uvloop raises `RuntimeError`, because the task that writes was already under way."""

    class Lost:
        def write(self, _data: bytes) -> None:
            connection.connection_lost(None)
            raise RuntimeError("the handler is closed")

    async def run() -> tuple[Generation, BaseException]:
        nonlocal connection
        pacer = Pacer(asyncio.get_running_loop())
        service = Service(Settings(), pacer, EmissionLog(None))
        connection = Connection(service, set(), 1)
        connection.transport = Lost()  # type: ignore[assignment]
        request = parse_request(json.dumps(body("instant")))
        generation = service.begin(request, 0, MESSAGES)
        with pytest.raises(ConnectionResetError) as caught:
            await connection.emit(generation, bytes, pacer, service.log)
        pacer.close()
        return generation, caught.value

    connection: Connection
    generation, error = asyncio.run(run())
    assert generation.ended is Ended.CLIENT_GONE
    assert isinstance(error, GONE)


def test_messages_have_a_limit_also_in_pieces() -> None:
    reader = FrameReader(10)
    assert list(reader.read(framed(Opcode.TEXT, b"x" * 10))) == [(Opcode.TEXT, b"x" * 10)]
    assert list(reader.read(framed(Opcode.TEXT, b"x" * 6, fin=False))) == []
    with pytest.raises(Fault) as caught:
        list(reader.read(framed(Opcode.CONT, b"x" * 5)[:6]))
    assert caught.value.code == TOO_BIG
