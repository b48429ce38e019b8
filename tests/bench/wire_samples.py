"""Replies as servers write them, and slow readings of them that share no code with what is tested."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import h11
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from bench.wire import SSEWire, WebSocketWire
from bench.wire.events import Accepted, Closed, Content, Event, Finished, Identified, Idle, Wire

ID = "chatcmpl-00000000000000000000000000001"
STREAM = 7
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(delta: dict[str, Any], finish: str | None = None, *, index: int = 0, ascii_only: bool = True) -> bytes:
    choices = [{"index": index, "delta": delta, "finish_reason": finish}]
    value = {"id": ID, "object": "chat.completion.chunk", "created": 1700000000, "model": "chat", "choices": choices}
    return json.dumps(value, separators=(",", ":"), ensure_ascii=ascii_only).encode()


ROLE = chunk({"role": "assistant", "content": ""})
STOP = chunk({}, "stop")
USAGE = json.dumps({"id": ID, "choices": [], "usage": {"total_tokens": 3}}).encode()
DONE = b"[DONE]"


def reply(*texts: str) -> list[bytes]:
    return [ROLE, *(chunk({"content": text}) for text in texts), STOP, USAGE, DONE]


def http_chunks(bodies: Iterable[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(body), body) for body in bodies if body)


def sse_reply(payloads: Iterable[bytes]) -> bytes:
    return HEAD + http_chunks(b"data: " + payload + b"\n\n" for payload in payloads) + b"0\r\n\r\n"


def text_frames(payloads: Iterable[bytes]) -> bytes:
    return b"".join(Frame(Opcode.TEXT, payload).serialize(mask=False) for payload in payloads)


def sse_wire() -> SSEWire:
    wire = SSEWire("test:80")
    wire.request(STREAM, b"{}")
    return wire


def handshake(wire: WebSocketWire, server: ServerProtocol) -> bytes:
    """What a server made by someone else answers to the wire's opening."""
    server.receive_data(wire.opening())
    (request,) = server.events_received()
    server.send_response(server.accept(request))
    return b"".join(server.data_to_send())


def ws_wire() -> WebSocketWire:
    wire = WebSocketWire("test:80")
    assert wire.receive(handshake(wire, ServerProtocol())) == [Accepted(101), Idle()]
    wire.request(STREAM, b"{}")
    return wire


class Summary(NamedTuple):
    """Events of a connection with the boundaries of reads taken out."""

    accepted: tuple[int, ...] = ()
    identified: tuple[str, ...] = ()
    chunks: int = 0
    text: bytes = b""
    finished: tuple[tuple[str, str], ...] = ()
    idle: int = 0
    closed: tuple[int, ...] = ()
    reasons: tuple[str, ...] = ()


def summary(events: Iterable[Event]) -> Summary:
    events = list(events)
    content = [event for event in events if isinstance(event, Content)]
    assert all(event.stream == STREAM and len(event.text.split(b"\x1f")) == event.chunks for event in content)
    return Summary(
        tuple(event.status for event in events if isinstance(event, Accepted)),
        tuple(event.completion_id for event in events if isinstance(event, Identified)),
        sum(event.chunks for event in content),
        b"\x1f".join(event.text for event in content),
        tuple((event.outcome.value, event.detail) for event in events if isinstance(event, Finished)),
        sum(isinstance(event, Idle) for event in events),
        tuple(event.code for event in events if isinstance(event, Closed)),
        tuple(event.reason for event in events if isinstance(event, Finished) and event.reason),
    )


def read(wire: Wire, data: bytes, cuts: Iterable[int] = ()) -> list[Event]:
    """Receive ``data`` cut at these offsets; at most one Content event may come of one read."""
    events: list[Event] = []
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(data)), len(data)]
    for start, end in pairwise(edges):
        received = wire.receive(data[start:end])
        assert sum(isinstance(event, Content) for event in received) <= 1
        events += received
    return events


class Reading(NamedTuple):
    """What a list of payloads says, by the standard library's ``json``."""

    identified: tuple[str, ...]
    texts: tuple[bytes, ...]
    outcome: str
    faults: int
    late: int
    ended: bool


def read_payloads(payloads: Iterable[bytes]) -> Reading:
    identified: tuple[str, ...] = ()
    texts: list[bytes] = []
    outcome, faults, late = "", 0, 0
    for payload in payloads:
        if outcome:
            late += 1
        elif payload == DONE:
            outcome = "protocol_error" if faults else "complete"
        else:
            try:
                value = json.loads(payload)
                text = "".join(choice.get("delta", {}).get("content") or "" for choice in value.get("choices", ()))
            except (ValueError, KeyError, AttributeError, TypeError):
                faults += 1
                continue
            identified = identified or ((value["id"],) if value.get("id") else ())
            if "error" in value:
                outcome = "api_error"
            elif text:
                texts.append(text.replace("\x1f", "\u241f").encode())
    ended = bool(outcome)
    outcome = outcome or ("protocol_error" if faults else "truncated")
    return Reading(identified, tuple(texts), outcome, faults, late, ended)


def read_event_stream(body: bytes) -> tuple[list[bytes], str, int | None]:
    """Data of each event, last event id and retry, by the grammar of WHATWG HTML 9.2.5 over the whole text at once."""
    text = body.decode("utf-8", "surrogateescape").removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")[:-1]
    retries = [line for line in lines if re.fullmatch("retry: ?[0-9]+", line)]
    retry = int(retries[-1].removeprefix("retry:")) if retries else None
    datas, last_id = [], ""
    for block in text.split("\n\n")[:-1]:
        fields = [line.partition(":") for line in block.split("\n")]
        values = [(name, value.removeprefix(" ")) for name, _, value in fields]
        ids = [value for name, value in values if name == "id" and "\0" not in value]
        last_id = ids[-1] if ids else last_id
        data = [value for name, value in values if name == "data"]
        if data:
            datas.append("\n".join(data).encode("utf-8", "surrogateescape"))
    return datas, last_id, retry


def http_body(data: bytes) -> bytes:
    """Body of a reply, by h11."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "test")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    body = b""
    while isinstance(event := client.next_event(), h11.Response | h11.Data | h11.EndOfMessage):
        body += bytes(event.data) if isinstance(event, h11.Data) else b""
        if isinstance(event, h11.EndOfMessage):
            break
    return body
