"""The append log and the emission log: what is written is read back, also after a kill."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import emissions

from servers import appendlog
from servers.appendlog import GROWTH_BYTES, AppendLog, read
from servers.emission_log import DTYPE, RECORD, EmissionLog, Ended, read_emissions
from servers.emitter import completion_id


def test_streams_beside_each_other(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = EmissionLog(path)
    first = log.open(completion_id("a", -5, 0), 1000, 0)
    second = log.open(completion_id("b", 2**63 - 1, 2**20 - 1), 1001, 7)
    log.token(second, 7, 2000, 2001)
    log.token(first, 0, 2002, 2003)
    log.close_stream(first, 3000, Ended.CANCELLED)
    log.close()
    one, two = emissions(path)
    assert (one["seed"], one["attempt"], one["tokens"], one["ended"]) == (-5, 0, [(0, 2002, 2003)], Ended.CANCELLED)
    assert (two["seed"], two["attempt"], two["first"]) == (2**63 - 1, 2**20 - 1, 7)
    assert (two["tokens"], two["ended"]) == ([(7, 2000, 2001)], None)


def test_the_dtype_is_the_record() -> None:
    numpy = pytest.importorskip("numpy")
    assert numpy.dtype(DTYPE).itemsize == struct.calcsize(RECORD) == 24


def test_without_a_path_nothing_is_kept(tmp_path: Path) -> None:
    log = EmissionLog(None)
    log.token(log.open(completion_id("a", 1, 0), 1, 0), 0, 1, 2)
    log.close()
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 2**62)), max_size=50), st.integers(0, 40))
def test_a_torn_tail_is_dropped(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int]], cut: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    log = AppendLog(path, "<Iq")
    for row in rows:
        log.append(*row)
    log.close()
    log.close()
    whole = b"".join(struct.pack("<Iq", *row) for row in rows)
    assert read(path, "<Iq") == whole
    kept = max(0, len(whole) - cut)
    os.truncate(path, kept)
    assert read(path, "<Iq") == whole[: kept // 12 * 12]


def test_growing_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appendlog, "GROWTH_BYTES", 4096)
    path = tmp_path / "log"
    log = AppendLog(path, RECORD)
    for i in range(1, 1000):
        log.append(i, i, i, i)
    log.close()
    assert read_emissions(path) == b"".join(struct.pack(RECORD, i, i, i, i) for i in range(1, 1000))


def test_a_killed_writer_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    code = (
        "import os, signal, sys; from servers.appendlog import AppendLog\n"
        "log = AppendLog(sys.argv[1], '<Iq')\n"
        "for i in range(300): log.append(i, 256)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -signal.SIGKILL
    assert path.stat().st_size == GROWTH_BYTES
    assert read(path, "<Iq") == b"".join(struct.pack("<Iq", i, 256) for i in range(300))


@pytest.mark.parametrize("path", ["/", "/nowhere/log"])
def test_a_path_that_cannot_be_written(path: str) -> None:
    with pytest.raises(OSError, match=path):
        AppendLog(path, RECORD)
