"""Chat completions over HTTP/1.1 and Server-Sent Events, client half.

HTTP is ``HTTPReply``'s business, the event stream ``EventStream``'s, the JSON ``Reply``'s. The last two are skipped for
HTTP chunks that ``EventShape`` proves to be one content chunk each.
"""

from __future__ import annotations

from collections.abc import Iterable

from bench.wire.chat_completions import PATH, Reply, no_reply
from bench.wire.events import MAX_MESSAGE, Accepted, Closed, Content, Event, Idle, Outcome, Sizes, Trouble
from bench.wire.eventstream import EventStream
from bench.wire.http1 import SWITCHING, HTTPReply, header_lines
from bench.wire.numbered import NumberedShape
from bench.wire.shortcut import ChunkShape, EventShape


class SSEWire:
    """One HTTP/1.1 connection, one request at a time. ``host`` is the Host header: "127.0.0.1:8080"."""

    def __init__(
        self, host: str, *, path: str = PATH, api_key: str = "", headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        fields = [("Host", host), *([("Authorization", f"Bearer {api_key}")] if api_key else []), *headers]
        self._request_head = (
            f"POST {path} HTTP/1.1\r\n".encode("ascii")
            + header_lines(fields)
            + b"Accept: text/event-stream\r\nContent-Type: application/json\r\nContent-Length: "
        )
        self.ready = True
        self._closed = False
        self._sent = self._total = 0
        self._http: HTTPReply | None = None  # None: nothing was asked yet
        self._streaming = False  # the head was read, what comes is body
        self._stream = EventStream()
        self._reply = no_reply()
        self._shape: EventShape | None = None
        self._shortcut: EventShape | None = None  # the shape, if a body that comes now may have it
        self._chunks: ChunkShape | None = None  # the same for a whole HTTP chunk
        self._between_chunks = False  # where the HTTP parser stands

    # What goes out.

    def opening(self) -> bytes:
        """Nothing: HTTP/1.1 begins with the request."""
        return b""

    def request(self, stream: int, body: bytes, last_event_id: str | None = None) -> bytes:
        """The POST request, with Last-Event-ID to resume. Raises RuntimeError unless ``ready``."""
        if not self.ready:
            raise RuntimeError("a request is under way on this connection")
        resume = header_lines([("Last-Event-ID", last_event_id)]) if last_event_id else b""
        data = b"%b%d\r\n%b\r\n%b" % (self._request_head, len(body), resume, body)
        self.ready = False
        self._sent, self._total = len(data), 0
        self._http = HTTPReply()
        self._stream = EventStream(last_event_id or "")
        self._reply = Reply(stream)
        return data

    def cancel(self, stream: int) -> bytes | None:
        """None: over HTTP/1.1 only closing the connection stops a reply. ``eof()`` then says cancelled."""
        if stream == self._reply.stream:
            self._reply.cancelled = True
        return None

    def close(self) -> bytes:
        """Nothing: HTTP/1.1 has no farewell."""
        return b""

    def to_send(self) -> bytes:
        """Nothing is ever due by itself."""
        return b""

    # What comes in.

    def receive(self, data: bytes) -> list[Event]:
        """Take the bytes of one read."""
        self._total += len(data)
        if self._between_chunks and self._chunks is not None:
            # By far the most common read: one token, in an HTTP chunk of its own.
            text = self._chunks.one(data, self._reply)
            if text is not None:
                return [Content(self._reply.stream, 1, text)]
        events: list[Event] = []
        trouble: Trouble | None = None
        if not self._streaming:
            data, trouble = self._receive_head(data, events)
        http = self._http
        if http is None or self._closed:
            return events
        if data and not trouble:
            trouble = http.feed(data)
        bodies = http.bodies
        # The parser took the first line for a size and the last line end for the end of the HTTP chunk, or the body
        # would be another: so now it stands before the next chunk.
        self._between_chunks = len(bodies) == 1 and data == b"%x\r\n%b\r\n" % (len(bodies[0]), bodies[0])
        if len(bodies) == 1 and self._shortcut is not None:
            text = self._shortcut.one(bodies[0], self._reply)
            if text is not None:
                bodies.clear()
                events.append(Content(self._reply.stream, 1, text))
        if bodies:
            trouble = self._read_bodies(bodies) or trouble
            bodies.clear()
            self._reply.drain(events)
        if http.complete and not self.ready:
            self._message_ended(http, trouble, events)
        elif trouble is not None:
            self._reply.finish(Outcome.PROTOCOL_ERROR, trouble.detail, trouble.reason)
            self._close(trouble.detail, events)
        elif http.error_full:
            self._judge_status(http)
            self._close("the rest of an error is not read", events)
        return events

    def eof(self) -> list[Event]:
        """The connection is gone: what was not finished is truncated, or cancelled if that was asked for."""
        events: list[Event] = []
        if not self._closed:
            if self._streaming and self._http is not None:
                self._judge_status(self._http)
            self._reply.finish(Outcome.TRUNCATED, "the connection ended before [DONE]", "closed")
            self._close("end of the connection", events)
        return events

    @property
    def last_event_id(self) -> str:
        """The event stream's "last event ID string"."""
        return self._stream.last_event_id

    @property
    def retry_after_s(self) -> float | None:
        """By the last reply's Retry-After."""
        return self._http.retry_after_s if self._http else None

    @property
    def retry_ms(self) -> int | None:
        """The event stream's reconnection time."""
        return self._stream.retry_ms

    @property
    def sizes(self) -> Sizes:
        """Of the current stream."""
        r = self._reply
        payload = r.content_bytes + r.other_bytes
        counts = (payload, r.content_bytes, r.chunks, r.text_bytes, r.faults, r.late)
        return Sizes(self._sent, self._total, self._http.head_bytes if self._http else 0, *counts, 0, 0)

    # The head and the end of the HTTP message.

    def _receive_head(self, data: bytes, events: list[Event]) -> tuple[bytes, Trouble | None]:
        http = self._http
        if self._closed or http is None or self.ready:
            if data and not self._closed:
                self._close("data nobody asked for", events)
            return b"", None
        data, trouble = http.feed_head(data)
        if http.head_read and trouble is None:
            self._streaming = True
            trouble = self._judge_head(http, events)
        return data, trouble

    def _judge_head(self, http: HTTPReply, events: list[Event]) -> Trouble | None:
        kind = http.headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if http.status == SWITCHING:
            return Trouble("bad_upgrade", "the server switched protocols")
        if http.status == 200:
            if kind != b"text/event-stream":
                found = kind.decode("latin-1") or "missing"
                return Trouble("content_type", f"content-type {found} instead of text/event-stream")
            for name, plain in ((b"content-encoding", b"identity"), (b"transfer-encoding", b"chunked")):
                coding = http.headers.get(name, plain).strip().lower()
                if coding != plain:
                    found = f"{name.decode()} {coding.decode('latin-1')}"
                    return Trouble("content_encoding", f"{found} was not asked for")
        if http.status in (200, 204):
            events.append(Accepted(http.status))
        return None

    def _judge_status(self, http: HTTPReply) -> None:
        """End the stream by the status of the reply, unless it is 200: then the events decide."""
        if http.status == 204:
            # "a client can be told to stop reconnecting using the HTTP 204 No Content response code" (WHATWG HTML 9.2)
            self._reply.finish(Outcome.COMPLETE, "204: nothing to resume", "nothing_to_resume")
        elif http.status != 200:
            refusal = http.refusal()
            self._reply.finish(Outcome.HTTP_ERROR, refusal.detail, refusal.reason)

    def _message_ended(self, http: HTTPReply, trouble: Trouble | None, events: list[Event]) -> None:
        """The reply is all there, so what is wrong with what follows it is no fault of this stream."""
        self._judge_status(http)
        self._reply.finish(Outcome.TRUNCATED, "the reply ended before [DONE]", "no_done")
        if http.keep_alive and trouble is None:
            self._streaming = False
            self._shortcut = self._chunks = None
            http.release()
            self._reply.drain(events)
            self.ready = True
            events.append(Idle())
        else:
            self._close(trouble.detail if trouble else "the server does not keep the connection", events)

    def _close(self, reason: str, events: list[Event]) -> None:
        self._closed = True
        self.ready = self._streaming = False
        self._shortcut = self._chunks = None
        if self._http is not None:
            self._http.release()
        self._reply.drain(events)
        events.append(Closed(0, reason))

    # The body.

    def _read_bodies(self, bodies: list[bytes]) -> Trouble | None:
        assert self._http is not None
        if self._http.status != 200:
            self._http.take_error()
            return None
        reply = self._reply
        done = 0
        while done < len(bodies):
            left = len(bodies) - done
            run = self._shortcut.run(bodies[done:], reply) if self._shortcut is not None and left > 1 else 0
            done += run
            if reply.prefix and run < left // 4 and (self._shortcut is not None or done):
                # Few HTTP chunks are one content chunk each, so looking ahead does not pay on this read.
                self._read_body(b"".join(bodies[done:]))
                break
            if done < len(bodies):
                self._read_body(bodies[done])
                done += 1
        if not self._stream.too_big:
            return None
        trouble = Trouble("event_too_big", f"an event of more than {MAX_MESSAGE} bytes")
        reply.finish(Outcome.PROTOCOL_ERROR, trouble.detail, trouble.reason)
        return trouble

    def _read_body(self, body: bytes) -> None:
        reply = self._reply
        for payload in self._stream.feed(body):
            try:
                reply.take(payload)
            except UnicodeDecodeError as error:
                reply.spoil(payload, Trouble("bad_utf8", str(error)))
        shape = self._shape
        if reply.prefix and (shape is None or shape.prefix is not reply.prefix):
            shape = self._shape = self._shape_of(body)
            self._chunks = None
        self._shortcut = shape if not reply.ended and self._stream.between_events else None
        if self._shortcut is None:
            self._chunks = None
        elif self._chunks is None:
            self._chunks = self._shortcut.chunks()

    def _shape_of(self, body: bytes) -> EventShape | None:
        """How this server writes events. A body of another form makes a shape that nothing has: slower, never wrong."""
        if body.startswith(b"data:"):
            return EventShape(self._reply, body)
        return NumberedShape(self._reply, body, self._stream) if NumberedShape.fits(body) else None
