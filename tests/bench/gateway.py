"""A gateway for tests: `gateway.py --port N`, with `--upstream URL` passing streams on, without answering by itself.

Not part of the project's servers: it stands for those of others, so it imports nothing of either package.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator

from aiohttp import ClientSession, WSMsgType, web

PATH = "/v1/chat/completions"
OWN = ["All ", "of ", "it ", "by ", "itself", ", ", "too", "."]
CHILD = "import time\nheld = b'x' * (64 << 20)\nprint(flush=True)\ntime.sleep(600)"


def chunks() -> list[bytes]:
    """A whole answer, as other servers of the API write theirs."""
    choices = [{"role": "assistant", "content": ""}, *({"content": text} for text in OWN), {}]
    bodies = [{"id": "cmpl-1", "choices": [{"index": 0, "delta": delta}]} for delta in choices]
    return [*(json.dumps(body).encode() for body in bodies), b"[DONE]"]


class Gateway:
    def __init__(self, upstream: str, *, rename: bool) -> None:
        self.upstream, self.rename = upstream, rename

    def passed(self, data: bytes) -> bytes:
        """What goes on of what came, under another id if so told."""
        return re.sub(rb'"id":"[^"]*"', b'"id":"gw-42"', data) if self.rename else data

    async def answer(self, body: bytes) -> AsyncIterator[bytes]:
        async with ClientSession() as session:
            headers = {"content-type": "application/json"}
            async with session.post(f"{self.upstream}/chat/completions", data=body, headers=headers) as reply:
                async for line in reply.content:
                    yield self.passed(line)

    async def post(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        if self.upstream:
            async for data in self.answer(body):
                await response.write(data)
        else:
            for data in chunks():
                await asyncio.sleep(0.002)
                await response.write(b"data: %b\n\n" % data)
        return response

    async def get(self, request: web.Request) -> web.StreamResponse:
        client = web.WebSocketResponse()
        await client.prepare(request)
        async with ClientSession() as session, session.ws_connect(f"{self.upstream}/chat/completions") as server:

            async def back() -> None:
                async for message in server:
                    await client.send_str(self.passed(message.data.encode()).decode())

            task = asyncio.create_task(back())
            async for message in client:
                if message.type is WSMsgType.TEXT:
                    await server.send_str(message.data)
            task.cancel()
        return client


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", default="")
    parser.add_argument("--rename", action="store_true")
    parser.add_argument("--child", action="store_true", help="start one that holds 64 MiB, in a group of its own")
    parser.add_argument("--deaf", action="store_true", help="never listen, and mind no SIGTERM")
    arguments = parser.parse_args()
    if arguments.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("thinking", file=sys.stderr, flush=True)
        time.sleep(600)
    if arguments.child:
        child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, start_new_session=True)
        assert child.stdout is not None
        child.stdout.readline()
    gateway = Gateway(arguments.upstream, rename=arguments.rename)
    application = web.Application()
    application.router.add_post(PATH, gateway.post)
    application.router.add_get(PATH, gateway.get)
    web.run_app(application, host="127.0.0.1", port=arguments.port, print=lambda *_: None)


if __name__ == "__main__":
    main()
