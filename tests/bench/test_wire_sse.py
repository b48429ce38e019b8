"""Server-Sent Events, client half: every reply is read the same however its bytes are cut."""

import json
from itertools import pairwise

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_samples import (
    DONE,
    HEAD,
    ID,
    ROLE,
    STOP,
    STREAM,
    Summary,
    chunk,
    http_body,
    http_chunks,
    read,
    read_event_stream,
    read_payloads,
    reply,
    sse_reply,
    sse_wire,
    summary,
)
from wire_strategies import CUTS, PAYLOADS

from bench.wire import SSEWire
from bench.wire.events import Accepted, Content, Finished, Identified, Idle, Outcome

TEXTS = ["Hello", " world", "\n", ' "quoted" \\', "é", "😀", "中文", "Hello"]
PLAIN = sse_reply(reply(*TEXTS))
JOINED = "\x1f".join(TEXTS).encode()
COMPLETE = Summary((200,), (ID,), len(TEXTS), JOINED, (("complete", ""),), 1)


def test_one_read() -> None:
    assert sse_wire().receive(PLAIN) == [
        Accepted(200),
        Identified(STREAM, ID),
        Content(STREAM, len(TEXTS), JOINED),
        Finished(STREAM, Outcome.COMPLETE, ""),
        Idle(),
    ]


def test_byte_by_byte() -> None:
    assert summary(read(sse_wire(), PLAIN, range(len(PLAIN)))) == COMPLETE


def test_cut_in_two_anywhere() -> None:
    for cut in range(len(PLAIN)):
        assert summary(read(sse_wire(), PLAIN, [cut])) == COMPLETE


def test_the_end_of_the_connection_anywhere() -> None:
    done = PLAIN.index(DONE) + len(DONE) + 2  # with the blank line
    for cut in range(len(PLAIN) + 1):
        wire = sse_wire()
        got = summary(read(wire, PLAIN[:cut]) + wire.eof())
        whole_events = http_body(PLAIN[:cut]).count(b"\n\n") if cut >= len(HEAD) else 0
        assert [outcome for outcome, _ in got.finished] == ["complete" if cut >= done else "truncated"], cut
        assert got.chunks == min(max(whole_events - 1, 0), len(TEXTS))
        assert got.closed == (0,)
        assert wire.eof() == []
        assert not wire.ready


