"""Client halves of the protocols: bytes in, events out, bytes to send out. No sockets, no clock, nothing awaited."""

from __future__ import annotations

from typing import Final

from bench.wire.sse import SSEWire
from bench.wire.websocket import WebSocketWire

WIRES: Final[dict[str, type[SSEWire] | type[WebSocketWire]]] = {"sse": SSEWire, "websocket": WebSocketWire}
"""Protocol name -> the class of one connection: ``WIRES[name](host, path=..., api_key=..., headers=...)``."""
