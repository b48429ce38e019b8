"""Broken replies, byte for byte on plain sockets, and what clients of others make of them."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from conftest import Start
from plain import (
    DONE_FRAME,
    HANDSHAKE,
    LAST_CHUNK,
    chunked,
    data_event,
    first_frame,
    framed,
    logged,
    message,
    opened,
    payloads,
    post,
    received,
)
from serving import CHAT, PROFILES, Server, body
from test_sse import expected
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from servers.emission_log import Ended
from servers.faults import APPLIES, BROKEN
from servers.faults import HANDSHAKE as IN_HANDSHAKE

PLACE = 3
"""The content chunk at which it happens; a role chunk is sent before the first."""
MIB = 1 << 20
KINDS = sorted(BROKEN - IN_HANDSHAKE - {"cut_at_byte"})


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model for every kind, of the same name."""
    faults = {kind: {"kind": kind, "at": [PLACE, PLACE]} for kind in KINDS}
    profiles = dict.fromkeys([*KINDS, "quick"], PROFILES["quick"])
    server = Server(tmp_path_factory.mktemp("faulty"), "faulty", {"profiles": profiles, "faults": faults})
    yield server
    assert server.stop() == (0, "", "")


def sse(server: Server, model: str, seed: int, enough: Callable[[bytes], bool] | None = None) -> tuple[bytes, str]:
    """The whole reply, and how the connection ended."""
    with opened(server) as client:
        client.sendall(post(model, b"connection: close", seed=seed))
        return received(client, enough or (lambda _: False))


def websocket(server: Server, model: str, seed: int) -> tuple[bytes, str]:
    """All frames up to [DONE] or the end, and how the connection ended."""
    with opened(server) as client:
        client.sendall(HANDSHAKE)
        head, _ = received(client, lambda seen: seen.endswith(b"\r\n\r\n"))
        assert head.startswith(b"HTTP/1.1 101 ")
        client.sendall(message(model, seed=seed))
        return received(client, lambda seen: seen.endswith(DONE_FRAME))


def parts(reply: bytes, seed: int) -> tuple[bytes, bytes, list[bytes]]:
    """Head, body, and the payloads that a stream without a fault has."""
    head, _, rest = reply.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", rest, payloads(rest[rest.index(b"data: ") + 6 : rest.index(b"\n\n")], "quick", seed)


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("content_type", b"\r\ncontent-type: text/html\r\n"),
        ("content_encoding", b"\r\ncontent-encoding: gzip\r\n"),
        ("bad_status_line", b"HTTP/1.1 two hundred\r\n"),
        ("bad_header", b"\r\na line without what ends a name\r\n"),
    ],
)
def test_heads_before_a_stream_as_usual(faulty: Server, kind: str, line: bytes) -> None:
    reply, how = sse(faulty, kind, 5)
    head, rest, whole = parts(reply, 5)
    assert line in head
    assert rest == b"".join(chunked(data_event(payload)) for payload in whole) + LAST_CHUNK
    assert how == "fin"
    assert [stream["ended"] for stream in logged(faulty, kind, 5)] == [Ended.COMPLETE]
    again, _ = sse(faulty, kind, 5)
    assert line not in again, "the next request is served"


def test_a_head_without_end(faulty: Server) -> None:
    reply, how = sse(faulty, "endless_head", 5, lambda seen: len(seen) > 200_000)
    assert how == "open"
    assert b"\r\n\r\n" not in reply
    assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
    assert all(b": " in line for line in reply.split(b"\r\n")[1:-1])
    (stream,) = logged(faulty, "endless_head", 5)
    assert (stream["ended"], stream["tokens"]) == (Ended.CUT, [])


def test_a_line_without_end(faulty: Server) -> None:
    reply, how = sse(faulty, "endless_line", 5, lambda seen: len(seen) > 3 * MIB)
    _, rest, whole = parts(reply, 5)
    usual = b"".join(chunked(data_event(payload)) for payload in whole[: PLACE + 1]) + chunked(b"data: ")
    assert how == "open"
    assert rest.startswith(usual)
    assert re.fullmatch(rb"(4000\r\nx{16384}\r\n)+(4?0?0?0?\r?\n?x*\r?\n?)", rest[len(usual) :])
    (stream,) = logged(faulty, "endless_line", 5)
    assert (stream["ended"], len(stream["tokens"])) == (Ended.CUT, PLACE)


def test_a_chunk_whose_length_is_no_number(faulty: Server) -> None:
    _, rest, whole = parts(sse(faulty, "bad_chunk_length", 5)[0], 5)
    chunks = [chunked(data_event(payload)) for payload in whole]
    chunks[PLACE + 1] = b"length\r\n" + data_event(whole[PLACE + 1]) + b"\r\n"
    assert rest == b"".join(chunks) + LAST_CHUNK


