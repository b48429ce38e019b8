"""The loopback capture read back: made-up packets, no rights needed."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pandas as pd
import pytest

from tests.experiments.capture import checks, figures, match, to_monotonic
from tests.experiments.capture_packets import RECORD, Captured, attach_filter, clock_pair, parse

OFFSET = -1_700_000_000_000_000_000
"""Of the monotonic clock from the realtime one."""
T = 1_700_000_100_000_000_000
ID, OTHER = "chatcmpl-0a", "chatcmpl-0b"


def chunk(completion: str, delta: str) -> bytes:
    return (
        f'{{"id":"{completion}","object":"chat.completion.chunk","created":1,"model":"chat","choices":'
        f'[{{"index":0,"delta":{{{delta}}},"finish_reason":null}}]}}'
    ).encode()


def content(completion: str, text: str = "token") -> bytes:
    return chunk(completion, f'"content":"{text}"')


def sse(payload: bytes) -> bytes:
    return b"%x\r\ndata: %b\n\n\r\n" % (len(payload) + 8, payload)


def frame(payload: bytes) -> bytes:
    return b"\x81\x7e" + struct.pack(">H", len(payload)) + payload


def packet(payload: bytes, sequence: int = 0, port: int = 50_000, protocol: int = 6, options: int = 0) -> bytes:
    """An IPv4 packet to `port` of loopback; `options` bytes of them in each header."""
    ip, tcp = 20 + options, 20 + options
    total = ip + tcp + len(payload)
    address = socket.inet_aton("127.0.0.1")
    head = struct.pack(">BBHHHBBH4s4s", 0x40 | ip // 4, 0, total, 0, 0, 64, protocol, 0, address, address)
    segment = struct.pack(">HHIIBBHHH", 8000, port, sequence % 2**32, 0, tcp // 4 << 4, 0x10, 1, 0, 0)
    return head + bytes(options) + segment + bytes(options) + payload


def captured(folder: Path, *packets: tuple[int, bytes]) -> Captured:
    """What `parse` makes of (stamp after T, packet) with a reading of the clocks before and after."""
    file = folder / "packets"
    with file.open("wb") as out:
        out.write(RECORD.pack(T, T + OFFSET, 0))
        for stamp, data in packets:
            out.write(RECORD.pack(T + stamp, 0, len(data)) + data)
        out.write(RECORD.pack(T + 10**9, T + 10**9 + OFFSET, 0))
    return parse(file)


def sent(folder: Path, payloads: list[bytes], first_sequence: int = 0) -> Captured:
    """Payloads in a segment each, stamped 10, 20, ..."""
    at, packets = first_sequence, []
    for number, payload in enumerate(payloads, 1):
        packets.append((number * 10, packet(payload, at)))
        at += len(payload)
    return captured(folder, *packets)


@pytest.mark.parametrize("framed", [sse, frame])
def test_content_chunks_and_nothing_else_count(tmp_path: Path, framed: object) -> None:
    assert callable(framed)
    role, stop = chunk(ID, '"role":"assistant","content":""'), chunk(ID, "")
    payloads = [b"HTTP/1.1 200 OK\r\n\r\n", role, content(ID), content(ID, r"a \"quoted\" {brace}"), stop, b"[DONE]"]
    got = sent(tmp_path, [framed(payload) for payload in payloads])
    assert got.stamps == {ID: [T + 30, T + 40]}
    assert got.split == 0


def test_chunks_in_one_segment_share_its_stamp(tmp_path: Path) -> None:
    role = sse(chunk(ID, '"role":"assistant","content":""'))
    got = sent(tmp_path, [role + sse(content(ID)) + sse(content(ID)), sse(content(ID)) + sse(content(OTHER))])
    assert got.stamps == {ID: [T + 10, T + 10, T + 20], OTHER: [T + 20]}


@pytest.mark.parametrize("cut", range(1, len(content(ID))))
def test_a_cut_chunk_is_stamped_where_its_content_begins(tmp_path: Path, cut: int) -> None:
    data = content(ID)
    start, end = data.index(b"token"), data.index(b"token") + len(b"token")
    # The numbers of TCP's bytes begin anew in the midst of it.
    got = sent(tmp_path, [data[:cut], data[cut:]], first_sequence=2**32 - 50)
    assert got.stamps == {ID: [T + (10 if start < cut else 20)]}
    assert got.split == (start < cut < end)


def test_segments_sent_again_count_once(tmp_path: Path) -> None:
    one, two = content(ID, "one"), content(ID, "two")
    packets = [(10, packet(one)), (20, packet(one)), (30, packet(one[50:] + two, 50)), (40, packet(two, len(one)))]
    got = captured(tmp_path, *packets)
    assert got.stamps == {ID: [T + 10, T + 30]}


def test_what_is_missing_joins_nothing(tmp_path: Path) -> None:
    data = content(ID)
    got = captured(tmp_path, (10, packet(data[:60])), (20, packet(data[90:], 90)), (30, packet(data, len(data))))
    assert got.stamps == {ID: [T + 30]}


def test_connections_are_kept_apart(tmp_path: Path) -> None:
    data = content(ID)
    other = content(OTHER)
    got = captured(
        tmp_path,
        (10, packet(data[:100])),
        (20, packet(other[:100], port=50_001, options=12)),
        (30, packet(data[100:], 100, options=12)),
        (40, packet(other[100:], 100, port=50_001)),
    )
    begins = data.index(b"token") < 100
    assert got.stamps == {ID: [T + (10 if begins else 30)], OTHER: [T + (20 if begins else 40)]}


def test_stamps_are_turned_by_the_readings_around_them() -> None:
    clocks = [(T, T + OFFSET), (T + 1000, T + 1000 + OFFSET), (T + 2000, T + 2000 + OFFSET + 500)]
    real = pd.Series([T - 7, T, T + 999, T + 1000, T + 1500, T + 2000, T + 2001])
    shifts = (to_monotonic(real, clocks) - real - OFFSET).tolist()
    assert shifts == [0, 0, 0, 0, 250, 500, 500]


def test_readings_of_both_clocks_are_of_one_moment() -> None:
    (real, mono), (real_after, mono_after) = clock_pair(), clock_pair()
    assert mono_after > mono
    assert abs((real_after - real) - (mono_after - mono)) < 1_000_000  # else they are not a pair


def rows(completion: str, written: list[int]) -> pd.DataFrame:
    """A stream's chunks in a trial's records, each received 200 ns after it was written."""
    base = T + OFFSET
    return pd.DataFrame(
        {
            "completion_id": completion,
            "chunk": pd.array(range(len(written)), "Int32"),
            "written_ns": pd.array([base + ns for ns in written], "Int64"),
            "received_ns": pd.array([base + ns + 200 for ns in written], "Int64"),
        }
    )


def test_chunks_find_their_packets_whole_streams_only() -> None:
    clocks = [(T, T + OFFSET), (T + 10**9, T + OFFSET + 10**9)]
    stamps = {ID: [T + 1100, T + 2100], OTHER: [T + 1500], "chatcmpl-stranger": [T]}
    got = Captured(stamps, clocks, split=0)
    matched = match(pd.concat([rows(ID, [1000, 2000]), rows(OTHER, [1000, 2000])]), got)
    assert (matched["packet_ns"] - matched["written_ns"]).tolist()[:2] == [100, 100]
    assert matched["packet_ns"].isna().tolist() == [False, False, True, True]
    counts = {"unmatched": 2, "out_of_order": 0, "split": 0, "clock_moved_ns": 0, "driver_p99": 0.1}
    assert checks(matched, got) == pytest.approx(counts)


@pytest.mark.parametrize("stamp", [999, 1201])
def test_a_packet_outside_its_delivery_is_noticed(stamp: int) -> None:
    got = Captured({ID: [T + stamp]}, [(T, T + OFFSET), (T + 10**9, T + OFFSET + 10**9)], split=0)
    assert checks(match(rows(ID, [1000]), got), got)["out_of_order"] == 1


def test_figures_are_of_each_span() -> None:
    got = Captured({ID: [T + 1030, T + 2090]}, [(T, T + OFFSET), (T + 10**9, T + OFFSET + 10**9)], split=0)
    matched = match(rows(ID, [1000, 2000]), got).assign(capture=True, arm="a", phase="chat", block=1)
    columns = ["count", "server_p50", "driver_p50"]
    found = figures(matched).set_index(["content", "phase"])[columns].to_dict("index")
    assert found["first", "chat"] == pytest.approx(dict(zip(columns, [1, 0.03, 0.17], strict=True)))
    assert found["all", "both"] == pytest.approx(dict(zip(columns, [2, 0.06, 0.14], strict=True)))


@pytest.mark.skipif(not hasattr(socket, "AF_PACKET"), reason="the filter is for Linux")
def test_the_filter_passes_segments_with_a_payload() -> None:
    passing = [packet(b"x"), packet(b"x", options=12), packet(b"x" * 300)]
    others = [packet(b""), packet(b"", options=12), packet(b"x", protocol=17)]
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        attach_filter(far)
        far.setblocking(False)
        for data in [*others, *passing, *others]:
            near.send(data)
        assert [far.recv(1000) for _ in passing] == passing
        with pytest.raises(BlockingIOError):
            far.recv(1000)
