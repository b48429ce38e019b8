"""Chat completions over HTTP/1.1 and Server-Sent Events, client half.

HTTP is llhttp's business (``httptools``), the event stream's ``EventStream``, the JSON's ``Reply``. What this adds is a
shortcut through the last two: when the stream stands between two events and the body of an HTTP chunk equals
``data: <prefix><raw><suffix>`` and a blank line, with the template of the stream and a known ``raw``, then it is one
event with one content chunk. A whole read of such bodies is checked by putting the bytes together again and comparing.
"""

from __future__ import annotations

from collections.abc import Iterable

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from bench.wire.chat_completions import MEMO_TEXT_BYTES, PATH, Reply, api_error, known, no_reply, text_of
from bench.wire.events import MAX_MESSAGE, Accepted, Closed, Content, Event, Idle, Outcome, Sizes
from bench.wire.eventstream import EventStream

HEAD_END = b"\r\n\r\n"
MAX_HEAD = 65_536
MAX_ERROR_BODY = 65_536


def header_lines(headers: Iterable[tuple[str, str]]) -> bytes:
    """Header fields as they are sent. Raises ValueError for a line end inside one (RFC 9112 section 11.1)."""
    lines = [f"{name}: {value}" for name, value in headers]
    if any(c in line for line in lines for c in "\r\n\0"):
        raise ValueError("a header field must not contain a line end")
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")


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
        self._reply = no_reply()
        self._stream = EventStream()
        self._bodies: list[bytes] = []
        self.on_body = self._bodies.append  # for the HTTP parser: no Python frame for each HTTP chunk
        self._parser: HttpResponseParser | None = None
        self._sent = 0
        self._begin()

    def _begin(self) -> None:
        self._total = self._head_bytes = self._status = 0
        self._head_tail = self._error_body = b""
        self._headers: dict[bytes, bytes] = {}
        self._head_done = self._complete = self._keep_alive = False
        self._streaming = False  # the head was read, what comes is body
        self._learned = False  # what follows holds, and the event stream stands between two events
        self._prefix: bytes | None = None
        self._before = self._after = b""
        self._from = self._to = self._wrapping = self._most = 0

    # What goes out.

    def opening(self) -> bytes:
        """Nothing: HTTP/1.1 begins with the request."""
        return b""

    def request(self, stream: int, body: bytes, last_event_id: str | None = None) -> bytes:
        """The POST request, with Last-Event-ID to resume. Raises RuntimeError unless ``ready``."""
        if not self.ready:
            raise RuntimeError("a request is under way on this connection")
        self.ready = False
        self._reply = Reply(stream)
        self._stream = EventStream(last_event_id or "")
        self._begin()
        self._parser = HttpResponseParser(self)
        resume = header_lines([("Last-Event-ID", last_event_id)]) if last_event_id else b""
        data = b"%b%d\r\n%b\r\n%b" % (self._request_head, len(body), resume, body)
        self._sent = len(data)
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
        events: list[Event] = []
        if not self._streaming:
            data = self._receive_head(data, events)
            if not data:
                return events
        trouble = self._feed(data)
        bodies = self._bodies
        reply = self._reply
        if self._learned and len(bodies) == 1 and len(body := bodies[0]) <= self._most:
            # By far the most common read: one token.
            raw = body[self._from : self._to]
            text = known(raw)
            if text is not None and self._before + raw + self._after == body:
                bodies.clear()
                reply.chunks += 1
                reply.text_bytes += len(text)
                reply.content_bytes += len(body) - self._wrapping
                events.append(Content(reply.stream, 1, text))
        if bodies:
            trouble = self._read_bodies() or trouble
            reply.drain(events)
        if trouble or self._complete:
            self._message_ended(trouble, events)
        return events

    def eof(self) -> list[Event]:
        """The connection is gone: what was not finished is truncated, or cancelled if that was asked for."""
        events: list[Event] = []
        if not self._closed:
            if self._streaming and self._status not in (200, 204):
                self._http_error()
            self._reply.finish(Outcome.TRUNCATED, "the connection ended before [DONE]")
            self._close("end of the connection", events)
        return events

    @property
    def last_event_id(self) -> str:
        """The event stream's "last event ID string"."""
        return self._stream.last_event_id

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
        return Sizes(self._sent, self._total, self._head_bytes, *counts, 0, 0)

    # HTTP: what the parser calls (on_body is set above), and what it amounts to.

    def on_message_begin(self) -> None:
        if self._complete:
            raise ValueError("a reply nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self._head_done = True
        self._status = self._parser.get_status_code()

    def on_message_complete(self) -> None:
        assert self._parser is not None
        if self._status >= 200:
            self._complete = True
            self._keep_alive = self._parser.should_keep_alive()

    def _feed(self, data: bytes) -> str:
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            return "the server switched protocols"
        except HttpParserError as error:
            return f"HTTP: {error.__context__ or error}"
        return ""

    def _receive_head(self, data: bytes, events: list[Event]) -> bytes:
        """Read up to the end of the head, to know its size; return what follows it."""
        while data and not (self._streaming or self._closed):
            if self.ready:
                self._close("data nobody asked for", events)
                break
            window = self._head_tail + data
            end = window.find(HEAD_END)
            cut = len(data) if end < 0 else end + len(HEAD_END) - len(self._head_tail)
            self._head_tail = window[-3:] if end < 0 else b""
            self._head_bytes += cut
            trouble = self._feed(data[:cut])
            data = data[cut:]
            if self._head_bytes > MAX_HEAD:
                trouble = f"an HTTP head of more than {MAX_HEAD} bytes"
            if self._head_done and not trouble:
                trouble = self._judge_head(events)
            if trouble or self._complete:
                self._message_ended(trouble, events)
        return b"" if self._closed else data

    def _judge_head(self, events: list[Event]) -> str:
        status, headers = self._status, self._headers
        if status < 200:  # "A client MUST be able to parse one or more 1xx responses" (RFC 9110 section 15.2)
            self._headers = {}
            self._head_done = False
            return ""
        self._streaming = True
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        coding = headers.get(b"content-encoding", b"identity").strip().lower()
        if status == 200 and kind != b"text/event-stream":
            return f"content-type {kind.decode('latin-1') or 'missing'} instead of text/event-stream"
        if status == 200 and coding != b"identity":
            return f"content-encoding {coding.decode('latin-1')} was not asked for"
        if status in (200, 204):
            events.append(Accepted(status))
        if status == 204:  # "HTTP 204 No Content ... tells the client to stop reconnecting" (WHATWG HTML 9.2.2)
            self._reply.finish(Outcome.COMPLETE, "204: nothing to resume")
        return ""

    def _message_ended(self, trouble: str, events: list[Event]) -> None:
        if trouble:
            self._reply.finish(Outcome.PROTOCOL_ERROR, trouble)
            self._close(trouble, events)
            return
        if self._status not in (200, 204):
            self._http_error()
        self._reply.finish(Outcome.TRUNCATED, "the reply ended before [DONE]")
        if not self._keep_alive:
            self._close("the server does not keep the connection", events)
            return
        self._reply.drain(events)
        self._streaming = self._learned = False
        self._parser = None
        self.ready = True
        events.append(Idle())

    def _http_error(self) -> None:
        detail = f"{self._status}: {api_error(self._error_body)}"
        if retry_after := self._headers.get(b"retry-after"):
            detail += f" (retry-after: {retry_after.decode('latin-1')})"
        self._reply.finish(Outcome.HTTP_ERROR, detail)

    def _close(self, reason: str, events: list[Event]) -> None:
        self._closed = True
        self.ready = self._streaming = self._learned = False
        self._parser = None  # it holds methods of this object: no cycle is left to the garbage collector
        self._reply.drain(events)
        events.append(Closed(0, reason))

    # The event stream.

    def _read_bodies(self) -> str:
        bodies = self._bodies
        try:
            if self._status != 200:
                self._error_body = (self._error_body + b"".join(bodies))[:MAX_ERROR_BODY]
                return ""
            done = 0
            while done < len(bodies):
                left = len(bodies) - done
                run = self._read_run(done) if self._learned and left > 1 else 0
                done += run
                if self._reply.prefix and run < left // 4 and (self._learned or done):
                    # Few HTTP chunks are one content chunk each, so looking ahead does not pay on this read.
                    self._read_body(b"".join(bodies[done:]))
                    break
                if done < len(bodies):
                    self._read_body(bodies[done])
                    done += 1
        finally:
            bodies.clear()
        return f"an event of more than {MAX_MESSAGE} bytes" if self._stream.too_big else ""

    def _read_run(self, start: int) -> int:
        """Take the bodies from ``start`` on that follow the template, all at once; return how many."""
        bodies = self._bodies[start:]
        before, after = self._before, self._after
        first, last = self._from, self._to
        raws = [body[first:last] for body in bodies]
        texts = list(map(known, raws))
        while None in texts:
            new = texts.index(None)
            text = text_of(raws[new]) if bodies[new].startswith(before) and bodies[new].endswith(after) else None
            if text is None:
                del texts[new:], raws[new:], bodies[new:]
            else:
                texts[new] = text
        joined = b"".join(bodies)
        if not raws or joined != before + (after + before).join(raws) + after:
            return 0
        reply = self._reply
        reply.texts += texts  # type: ignore[arg-type]  # no None is left
        reply.content_bytes += len(joined) - len(raws) * self._wrapping
        return len(raws)

    def _read_body(self, body: bytes) -> None:
        reply = self._reply
        for payload in self._stream.feed(body):
            try:
                reply.take(payload)
            except UnicodeDecodeError as error:
                reply.spoil(payload, str(error))
        if reply.prefix and reply.prefix is not self._prefix and body.startswith(b"data:"):
            self._learn(body)
        self._learned = self._prefix is reply.prefix and not reply.ended and self._stream.between_events

    def _learn(self, body: bytes) -> None:
        """Note how the server writes an event; a wrong guess is only slower, because every use is compared."""
        reply = self._reply
        lead = b"data: " if body.startswith(b"data: ") else b"data:"
        blank = b"\r\n\r\n" if body.endswith(b"\r\n\r\n") else b"\n\n"
        self._prefix = reply.prefix
        self._before, self._after = lead + reply.prefix, reply.suffix + blank
        self._from, self._to = len(self._before), -len(self._after)
        self._wrapping = len(lead) + len(blank)
        self._most = len(self._before) + MEMO_TEXT_BYTES + len(self._after)
