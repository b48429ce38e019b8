"""SSE as clients that are not ours see it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import httpx
import msgspec
import pytest
from conftest import Start
from serving import CHAT, PROFILES, Server, body

from servers.emitter import Profile, schedule


def expected(model: str, seed: int, choice: int = 0) -> list[str]:
    """The content chunks of a stream."""
    return schedule(msgspec.convert(PROFILES[model], Profile), seed, choice).texts


def events(text: str) -> list[dict[str, str]]:
    """Split a whole event stream, as this server writes it, into its events' fields."""
    assert text.endswith("\n\n")
    return [dict(line.split(": ", 1) for line in event.split("\n")) for event in text[:-2].split("\n\n")]


def chunks(text: str) -> list[dict[str, Any]]:
    """The JSON of all events but [DONE], which must be last."""
    *data, done = [event["data"] for event in events(text)]
    assert done == "[DONE]"
    return [json.loads(item) for item in data]


def test_the_chunks_of_a_stream(sse: Server) -> None:
    reply = httpx.post(sse.http + CHAT, json=body(seed=5))
    assert reply.headers["content-type"] == "text/event-stream"
    assert reply.headers["cache-control"] == "no-cache, must-revalidate"
    assert reply.headers["x-accel-buffering"] == "no"
    assert reply.headers["access-control-allow-origin"] == "*"
    assert len(reply.headers["x-request-id"]) == 36
    assert len(reply.headers["openai-processing-ms"]) == 6
    role, *content, stop = chunks(reply.text)
    assert role["choices"] == [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]
    assert [chunk["choices"][0]["delta"]["content"] for chunk in content] == expected("quick", 5)
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in content)
    assert stop["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    for chunk in (role, *content, stop):
        assert list(chunk) == ["id", "object", "created", "model", "choices"]
        assert {key: chunk[key] for key in ("id", "created", "model")} == {
            key: role[key] for key in ("id", "created", "model")
        }
        assert chunk["object"] == "chat.completion.chunk"
    assert "id" not in events(reply.text)[0]
    assert "\\u" not in reply.text


def test_usage_comes_last_when_asked_for(sse: Server) -> None:
    reply = httpx.post(sse.http + CHAT, json=body(stream_options={"include_usage": True}))
    *others, usage = chunks(reply.text)
    assert all(chunk["usage"] is None for chunk in others)
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 6, "completion_tokens": 12, "total_tokens": 18}


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(("limit", "chunk_count", "reason"), [(1, 1, "length"), (5, 5, "length"), (12, 12, "stop")])
def test_a_limit_ends_with_length(sse: Server, field: str, limit: int, chunk_count: int, reason: str) -> None:
    made = chunks(httpx.post(sse.http + CHAT, json=body(seed=5) | {field: limit}).text)
    assert len(made) == chunk_count + 2
    assert made[-1]["choices"][0]["finish_reason"] == reason


def test_several_choices_each_with_role_and_stop(sse: Server) -> None:
    made = [chunk["choices"][0] for chunk in chunks(httpx.post(sse.http + CHAT, json=body(seed=9, n=3)).text)]
    for index in range(3):
        role, *content, stop = [choice for choice in made if choice["index"] == index]
        assert role["delta"] == {"role": "assistant", "content": ""}
        assert [choice["delta"]["content"] for choice in content] == expected("quick", 9, index)
        assert stop["finish_reason"] == "stop"


def test_without_streaming_the_same_text_in_one_body(sse: Server) -> None:
    reply = httpx.post(sse.http + CHAT, json=body(seed=5, stream=False, n=2)).json()
    assert reply["object"] == "chat.completion"
    texts = [choice["message"]["content"] for choice in reply["choices"]]
    assert texts == ["".join(expected("quick", 5, index)) for index in range(2)]
    assert reply["usage"]["completion_tokens"] == 24


def test_bundles_hold_several_tokens(sse: Server) -> None:
    made = chunks(
        httpx.post(sse.http + CHAT, json=body("bundled", seed=1, stream_options={"include_usage": True})).text
    )
    assert len(made) == 1 + 3 + 1 + 1
    assert made[-1]["usage"]["completion_tokens"] == 10


def test_every_event_is_an_http_chunk_of_its_own(sse: Server) -> None:
    """Also without pauses between tokens."""

    async def read() -> list[bytes]:
        async with aiohttp.ClientSession() as session, session.post(sse.http + CHAT, json=body("instant")) as reply:
            made, part = [], b""
            async for data, whole in reply.content.iter_chunks():
                part += data
                if whole and part:  # the last chunk of HTTP is empty
                    made.append(part)
                    part = b""
            return made

    made = asyncio.run(read())
    assert len(made) == 64 + 3
    assert all(chunk.count(b"\n\n") == 1 and chunk.endswith(b"\n\n") for chunk in made)


