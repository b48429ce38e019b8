"""Plants: what each does to messages, to the bytes on the wire and to the emission log, and that it cannot hide."""

from __future__ import annotations

import asyncio
import json
import socket
from itertools import pairwise
from typing import Any

import httpx
import msgspec
import pytest
from conftest import Start
from serving import CHAT, PROFILES, Server, body
from test_sse import expected
from websockets.asyncio.client import connect

from servers.emission_log import Ended
from servers.plant import NOTHING, PAST_NS, Plant, Planted

MESSAGES = [(-1, 0, b"role"), (0, 10, b"abcd"), (1, 20, b"efghi"), (2, 30, b"jk"), (-1, 30, b"stop")]


def altered(split: bool = True, **values: Any) -> list[tuple[int, int, bytes]]:
    return list(Planted(Plant(**values)).alter(MESSAGES, split))


def test_a_plant_of_zeros_changes_nothing() -> None:
    assert altered() == MESSAGES
    assert altered(cpu_us=5.0) == MESSAGES


def test_the_first_delay_is_a_wait_before_the_first_token() -> None:
    role, *rest = MESSAGES
    assert altered(first_delay_ms=0.5) == [role, (-1, 500_010, NOTHING), *rest]


def test_a_split_is_a_turn_of_the_loop_between_halves() -> None:
    assert altered(split_writes=True)[1:5] == [
        (0, 10, b"ab"),
        (-1, PAST_NS, b"cd"),
        (1, 20, b"ef"),
        (-1, PAST_NS, b"ghi"),
    ]
    assert altered(split=False, split_writes=True) == MESSAGES


def test_drops_are_counted_over_all_streams() -> None:
    planted = Planted(Plant(drop_every=2))
    kept = [[payload for _, _, payload in planted.alter(MESSAGES, split=False)] for _ in range(2)]
    assert kept == [[b"role", b"abcd", NOTHING, b"jk", b"stop"], [b"role", NOTHING, b"efghi", NOTHING, b"stop"]]


def test_cpu_is_burnt_for_tokens_alone_and_before_their_write(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_ns = 0

    def tick() -> int:
        nonlocal clock_ns
        clock_ns += 100
        return clock_ns

    monkeypatch.setattr("servers.plant.perf_counter_ns", tick)
    sent: list[tuple[bytes, int]] = []
    skipped: list[int] = []
    messages, send = Planted(Plant(cpu_us=2.5)).slow(
        [*MESSAGES, (3, 40, NOTHING)],
        lambda payload: sent.append((payload, clock_ns)),
        lambda: skipped.append(clock_ns),
    )
    for _, _, payload in messages:
        clock_ns = 0
        send(b"heartbeat")
        send(payload)
    assert [at_ns for payload, at_ns in sent if payload == b"heartbeat"] == [0] * 6
    assert [item for item in sent if item[0] != b"heartbeat"] == [
        (payload, 2600 if ordinal >= 0 else 0) for ordinal, _, payload in MESSAGES
    ]
    assert skipped == [0]


def contents(text: str) -> list[str]:
    """The texts of the content chunks of an event stream."""
    data = [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]
    return [delta["content"] for item in data if (delta := item["choices"][0]["delta"]).get("content")]


def raw_stream(server: Server, **fields: Any) -> bytes:
    """The bytes of a whole reply."""
    data = json.dumps(body(**fields)).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(
            b"POST %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
            % (CHAT.encode(), len(data), data)
        )
        seen = b""
        while part := client.recv(65536):
            seen += part
    return seen


def http_chunks(reply: bytes) -> list[bytes]:
    """The chunks of a chunked reply."""
    _, _, rest = reply.partition(b"\r\n\r\n")
    chunks = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        chunks.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    assert chunks.pop() == b""
    return chunks


async def messages_of(server: Server, **fields: Any) -> list[str]:
    """The messages of one stream over WebSocket."""
    async with asyncio.timeout(20), connect(server.ws) as client:
        await client.send(json.dumps(body(**fields)))
        seen: list[str] = []
        while not seen or seen[-1] != "[DONE]":
            seen.append(str(await client.recv()))
        return seen


def test_split_tokens_are_two_http_chunks(start: Start, sse_stack: str) -> None:
    server = start(sse_stack, plant={"split_writes": True})
    chunks = http_chunks(raw_stream(server, model="instant", seed=5))
    assert len(chunks) == 64 * 2 + 3
    assert contents(b"".join(chunks).decode()) == expected("instant", 5)
    assert len(asyncio.run(messages_of(server, model="instant"))) == 64 + 3, "a message cannot be split"


def test_dropped_tokens_are_in_the_log_and_not_on_the_wire(start: Start, stack: str) -> None:
    server = start(stack, plant={"drop_every": 5})
    seen = contents("\n".join(f"data: {message}" for message in asyncio.run(messages_of(server, seed=5))))
    if "sse" in server.ready["protocols"]:
        again = contents(httpx.post(server.http + CHAT, json=body(seed=5)).text)
    else:
        again = contents("\n".join(f"data: {message}" for message in asyncio.run(messages_of(server, seed=5))))
    whole = expected("quick", 5)
    assert seen == [text for place, text in enumerate(whole, 1) if place % 5]
    assert again == [text for place, text in enumerate(whole, 13) if place % 5]
    server.stop()
    for stream in server.streams():
        assert [token[0] for token in stream["tokens"]] == list(range(12))
        assert stream["ended"] == Ended.COMPLETE


def test_a_delayed_first_token_is_late_by_the_log(start: Start, stack: str) -> None:
    server = start(stack, plant={"first_delay_ms": 15.0, "cpu_us": 100.0})
    messages = asyncio.run(messages_of(server, seed=5))
    server.stop()
    assert contents("\n".join(f"data: {message}" for message in messages)) == expected("quick", 5)
    (stream,) = server.streams()
    profile = PROFILES["quick"]
    first, gap = profile["first"]["ms"], profile["gap"]["ms"]
    dues = [stream["taken_up_ns"] + (first + place * gap) * 10**6 for place in range(12)]
    assert [due for _, due, _ in stream["tokens"]] == dues, "those of the schedule"
    assert stream["tokens"][0][2] >= dues[0] + 15 * 10**6
    written = [written for _, _, written in stream["tokens"]]
    assert all(b - a >= 100_000 for a, b in pairwise(written)), "a spin lies between two writes"


def test_the_ready_line_names_a_plant_and_nothing_else(start: Start) -> None:
    assert "plant" not in start().ready["settings"]
    plant = start("roofline", plant={"cpu_us": 1.5}).ready["settings"]["plant"]
    assert plant == {"cpu_us": 1.5, "first_delay_ms": 0.0, "split_writes": False, "drop_every": 0}


@pytest.mark.parametrize(
    "values",
    [
        {"cpu_us": -1},
        {"cpu_us": float("nan")},
        {"first_delay_ms": 1e9},
        {"drop_every": 1.5},
        {"split_writes": 1},
        {"x": 1},
    ],
)
def test_nonsense_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(values, Plant)
