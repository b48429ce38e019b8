"""Fixtures that start servers and see to it that they end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Server

from bench.certificate import make

Start = Callable[..., Server]


@pytest.fixture(scope="session", autouse=True)
def one_authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trust one authority by default: reading the hundred of the system costs an HTTP client 30 ms each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(make(tmp_path_factory.mktemp("authority")).ca_file))
        yield


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start servers that end with the test."""
    servers: list[Server] = []

    def run(stack: str = "aiohttp", **settings: Any) -> Server:
        folder = tmp_path / str(len(servers))
        folder.mkdir()
        servers.append(Server(folder, stack, settings))
        return servers[-1]

    yield run
    for server in servers:
        server.process.kill()
        server.process.communicate()


SSE_STACKS = ["aiohttp", "roofline"]
STACKS = ["aiohttp", "websockets", "roofline"]


@pytest.fixture(scope="session")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start one server of a stack, `python -m servers` itself, for all that need no settings and leave no trace."""
    servers: dict[str, Server] = {}

    def get(stack: str) -> Server:
        if stack not in servers:
            servers[stack] = Server(tmp_path_factory.mktemp(stack), stack, {}, forked=False)
        return servers[stack]

    yield get
    assert {stack: server.stop() for stack, server in servers.items()} == dict.fromkeys(servers, (0, "", ""))


@pytest.fixture(params=STACKS)
def shared(request: pytest.FixtureRequest, standing: Start) -> Server:
    """A server of each stack, for tests that need no settings and leave no trace."""
    return standing(request.param)


@pytest.fixture(params=SSE_STACKS)
def sse(request: pytest.FixtureRequest, standing: Start) -> Server:
    """A server of each stack that speaks SSE, for tests that need no settings and leave no trace."""
    return standing(request.param)


@pytest.fixture(params=STACKS)
def stack(request: pytest.FixtureRequest) -> str:
    """The name of every stack that speaks WebSocket."""
    return str(request.param)


@pytest.fixture(params=SSE_STACKS)
def sse_stack(request: pytest.FixtureRequest) -> str:
    """The name of every stack that speaks SSE."""
    return str(request.param)
