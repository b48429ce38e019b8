"""The wire halves against the servers they will meet: cancels that cross the end of a stream, going on after a cut."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.wire import make_wire
from bench.wire.events import Content, Event, Finished, Idle, Outcome, Wire

PROFILES: dict[str, Any] = {
    name: {
        "first": {"dist": "constant", "ms": 0},
        "gap": {"dist": "constant", "ms": gap_ms},
        "length": {"dist": "fixed", "tokens": tokens},
    }
    for name, gap_ms, tokens in (("instant", 0, 30), ("quick", 1, 20), ("endless", 1, 2_000))
}


MESSAGES = [{"role": "user", "content": "hello"}]


class Peer:
    """A socket and the wire half on it."""

    def __init__(self, port: int, protocol: str) -> None:
        self.wire: Wire = make_wire(protocol, f"127.0.0.1:{port}")
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.sendall(self.wire.opening())
        self.texts: list[bytes] = []
        while not self.wire.ready:
            self.read(1024)

    def ask(self, stream: int, model: str, seed: int, last_event_id: str = "") -> None:
        self.texts = []
        body = json.dumps({"model": model, "seed": seed, "stream": True, "messages": MESSAGES})
        self.socket.sendall(self.wire.request(stream, body.encode(), last_event_id))

    def read(self, size: int) -> list[Event]:
        data = self.socket.recv(size)
        events = self.wire.receive(data) if data else self.wire.eof()
        self.texts += [text for event in events if isinstance(event, Content) for text in event.text.split(b"\x1f")]
        return events

    def until_over(self) -> list[Event]:
        """Read on to the end of the stream, and of its reply."""
        events: list[Event] = []
        while not events or not isinstance(events[-1], Idle):
            events += self.read(65_536)
        return events


@pytest.fixture(scope="module", params=["aiohttp", "websockets", "roofline"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    config = folder / "server.json"
    config.write_text(json.dumps({"profiles": PROFILES, "log": str(folder / "log"), "resumable": list(PROFILES)}))
    command = [sys.executable, "-m", "servers", request.param, "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield request.param, json.loads(process.stdout.readline())["port"]
        process.kill()


def test_cancelled_again_and_again_on_one_connection(server: tuple[str, int]) -> None:
    """Early, late, and as the stream ends by itself: the next stream has all its texts and no other."""
    peer = Peer(server[1], "websocket")
    peer.ask(0, "quick", 1)
    peer.until_over()
    whole = peer.texts
    assert len(whole) == 20
    for stream in range(1, 60):
        model = ("endless", "instant", "quick")[stream % 3]
        peer.ask(stream, model, stream)
        for _ in range(stream % 7 if model != "instant" else stream % 2):
            if not peer.wire.ready:
                peer.read(300)
        ended = peer.wire.ready
        peer.socket.sendall(peer.wire.cancel(stream) or b"")
        if not ended:
            *_, finished, idle = peer.until_over()
            assert finished == Finished(stream, Outcome.CANCELLED, "", "left")
            assert idle == Idle()
        peer.ask(1000 + stream, "quick", 1)
        *_, finished, idle = peer.until_over()
        assert finished == Finished(1000 + stream, Outcome.COMPLETE, "")
        assert peer.texts == whole
    peer.socket.close()


@pytest.mark.parametrize("protocol", ["sse", "websocket"])
def test_going_on_where_it_was_cut(server: tuple[str, int], protocol: str) -> None:
    stack, port = server
    if (stack, protocol) == ("websockets", "sse"):
        pytest.skip("a stack for WebSocket only")
    peer = Peer(port, protocol)
    peer.ask(0, "quick", 7)
    peer.until_over()
    whole, last = peer.texts, peer.wire.last_event_id
    assert last.endswith(":22")  # role, 20 texts, stop, [DONE]
    for cut in (200, 900, 2500):
        peer.socket.close()
        peer = Peer(port, protocol)
        peer.ask(1, "quick", 7)
        received = 0
        while received < cut:
            peer.read(min(150, cut - received))
            received += min(150, cut - received)
        first, last = peer.texts, peer.wire.last_event_id
        peer.socket.close()
        peer = Peer(port, protocol)
        peer.ask(2, "quick", 7, last)
        peer.until_over()
        assert first + peer.texts == whole
        assert peer.wire.last_event_id.endswith(":22")
    last = peer.wire.last_event_id
    peer.ask(3, "quick", 7, last)
    finished = [event for event in peer.until_over() if isinstance(event, Finished)]
    assert [(event.outcome, event.reason) for event in finished] == [(Outcome.COMPLETE, "nothing_to_resume")]
    peer.socket.close()