def test_a_body_shorter_than_its_length(faulty: Server) -> None:
    reply, how = sse(faulty, "short_body", 5)
    head, rest, whole = parts(reply, 5)
    events = [data_event(payload) for payload in whole]
    assert how == "fin"
    assert b"\r\ncontent-length: %d\r\n" % len(b"".join(events)) in head
    assert b"transfer-encoding" not in head
    assert rest == b"".join(events[: PLACE + 1])
    assert [stream["ended"] for stream in logged(faulty, "short_body", 5)] == [Ended.CUT]


@pytest.mark.parametrize("protocol", ["sse", "websocket"])
@pytest.mark.parametrize("kind", ["bad_utf8", "huge_event"])
def test_spoilt_payloads(faulty: Server, kind: str, protocol: str) -> None:
    whole: list[bytes]
    if protocol == "sse":
        _, rest, whole = parts(sse(faulty, kind, 5)[0], 5)
        found = [event[6:] for event in re.findall(rb"data: [^\n]*", rest)]
    else:
        rest, _ = websocket(faulty, kind, 6)
        whole = payloads(first_frame(rest), "quick", 6)
        found = re.findall(rb"\{[^\n]*?\]\}|\[DONE\]", rest)
    spoilt = found[PLACE + 1]
    extra = b"\xff" if kind == "bad_utf8" else b"x" * MIB
    assert spoilt == whole[PLACE + 1].replace(b'"content":"', b'"content":"' + extra)
    assert [*found[: PLACE + 1], whole[PLACE + 1], *found[PLACE + 2 :]] == whole


def frames_at(kind: str, payload: bytes) -> bytes:
    """What stands where the frame of `payload` would."""
    usual = framed(payload)
    size = usual[2:4]
    if kind == "unended_fragment":
        return b"\x01\x14" + payload[:20] + usual
    if kind == "masked_frame":
        key = b"\x37\xfa\x21\x3d"
        return b"\x81\xfe" + size + key + bytes(byte ^ key[place % 4] for place, byte in enumerate(payload))
    if kind == "huge_frame":
        return b"\x81\x7f\0\0\x01\0\0\0\0\0" + payload
    if kind == "long_control":
        return b"\x89\x7e\0\x7e" + b"p" * 126 + usual
    first = {"reserved_opcode": b"\x83", "reserved_bits": b"\xf1", "binary_message": b"\x82"}[kind]
    return first + usual[1:]


@pytest.mark.parametrize(
    "kind",
    [
        "unended_fragment",
        "masked_frame",
        "reserved_opcode",
        "reserved_bits",
        "binary_message",
        "huge_frame",
        "long_control",
    ],
)
def test_frames_between_frames_as_usual(faulty: Server, kind: str) -> None:
    data, how = websocket(faulty, kind, 5)
    whole = payloads(first_frame(data), "quick", 5)
    frames = [framed(payload) for payload in whole]
    frames[PLACE + 1] = frames_at(kind, whole[PLACE + 1])
    assert data == b"".join(frames)
    assert how == "open"
    assert [stream["ended"] for stream in logged(faulty, kind, 5)] == [Ended.COMPLETE]


def test_fragments_make_the_message(faulty: Server) -> None:
    data, _ = websocket(faulty, "fragmented", 5)
    whole = payloads(first_frame(data), "quick", 5)
    before = b"".join(framed(payload) for payload in whole[: PLACE + 1])
    after = b"".join(framed(payload) for payload in whole[PLACE + 2 :])
    assert data.startswith(before)
    assert data.endswith(after)
    rest, pieces = data[len(before) : len(data) - len(after)], []
    while rest:
        size, start = (rest[1], 2) if rest[1] < 126 else (int.from_bytes(rest[2:4], "big"), 4)
        pieces.append((rest[0], rest[start : start + size]))
        rest = rest[start + size :]
    assert [first for first, _ in pieces] == [0x01, 0x00, 0x80]
    assert b"".join(piece for _, piece in pieces) == whole[PLACE + 1]


