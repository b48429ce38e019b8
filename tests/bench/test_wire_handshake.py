"""A 101 judged in place: what is accepted so is accepted by `websockets`, and what is read afterwards is the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from bench.wire import make_wire
from bench.wire.events import Accepted, Closed, Event, Finished, Idle, Outcome
from bench.wire.http1 import accepts_plainly

UPGRADE = ("Upgrade", "websocket")
CONNECTION = ("Connection", "Upgrade")
LINES = [
    UPGRADE,
    ("upgrade", "WebSocket"),
    ("Upgrade", "h2c"),
    CONNECTION,
    ("connection", "upgrade"),
    ("Connection", "keep-alive, Upgrade"),
    ("Connection", "close"),
    ("Server", "Python/3.11 aiohttp/3"),
    ("Empty", ""),
    ("X-Text", "a: b;c  d"),
    ("X-Latin", "caf\xe9"),
    ("X-Tab", "a\tb"),
    (" folded", "line"),
    ("bad name", "x"),
    ("no colon at all", None),
    ("Sec-WebSocket-Extensions", "permessage-deflate"),
    ("Sec-WebSocket-Protocol", "chat"),
    ("Sec-WebSocket-Accept", "wrong"),
    ("Sec-WebSocket-Accept", "right"),
]
STATUS = ["HTTP/1.1 101 Switching Protocols", "HTTP/1.1 101 ", "HTTP/1.1 101", "HTTP/1.0 101 x", "HTTP/1.1 200 OK"]


def render(status: str, lines: list[tuple[str, str | None]], accept: str) -> bytes:
    text = "".join(
        f"{name}\r\n" if value is None else f"{name}: {accept if value == 'right' else value}\r\n"
        for name, value in lines
    )
    return f"{status}\r\n{text}\r\n".encode("latin-1")


@given(st.sampled_from(STATUS), st.lists(st.sampled_from(LINES), max_size=7))
def test_plainly_accepted_is_accepted(status: str, lines: list[tuple[str, str | None]]) -> None:
    protocol = ClientProtocol(parse_uri("ws://test:80/"))
    request = protocol.connect()
    protocol.send_request(request)
    server = ServerProtocol()
    server.receive_data(b"".join(protocol.data_to_send()))
    (asked,) = server.events_received()
    assert isinstance(asked, Request)
    accept = server.accept(asked).headers["Sec-WebSocket-Accept"]
    head = render(status, lines, accept)
    if accepts_plainly(head, accept.encode()):
        protocol.receive_data(head)
        assert protocol.state is State.OPEN
        assert protocol.handshake_exc is None
        assert not protocol.extensions


@pytest.mark.parametrize(
    ("lines", "plain"),
    [
        ([UPGRADE, CONNECTION, ("Sec-WebSocket-Accept", "right")], True),
        ([("upgrade", "WebSocket"), ("connection", "upgrade"), ("Sec-WebSocket-Accept", "right")], True),
        ([UPGRADE, CONNECTION], False),
        ([UPGRADE, CONNECTION, ("Sec-WebSocket-Accept", "wrong")], False),
        ([UPGRADE, UPGRADE, CONNECTION, ("Sec-WebSocket-Accept", "right")], False),
        ([UPGRADE, ("Connection", "keep-alive, Upgrade"), ("Sec-WebSocket-Accept", "right")], False),
        ([UPGRADE, CONNECTION, ("Sec-WebSocket-Accept", "right"), ("Sec-WebSocket-Protocol", "chat")], False),
        ([UPGRADE, CONNECTION, ("Sec-WebSocket-Accept", "right"), ("X-Latin", "caf\xe9")], False),
    ],
)
def test_what_is_plain(lines: list[tuple[str, str | None]], plain: bool) -> None:
    assert accepts_plainly(render(STATUS[0], lines, "abc="), b"abc=") is plain


class Peers:
    """A wire half and the server of `websockets`, handshake done; `cut` splits the 101 in two reads."""

    def __init__(self, cut: int) -> None:
        self.wire = make_wire("websocket", "test:80")
        self.server = ServerProtocol()
        self.server.receive_data(self.wire.opening())
        (asked,) = self.server.events_received()
        assert isinstance(asked, Request)
        self.server.send_response(self.server.accept(asked))
        head = b"".join(self.server.data_to_send())
        self.events: list[Event] = []
        for part in (head[:cut], head[cut:]) if cut else (head,):
            self.events += self.wire.receive(part)

    def from_server(self) -> list[Event]:
        return self.wire.receive(b"".join(self.server.data_to_send()))


@pytest.mark.parametrize("cut", [0, 1, 17, 60])
def test_whole_or_in_parts_the_connection_is_the_same(cut: int) -> None:
    peers = Peers(cut)
    assert peers.events == [Accepted(101), Idle()]
    peers.server.receive_data(peers.wire.request(1, b'{"a":1}'))
    (frame,) = peers.server.events_received()
    assert isinstance(frame, Frame)
    assert (frame.opcode, bytes(frame.data), frame.fin) == (Opcode.TEXT, b'{"a":1}', True)
    peers.server.send_ping(b"are you there")
    assert peers.from_server() == []
    peers.server.receive_data(peers.wire.to_send())
    (pong,) = peers.server.events_received()
    assert isinstance(pong, Frame)
    assert (pong.opcode, bytes(pong.data)) == (Opcode.PONG, b"are you there")
    peers.server.send_close(1001, "bye")
    finished, closed = peers.from_server()
    assert isinstance(finished, Finished)
    assert finished.outcome is Outcome.TRUNCATED
    assert closed == Closed(1001, "bye")
    peers.server.receive_data(peers.wire.to_send())
    assert peers.server.close_rcvd == Close(1001, "bye")


@pytest.mark.parametrize("cut", [0, 17])
def test_leaving_an_unused_connection(cut: int) -> None:
    peers = Peers(cut)
    peers.server.receive_data(peers.wire.close())
    assert peers.server.close_rcvd == Close(1000, "")


def test_a_refused_handshake_is_still_explained() -> None:
    wire = make_wire("websocket", "test:80")
    wire.opening()
    events = wire.receive(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    assert isinstance(events[0], Finished)
    assert events[0].outcome is Outcome.PROTOCOL_ERROR
    assert "Sec-WebSocket-Accept" in events[0].detail
