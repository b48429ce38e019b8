"""An API key given to the driver goes to the server and nowhere else: no record, log, file, report or output has it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_driver import ONE, against, request_read
from tiny import tiny

KEY = "sk-proj-do-not-tell-0123456789"

SHAPES = {
    "sse": b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b",
    "websocket": b"HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b",
}


@pytest.mark.parametrize("protocol", SHAPES)
def test_a_server_that_repeats_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    monkeypatch.setenv("TOKENWIRE_API_KEY", KEY)
    asked: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await request_read(reader))
        body = b'{"error":{"message":"Incorrect API key provided: %b.","code":"invalid_api_key"}}' % KEY.encode()
        writer.write(SHAPES[protocol] % (len(body), body))
        writer.close()

    drive = asyncio.run(against("bench.drivers.asyncio_", handle, tmp_path, ONE, protocol=protocol))
    assert drive.code == 0
    assert f"Bearer {KEY}".encode() in asked[0]
    (record,) = drive.records
    assert (record.outcome, record.reason) == ("http_error", "http_401")
    assert record.detail == "401: invalid_api_key: Incorrect API key provided: ***."
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_nothing_of_a_run_has_the_key(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from bench.cli import main; main()", "run", str(tiny(tmp_path))]
    done = subprocess.run(
        [*command, "--results", str(tmp_path)],
        capture_output=True, timeout=120, check=False, env={**os.environ, "TOKENWIRE_API_KEY": KEY},
    )  # fmt: skip
    assert KEY.encode() not in done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "report.html" for path in files), done.stderr.decode()
    for path in files:
        assert KEY.encode() not in _plain(path), path


def _plain(path: Path) -> bytes:
    """What a file holds, with its compression undone."""
    data = path.read_bytes()
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        return data + repr(table.to_pydict()).encode() + repr(table.schema.metadata).encode()
    return data
