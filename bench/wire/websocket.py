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
from websockets.exceptions import InvalidHeader, InvalidMessage, PayloadTooBig
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri
from websockets.utils import accept_key

from bench.wire.chat_completions import PATH, Reply, no_reply
from bench.wire.event_id import split_event_id
from bench.wire.events import (
    MAX_MESSAGE,
    NO_STREAM,
    Accepted,
    Closed,
    Content,
    Event,
    Finished,
    Idle,
    Outcome,
    Sizes,
    Trouble,
)
from bench.wire.frames import (
    CLOSE,
    CLOSE_CODES,
    COMPRESSED_TEXT,
    FINAL_TEXT,
    LENGTH_16,
    LONGEST_REASON,
    end_of_compressed,
    judge_head,
    text_frame,
)
from bench.wire.http1 import HEAD_END, SWITCHING, HTTPReply, accepts_plainly
from bench.wire.shortcut import FrameShape

CANCEL = b'{"type":"cancel"}'


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
        self.retry_ms: int | None = None
        self._closed = False
        self._reply = no_reply()
        self._handshake = True
        self._http: HTTPReply | None = None  # the answer to the handshake, unless it was plain
        self._scan = False  # the handshake is done, and the full parser is owed nothing
        self._plain = True  # no extension was agreed: frames are what they seem
        self._owed = 0  # bytes of a frame whose beginning the full parser has
        self._opcode = 0  # of that frame, or of the last one it was given
        self._rest = b""  # beginning of a frame that is not handed over yet
        self._message: bytearray | None = None  # the beginning of a fragmented message
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
        old, resume = self._reply, last_event_id or ""
        stale = (old.completion_id or "") if old.cancelled else None
        if (event := split_event_id(resume)) and event.completion_id == stale:
            stale = None  # the client goes on with what it had cancelled
        self._reply = Reply(stream, resume=resume, stale=stale)
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
        if stream != self._reply.stream or self._reply.ended or self._reply.cancelled or self._closed:
            return b""
        self._reply.cancelled = True
        data = text_frame(CANCEL)
        self._sent += len(data)
        return data

    def close(self) -> bytes:
        """A close frame (section 5.5.1)."""
        if not self._closed and self._settled().state is State.OPEN:
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
        if self._closed:
            return events
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
            if self._http is not None and self._http.head_read:
                self._refused(Outcome.HTTP_ERROR, self._http.refusal(), events)
            else:
                trouble = Trouble("handshake_closed", "the connection ended during the handshake")
                self._refused(Outcome.TRUNCATED, trouble, events)
        else:
            self._reply.finish(Outcome.TRUNCATED, "the connection ended before [DONE]", "no_close_frame")
            self._close(CloseCode.ABNORMAL_CLOSURE, "no close frame", events)
        return events

    @property
    def last_event_id(self) -> str:
        """Counted here, because messages carry no id."""
        return self._reply.event_id

    @property
    def retry_after_s(self) -> float | None:
        """By the Retry-After of a refused handshake."""
        return self._http.retry_after_s if self._http else None

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
        if not reply.prefix or reply.ended or self._message is not None or not self._plain:
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
        first, second = data[start], data[start + 1]
        begun = self._message
        if first == FINAL_TEXT and second <= LENGTH_16 and begun is None and self._plain:
            if end > size:
                self._rest = data[start:]
                return size
            self._take(data[body:end], events)
            return end
        if self._plain or first != COMPRESSED_TEXT or second > LENGTH_16 or begun is not None:
            trouble = judge_head(first, second, length, None if begun is None else len(begun), not self._plain)
            if trouble is not None:
                self._fail(trouble, events)
                return size
        else:
            end = end_of_compressed(data, end)
        self._owed = max(end - size, 0)
        self._scan = not self._owed
        self._opcode = first & 0x0F
        self._to_full_parser(data[start:end], events)
        return min(end, size)

    # Frames for the full parser.

    def _receive_unscanned(self, data: bytes, events: list[Event]) -> bytes:
        """The handshake, or the rest of a frame the full parser has begun; return what follows."""
        if self._handshake:
            data = self._receive_handshake(data, events)
        if data and self._owed and not self._closed:
            part, data = data[: self._owed], data[self._owed :]
            self._owed -= len(part)
            self._scan = not self._owed
            self._to_full_parser(part, events)
        return data

    def _to_full_parser(self, data: bytes, events: list[Event]) -> None:
        protocol = self._settled()
        protocol.receive_data(data)
        for frame in protocol.events_received():
            if isinstance(frame, Frame):
                self._take_frame(frame, events)
        if (error := protocol.parser_exc) is not None and not self._closed:
            # Heads were judged before, so it is what a frame holds.
            if isinstance(error, PayloadTooBig):
                reason = "message_too_big"
            else:
                reason = "bad_close" if self._opcode == CLOSE else "bad_compression"
            self._fail(Trouble(reason, str(error)), events)

    def _take_frame(self, frame: Frame, events: list[Event]) -> None:
        if frame.opcode is Opcode.TEXT or frame.opcode is Opcode.CONT:
            message = self._message
            if message is None and frame.fin:
                self._take(bytes(frame.data), events)
                return
            message = self._message = bytearray() if message is None else message
            message += frame.data
            if frame.fin:
                self._message = None
                self._take(bytes(message), events)
        elif frame.opcode is Opcode.CLOSE:
            close = self._protocol.close_rcvd
            assert close is not None
            self._reply.finish(Outcome.TRUNCATED, f"closed by the server: {close}", "close_frame")
            self._close(close.code, close.reason, events)

    def _take(self, message: bytes, events: list[Event]) -> None:
        try:
            self._reply.take(message)
        except UnicodeDecodeError as error:  # section 8.1
            self._fail(Trouble("bad_utf8", f"a text message that is not UTF-8: {error.reason}"), events)

    def _fail(self, trouble: Trouble, events: list[Event]) -> None:
        """Fail the connection (section 7.1.7)."""
        code = CLOSE_CODES.get(trouble.reason, CloseCode.PROTOCOL_ERROR)
        if self._settled().parser_exc is None:  # else it has done so itself
            self._protocol.fail(code, trouble.detail[:LONGEST_REASON])
        self._reply.finish(Outcome.PROTOCOL_ERROR, f"{code.value}: {trouble.detail}", trouble.reason)
        self._close(code, trouble.detail, events)

    def _close(self, code: int, reason: str, events: list[Event]) -> None:
        self._closed = True
        self.ready = self._scan = False
        self._shortcut = None
        # A suspended generator and tracebacks hold the protocol that holds them: cycles for the garbage collector.
        self._protocol.parser.close()
        if error := self._protocol.handshake_exc:
            error.__traceback__ = None  # it holds the response, which holds the error
        self._protocol.parser_exc = self._protocol.handshake_exc = None
        self._protocol.events_received()
        self._message = None
        self._rest = b""
        if self._http is not None:
            self._http.release()
        self._reply.drain(events)
        events.append(Closed(int(code), reason))

    # The handshake.

    def _receive_handshake(self, data: bytes, events: list[Event]) -> bytes:
        """Read the answer to the handshake; return the frames behind it, which can be read here."""
        http = self._http
        if http is None:
            head, blank, rest = data.partition(HEAD_END)
            if blank and accepts_plainly(head + blank, self._accept):
                self._unread_head = head + blank
                self._opening_bytes = len(self._unread_head)
                self._opened(events)
                return rest
            http = self._http = HTTPReply()
        trouble: Trouble | None = None
        if not http.head_read:
            data, trouble = http.feed_head(data)
            self._opening_bytes = http.head_bytes
        if http.head_read and http.status != SWITCHING and trouble is None:
            trouble = http.feed(data)
            http.take_error()
            if trouble is None or http.complete:
                if http.complete or http.error_full:
                    self._refused(Outcome.HTTP_ERROR, http.refusal(), events)
                return b""
        elif http.head_read and trouble is None:
            trouble = self._judge_101(http.head)
            if trouble is None:
                http.release()
                self._opened(events)
                return data
        if trouble is not None:
            self._refused(Outcome.PROTOCOL_ERROR, trouble, events)
        return b""

    def _judge_101(self, head: bytes) -> Trouble | None:
        """Whether the full parser accepts the handshake, too (section 4.1)."""
        self._protocol.receive_data(head)
        self._protocol.events_received()  # the head
        error = self._protocol.handshake_exc
        if error is None:
            return None
        if isinstance(error, InvalidHeader):
            reason = "bad_accept" if error.name == "Sec-WebSocket-Accept" else "bad_upgrade"
        else:
            reason = "bad_head" if isinstance(error, InvalidMessage) else "not_negotiated"
        detail = f"{error}{f': {error.__cause__}' if error.__cause__ else ''}"
        return Trouble(reason, detail)

    def _opened(self, events: list[Event]) -> None:
        self._handshake = False
        self._scan = True
        self._plain = not self._protocol.extensions
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

    def _refused(self, outcome: Outcome, trouble: Trouble, events: list[Event]) -> None:
        self._opening_bytes, self._total = self._total, 0  # all of it answers the handshake
        events.append(Finished(NO_STREAM, outcome, trouble.detail, trouble.reason))
        self._close(CloseCode.ABNORMAL_CLOSURE, trouble.detail, events)