def test_every_form_of_an_event() -> None:
    payloads = reply(*TEXTS)
    for lead in (b"data: ", b"data:", b"id: 1\ndata: ", b"event: x\ndata:", b": c\ndata: "):
        for blank in (b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n"):
            bodies = [lead + payload + blank for payload in payloads]
            joined = b"".join(bodies)
            for parts in (bodies, [joined], [joined[i : i + 50] for i in range(0, len(joined), 50)]):
                data = HEAD + http_chunks(parts) + b"0\r\n\r\n"
                assert summary(read(sse_wire(), data)) == COMPLETE
                assert summary(read(sse_wire(), data, range(0, len(data), 97))) == COMPLETE
                assert summary(read(sse_wire(), data, [data.index(part) for part in parts])) == COMPLETE


EVENT = st.tuples(
    st.sampled_from([b"data: ", b"data: ", b"data: ", b"data:", b": c\ndata: ", b"id: 9\ndata: ", b": ping\n\ndata: "]),
    PAYLOADS,
    st.sampled_from([b"\n\n", b"\n\n", b"\n\n", b"\r\n\r\n", b"\r\r", b"\r\n\n"]),
)


@given(events=st.lists(EVENT, max_size=30), chunk_cuts=CUTS, aligned=st.booleans(), cuts=CUTS)
def test_same_as_h11_and_json(
    events: list[tuple[bytes, bytes, bytes]], chunk_cuts: set[int], aligned: bool, cuts: set[int]
) -> None:
    parts = [lead + payload + blank for lead, payload, blank in events]
    body = b"".join(parts)
    edges = [0, *sorted(cut for cut in chunk_cuts if cut < len(body)), len(body)]
    bodies = parts if aligned else [body[start:end] for start, end in pairwise(edges)]
    server = h11.Connection(h11.SERVER)
    server.receive_data(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    server.next_event(), server.next_event()
    head = h11.Response(status_code=200, headers=[("content-type", "text/event-stream")])
    data = server.send(head) or b""
    for part in bodies:
        data += server.send(h11.Data(data=part)) or b""
    data += server.send(h11.EndOfMessage()) or b""

    wire = sse_wire()
    got = summary(read(wire, data, cuts))
    payloads, last_id, _ = read_event_stream(http_body(data))
    want = read_payloads(payloads)
    assert got.identified == want.identified
    assert (got.chunks, got.text) == (len(want.texts), b"\x1f".join(want.texts))
    assert [outcome for outcome, _ in got.finished] == [want.outcome]
    assert got.idle == 1
    assert wire.ready
    sizes = wire.sizes
    assert (sizes.faults, sizes.late, wire.last_event_id) == (want.faults, want.late, last_id)
    assert (sizes.chunks, sizes.text_bytes) == (len(want.texts), sum(map(len, want.texts)))
    assert (sizes.total_bytes, sizes.payload_bytes) == (len(data), sum(map(len, payloads)))
    assert sizes.head_bytes == data.index(b"\r\n\r\n") + 4


def test_requests_one_after_another() -> None:
    wire = SSEWire("test:80", api_key="secret", headers=[("X-Trial", "1")])
    assert (wire.ready, wire.opening(), wire.close(), wire.to_send()) == (True, b"", b"", b"")
    for stream in (1, 2, 3):
        server = h11.Connection(h11.SERVER)
        server.receive_data(wire.request(stream, b'{"stream":true}', "id:5" if stream == 2 else None))
        request, body = server.next_event(), server.next_event()
        assert isinstance(request, h11.Request)
        assert isinstance(body, h11.Data)
        assert (request.method, request.target, body.data) == (b"POST", b"/v1/chat/completions", b'{"stream":true}')
        headers = dict(request.headers)
        assert headers[b"authorization"] == b"Bearer secret"
        assert headers[b"accept"] == b"text/event-stream"
        assert headers[b"x-trial"] == b"1"
        assert headers.get(b"last-event-id") == (b"id:5" if stream == 2 else None)
        with pytest.raises(RuntimeError):
            wire.request(9, b"{}")
        data = sse_reply(reply(f"text {stream}"))
        assert wire.receive(data)[2:] == [
            Content(stream, 1, f"text {stream}".encode()),
            Finished(stream, Outcome.COMPLETE, ""),
            Idle(),
        ]
        assert wire.sizes.total_bytes == len(data)
        assert wire.sizes.chunks == 1


def test_sizes() -> None:
    wire = SSEWire("test:80")
    sent = wire.request(STREAM, b"{}")
    wire.receive(PLAIN)
    payloads = reply(*TEXTS)
    sizes = wire.sizes
    assert sizes.sent_bytes == len(sent)
    assert sizes.head_bytes == len(HEAD)
    assert sizes.payload_bytes == sum(map(len, payloads))
    assert sizes.content_bytes == sum(map(len, payloads[1 : 1 + len(TEXTS)]))
    framing = sizes.total_bytes - sizes.head_bytes - sizes.payload_bytes
    assert framing == len(sse_reply(payloads)) - len(HEAD) - sum(map(len, payloads))


def test_no_header_can_be_smuggled_in() -> None:
    with pytest.raises(ValueError, match="line end"):
        SSEWire("test:80", headers=[("A", "1\r\nB: 2")])
    with pytest.raises(ValueError, match="line end"):
        SSEWire("test:80").request(1, b"{}", "5\r\nB: 2")


def test_resume() -> None:
    wire = sse_wire()
    wire.receive(HEAD + http_chunks([b"retry: 250\nid: a:0\ndata: " + ROLE + b"\n\nid: a:1\ndata: "]))
    assert (wire.last_event_id, wire.retry_ms) == ("a:0", 250)


def test_interim_heads_are_skipped_and_counted() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    data = interim + PLAIN
    for cuts in ((), range(len(data))):
        wire = sse_wire()
        assert summary(read(wire, data, cuts)) == COMPLETE
        assert wire.sizes.head_bytes == len(interim + HEAD)


def test_chunk_extensions_and_trailers_say_nothing() -> None:
    data = PLAIN.replace(b"\r\ndata: ", b';a=1;b="c"\r\ndata: ').removesuffix(b"\r\n") + b"Retry-After: 5\r\n\r\n"
    for cuts in ((), range(len(data))):
        wire = sse_wire()
        assert summary(read(wire, data, cuts)) == COMPLETE
        assert wire.retry_after_s is None


def test_a_body_shorter_than_its_length_is_cut_off() -> None:
    body = b"data: " + ROLE + b"\n\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n"
    wire = sse_wire()
    got = summary(wire.receive(head % (len(body) + 1) + body) + wire.eof())
    assert (got.finished[0][0], got.reasons) == ("truncated", ("closed",))
    whole = b"".join(b"data: " + payload + b"\n\n" for payload in reply(*TEXTS))
    assert summary(sse_wire().receive(head % len(whole) + whole)) == COMPLETE


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
    ],
)
def test_a_reply_that_ends_with_the_connection(head: bytes) -> None:
    data = head + b"".join(b"data: " + payload + b"\n\n" for payload in reply(*TEXTS))
    for cuts in ((), range(len(data))):
        wire = sse_wire()
        events = read(wire, data, cuts)
        assert not wire.ready
        assert summary(events + wire.eof()) == COMPLETE._replace(idle=0, closed=(0,))


