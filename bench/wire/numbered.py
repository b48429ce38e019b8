"""Shapes of content chunks whose events have ids that count, as those of streams that can be resumed have."""

from __future__ import annotations

import re
from typing import Final

from bench.wire.chat_completions import Reply, known
from bench.wire.eventstream import EventStream
from bench.wire.shortcut import ChunkShape, EventShape, known_texts

NUMBERS: Final = [b"%d" % number for number in range(10_000)]
"""As they stand in event ids. Events of higher ordinals are left to the parser."""


class NumberedShape(EventShape):
    """An event with an ``id:`` line in front, ``<anything>:<n>``, where n counts up by one from event to event.

    Such an event's id is the value of that line (WHATWG HTML 9.2.6: one space is removed, and there is no NUL in it).
    ``stream`` is told so; whatever it has read by itself shows in ``last_id``, from which the count is then taken up.
    """

    __slots__ = ("_between", "_count", "_id", "_last_id", "_stream", "label", "middle")

    _FORM = re.compile(rb"(id: ?)([^\r\n\0]+:)[0-9]+(\ndata: ?)")

    def __init__(self, reply: Reply, body: bytes, stream: EventStream) -> None:
        super().__init__(reply, b"data:\n\n")
        form = self._FORM.match(body)
        assert form is not None
        self._stream = stream
        self._id = form[2]
        self._last_id = b""
        self._count = 0
        self.label = form[1] + form[2]
        self.middle = form[3] + reply.prefix
        self._between = self.after + self.label
        self._most += len(body)

    @classmethod
    def fits(cls, body: bytes) -> bool:
        """Whether a body has the form, so that a shape can be taken from it."""
        return cls._FORM.match(body) is not None

    def ordinal(self) -> int:
        """The number of the next event; -1 when it cannot be told."""
        last = self._stream.last_id
        if last is not self._last_id:  # the parser has read on
            name, digits = last[: len(self._id)], last[len(self._id) :]
            told = name == self._id and digits.isdigit() and len(digits) < len(b"%d" % len(NUMBERS))
            self._last_id = last
            self._count = int(digits) + 1 if told else -1
        return self._count if self._count < len(NUMBERS) else -1

    def took(self, ordinal: int) -> None:
        """This was the last event taken."""
        self._count = ordinal + 1
        stream = self._stream
        stream.last_id = stream.next_id = self._last_id = self._id + NUMBERS[ordinal]

    def one(self, body: bytes, reply: Reply) -> bytes | None:
        """The text, if the body is one content chunk with a known text and the next number; it is then counted."""
        ordinal = self.ordinal()
        if len(body) > self._most or ordinal < 0:
            return None
        before = self.label + NUMBERS[ordinal] + self.middle
        raw = body[len(before) : self._last]
        text = known(raw)
        if text is None or before + raw + self.after != body:
            return None
        self.took(ordinal)
        reply.chunks += 1
        reply.text_bytes += len(text)
        reply.content_bytes += len(reply.prefix) + len(raw) + len(reply.suffix)
        return text

    def run(self, bodies: list[bytes], reply: Reply) -> int:
        """Take the bodies up to the first that is not the next content chunk; return how many."""
        ordinal = self.ordinal()
        if ordinal < 0 or not bodies:
            return 0
        digits = len(NUMBERS[ordinal])
        numbers = NUMBERS[ordinal : min(ordinal + len(bodies), 10**digits)]
        first, last = len(self.label) + digits + len(self.middle), self._last
        raws = [body[first:last] for body in bodies[: len(numbers)]]
        texts = known_texts(raws, bodies, self.label, self.after)
        many = len(raws)
        if not many:
            return 0
        pieces = [self._between] * (4 * many + 1)
        pieces[0], pieces[-1] = self.label, self.after
        pieces[1::4] = numbers[:many]
        pieces[2::4] = [self.middle] * many
        pieces[3::4] = raws
        if b"".join(pieces) != b"".join(bodies[:many]):
            return 0
        self.took(ordinal + many - 1)
        reply.texts += texts
        reply.content_bytes += sum(map(len, raws)) + many * (len(reply.prefix) + len(reply.suffix))
        if many == len(numbers) < len(bodies):  # from here on numbers have a digit more
            return many + self.run(bodies[many:], reply)
        return many

    def chunks(self) -> ChunkShape:
        """The same as a whole HTTP chunk."""
        return NumberedChunkShape(self)


class NumberedChunkShape(ChunkShape):
    """A numbered content chunk as a whole HTTP chunk in a read of its own."""

    __slots__ = ("_shape",)

    def __init__(self, shape: NumberedShape) -> None:
        super().__init__(shape)
        self._before = shape.label
        self._shape = shape

    def one(self, data: bytes, reply: Reply) -> bytes | None:
        """The text, if the data is one content chunk with a known text and the next number; it is then counted."""
        shape = self._shape
        ordinal = shape.ordinal()
        if ordinal < 0:
            return None
        head = self[len(data)] + NUMBERS[ordinal] + shape.middle
        raw = data[len(head) : self._last]
        text = known(raw)
        if text is None or head + raw + self._tail != data:
            return None
        shape.took(ordinal)
        reply.chunks += 1
        reply.text_bytes += len(text)
        reply.content_bytes += len(reply.prefix) + len(raw) + len(reply.suffix)
        return text
