"""The reply half of the chat completions dialect: JSON payloads in, content texts and the end of the stream out.

Shared by every protocol, so that reading a payload costs the same on each and only the framing differs.

Decoding JSON for every token would cost more than all the rest, and all chunks of a stream but for one string are the
same bytes. So the bytes before and after that string, the *template*, are learned from the first content chunk that
was parsed in full. Afterwards a payload counts as a content chunk without parsing when it is exactly
``prefix + raw + suffix`` and ``raw`` is known to be the whole inside of a JSON string. That is a proof, not a guess:

- The template is taken only if putting another string in its place is read back as the content of the chunk and
  changes nothing else, so ``prefix`` ends just inside the content string and ``suffix`` begins with its closing quote.
- A JSON parser inside a string has no memory but "inside a string" (RFC 8259 section 7): what it makes of ``raw`` does
  not depend on what came before. If ``"raw"`` alone was accepted as one whole string, then after ``prefix`` the same
  bytes give the same text and end in the same state, and ``suffix`` goes on as in the chunk it was learned from.

Hence one table from ``raw`` to its text serves every stream of the process, and escapes and emoji cost no more than
ASCII.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from bench.wire.event_id import EventId, split_event_id
from bench.wire.events import NO_STREAM, SEPARATOR, Content, Event, Finished, Identified, Outcome, Trouble

PATH: Final = "/v1/chat/completions"
DONE: Final = b"[DONE]"

MEMO_ENTRIES: Final = 65_536
MEMO_TEXT_BYTES: Final = 256
TEMPLATE_TRIES: Final = 8
TEMPLATE_BYTES: Final = 8192

_texts: dict[bytes, bytes] = {}
known = _texts.get
"""Text of a JSON string body, if ``text_of`` accepted the same bytes before."""

_PROBE: Final = "tokenwire probe \u2713"
_CONTENT: Final = re.compile(rb'"content"[ \t\r\n]*:[ \t\r\n]*"((?:[^"\\]++|\\.)*+)"', re.DOTALL)


class _Error(msgspec.Struct):
    message: str | None = None
    type: str | None = None
    code: str | int | None = None

    def __str__(self) -> str:
        kind = self.code or self.type
        return ": ".join(str(part) for part in (kind, self.message) if part) or "no message"


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)


class _Chunk(msgspec.Struct):
    id: str | None = None
    choices: list[_Choice] | None = None
    error: _Error | str | None = None

    def text(self) -> str:
        return "".join(choice.delta.content or "" for choice in self.choices or ())


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_string = msgspec.json.Decoder(str).decode


def _utf8(text: str) -> bytes:
    # U+001F separates texts in an event, so inside one it becomes its picture, U+241F.
    return text.encode().replace(SEPARATOR, b"\xe2\x90\x9f")


def text_of(raw: bytes) -> bytes | None:
    """UTF-8 text of a JSON string body (what stands between the quotes), or None when it is not a whole one or empty.

    Remembers what it accepts; the memory is emptied when full, which costs one decoding for each text still in use.
    """
    try:
        text = _utf8(_decode_string(b'"%b"' % raw))
    except ValueError:  # malformed JSON or UTF-8
        return None
    if not text:
        return None  # an empty content is no content chunk
    if len(raw) <= MEMO_TEXT_BYTES:
        if len(_texts) >= MEMO_ENTRIES:
            _texts.clear()
        _texts[raw] = text
    return text


def api_error(body: bytes) -> str:
    """The message in an API's error body, or the start of the body when it has another form."""
    try:
        error = _decode_chunk(body).error
    except (ValueError, RecursionError):
        error = None
    return str(error) if error else body[:200].decode(errors="replace").strip()