def test_connections_are_kept(sse: Server) -> None:
    with httpx.Client() as client:
        ports = set()
        for _ in range(3):
            with client.stream("POST", sse.http + CHAT, json=body("instant")) as reply:
                ports.add(reply.extensions["network_stream"].get_extra_info("client_addr"))
                reply.read()
    assert len(ports) == 1


def test_heads_and_bodies_have_the_same_width_every_time(sse: Server) -> None:
    replies = [httpx.post(sse.http + CHAT, json=body("instant", seed=123456)) for _ in range(3)]
    assert len({sum(len(k) + len(v) for k, v in reply.headers.items()) for reply in replies}) == 1
    assert len({len(reply.content) for reply in replies}) == 1
    assert len({chunks(reply.text)[0]["id"] for reply in replies}) == 3


def test_get_streams_with_ids(sse: Server) -> None:
    query = {"model": "quick", "seed": "5", "max_tokens": "3", "include_usage": "true"}
    reply = httpx.get(sse.http + CHAT, params=query, headers={"accept": "text/event-stream"})
    made = events(reply.text)
    completion = json.loads(made[0]["data"])["id"]
    assert [event["id"] for event in made] == [f"{completion}:{ordinal}" for ordinal in range(7)]


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("usage", ["true", "false"])
def test_resume_goes_on_after_any_event(sse: Server, n: int, usage: str) -> None:
    query = {"model": "instant", "max_tokens": "4", "n": str(n), "include_usage": usage}
    whole = events(httpx.get(sse.http + CHAT, params=query).text)
    for position, event in enumerate(whole):
        reply = httpx.get(sse.http + CHAT, params=query, headers={"last-event-id": event["id"]})
        if event["data"] == "[DONE]":
            assert (reply.status_code, reply.content) == (204, b"")
        else:
            assert events(reply.text) == whole[position + 1 :]


def test_resume_keeps_the_original_times(start: Start, sse_stack: str) -> None:
    server = start(sse_stack, resumable=["quick"])
    first = events(httpx.post(server.http + CHAT, json=body(seed=5)).text)
    again = httpx.post(server.http + CHAT, json=body(seed=5), headers={"last-event-id": first[4]["id"]})
    assert events(again.text) == first[5:]
    server.stop()
    whole, resumed = server.streams()
    assert (whole["attempt"], whole["first"], resumed["attempt"], resumed["first"]) == (0, 0, 0, 4)
    assert [token[:2] for token in resumed["tokens"]] == [token[:2] for token in whole["tokens"]][4:]


def test_resume_after_a_restart_starts_the_rest_now(start: Start) -> None:
    first = events(httpx.get(start().http + CHAT, params={"model": "quick", "seed": "5"}).text)
    server = start()
    headers = {"last-event-id": first[4]["id"]}
    again = httpx.get(server.http + CHAT, params={"model": "quick", "seed": "5"}, headers=headers)
    assert [event["id"] for event in events(again.text)] == [event["id"] for event in first[5:]]
    new = events(httpx.get(server.http + CHAT, params={"model": "quick", "seed": "5"}).text)
    server.stop()
    resumed, fresh = server.streams()
    assert resumed["tokens"][0][1] == resumed["taken_up_ns"] + 2_000_000, "one gap after the resume"
    assert fresh["attempt"] == 1, "its id differs from that of the stream resumed"
    assert new[0]["id"] != first[0]["id"]


@pytest.mark.parametrize("value", ["x", "chatcmpl-1:2", "chatcmpl-" + "0" * 29 + ":1", "chatcmpl-" + "0" * 29])
def test_a_strange_event_id_is_refused(sse: Server, value: str) -> None:
    reply = httpx.get(sse.http + CHAT, params={"model": "quick"}, headers={"last-event-id": value})
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "invalid_event_id"


def test_keep_alive_comments_fill_long_gaps(start: Start) -> None:
    server = start(heartbeat_s=0.02)
    with httpx.stream("POST", server.http + CHAT, json=body("stalling")) as reply:
        lines = (line for line in reply.iter_lines() if line)
        seen = [next(lines) for _ in range(4)]
    assert seen[2:] == [": keep-alive", ": keep-alive"]


def test_preflight(shared: Server) -> None:
    reply = httpx.options(shared.http + CHAT, headers={"origin": "http://x", "access-control-request-method": "POST"})
    assert (reply.status_code, reply.content) == (204, b"")
    assert reply.headers["access-control-allow-origin"] == "*"
    assert "POST" in reply.headers["access-control-allow-methods"]
    for name in ("authorization", "content-type", "last-event-id"):
        assert name in reply.headers["access-control-allow-headers"]
