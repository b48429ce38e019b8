"""Servers that speak TLS, heard by clients that others wrote."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import SSE_STACKS, STACKS, Start
from cryptography.hazmat.primitives import serialization
from serving import CHAT, Server, body
from test_leaving import check_stops, ended
from test_process import run
from websockets.asyncio.client import ClientConnection, connect

from bench.certificate import SERVER_NAME, Certificate, make
from bench.wire import make_wire
from bench.wire.events import Closed, Content, Event, Finished, Outcome, Secured
from bench.wire.tls import ClientTLS
from servers.emission_log import Ended
from servers.settings import TLS, SettingsError
from servers.tls import listening


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def trust(certificate: Certificate) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate.ca_file))


def files(certificate: Certificate) -> dict[str, str]:
    """The setting."""
    return {"certificate": str(certificate.certificate), "key": str(certificate.key)}


@pytest.fixture
def secure(start: Start, certificate: Certificate) -> Start:
    """Start a server that speaks TLS."""

    def run(stack: str, **settings: Any) -> Server:
        return start(stack, tls=files(certificate), **settings)

    return run


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=STACKS)
def server(
    request: pytest.FixtureRequest, loop: str, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server of each stack on each event loop, for tests that leave no trace."""
    settings = {"tls": files(certificate), "loop": loop}
    running = Server(tmp_path_factory.mktemp("server"), request.param, settings)
    yield running
    assert running.stop() == (0, "", "")


def https(server: Server, trust: ssl.SSLContext) -> httpx.Client:
    return httpx.Client(verify=trust, base_url=f"https://127.0.0.1:{server.port}", timeout=10)


def wss(server: Server, trust: ssl.SSLContext) -> connect:
    return connect(f"wss://127.0.0.1:{server.port}{CHAT}", ssl=trust, server_hostname=SERVER_NAME)


