"""Chat completions over a WebSocket (RFC 6455), client half: the JSON that SSE calls data is a text message here.

The handshake and every rare frame (control, fragmented, compressed, 64-bit length, malformed) belong to the Sans-I/O
protocol of ``websockets``. It needs several microseconds for a frame, which would weigh on one arm of a comparison
only, so the common frame is read here: final, text, unmasked, no reserved bit, length of 7 or 16 bits, all of it at
hand, and no fragmented message under way. RFC 6455 leaves no two readings of such a frame (section 5.2). Frames are
handed over one by one, so the two readers can alternate at any frame.

The same goes for the 101: parsing it in full takes longer than the whole rest of a short stream, on this arm only and
between connecting and asking. A head that plainly accepts is judged here; the full parser reads it when it is needed.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidMessage, InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri
from websockets.utils import accept_key

from bench.wire.chat_completions import PATH, Reply, api_error, no_reply
from bench.wire.events import MAX_MESSAGE, NO_STREAM, Accepted, Closed, Content, Event, Finished, Idle, Outcome, Sizes
from bench.wire.http1 import HEAD_END, accepts_plainly
from bench.wire.shortcut import FrameShape

FINAL_TEXT = 0x81
LENGTH_16 = 126
CANCEL = b'{"type":"cancel"}'


def text_frame(message: bytes) -> bytes:
    """A message in one masked frame (section 5.3)."""
    return Frame(Opcode.TEXT, message).serialize(mask=True)


class WebSocketWire:
    """One WebSocket connection, one request at a time. ``host`` is the Host header: "127.0.0.1:8080".

    ``compression`` offers permessage-deflate (RFC 7692); if it is agreed, every frame takes the full parser.
    """

    def __init__(
        self,
        host: str,
        *,
        path: str = PATH,
        api_key: str = "",
        headers: Iterable[tuple[str, str]] = (),
        compression: bool = False,
    ) -> None:
        extensions = [ClientPerMessageDeflateFactory(client_max_window_bits=True)] if compression else None
        self._protocol = ClientProtocol(parse_uri(f"ws://{host}{path}"), extensions=extensions, max_size=MAX_MESSAGE)
        # Made before the clock of a stream starts, like the head of an SSE request.
        request = self._protocol.connect()
        for name, value in [*([("Authorization", f"Bearer {api_key}")] if api_key else []), *headers]:
            request.headers[name] = value
        self._protocol.send_request(request)
        self._opening = self.to_send()
        self._accept = accept_key(request.headers["Sec-WebSocket-Key"]).encode()
        self._unread_head = b""  # a 101 that the full parser has not been given yet
        self.ready = False
        self.last_event_id = ""  # a client counts the chunks: WebSocket messages carry no id
        self.retry_ms: int | None = None
        self._closed = False
        self._reply = no_reply()
        self._handshake = True
        self._head_tail = b""
        self._head_read = False
        self._scan = False  # frames are read here, and the full parser is owed nothing
        self._owed = 0  # bytes of a frame whose beginning the full parser has
        self._rest = b""  # beginning of a frame that is not handed over yet
        self._fragments: list[bytes] = []
        self._shape: FrameShape | None = None
        self._shortcut: FrameShape | None = None  # the shape, if a read may begin with a frame that has it
        self._opening_sent = self._opening_bytes = self._sent = self._total = 0

    # What goes out.

    def opening(self) -> bytes:
        """The opening handshake (section 4.1)."""
        self._opening_sent = len(self._opening)
        return self._opening

    def request(self, stream: int, body: bytes, last_event_id: str | None = None) -> bytes:
        """The request as one text message; ``last_event_id`` goes into it. Raises RuntimeError unless ``ready``."""
        if not self.ready:
            raise RuntimeError("the connection is not open, or a request is under way")
        self.ready = False
        self._reply = Reply(stream)
        self._total = 0
        if last_event_id:
            members = body.strip()[1:-1]
            comma = b"," if members.strip() else b""
            body = b'{%b%b"last_event_id":%b}' % (members, comma, msgspec.json.encode(last_event_id))
        data = text_frame(body)
        self._sent = len(data)
        return data

    def cancel(self, stream: int) -> bytes | None:
        """The message that asks the server to stop; the stream is over when the server says so."""
        if stream != self._reply.stream or self._reply.ended or self._closed:
            return b""
        self._reply.cancelled = True
        data = text_frame(CANCEL)
        self._sent += len(data)
        return data

    def close(self) -> bytes:
        """A close frame (section 5.5.1)."""
        if self._settled().state is State.OPEN:
            self._protocol.send_close(CloseCode.NORMAL_CLOSURE)
        self.ready = False
        return self.to_send()

    def to_send(self) -> bytes:
        """Pongs and the echo of a close."""
        if not self._protocol.writes:  # asked after every read
            return b""
        return b"".join(self._protocol.data_to_send())

    # What comes in.

    def receive(self, data: bytes) -> list[Event]:
        """Take the bytes of one read."""
        self._total += len(data)
        if self._shortcut is not None:
            # By far the most common read: one frame with one token.
            text = self._shortcut.one(data, self._reply)
            if text is not None:
                return [Content(self._reply.stream, 1, text)]
        events: list[Event] = []
        if not self._scan:
            data = self._receive_unscanned(data, events)
        elif self._rest:
            data = self._rest + data
            self._rest = b""
        if data:
            self._read_frames(data, events)
        reply = self._reply
        reply.drain(events)
        shape = self._current_shape(reply)
        self._shortcut = shape if self._scan and not self._rest else None
        if reply.ended and not (self.ready or self._closed) and self._is_open():
            self.ready = True
            events.append(Idle())
        return events

    def eof(self) -> list[Event]:
        """The connection is gone: what was not finished is truncated, or cancelled if that was asked for."""
        events: list[Event] = []
        if self._closed:
            return events
        self._settled().receive_eof()
        if self._handshake:
            self._refused(events, at_eof=True)
        else:
            self._reply.finish(Outcome.TRUNCATED, "the connection ended before [DONE]")
            self._close(CloseCode.ABNORMAL_CLOSURE, "no close frame", events)
        return events

    @property
    def sizes(self) -> Sizes:
        """Of the current stream, and of the handshake."""
        r = self._reply
        payload = r.content_bytes + r.other_bytes
        counts = (payload, r.content_bytes, r.chunks, r.text_bytes, r.faults, r.late)
        return Sizes(self._sent, self._total, 0, *counts, self._opening_sent, self._opening_bytes)

    # Frames that are read here.

    def _current_shape(self, reply: Reply) -> FrameShape | None:
        """What a frame with a content chunk looks like; None when none can come next, or it is not known yet."""
        if not reply.prefix or reply.ended or self._fragments:
            return None
        if self._shape is None or self._shape.prefix is not reply.prefix:
            self._shape = FrameShape(reply)
        return self._shape

    def _read_frames(self, data: bytes, events: list[Event]) -> None:
        position, size = 0, len(data)
        hopeful = True
        while position < size and not self._closed:
            shape = self._current_shape(self._reply) if hopeful else None
            if shape is not None:
                end = shape.run(data, position, self._reply)
                # Else few frames are content chunks, so looking ahead does not pay on this read.
                hopeful = end - position > 8 * len(shape.prefix)
                position = end
            if position < size:
                position = self._read_frame(data, position, events)

    def _read_frame(self, data: bytes, start: int, events: list[Event]) -> int:
        """Take one frame, or keep its beginning; return where what is left begins."""
        size = len(data)
        body = start + 2
        if size >= body:
            length = data[start + 1] & 0x7F
            if length >= LENGTH_16:
                body += 2 if length == LENGTH_16 else 8
                length = int.from_bytes(data[start + 2 : body], "big")
        if size < body:
            self._rest = data[start:]
            return size
        end = body + length
        if data[start] == FINAL_TEXT and data[start + 1] <= LENGTH_16 and not self._fragments:
            if end > size:
                self._rest = data[start:]
                return size
            self._take(data[body:end], events)
            return end
        self._owed = max(end - size, 0)
        self._scan = not self._owed
        self._to_full_parser(data[start:end], events)
        return min(end, size)

    # Frames for the full parser.

    def _receive_unscanned(self, data: bytes, events: list[Event]) -> bytes:
        """The handshake, the rest of a frame the full parser has begun, compressed frames; return what follows."""
        if self._handshake:
            data = self._receive_handshake(data, events)
        if self._closed:
            return b""
        if data and self._owed:
            part, data = data[: self._owed], data[self._owed :]
            self._owed -= len(part)
            self._scan = not self._owed
            self._to_full_parser(part, events)
        if data and self._protocol.extensions:
            self._to_full_parser(data, events)
            data = b""
        return data

    def _to_full_parser(self, data: bytes, events: list[Event]) -> None:
        protocol = self._settled()
        protocol.receive_data(data)
        for frame in protocol.events_received():
            if isinstance(frame, Frame) and not self._closed:
                self._take_frame(frame, events)
        if protocol.parser_exc is not None and not self._closed:
            close = protocol.close_sent
            self._reply.finish(Outcome.PROTOCOL_ERROR, str(close or protocol.parser_exc))
            self._close(close.code if close else CloseCode.ABNORMAL_CLOSURE, close.reason if close else "", events)

    def _take_frame(self, frame: Frame, events: list[Event]) -> None:
        if frame.opcode is Opcode.TEXT or frame.opcode is Opcode.CONT:
            self._fragments.append(bytes(frame.data))
            if frame.fin:
                message = b"".join(self._fragments)
                self._fragments.clear()
                self._take(message, events)
        elif frame.opcode is Opcode.BINARY:
            self._fail(CloseCode.UNSUPPORTED_DATA, "a binary message", events)
        elif frame.opcode is Opcode.CLOSE:
            close = self._protocol.close_rcvd
            assert close is not None
            self._reply.finish(Outcome.TRUNCATED, f"closed by the server: {close}")
            self._close(close.code, close.reason, events)

    def _take(self, message: bytes, events: list[Event]) -> None:
        try:
            self._reply.take(message)
        except UnicodeDecodeError as error:  # section 8.1
            self._fail(CloseCode.INVALID_DATA, f"a text message that is not UTF-8: {error.reason}", events)

    def _fail(self, code: CloseCode, detail: str, events: list[Event]) -> None:
        self._settled().fail(code, detail)
        self._reply.finish(Outcome.PROTOCOL_ERROR, detail)
        self._close(code, detail, events)

    def _close(self, code: int, reason: str, events: list[Event]) -> None:
        self._closed = True
        self.ready = self._scan = False
        self._shortcut = None
        # A suspended generator and tracebacks hold the protocol that holds them: cycles for the garbage collector.
        self._protocol.parser.close()
        self._protocol.parser_exc = self._protocol.handshake_exc = None
        self._protocol.events_received()
        self._reply.drain(events)
        events.append(Closed(int(code), reason))

    # The handshake.

    def _receive_handshake(self, data: bytes, events: list[Event]) -> bytes:
        """Give the full parser the head of the reply and no more, so that frames behind it can be read here."""
        head, blank, rest = data.partition(HEAD_END)
        if blank and not self._opening_bytes and accepts_plainly(head + blank, self._accept):
            self._unread_head = head + blank
            self._opening_bytes = len(self._unread_head)
            self._opened(events)
            return rest
        while data and self._handshake and not self._closed:
            window = self._head_tail + data
            end = -1 if self._head_read else window.find(HEAD_END)
            cut = len(data) if end < 0 else end + len(HEAD_END) - len(self._head_tail)
            self._head_tail = window[-3:]
            self._head_read = self._head_read or end >= 0
            self._opening_bytes += cut
            self._protocol.receive_data(data[:cut])
            data = data[cut:]
            if self._protocol.handshake_exc is not None:
                self._refused(events, at_eof=False)
            elif self._protocol.state is State.OPEN:
                self._protocol.events_received()  # the head
                self._opened(events)
        return data

    def _opened(self, events: list[Event]) -> None:
        self._handshake = False
        self._scan = not self._protocol.extensions
        self.ready = True
        events += (Accepted(101), Idle())

    def _is_open(self) -> bool:
        return bool(self._unread_head) or self._protocol.state is State.OPEN

    def _settled(self) -> ClientProtocol:
        """The full parser, having read all that it has to before it is used."""
        if self._unread_head:
            head, self._unread_head = self._unread_head, b""
            self._protocol.receive_data(head)
            self._protocol.events_received()
        return self._protocol

    def _refused(self, events: list[Event], *, at_eof: bool) -> None:
        error = self._protocol.handshake_exc
        outcome, detail = (
            Outcome.PROTOCOL_ERROR,
            f"{error}{f': {error.__cause__}' if error and error.__cause__ else ''}",
        )
        if isinstance(error, InvalidStatus):
            response: Response = error.response
            error.__traceback__ = None  # the response holds the error, too
            outcome, detail = Outcome.HTTP_ERROR, f"{response.status_code}: {api_error(bytes(response.body))}"
            if retry_after := response.headers.get("Retry-After"):
                detail += f" (retry-after: {retry_after})"
        elif at_eof and isinstance(error, InvalidMessage) and isinstance(error.__cause__, EOFError):
            outcome, detail = Outcome.TRUNCATED, "the connection ended during the handshake"
        events.append(Finished(NO_STREAM, outcome, detail))
        self._close(CloseCode.ABNORMAL_CLOSURE, detail, events)
