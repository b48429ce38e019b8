"""The event stream format, WHATWG HTML 9.2.5 and 9.2.6."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_samples import read_event_stream

from bench.wire.events import MAX_MESSAGE
from bench.wire.eventstream import EventStream

CASES = {
    "one space is removed": (b"data: x\n\ndata:x\n\ndata:  x\n\n", [b"x", b"x", b" x"]),
    "LF, CR and CRLF": (
        b"data: a\n\ndata: b\r\rdata: c\r\n\r\ndata: d\r\n\ndata: e\n\r\n",
        [b"a", b"b", b"c", b"d", b"e"],
    ),
    "several data lines": (b"data: a\ndata: b\ndata:\ndata: c\n\n", [b"a\nb\n\nc"]),
    "comments": (b": keep-alive\n\n:\ndata: a\n: in between\n\n", [b"a"]),
    "a BOM": (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
    "only the first BOM": (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", [b"b"]),
    "unknown fields": (b"x: 1\nDATA: 2\ndata : 3\n data: 4\nevent: t\nevent\ndata: a\n\n", [b"a"]),
    "no colon": (b"data\n\ndata\ndata\n\n", [b"", b"\n"]),
    "an unfinished event": (b"data: a\n\ndata: b\n", [b"a"]),
    "an unfinished line": (b"data: a\n\ndata: b", [b"a"]),
    "blank lines": (b"\n\n\ndata: a\n\n\n\n", [b"a"]),
    "a colon in the value": (b"data: a: b\n\n", [b"a: b"]),
    "the standard's example": (
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
        [b"first event", b"second event", b" third event"],
    ),
    "other line ends are text": (
        b"data: a\x0bb\x0cc\xc2\x85d\xe2\x80\xa8e\n\n",
        [b"a\x0bb\x0cc\xc2\x85d\xe2\x80\xa8e"],
    ),
    "not UTF-8": (b"data: \xff\n\n", [b"\xff"]),
}


def feed(stream: EventStream, pieces: list[bytes]) -> list[bytes]:
    return [event for piece in pieces for event in stream.feed(piece)]


@pytest.mark.parametrize("case", CASES)
def test_events(case: str) -> None:
    body, events = CASES[case]
    assert feed(EventStream(), [body]) == events
    assert feed(EventStream(), [body[i : i + 1] for i in range(len(body))]) == events
    for cut in range(len(body)):
        assert feed(EventStream(), [body[:cut], body[cut:]]) == events


IDS = {
    "kept": (b"id: 1\ndata: a\n\ndata: b\n\n", "1"),
    "empty resets": (b"id: 1\ndata: a\n\nid\ndata: b\n\n", ""),
    "NUL is ignored": (b"id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n", "1"),
    "without data it counts": (b"id: 1\n\n", "1"),
    "not before the blank line": (b"id: 1\ndata: a\n\nid: 2\ndata: b\n", "1"),
    "the last of an event": (b"id: 1\nid: 2\ndata: a\n\n", "2"),
    "no space is trimmed but the first": (b"id:  1 \n\n", " 1 "),
}


@pytest.mark.parametrize("case", IDS)
def test_last_event_id(case: str) -> None:
    body, last = IDS[case]
    for pieces in ([body], [body[i : i + 1] for i in range(len(body))]):
        stream = EventStream()
        feed(stream, pieces)
        assert stream.last_event_id == last


@pytest.mark.parametrize(
    ("value", "retry_ms"),
    [("10000", 10000), ("0", 0), ("-1", None), ("1.5", None), ("", None), ("1 ", None), ("٣", None), ("+1", None)],
)
def test_retry(value: str, retry_ms: int | None) -> None:
    stream = EventStream()
    stream.feed(f"retry: {value}\n\n".encode())
    assert stream.retry_ms == retry_ms


def test_a_resumed_stream_keeps_the_last_event_id() -> None:
    stream = EventStream("5")
    stream.feed(b"data: a\n\n")
    assert stream.last_event_id == "5"


LINES = st.one_of(
    st.sampled_from(
        [
            b"",
            b"",
            b"",
            b":",
            b": x",
            b"data",
            b"data:",
            b"data: a",
            b"data:b",
            b"data:  c",
            b"id: 1",
            b"id",
            b"id: \0",
            b"retry: 3",
            b"retry: x",
            b"event: e",
            b"\xef\xbb\xbfdata: d",
        ]
    ),
    st.binary(max_size=6).filter(lambda line: b"\n" not in line and b"\r" not in line),
)


@given(
    lines=st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r", b"\r\n"])), max_size=25),
    tail=st.sampled_from([b"", b"data: tail", b"\xef"]),
    cuts=st.sets(st.integers(0, 150)),
)
def test_same_as_a_reading_of_the_whole_text(lines: list[tuple[bytes, bytes]], tail: bytes, cuts: set[int]) -> None:
    body = b"".join(line + end for line, end in lines) + tail
    edges = [0, *sorted(cut for cut in cuts if cut < len(body)), len(body)]
    stream = EventStream()
    events = feed(stream, [body[start:end] for start, end in pairwise(edges)])
    assert (events, stream.last_event_id, stream.retry_ms) == read_event_stream(body)


@pytest.mark.parametrize(
    "event", [b"data: " + b"x" * MAX_MESSAGE + b"\n\n", b"data: xxxxxxx\n" * (MAX_MESSAGE // 7 + 1) + b"\n"]
)
@pytest.mark.parametrize("size", [100_000, 10_000_000])
def test_an_event_too_big_ends_the_reading_at_the_same_place(event: bytes, size: int) -> None:
    stream = EventStream()
    body = b"data: a\n\n" + event + b"data: b\n\n"
    assert feed(stream, [body[i : i + size] for i in range(0, len(body), size)]) == [b"a"]
    assert stream.too_big
    assert not stream.between_events