def tls_socket(server: Server, trust: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    return trust.wrap_socket(plain, server_hostname=SERVER_NAME, session=session)


def begun(server: Server, trust: ssl.SSLContext) -> ssl.SSLSocket:
    """An SSE stream under way."""
    data = json.dumps(body("endless")).encode()
    client = tls_socket(server, trust)
    client.sendall(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (CHAT.encode(), len(data), data))
    while b'"delta":{"content":' not in client.recv(65_536):
        pass
    return client


def upgraded(server: Server, trust: ssl.SSLContext) -> ssl.SSLSocket:
    """A WebSocket on which nothing is asked."""
    client = tls_socket(server, trust)
    client.sendall(
        b"GET %b HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n" % CHAT.encode()
    )
    assert client.recv(65_536).startswith(b"HTTP/1.1 101")
    return client


async def answer(client: ClientConnection, **fields: Any) -> list[str]:
    """The messages of one stream."""
    await client.send(json.dumps(body(**fields)))
    messages = [str(await client.recv())]
    while messages[-1] != "[DONE]":
        messages.append(str(await client.recv()))
    return messages


def test_sse(server: Server, trust: ssl.SSLContext) -> None:
    if "sse" not in server.ready["protocols"]:
        pytest.skip("speaks WebSocket only")
    with https(server, trust) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        for _ in range(2):
            with client.stream("POST", CHAT, json=body(seed=1)) as response:
                lines = [line for line in response.iter_lines() if line]
                assert response.extensions["network_stream"].get_extra_info("ssl_object").version() == "TLSv1.3"
            assert (response.status_code, len(lines), lines[-1]) == (200, 12 + 3, "data: [DONE]")


def test_websocket(server: Server, trust: ssl.SSLContext) -> None:
    async def talk() -> list[list[str]]:
        async with asyncio.timeout(10), wss(server, trust) as client:
            return [await answer(client, seed=1) for _ in range(2)]

    assert [(len(messages), messages[-1]) for messages in asyncio.run(talk())] == [(12 + 3, "[DONE]")] * 2


@pytest.mark.parametrize(
    ("stack", "protocol"), [*((stack, "sse") for stack in SSE_STACKS), *((stack, "websocket") for stack in STACKS)]
)
def test_the_drivers_own_half(secure: Start, certificate: Certificate, stack: str, protocol: str) -> None:
    """Full and resumed handshakes, then a server that stops and waits for the answer to its close_notify."""
    server = secure(stack)
    tls = ClientTLS(str(certificate.ca_file), certificate.server_name)
    for resumed in (False, True):
        wire = tls.wire(make_wire(protocol, f"127.0.0.1:{server.port}"), resume=True)
        events: list[Event] = []
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            client.sendall(wire.opening())
            while not any(isinstance(event, Finished) for event in events):
                events += wire.receive(client.recv(65_536))
                asking = wire.ready and not wire.sizes.sent_bytes
                client.sendall(wire.request(1, json.dumps(body()).encode()) if asking else wire.to_send())
            while not wire.ready:
                events += wire.receive(client.recv(65_536))
            assert events[0] == Secured(resumed)
            assert [event.outcome for event in events if isinstance(event, Finished)] == [Outcome.COMPLETE]
            assert sum(event.chunks for event in events if isinstance(event, Content)) == 12
            if resumed:
                server.process.send_signal(signal.SIGTERM)
            else:
                client.sendall(wire.close())
            while not any(isinstance(event, Closed) for event in events):
                data = client.recv(65_536)
                events += wire.receive(data) if data else wire.eof()
            if resumed and protocol == "websocket":
                assert [event.code for event in events if isinstance(event, Closed)] == [1001]
            client.sendall(wire.to_send())
    assert server.stop() == (0, "", "")


def test_what_is_in_force(server: Server) -> None:
    settings = server.ready["settings"]
    assert settings["nodelay"] is True
    assert settings["tls"] == {
        "library": ssl.OPENSSL_VERSION,
        "minimum": "1.2",
        "tickets": True,
        "handshake_s": 10.0,
        "shutdown_s": 1.0,
    }


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_are_resumed(server: Server, certificate: Certificate, version: ssl.TLSVersion) -> None:
    trust = ssl.create_default_context(cafile=str(certificate.ca_file))
    trust.minimum_version = trust.maximum_version = version
    session = None
    for resumed in (False, True):
        with tls_socket(server, trust, session) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert client.recv(65_536).startswith(b"HTTP/1.1 200 OK\r\n")
            assert client.session_reused is resumed
            session = client.session


def test_clients_that_speak_something_else(server: Server, trust: ssl.SSLContext) -> None:
    """Plain HTTP, and a version that is too old: refused, and the server goes on without a word."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        seen = b""
        while part := plain.recv(65_536):
            seen += part
        assert seen[:1] in (b"", b"\x15"), "an alert at most"
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(server.http + "/healthz", timeout=10)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        tls_socket(server, old)
    with https(server, trust) as client:
        assert client.get("/healthz").status_code == 200


def test_clients_leave(secure: Start, trust: ssl.SSLContext, stack: str) -> None:
    """With a close_notify and without, and from a WebSocket."""
    server = secure(stack)
    streams = 1

    async def leave() -> None:
        async with asyncio.timeout(10):
            client = await wss(server, trust)
            await client.send(json.dumps(body("stalling")))
            await client.recv()
            client.transport.abort()

    asyncio.run(leave())
    if "sse" in server.ready["protocols"]:
        streams += 2
        begun(server, trust).close()
        client = begun(server, trust)
        client.settimeout(0)
        with suppress(OSError):  # the server's own close_notify has not come, or tokens have
            client.unwrap()
    assert ended(server, streams) == [Ended.CLIENT_GONE] * streams


def test_a_stop_does_not_wait_for_silent_clients(secure: Start, trust: ssl.SSLContext) -> None:
    """One that never began its handshake, one that never asked, one that answers neither close nor close_notify."""
    servers = [secure(stack, loop=loop) for stack in STACKS for loop in ("uvloop", "asyncio")]
    clients: list[socket.socket] = []
    for server in servers:
        clients.append(socket.create_connection(("127.0.0.1", server.port)))
        clients += [tls_socket(server, trust), upgraded(server, trust)]
        if server.stack != "websockets":
            clients.append(begun(server, trust))
    check_stops(servers)
    for client in clients:
        client.close()


def test_what_cannot_be_read_is_refused_without_half_a_connection(server: Server, trust: ssl.SSLContext) -> None:
    """TLS connections of event loops cannot be closed in one direction only."""
    with tls_socket(server, trust) as client:
        client.sendall(b"nonsense\r\n\r\n")
        seen = client.recv(65_536)
        assert not seen or seen.startswith(b"HTTP/1.")
    with upgraded(server, trust) as client:
        client.sendall(b"\x83\x80\0\0\0\0")  # an opcode that has no meaning
        frame = client.recv(65_536)
        assert (frame[0], int.from_bytes(frame[2:4], "big")) == (0x88, 1002)


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ({"certificate": "/nowhere.pem"}, "tls.certificate = /nowhere.pem: No such file or directory"),
        ({"key": "/nowhere.pem"}, "tls.key = /nowhere.pem: No such file or directory"),
        ({"key": "/"}, "tls.key = /: Is a directory"),
        ({"certificate": "nonsense"}, "wanted are a chain of certificates"),
        ({"key": "other"}, "key values mismatch; wanted are"),
        ({"key": "locked"}, "the key is encrypted; wanted are"),
    ],
)
def test_bad_certificates(tmp_path: Path, certificate: Certificate, bad: dict[str, str], complaint: str) -> None:
    nonsense, locked = tmp_path / "nonsense.pem", tmp_path / "locked.pem"
    nonsense.write_text("-----BEGIN CERTIFICATE-----")
    key = serialization.load_pem_private_key(certificate.key.read_bytes(), None)
    kinds = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    locked.write_bytes(key.private_bytes(*kinds, serialization.BestAvailableEncryption(b"secret")))
    (tmp_path / "other").mkdir()
    special = {"nonsense": nonsense, "other": make(tmp_path / "other").key, "locked": locked}
    chosen = files(certificate) | {name: str(special.get(path, path)) for name, path in bad.items()}
    with pytest.raises(SettingsError) as caught:
        listening(TLS(**chosen))
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_stack_complains(tmp_path: Path, stack: str) -> None:
    config = tmp_path / "server.json"
    config.write_text(json.dumps({"tls": {"certificate": "/nowhere.pem", "key": "/nowhere.pem"}}))
    complaint = f"python -m servers: {config}: tls.certificate = /nowhere.pem: No such file or directory"
    assert run(stack, "--config", str(config)) == (2, complaint)


def test_the_key_is_its_owners(certificate: Certificate, tmp_path: Path) -> None:
    assert certificate.key.stat().st_mode & 0o777 == 0o600
    first = make(tmp_path)
    before = first.key.read_bytes()
    assert make(tmp_path) == first
    assert first.key.read_bytes() != before