@pytest.mark.parametrize("kind", ["half_frame", "no_close_frame", "bad_close_code"])
def test_ends_without_a_proper_close(faulty: Server, kind: str) -> None:
    data, how = websocket(faulty, kind, 5)
    whole = [framed(payload) for payload in payloads(first_frame(data), "quick", 5)]
    half = whole[PLACE + 1][: len(whole[PLACE + 1]) // 2]
    tail = {"half_frame": half, "no_close_frame": b"", "bad_close_code": b"\x88\x02\x03\xed"}[kind]
    assert data == b"".join(whole[: PLACE + 1]) + tail
    assert how == "fin"
    (stream,) = logged(faulty, kind, 5)
    assert (stream["ended"], len(stream["tokens"])) == (Ended.CUT, PLACE)


def alike(data: bytes) -> bytes:
    """Without what differs from request to request."""
    return re.sub(rb"date: [^\r]*|req_\w{32}|processing-ms: \d+|chatcmpl-\w+|\"created\":\d+", b"", data)


def test_an_event_stream_cut_at_a_byte(start: Start) -> None:
    cuts = [0, 1, 16, 300, 450, 800, 1500, 3000]
    server = start(
        "faulty",
        profiles={f"m{cut:04}": PROFILES["quick"] for cut in cuts} | {"m": PROFILES["quick"]},
        faults={f"m{cut:04}": {"kind": "cut_at_byte", "byte": cut} for cut in cuts},
    )
    for cut in cuts:
        model = f"m{cut:04}"
        data, how = sse(server, model, 5)
        whole, _ = sse(server, model, 5)
        assert (len(data), how) == (cut, "fin")
        assert alike(data + b"\r") == alike(whole[:cut] + b"\r")
        first, second = logged(server, model, 5, 2)
        assert (first["ended"], second["ended"]) == (Ended.CUT, Ended.COMPLETE)
        assert len(first["tokens"]) == max(0, data.count(b"}]}\n\n\r\n") - 1), "the role chunk is no token"


def test_the_end_of_a_reply_can_be_cut_too(start: Start) -> None:
    """Within the last chunk, which ends the body, and behind it, where nothing is left to cut."""
    whole = len(sse(start("faulty", profiles={"m0000": PROFILES["quick"]}), "m0000", 5)[0])
    cuts = range(whole - 6, whole + 2)
    server = start(
        "faulty",
        profiles={f"m{cut:04}": PROFILES["quick"] for cut in cuts},
        faults={f"m{cut:04}": {"kind": "cut_at_byte", "byte": cut} for cut in cuts},
    )
    assert [len(sse(server, f"m{cut:04}", 5)[0]) for cut in cuts] == [min(cut, whole) for cut in cuts]
    ended = [logged(server, f"m{cut:04}", 5)[0]["ended"] for cut in cuts]
    assert ended == [Ended.CUT if cut < whole else Ended.COMPLETE for cut in cuts]


def test_frames_cut_at_a_byte(start: Start) -> None:
    cuts = [400, 500, 1000]
    server = start(
        "faulty",
        profiles={f"m{cut:04}": PROFILES["quick"] for cut in cuts},
        faults={f"m{cut:04}": {"kind": "cut_at_byte", "byte": cut} for cut in cuts},
    )
    for cut in cuts:
        with opened(server) as client:
            client.sendall(HANDSHAKE)
            head, _ = received(client, lambda seen: seen.endswith(b"\r\n\r\n"))
            client.sendall(message(f"m{cut:04}", seed=5))
            data, how = received(client)
        assert (len(head) + len(data), how) == (cut, "fin")
        whole, _ = websocket(server, f"m{cut:04}", 5)
        assert alike(data) == alike(whole[: len(data)])


def handshake(server: Server) -> tuple[bytes, str]:
    with opened(server) as client:
        client.sendall(HANDSHAKE)
        return received(client, lambda seen: b" 101 " in seen[:20] and seen.endswith(b"\r\n\r\n"))


@pytest.mark.parametrize("byte", [0, 60])
def test_a_handshake_cut_at_a_byte(start: Start, byte: int) -> None:
    server = start("faulty", faults={"quick": {"kind": "cut_at_byte", "byte": byte}})
    reply, how = handshake(server)
    assert (len(reply), how) == (byte, "fin")
    assert b"HTTP/1.1 101 Switching Protocols\r\n".startswith(reply[:34])


def test_a_wrong_accept(start: Start) -> None:
    usual, _ = handshake(start("faulty"))
    wrong, how = handshake(start("faulty", faults={"quick": {"kind": "wrong_accept"}}))
    name = b"sec-websocket-accept: "
    assert (len(wrong), how) == (len(usual), "open")
    assert alike(wrong).partition(name)[0] == alike(usual).partition(name)[0]
    assert wrong.partition(name)[2] == b"A" * 27 + b"=\r\n\r\n" != usual.partition(name)[2]


def test_no_upgrade(start: Start) -> None:
    reply, how = handshake(start("faulty", faults={"quick": {"kind": "no_upgrade"}}))
    assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"upgrade" not in reply
    assert how == "fin"


def test_a_handshake_refused_with_429(start: Start) -> None:
    server = start("faulty", faults={"quick": {"kind": "handshake_429", "wait_s": 1.2}})

    async def run() -> tuple[int, str]:
        try:
            async with connect(server.ws):
                return 101, ""
        except InvalidStatus as error:
            response = error.response
            code = json.loads(response.body or b"")["error"]["code"]
            return response.status_code, response.headers["retry-after"] + " " + code

    assert [asyncio.run(run()) for _ in range(2)] == [(429, "2 rate_limit_exceeded")] * 2, "every handshake"
    assert httpx.post(server.http + CHAT, json=body()).status_code == 200, "and nothing else"


def test_kinds_that_do_not_apply_are_served(faulty: Server) -> None:
    for kind in ("half_frame", "masked_frame", "bad_close_code"):
        _, rest, whole = parts(sse(faulty, kind, 7)[0], 7)
        assert rest == b"".join(chunked(data_event(payload)) for payload in whole) + LAST_CHUNK
    for kind in ("content_type", "endless_line", "short_body"):
        data, _ = websocket(faulty, kind, 8)
        assert data == b"".join(framed(payload) for payload in payloads(first_frame(data), "quick", 8))
    assert "websocket" not in APPLIES["short_body"]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("fragmented", None),
        ("binary_message", None),
        ("unended_fragment", 1002),
        ("masked_frame", 1002),
        ("reserved_opcode", 1002),
        ("reserved_bits", 1002),
        ("long_control", 1002),
        ("bad_close_code", 1002),
        ("bad_utf8", 1007),
        ("huge_frame", 1009),
        ("huge_event", 1009),
        ("half_frame", 1006),
        ("no_close_frame", 1006),
    ],
)
def test_what_a_websocket_client_makes_of_it(faulty: Server, kind: str, code: int | None) -> None:
    async def run() -> tuple[list[str | bytes], int | None]:
        seen: list[str | bytes] = []
        async with asyncio.timeout(10), connect(faulty.ws, max_size=MIB) as client:
            await client.send(json.dumps(body(kind, seed=11)))
            try:
                while not seen or seen[-1] != "[DONE]":
                    seen.append(await client.recv())
            except ConnectionClosed as closed:
                return seen, 1006 if closed.sent is None else closed.sent.code
            return seen, None

    seen, found = asyncio.run(run())
    assert found == code
    if code is None:
        made = [json.loads(item) for item in seen[1:-2]]
        assert [item["choices"][0]["delta"]["content"] for item in made] == expected("quick", 11)
        assert isinstance(seen[PLACE + 1], bytes) == (kind == "binary_message")
    else:
        assert len(seen) == PLACE + 1