class Reply:
    """One stream's reply: what its payloads amount to.

    ``texts`` collects the content of the current read; ``drain()`` turns it into events. ``resume`` is the event id the
    stream was asked to go on after. ``stale`` is a completion that was cancelled on the same connection: what is still
    under way of it is none of this stream's.
    """

    __slots__ = (
        "_identified",
        "_resume",
        "_stale",
        "_templates_left",
        "cancelled",
        "chunks",
        "completion_id",
        "content_bytes",
        "ended",
        "fault",
        "faults",
        "late",
        "news",
        "other_bytes",
        "others",
        "prefix",
        "stream",
        "suffix",
        "text_bytes",
        "texts",
    )

    def __init__(self, stream: int, *, ended: bool = False, resume: str = "", stale: str | None = None) -> None:
        self.stream = stream
        self.prefix = b""  # empty until the template is learned
        self.suffix = b""
        self.texts: list[bytes] = []
        self.completion_id: str | None = None
        self.ended = ended
        self.cancelled = False
        self.chunks = self.text_bytes = self.content_bytes = self.other_bytes = self.faults = self.late = 0
        self.others = 0  # events but content chunks; an error is none
        self.fault = Trouble("", "")
        self._resume = split_event_id(resume)
        self._stale = stale
        self._identified: Identified | None = None
        self.news: Finished | None = None
        self._templates_left = TEMPLATE_TRIES

    def take(self, payload: bytes) -> None:
        """Take one payload. Raises UnicodeDecodeError when it is not UTF-8."""
        prefix = self.prefix
        if prefix and not self.ended:
            suffix = self.suffix
            raw = payload[len(prefix) : -len(suffix)]
            if prefix + raw + suffix == payload:
                text = known(raw) or text_of(raw)
                if text is not None:
                    self.texts.append(text)
                    self.content_bytes += len(payload)
                    return
        self._take_in_full(payload)

    def _take_in_full(self, payload: bytes) -> None:
        if self.ended:
            self.other_bytes += len(payload)
            self.late += 1
            return
        if payload == DONE:
            self.other_bytes += len(payload)
            if self._stale is None:
                self.others += 1
                self.finish(Outcome.COMPLETE)
            self._stale = None  # no stream begins with [DONE]
            return
        str(payload, "utf-8")
        try:
            chunk = _decode_chunk(payload)
        except (msgspec.DecodeError, RecursionError) as error:
            self.spoil(payload, Trouble("bad_json", str(error)))
            return
        if self._stale is not None:
            if chunk.id == self._stale:
                self.other_bytes += len(payload)
                return
            self._stale = None
        if chunk.id and self.completion_id is None:
            self.completion_id = chunk.id
            self._identified = Identified(self.stream, chunk.id)
        text = chunk.text()
        if chunk.error is not None:
            self.other_bytes += len(payload)
            self._fail(chunk.error)
        elif text:
            self.texts.append(_utf8(text))
            self.content_bytes += len(payload)
            if self._templates_left and text != _PROBE:
                self._templates_left -= 1
                self._learn(payload)
        else:
            self.other_bytes += len(payload)
            self.others += 1

    def _fail(self, error: _Error | str) -> None:
        if isinstance(error, _Error) and error.code == "nothing_to_resume":
            # What SSE says with status 204: the reply had already been read to its end.
            self.finish(Outcome.COMPLETE, "nothing to resume", "nothing_to_resume")
        else:
            self.finish(Outcome.API_ERROR, str(error), "error_event")

    def _learn(self, payload: bytes) -> None:
        if len(payload) > TEMPLATE_BYTES:
            return
        for match in _CONTENT.finditer(payload):
            prefix, suffix = payload[: match.start(1)], payload[match.end(1) :]
            try:
                found = _decode_chunk(prefix + _PROBE.encode() + suffix).text()
            except msgspec.DecodeError:
                continue
            if found == _PROBE:
                self.prefix, self.suffix = prefix, suffix
                return

    def spoil(self, payload: bytes, fault: Trouble) -> None:
        """Count a payload that cannot be understood; the stream is read on and ends as a protocol error."""
        self.other_bytes += len(payload)
        self.others += 1
        if not self.faults:
            self.fault = fault
        self.faults += 1

    def finish(self, outcome: Outcome, detail: str = "", reason: str = "") -> None:
        """End the stream, once: the first end counts."""
        if self.ended:
            return
        self.ended = True
        if self.cancelled and outcome in (Outcome.COMPLETE, Outcome.TRUNCATED, Outcome.API_ERROR):
            outcome, reason = Outcome.CANCELLED, "left"
        elif self.faults and outcome in (Outcome.COMPLETE, Outcome.TRUNCATED):
            ending = f"; then {detail}" if detail else ""
            outcome, reason = Outcome.PROTOCOL_ERROR, self.fault.reason
            detail = f"{self.faults} unreadable payloads, first: {self.fault.detail}{ending}"
        self.news = Finished(self.stream, outcome, detail, reason)

    @property
    def event_id(self) -> str:
        """Id of the last event taken, counted from where the stream was resumed; empty while none is known."""
        resume = self._resume
        completion_id = self.completion_id or (resume.completion_id if resume else "")
        same = resume is not None and resume.completion_id == completion_id
        ordinal = self.chunks + len(self.texts) + self.others - 1 + (resume.ordinal + 1 if resume and same else 0)
        return str(EventId(completion_id, ordinal)) if completion_id and ordinal >= 0 else ""

    def drain(self, events: list[Event]) -> None:
        """Append what the payloads since the last call amount to."""
        if self._identified is not None:
            events.append(self._identified)
            self._identified = None
        texts = self.texts
        if texts:
            chunks = len(texts)
            text = SEPARATOR.join(texts)
            texts.clear()
            self.chunks += chunks
            self.text_bytes += len(text) - chunks + 1
            events.append(Content(self.stream, chunks, text))
        if self.news is not None:
            events.append(self.news)
            self.news = None


def no_reply() -> Reply:
    """Stands in before the first request: whatever comes is late."""
    return Reply(NO_STREAM, ended=True)
