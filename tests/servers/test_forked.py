"""What the tests of servers stand on: every forked server's end is told, however many end at once."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from serving import Server


@pytest.mark.parametrize("_round", range(3))
def test_the_end_of_each_is_told_when_all_end_at_once(tmp_path: Path, _round: int) -> None:
    servers = []
    for number in range(24):
        (tmp_path / str(number)).mkdir()
        servers.append(Server(tmp_path / str(number), "aiohttp", {}))
    for server in servers:
        os.kill(server.process.pid, signal.SIGKILL)
    assert [server.process.wait(10) for server in servers] == [-signal.SIGKILL] * len(servers)
    for server in servers:
        server.process.communicate()
