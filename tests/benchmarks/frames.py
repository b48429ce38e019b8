"""Bytes of a server's replies, made by hand for the benchmarks."""

from __future__ import annotations

import json
import struct

from websockets.http11 import Request
from websockets.server import ServerProtocol

SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def opening_reply(protocol: str, request: bytes) -> bytes:
    """What a server answers first: the 101 to this handshake, or the head of an event stream."""
    if protocol == "sse":
        return SSE_HEAD
    server = ServerProtocol()
    server.receive_data(request)
    (asked,) = server.events_received()
    assert isinstance(asked, Request)
    server.send_response(server.accept(asked))
    return b"".join(server.data_to_send())


def payload(text: str) -> bytes:
    """The JSON of one content chunk, the size that real APIs send."""
    chunk = {
        "id": "chatcmpl-0123456789abcdef0123456789abc",
        "object": "chat.completion.chunk",
        "created": 1_760_000_000,
        "model": "chat",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
    }
    return json.dumps(chunk, separators=(",", ":"), ensure_ascii=False).encode()


def content(protocol: str, text: str) -> bytes:
    """One content chunk as one write of a server."""
    data = payload(text)
    if protocol == "websocket":
        return (b"\x81\x7e" + struct.pack(">H", len(data)) if len(data) > 125 else bytes((0x81, len(data)))) + data
    data = b"data: " + data + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


__all__ = ["SSE_HEAD", "content", "opening_reply", "payload"]
