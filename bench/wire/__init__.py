"""Client halves of the protocols: bytes in, events out, bytes to send out. No sockets, no clock, nothing awaited."""

from __future__ import annotations

from typing import Final

from bench.wire.events import Wire
from bench.wire.sse import SSEWire
from bench.wire.websocket import WebSocketWire

WIRES: Final[dict[str, type[SSEWire] | type[WebSocketWire]]] = {"sse": SSEWire, "websocket": WebSocketWire}
"""Protocol name -> the class of one connection."""


def make_wire(protocol: str, host: str, api_key: str = "", compression: bool = False) -> Wire:
    """A wire half for one connection to ``host`` ("127.0.0.1:8080"). Raises KeyError for an unknown protocol.

    Only WebSocket negotiates compression; an SSE request asks for none, and a compressed reply is a protocol error.
    """
    wire = WIRES[protocol]
    if wire is WebSocketWire:
        return wire(host, api_key=api_key, compression=compression)
    return wire(host, api_key=api_key)
