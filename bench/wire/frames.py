"""Frames of a WebSocket (RFC 6455 section 5), as far as they are read and judged here and not by the full parser."""

from __future__ import annotations

from websockets.frames import CloseCode, Frame, Opcode

from bench.wire.events import MAX_MESSAGE, Trouble

FINAL_TEXT, COMPRESSED_TEXT = 0x81, 0xC1
CONT, TEXT, BINARY, CLOSE = (int(opcode) for opcode in (Opcode.CONT, Opcode.TEXT, Opcode.BINARY, Opcode.CLOSE))
FINAL, RESERVED, RSV1, MASKED = 0x80, 0x70, 0x40, 0x80
LENGTH_16 = 126
LONGEST_CONTROL = 125
LONGEST_REASON = 123
OPCODES = frozenset(Opcode)
CLOSE_CODES = {
    "message_too_big": CloseCode.MESSAGE_TOO_BIG,
    "binary_message": CloseCode.UNSUPPORTED_DATA,
    "bad_utf8": CloseCode.INVALID_DATA,
}
"""Reason -> the code to close with, where it is not 1002 (section 7.4.1)."""


def text_frame(message: bytes) -> bytes:
    """A message in one masked frame (section 5.3)."""
    return Frame(Opcode.TEXT, message).serialize(mask=True)


def judge_head(first: int, second: int, length: int, begun: int | None, rsv1: bool) -> Trouble | None:
    """What is wrong with the head of a frame from a server (sections 5.2, 5.4 and 5.5).

    ``begun`` is the bytes so far of a fragmented message, None when there is none under way; ``rsv1`` says whether an
    extension gave that bit a meaning.
    """
    opcode = first & 0x0F
    if opcode not in OPCODES:
        return Trouble("reserved_opcode", f"a frame with opcode {opcode}")
    if first & RESERVED and not (rsv1 and first & RESERVED == RSV1 and opcode in (TEXT, BINARY)):
        return Trouble("reserved_bits", f"a frame with reserved bits {first >> 4 & 7:03b}")
    if second & MASKED:
        return Trouble("masked_frame", "a masked frame")
    if opcode >= CLOSE:
        if not first & FINAL or length > LONGEST_CONTROL:
            return Trouble("bad_control", f"a control frame of {length} bytes{'' if first & FINAL else ', not final'}")
        if opcode == CLOSE and begun is not None:
            return Trouble("bad_fragment", "a close frame inside a message")
    elif (opcode == CONT) is (begun is None):
        return Trouble("bad_fragment", "a message inside a message" if opcode else "a continuation of nothing")
    elif opcode == BINARY:
        return Trouble("binary_message", "a binary message")
    elif length + (begun or 0) > MAX_MESSAGE:
        return Trouble("message_too_big", f"a message of {length + (begun or 0)} bytes, more than {MAX_MESSAGE}")
    return None


def end_of_compressed(data: bytes, at: int) -> int:
    """Where the run of whole frames with a compressed message each ends: the full parser takes it at once."""
    size = len(data)
    while at + 4 <= size and data[at] == COMPRESSED_TEXT and data[at + 1] <= LENGTH_16:
        length = data[at + 1]
        end = at + 2 + length if length < LENGTH_16 else at + 4 + (data[at + 2] << 8 | data[at + 3])
        if end > size:
            break
        at = end
    return at
