"""The official SDK reads the streams, sync and async."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import openai
import pytest
from serving import PROFILES, Server, body

from servers.emitter import Profile, schedule


def text(seed: int, choice: int = 0) -> str:
    return "".join(schedule(msgspec.convert(PROFILES["quick"], Profile), seed, choice).texts)


def collect(chunks: list[Any], choices: int) -> list[str]:
    parts = [""] * choices
    for chunk in chunks:
        for choice in chunk.choices:
            parts[choice.index] += choice.delta.content or ""
    return parts


@pytest.mark.parametrize("n", [1, 2])
def test_sync(sse: Server, n: int) -> None:
    client = openai.OpenAI(base_url=sse.http + "/v1", api_key="k")
    stream = client.chat.completions.create(**body(seed=5, n=n, stream_options={"include_usage": True}))
    chunks = list(stream)
    assert collect(chunks, n) == [text(5, choice) for choice in range(n)]
    assert chunks[-1].usage.completion_tokens == 12 * n
    assert [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason] == ["stop"] * n
    assert [model.id for model in client.models.list()] == list(PROFILES)


def test_async(sse: Server) -> None:
    async def run() -> list[str]:
        async with openai.AsyncOpenAI(base_url=sse.http + "/v1", api_key="k") as client:
            stream = await client.chat.completions.create(**body(seed=5))
            return collect([chunk async for chunk in stream], 1)

    assert asyncio.run(run()) == [text(5)]


def test_without_streaming(sse: Server) -> None:
    client = openai.OpenAI(base_url=sse.http + "/v1", api_key="k")
    reply = client.chat.completions.create(**body(seed=5, stream=False, max_tokens=3))
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 3
    assert text(5).startswith(reply.choices[0].message.content or "?")
