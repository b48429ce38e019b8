"""Refusals: the same table over HTTP and, where it applies, over WebSocket; and the official SDK's view of them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from conftest import Start
from serving import CHAT, Server, body
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

import servers

BAD_BODIES: list[tuple[dict[str, Any], int, str | None]] = [
    ({"model": None}, 400, "model"),
    ({"model": "none"}, 404, "model"),
    ({"messages": []}, 400, "messages"),
    ({"messages": "hi"}, 400, "messages"),
    ({"messages": [{"content": "hi"}]}, 400, "messages[0].role"),
    ({"messages": [{"role": "pirate", "content": "hi"}]}, 400, "messages[0]"),
    ({"n": 0}, 400, "n"),
    ({"max_tokens": 0}, 400, "max_tokens"),
    ({"max_completion_tokens": "many"}, 400, "max_completion_tokens"),
    ({"seed": 2**63}, 400, "seed"),
    ({"temperature": 3}, 400, "temperature"),
    ({"stream": "yes"}, 400, "stream"),
    ({"stream_options": {"include_usage": 1}}, 400, "stream_options.include_usage"),
    ({"last_event_id": "x"}, 400, "last_event_id"),
]


def check(error: Any, status: int) -> None:
    """An error object has the four fields of the API, and says something."""
    assert list(error) == ["error"]
    assert list(error["error"]) == ["message", "type", "param", "code"]
    assert error["error"]["message"]
    assert error["error"]["type"] == ("server_error" if status >= 500 else "invalid_request_error")


@pytest.mark.parametrize(("fields", "status", "param"), BAD_BODIES)
def test_bad_bodies_over_http(sse: Server, fields: dict[str, Any], status: int, param: str | None) -> None:
    reply = httpx.post(sse.http + CHAT, json=body() | fields)
    assert reply.status_code == status
    check(reply.json(), status)
    assert reply.json()["error"]["param"] == param
    assert "x-request-id" in reply.headers


@pytest.mark.parametrize(("fields", "status", "param"), BAD_BODIES)
def test_bad_bodies_over_websocket(shared: Server, fields: dict[str, Any], status: int, param: str | None) -> None:
    async def run() -> tuple[str | bytes, str | bytes]:
        async with asyncio.timeout(20), connect(shared.ws) as socket:
            await socket.send(json.dumps(body() | fields))
            error = await socket.recv()
            await socket.send(json.dumps(body("quick", max_tokens=1)))
            return error, [await socket.recv() for _ in range(4)][-1]

    error, last = asyncio.run(run())
    check(json.loads(error), status)
    assert json.loads(error)["error"]["param"] == param
    assert last == "[DONE]", "the connection goes on"


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("POST", CHAT, b"{", 400),
        ("POST", CHAT, b"", 400),
        ("POST", CHAT, b'{"model":"\xff"}', 400),
        ("POST", CHAT, b" " * (1 << 20) + b" ", 413),
        ("GET", CHAT, None, 400),
        ("DELETE", CHAT, None, 405),
        ("POST", "/v1/models", b"{}", 405),
        ("GET", "/v1/nothing", None, 404),
        ("POST", "/v1/completions", b"{}", 404),
    ],
)
def test_bad_requests(sse: Server, method: str, path: str, content: bytes | None, status: int) -> None:
    reply = httpx.request(method, sse.http + path, content=content)
    assert reply.status_code == status
    check(reply.json(), status)
    assert ("allow" in reply.headers) == (status == 405)


def test_unknown_fields_and_lists_of_parts_are_accepted(sse: Server) -> None:
    content = [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "x"}}]
    fields = {"messages": [{"role": "user", "content": content, "name": "n"}], "logit_bias": {}, "tools": []}
    assert httpx.post(sse.http + CHAT, json=body("instant") | fields).status_code == 200


def test_plain_endpoints(shared: Server) -> None:
    assert httpx.get(shared.http + "/healthz").json() == {"status": "ok"}
    models = httpx.get(shared.http + "/v1/models").json()
    assert [model["id"] for model in models["data"]] == ["quick", "instant", "endless", "stalling", "bundled"]
    check(httpx.get(shared.http + "/nothing").json(), 404)
    assert httpx.delete(shared.http + CHAT).status_code == 405


def test_websockets_alone_asks_for_an_upgrade(start: Start) -> None:
    server = start("websockets")
    for reply in (httpx.get(server.http + CHAT), httpx.post(server.http + CHAT, content=b"")):
        assert reply.status_code == 426
        assert reply.headers["upgrade"] == "websocket"
        check(reply.json(), 426)


def test_a_key_when_one_is_set(start: Start, stack: str) -> None:
    server = start(stack, api_key="secret")
    assert httpx.get(server.http + "/healthz").status_code == 200
    assert httpx.get(server.http + "/v1/models").status_code == 401
    if stack != "websockets":
        assert httpx.post(server.http + CHAT, json=body()).json()["error"]["code"] == "invalid_api_key"

    async def status(key: str) -> int:
        try:
            async with connect(server.ws, additional_headers={"Authorization": f"Bearer {key}"}):
                return 101
        except InvalidStatus as error:
            check(json.loads(error.response.body or b""), 401)
            return error.response.status_code

    assert [asyncio.run(status(key)) for key in ("secret", "wrong")] == [101, 401]


def test_too_many_streams(start: Start, stack: str) -> None:
    server = start(stack, max_streams=1)

    async def run() -> Any:
        async with asyncio.timeout(20), connect(server.ws) as first, connect(server.ws) as second:
            await first.send(json.dumps(body("endless")))
            await first.recv()
            await second.send(json.dumps(body("quick")))
            refused = json.loads(await second.recv())
            if stack != "websockets":
                async with httpx.AsyncClient() as client:
                    reply = await client.post(server.http + CHAT, json=body())
                assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")
                assert reply.json() == refused
            await first.send('{"type":"cancel"}')
            while await first.recv() != "[DONE]":
                pass
            await second.send(json.dumps(body("quick")))
            assert "role" in str(await second.recv())
            return refused

    assert asyncio.run(run())["error"]["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize(
    ("settings", "request_", "kind"),
    [
        ({"api_key": "x"}, {}, openai.AuthenticationError),
        ({}, {"model": "none"}, openai.NotFoundError),
        ({}, {"n": 0}, openai.BadRequestError),
    ],
)
def test_errors_as_the_sdk_names_them(
    start: Start, settings: dict[str, Any], request_: dict[str, Any], kind: type[openai.APIStatusError]
) -> None:
    client = openai.OpenAI(base_url=start(**settings).http + "/v1", api_key="k", max_retries=0)
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**body() | request_)
    assert caught.value.request_id is not None
    assert caught.value.request_id.startswith("req_")


def test_a_fault_of_ours(start: Start, stack: str) -> None:
    """A full disk under the log: 500, and 1011 over WebSocket."""
    code = (
        "import errno, servers.appendlog as log, servers.__main__ as server\n"
        "def full(self, *fields): raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "log.AppendLog.append = full\n"
        f"server.main([{stack!r}, '--config', 'server.json'])"
    )
    healthy = start(stack)
    folder = healthy.log.parent
    healthy.stop()
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_env())
    try:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["port"]
        if stack != "websockets":
            reply = httpx.post(f"http://127.0.0.1:{port}{CHAT}", json=body())
            assert reply.status_code == 500
            check(reply.json(), 500)

        async def run() -> tuple[Any, int | None]:
            async with asyncio.timeout(20), connect(f"ws://127.0.0.1:{port}{CHAT}") as socket:
                await socket.send(json.dumps(body()))
                error = json.loads(await socket.recv())
                await socket.wait_closed()
                return error, socket.close_code

        error, close_code = asyncio.run(run())
        check(error, 500)
        assert close_code == 1011
    finally:
        process.kill()
        process.communicate()


def _env() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(servers.__path__[0]).parent)}


def test_json_too_deep_to_read_is_a_bad_request(sse: Server) -> None:
    deep = b'{"model":"short","messages":[],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    reply = httpx.post(sse.http + CHAT, content=deep, headers={"content-type": "application/json"})
    assert reply.status_code == 400
    check(reply.json(), 400)