@pytest.mark.parametrize("kind", ["wrong_accept", "no_upgrade"])
def test_what_a_websocket_client_makes_of_a_handshake(start: Start, kind: str) -> None:
    server = start("faulty", faults={"quick": {"kind": kind}})

    async def run() -> None:
        async with connect(server.ws):
            pass

    with pytest.raises(InvalidHandshake):
        asyncio.run(run())


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("content_encoding", httpx.DecodingError),
        ("bad_status_line", httpx.RemoteProtocolError),
        ("bad_header", httpx.RemoteProtocolError),
        ("endless_head", httpx.RemoteProtocolError),
        ("bad_chunk_length", httpx.RemoteProtocolError),
        ("short_body", httpx.RemoteProtocolError),
    ],
)
def test_what_an_http_client_makes_of_it(faulty: Server, kind: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        httpx.post(faulty.http + CHAT, json=body(kind, seed=12), timeout=10)


def test_other_kinds_work_here_too(start: Start) -> None:
    server = start("faulty", faults={"quick": {"kind": "reset", "at": [2, 2]}})
    assert sse(server, "quick", 5)[1] == "reset"
    assert [(s["ended"], len(s["tokens"])) for s in logged(server, "quick", 5)] == [(Ended.CUT, 2)]
    assert websocket(server, "quick", 6)[1] == "reset"


def test_a_client_that_does_not_read_what_has_no_end(start: Start) -> None:
    """Memory stays bounded: the server waits for the client to read."""
    server = start("faulty", faults={"quick": {"kind": "endless_line"}})

    def rss() -> int:
        with open(f"/proc/{server.process.pid}/statm") as file:
            return int(file.read().split()[1]) * 4096

    with opened(server) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        client.sendall(post("quick", seed=1))
        received(client, lambda seen: len(seen) > MIB)
        before = rss()
        logged(server, "quick", 1)
        asyncio.run(asyncio.sleep(0.5))  # some 8 MB, if nothing held it up
        assert rss() - before < 6 * MIB
    assert server.stop() == (0, "", "")


def test_every_kind_is_in_the_table() -> None:
    tested: dict[str, Any] = dict.fromkeys(KINDS) | dict.fromkeys(IN_HANDSHAKE) | {"cut_at_byte": None}
    assert BROKEN == set(tested) <= set(APPLIES)
