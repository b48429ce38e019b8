"""Reading content chunks without parsing them: what one looks like on the wire, and the proof that bytes are some.

Once the template of a stream is known (see ``chat_completions``), a content chunk on the wire is the same bytes around
a known content string, but for the length of a frame. So the strings are cut out where they ought to be and looked up,
which is cheap and proves nothing; then the bytes that such chunks must have are put together again from the template
and the strings, and compared with what was read. That is the proof, and over a whole read it costs a copy and a
comparison. Whatever fails it is left to the parsers.

Methods named ``one`` are for reads of one token, ``run`` for reads of many.
"""

from __future__ import annotations

from bench.wire.chat_completions import MEMO_TEXT_BYTES, Reply, known, text_of


def known_texts(raws: list[bytes], bodies: list[bytes], before: bytes, after: bytes) -> list[bytes]:
    """Texts of content strings, learning those that are new; ``raws`` is cut at the first that is none."""
    texts = list(map(known, raws))
    new = 0
    while None in texts:
        new = texts.index(None, new)
        body = bodies[new]
        text = text_of(raws[new]) if body.startswith(before) and body.endswith(after) else None
        if text is None:
            del texts[new:], raws[new:]
        else:
            texts[new] = text
    return texts  # type: ignore[return-value]  # no None is left


class EventShape:
    """A content chunk as one HTTP chunk that holds one event, for an event stream that stands between two events.

    How the server writes an event is taken from ``body``, one that it wrote. WHATWG HTML 9.2.6 reads ``data:``, an
    optional space, a line without line ends (a JSON string has none inside), and an empty line as exactly one event.
    """

    __slots__ = ("_first", "_last", "_most", "after", "around", "before", "prefix")

    def __init__(self, reply: Reply, body: bytes) -> None:
        lead = b"data: " if body.startswith(b"data: ") else b"data:"
        blank = b"\r\n\r\n" if body.endswith(b"\r\n\r\n") else b"\n\n"
        self.prefix = reply.prefix
        self.before, self.after = lead + reply.prefix, reply.suffix + blank
        self._first, self._last = len(self.before), -len(self.after)
        self.around = len(lead) + len(blank)
        self._most = len(self.before) + MEMO_TEXT_BYTES + len(self.after)

    def one(self, body: bytes, reply: Reply) -> bytes | None:
        """The text, if the body is one content chunk with a known text; it is then counted."""
        if len(body) > self._most:
            return None
        raw = body[self._first : self._last]
        text = known(raw)
        if text is None or self.before + raw + self.after != body:
            return None
        reply.chunks += 1
        reply.text_bytes += len(text)
        reply.content_bytes += len(body) - self.around
        return text

    def run(self, bodies: list[bytes], reply: Reply) -> int:
        """Take the bodies up to the first that is not a content chunk; return how many."""
        before, after = self.before, self.after
        first, last = self._first, self._last
        raws = [body[first:last] for body in bodies]
        texts = known_texts(raws, bodies, before, after)
        joined = b"".join(bodies[: len(raws)])
        if not raws or joined != before + (after + before).join(raws) + after:
            return 0
        reply.texts += texts
        reply.content_bytes += len(joined) - len(raws) * self.around
        return len(raws)

    def chunks(self) -> ChunkShape:
        """The same as a whole HTTP chunk."""
        return ChunkShape(self)


class ChunkShape(dict[int, bytes]):
    """A content chunk as a whole HTTP chunk in a read of its own: hexadecimal size, event, line ends (RFC 9112, 7.1).

    Only for a body whose HTTP parser stands between two HTTP chunks: then it need not see this one at all. As a dict:
    bytes of such a read -> what it must begin with.
    """

    __slots__ = ("_around", "_before", "_last", "_tail")

    def __init__(self, shape: EventShape) -> None:
        self._before, self._tail = shape.before, shape.after + b"\r\n"
        self._last = -len(self._tail)
        self._around = shape.around

    def __missing__(self, size: int) -> bytes:
        digits = 1
        while digits < len(b"%x" % max(0, size - 4 - digits)):
            digits += 1
        head = self[size] = b"%x\r\n%b" % (max(0, size - 4 - digits), self._before)
        return head

    def one(self, data: bytes, reply: Reply) -> bytes | None:
        """The text, if the data is one content chunk with a known text; it is then counted."""
        head = self[len(data)]
        raw = data[len(head) : self._last]
        text = known(raw)
        if text is None or head + raw + self._tail != data:
            return None
        reply.chunks += 1
        reply.text_bytes += len(text)
        reply.content_bytes += len(self._before) + len(raw) - self._last - 2 - self._around
        return text


class FrameShape(dict[int, bytes]):
    """A content chunk as a whole frame: final, text, unmasked, 16-bit length (RFC 6455 section 5.2).

    As a dict: bytes of a content string -> what stands between it and the string before: suffix, frame head, prefix.
    """

    __slots__ = ("_first", "_last", "_most", "prefix", "suffix")

    def __init__(self, reply: Reply) -> None:
        self.prefix, self.suffix = reply.prefix, reply.suffix
        self._first, self._last = 4 + len(self.prefix), -len(self.suffix)
        self._most = 4 + len(self.prefix) + MEMO_TEXT_BYTES + len(self.suffix)

    def __missing__(self, size: int) -> bytes:
        length = len(self.prefix) + size + len(self.suffix)
        between = self[size] = self.suffix + b"\x81\x7e" + length.to_bytes(2, "big") + self.prefix
        return between

    def one(self, data: bytes, reply: Reply) -> bytes | None:
        """The text, if the data is one frame with a content chunk of known text; it is then counted."""
        size = len(data)
        if size > self._most:
            return None
        raw = data[self._first : self._last]
        text = known(raw)
        suffix = self.suffix
        if text is None or self[len(raw)] + raw + suffix != suffix + data:
            return None
        reply.chunks += 1
        reply.text_bytes += len(text)
        reply.content_bytes += size - 4
        return text

    def run(self, data: bytes, start: int, reply: Reply) -> int:
        """Take the frames from ``start`` up to the first that is not a content chunk; return where that begins."""
        prefix, suffix = self.prefix, self.suffix
        # Hop from frame to frame as if each head were 81 7E and two bytes of length.
        at, size = start + 2, len(data)
        before, after = 2 + len(prefix), 2 + len(suffix)
        last = size - before
        raws: list[bytes] = []
        append = raws.append
        while at < last:
            following = at + 4 + (data[at] << 8 | data[at + 1])
            append(data[at + before : following - after])
            at = following
        if at > size + 2:
            raws.pop()  # the last one is not all there
        texts = list(map(known, raws))
        fixed = 4 + len(prefix) + len(suffix)
        at, new, seen = start, 0, 0
        while None in texts:
            new = texts.index(None, new)
            at += sum(map(len, raws[seen:new])) + fixed * (new - seen)
            seen = new
            follows = data.startswith(prefix, at + 4) and data.startswith(suffix, at + 4 + len(prefix) + len(raws[new]))
            text = text_of(raws[new]) if follows else None
            if text is None:
                del texts[new:], raws[new:]
            else:
                texts[new] = text
        if not raws:
            return start
        sizes = list(map(len, raws))
        end = start + fixed * len(raws) + sum(sizes)
        pieces = [suffix] * (2 * len(raws) + 1)
        pieces[:-1:2] = map(self.__getitem__, sizes)
        pieces[1::2] = raws
        if b"".join(pieces) != suffix + data[start:end]:
            return start
        reply.texts += texts  # type: ignore[arg-type]  # no None is left
        reply.content_bytes += end - start - 4 * len(raws)
        return end
