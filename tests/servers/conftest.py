"""Fixtures that start servers and see to it that they end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Server

Start = Callable[..., Server]


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


@pytest.fixture(scope="session", params=STACKS)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of each stack, for tests that need no settings and leave no trace."""
    server = Server(tmp_path_factory.mktemp(request.param), request.param, {})
    yield server
    assert server.stop() == (0, "", "")


@pytest.fixture(scope="session", params=SSE_STACKS)
def sse(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of each stack that speaks SSE, for tests that need no settings and leave no trace."""
    server = Server(tmp_path_factory.mktemp("sse"), request.param, {})
    yield server
    assert server.stop() == (0, "", "")


@pytest.fixture(params=STACKS)
def stack(request: pytest.FixtureRequest) -> str:
    """The name of every stack that speaks WebSocket."""
    return str(request.param)


@pytest.fixture(params=SSE_STACKS)
def sse_stack(request: pytest.FixtureRequest) -> str:
    """The name of every stack that speaks SSE."""
    return str(request.param)
