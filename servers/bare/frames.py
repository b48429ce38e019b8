"""WebSocket framing, server half (RFC 6455, section 5), without extensions."""

from __future__ import annotations

from collections.abc import Iterator

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FINAL = 0x80
MASKED = 0x80
CONTROL_LIMIT = 125
"""Bytes of the payload of a control frame (section 5.5)."""

# Section 7.4.1.
PROTOCOL_ERROR = 1002
TOO_BIG = 1009
_RECEIVABLE = {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}


class Fault(Exception):
    """A client that broke the protocol; the connection is to be closed with `code`."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def frame(opcode: int, payload: bytes) -> bytes:
    """A whole message, or a control frame, as a server sends it: final and unmasked."""
    size = len(payload)
    if size < 126:
        return bytes((FINAL | opcode, size)) + payload
    if size < 65_536:
        return bytes((FINAL | opcode, 126)) + size.to_bytes(2, "big") + payload
    return bytes((FINAL | opcode, 127)) + size.to_bytes(8, "big") + payload


def text_frame(payload: bytes) -> bytes:
    """A text message of UTF-8."""
    return frame(TEXT, payload)


def close_frame(code: int) -> bytes:
    """A close frame (section 5.5.1)."""
    return frame(CLOSE, code.to_bytes(2, "big"))


def check_close(payload: bytes) -> None:
    """Check what a client's close frame holds (sections 5.5.1 and 7.4). Raises `Fault`."""
    if payload and (len(payload) < 2 or int.from_bytes(payload[:2], "big") not in _RECEIVABLE):
        raise Fault(PROTOCOL_ERROR)


class FrameReader:
    """Takes bytes as they come and gives back messages, joined and unmasked, of `limit` bytes at most."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        self._opcode: int | None = None
        """Of the fragmented message under way."""
        self._message = bytearray()

    def read(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield (opcode, payload) of every message and control frame that is complete. Raises `Fault`."""
        self._data += data
        while (found := self._frame()) is not None:
            final, opcode, payload = found
            if opcode >= CLOSE:
                yield opcode, payload
                continue
            if opcode == CONTINUATION:
                if self._opcode is None:
                    raise Fault(PROTOCOL_ERROR)
                opcode = self._opcode
            elif self._opcode is not None:
                raise Fault(PROTOCOL_ERROR)
            self._message += payload
            self._opcode = None if final else opcode
            if final:
                message, self._message = bytes(self._message), bytearray()
                yield opcode, message

    def _frame(self) -> tuple[bool, int, bytes] | None:
        """Take one frame off the data; None when it is not all there."""
        data = self._data
        if len(data) < 2:
            return None
        opcode = data[0] & 0x0F
        size = data[1] & 0x7F
        # Reserved bits stand for extensions, of which none is agreed (section 5.2); a client always masks (5.1).
        if data[0] & 0x70 or not data[1] & MASKED or opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise Fault(PROTOCOL_ERROR)
        if opcode >= CLOSE and (size > CONTROL_LIMIT or not data[0] & FINAL):
            raise Fault(PROTOCOL_ERROR)
        start = 2
        if size >= 126:
            start += 2 if size == 126 else 8
            if len(data) < start:
                return None
            size = int.from_bytes(data[2:start], "big")
        if opcode < CLOSE and len(self._message) + size > self._limit:
            raise Fault(TOO_BIG)
        end = start + 4 + size
        if len(data) < end:
            return None
        payload = masked(data[start : start + 4], data[start + 4 : end])
        final = bool(data[0] & FINAL)
        del data[:end]
        return final, opcode, payload


def masked(mask: bytes | bytearray, data: bytes | bytearray) -> bytes:
    """Mask or unmask (section 5.3), as one operation on long numbers."""
    size = len(data)
    key = (bytes(mask) * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")