def test_connection_close_with_chunks() -> None:
    wire = sse_wire()
    got = summary(wire.receive(PLAIN.replace(b"Transfer-", b"Connection: close\r\nTransfer-")))
    assert got == COMPLETE._replace(idle=0, closed=(0,))
    assert not wire.ready
    assert wire.receive(b"more") == wire.eof() == []


def test_payloads_after_the_end_are_counted() -> None:
    wire = sse_wire()
    got = summary(wire.receive(sse_reply([*reply(*TEXTS), chunk({"content": "late"}), STOP])))
    assert got == COMPLETE
    assert wire.sizes.late == 2


@pytest.mark.parametrize("extra", [b"HTTP/1.1 200 OK\r\n\r\n", b"garbage"])
def test_data_nobody_asked_for_closes_the_connection(extra: bytes) -> None:
    assert summary(sse_wire().receive(PLAIN + extra)) == COMPLETE._replace(idle=0, closed=(0,))
    wire = sse_wire()
    assert summary(wire.receive(PLAIN) + wire.receive(extra)) == COMPLETE._replace(closed=(0,))
    assert SSEWire("test:80").receive(extra)[0].code == 0


def test_cancel_needs_the_connection_closed() -> None:
    wire = sse_wire()
    wire.receive(PLAIN[:-400])
    assert wire.cancel(STREAM) is None
    assert [event.outcome for event in wire.eof() if isinstance(event, Finished)] == [Outcome.CANCELLED]


def test_another_choice_or_another_shape_is_read_in_full() -> None:
    payloads = [ROLE]
    for i in range(40):
        payloads.append(chunk({"content": f"a{i % 3}"}, index=i % 2))
        payloads.append(json.dumps(json.loads(chunk({"content": f"b{i % 3}"}))).encode())  # with spaces
    got = summary(sse_wire().receive(sse_reply([*payloads, DONE])))
    assert got.text == b"\x1f".join(b"%c%d" % (kind, i % 3) for i in range(40) for kind in b"ab")
