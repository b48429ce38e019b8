"""WebSocket on every stack, through clients that are not ours, and byte for byte the JSON of SSE."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import httpx
import pytest
from conftest import Start
from serving import CHAT, Server, body
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from servers.emission_log import Ended


def talk(server: Server, conversation: Callable[[ClientConnection], Awaitable[Any]]) -> Any:
    """Run a conversation on one connection; none of these takes 20 s."""

    async def run() -> Any:
        async with asyncio.timeout(20), connect(server.ws) as socket:
            return await conversation(socket)

    return asyncio.run(run())


async def until_done(socket: ClientConnection) -> list[str]:
    """Read the messages of one stream."""
    seen: list[str] = []
    while not seen or seen[-1] != "[DONE]":
        message = await socket.recv()
        assert isinstance(message, str)
        seen.append(message)
    return seen


async def ask(socket: ClientConnection, **fields: Any) -> list[str]:
    """Send a request and read its stream."""
    await socket.send(json.dumps(body(**fields)))
    return await until_done(socket)


def contents(messages: list[str]) -> list[str]:
    """The texts of the content chunks."""
    deltas = [json.loads(message)["choices"][0]["delta"] for message in messages[:-1]]
    return [delta["content"] for delta in deltas if delta.get("content")]


CASES: list[dict[str, Any]] = [
    {"seed": 5},
    {"seed": 5, "n": 2},
    {"seed": 5, "stream_options": {"include_usage": True}, "max_tokens": 3},
    {"seed": -1, "model": "instant"},
    {"seed": 3, "model": "bundled"},
]


@pytest.mark.parametrize("fields", CASES)
def test_the_json_is_that_of_sse_byte_for_byte(shared: Server, sse: Server, fields: dict[str, Any]) -> None:
    reply = httpx.post(sse.http + CHAT, json=body(**fields))
    streamed = [line.removeprefix("data: ") for line in reply.text.split("\n") if line]

    def masked(messages: list[str]) -> list[str]:
        # The attempt number and the time of creation are not of the request; their width is fixed.
        return [re.sub(r'[0-9a-f]{5}(","object":.*?"created":)[0-9]{10}', r"\1", message) for message in messages]

    received = talk(shared, lambda socket: ask(socket, **fields))
    assert [len(message.encode()) for message in received] == [len(message.encode()) for message in streamed]
    assert masked(received) == masked(streamed)


def test_many_turns_on_one_connection(shared: Server) -> None:
    async def conversation(socket: ClientConnection) -> list[list[str]]:
        return [await ask(socket, seed=seed, model="instant") for seed in range(4)]

    turns = talk(shared, conversation)
    assert [len(turn) for turn in turns] == [67] * 4
    assert len({"".join(contents(turn)) for turn in turns}) == 4


def test_without_streaming_one_message(shared: Server) -> None:
    async def conversation(socket: ClientConnection) -> tuple[Any, list[str]]:
        await socket.send(json.dumps(body(stream=False, seed=5)))
        whole = json.loads(await socket.recv())
        return whole, await ask(socket, seed=5)

    whole, streamed = talk(shared, conversation)
    assert whole["choices"][0]["message"]["content"] == "".join(contents(streamed))


def test_cancel_stops_and_the_connection_goes_on(start: Start, stack: str) -> None:
    server = start(stack)

    async def conversation(socket: ClientConnection) -> tuple[list[str], list[str]]:
        await socket.send('{"type":"cancel"}')  # nothing runs: nothing happens
        await socket.send(json.dumps(body("endless")))
        first = [await socket.recv() for _ in range(5)]
        await socket.send('{"type":"cancel"}')
        return [*first, *await until_done(socket)], await ask(socket)

    cancelled, again = talk(server, conversation)
    assert len(again) == 12 + 3
    server.stop()
    stopped, complete = server.streams()
    assert (stopped["ended"], complete["ended"]) == (Ended.CANCELLED, Ended.COMPLETE)
    # A token handed over in the moment of the cancel may be in the log and not have been sent.
    assert 0 <= len(stopped["tokens"]) - len(contents(cancelled)) <= 1
    assert len(stopped["tokens"]) < 50


def test_cancel_right_behind_the_request(start: Start, stack: str) -> None:
    server = start(stack)

    async def conversation(socket: ClientConnection) -> list[str]:
        await socket.send(json.dumps(body("endless")))
        await socket.send('{"type":"cancel"}')
        return await until_done(socket)

    assert len(talk(server, conversation)) <= 3
    server.stop()
    (stopped,) = server.streams()
    assert stopped["ended"] == Ended.CANCELLED


def test_one_stream_at_a_time(shared: Server) -> None:
    async def conversation(socket: ClientConnection) -> list[Any]:
        await socket.send(json.dumps(body("stalling")))
        await socket.send(json.dumps(body()))
        messages = [json.loads(await socket.recv()) for _ in range(3)]
        await socket.send('{"type":"cancel"}')
        assert await socket.recv() == "[DONE]"
        return messages

    codes = [message["error"]["code"] for message in talk(shared, conversation) if "error" in message]
    assert codes == ["stream_running"]


def test_resume_and_nothing_to_resume(shared: Server) -> None:
    async def conversation(socket: ClientConnection) -> None:
        whole = await ask(socket, seed=5)
        completion = json.loads(whole[0])["id"]
        assert await ask(socket, last_event_id=f"{completion}:6") == whole[7:]
        await socket.send(json.dumps(body(last_event_id=f"{completion}:14")))
        assert json.loads(await socket.recv())["error"]["code"] == "nothing_to_resume"

    talk(shared, conversation)


@pytest.mark.parametrize(
    ("message", "code"),
    [("{", 1007), ("[]", 1007), ("", 1007), (b"{}", 1003), ("x" * (1 << 20) + "x", 1009)],
)
def test_the_unreadable_closes(shared: Server, message: str | bytes, code: int) -> None:
    async def conversation(socket: ClientConnection) -> int | None:
        await socket.send(message)
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        return socket.close_code

    assert talk(shared, conversation) == code


def test_text_that_is_not_utf8_closes(shared: Server) -> None:
    async def conversation(socket: ClientConnection) -> int | None:
        await socket.send(b'{"model":"\xff"}', text=True)
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        return socket.close_code

    assert talk(shared, conversation) == 1007


def test_aiohttp_as_the_client(shared: Server) -> None:
    async def run() -> list[str]:
        async with aiohttp.ClientSession() as session, session.ws_connect(shared.ws) as socket:
            await socket.send_json(body("instant"))
            seen: list[str] = []
            while not seen or seen[-1] != "[DONE]":
                seen.append(await socket.receive_str())
            return seen

    assert len(asyncio.run(run())) == 67


@pytest.mark.parametrize("stack", ["aiohttp", "websockets"])
def test_compression_when_deployed_as_documented(start: Start, stack: str) -> None:
    server = start(stack, mode="as-deployed")
    assert server.ready["settings"]["compression"]["websocket"] is True

    async def conversation(socket: ClientConnection) -> list[str]:
        assert "permessage-deflate" in socket.response.headers["Sec-WebSocket-Extensions"]  # type: ignore[union-attr]
        return await ask(socket, model="instant")

    assert len(talk(server, conversation)) == 67


def test_no_compression_when_equal(shared: Server) -> None:
    async def conversation(socket: ClientConnection) -> None:
        assert "Sec-WebSocket-Extensions" not in socket.response.headers  # type: ignore[union-attr]

    talk(shared, conversation)


@pytest.mark.parametrize("stack", ["aiohttp", "websockets"])
def test_heartbeats_are_pings(start: Start, stack: str) -> None:
    server = start(stack, heartbeat_s=0.05)

    async def conversation(socket: ClientConnection) -> None:
        pings = asyncio.Event()
        receive = socket.protocol.recv_frame

        def watch(frame: Any) -> None:
            if frame.opcode.name == "PING":
                pings.set()
            receive(frame)

        socket.protocol.recv_frame = watch  # type: ignore[method-assign]
        await pings.wait()

    talk(server, conversation)
