"""Packets of the loopback interface with the kernel's own stamps: recorded by a process of its own, parsed afterwards.

`python -m tests.experiments.capture_packets FILE [CPU ...]` records until its standard input closes. Linux only.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import select
import socket
import struct
import sys
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from time import CLOCK_REALTIME, clock_gettime_ns, monotonic_ns
from typing import NamedTuple

RECORD = struct.Struct("<qqI")
"""CLOCK_REALTIME ns, CLOCK_MONOTONIC ns (0 for a packet), bytes that follow (none for a reading of both clocks)."""
DRAIN_S = 0.01
"""Packets are fetched this often and not as they come: nobody waits on the socket, so a packet wakes nobody."""
READINGS_S = 0.1
BUFFER_BYTES = 256 << 20
BIGGEST_PACKET = 1 << 17

# <linux/if_ether.h>, <asm-generic/socket.h>, <linux/if_packet.h>
ETH_P_ALL, ETH_P_IP = 0x0003, 0x0800
SO_ATTACH_FILTER, SO_RCVBUFFORCE, SO_TIMESTAMPNS = 26, 33, 35
SOL_PACKET, PACKET_HOST, PACKET_STATISTICS, PACKET_IGNORE_OUTGOING = 263, 0, 6, 23

TCP_WITH_PAYLOAD = (
    (0x30, 0, 0, 9),  # A = protocol of the IPv4 header
    (0x15, 0, 8, 6),  # not TCP: drop
    (0xB1, 0, 0, 0),  # X = length of the IPv4 header
    (0x50, 0, 0, 12),  # A = data offset of the TCP header, in its upper half
    (0x54, 0, 0, 0xF0),
    (0x74, 0, 0, 2),
    (0x0C, 0, 0, 0),  # A = both headers
    (0x07, 0, 0, 0),
    (0x80, 0, 0, 0),  # A = length of the packet
    (0x2D, 1, 0, 0),  # more than the headers: keep
    (0x06, 0, 0, 0),
    (0x06, 0, 0, 0xFFFFFFFF),
)
"""A filter in classic BPF: code, jump if true, jump if false, operand. Bare acknowledgements are half of all."""
CHUNK = re.compile(rb'"id":"(chatcmpl-[^"]+)"[^{}\n]*\{[^{}\n]*"delta":\{[^{}"\n]*"content":"((?:[^"\\\n]|\\.)+)"')
"""A chunk's completion id and its content, which is not empty; the role chunk's is."""

_MASK = 0xFFFF_FFFF


def attach_filter(sock: socket.socket) -> None:
    """Have `sock` see only what `TCP_WITH_PAYLOAD` lets pass. Raises `OSError`."""
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in TCP_WITH_PAYLOAD))
    sock.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(TCP_WITH_PAYLOAD), ctypes.addressof(program))
    )


def open_capture() -> socket.socket:
    """A socket that gets the TCP segments loopback takes in. Raises `OSError`; `PermissionError` without the right.

    A packet on loopback passes twice, out and in; the second is nearer to its reader. TCP's packets get their stamp
    when they are queued here (`skb_clear_delivery_time` in the kernel's `packet_rcv`). Bound to all protocols, this
    socket is served before IP; bound to IPv4 it would be behind it, and some stamps later than the reader's own.
    """
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    try:
        attach_filter(sock)
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        except PermissionError:  # takes CAP_NET_ADMIN; what the smaller one cannot hold is counted as dropped
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        sock.bind(("lo", ETH_P_ALL))
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def clock_pair(tries: int = 20) -> tuple[int, int]:
    """CLOCK_REALTIME and CLOCK_MONOTONIC of one moment, ns: the narrowest of `tries` bracketed readings."""
    width, best = 1 << 62, (0, 0)
    for _ in range(tries):
        before, real, after = monotonic_ns(), clock_gettime_ns(CLOCK_REALTIME), monotonic_ns()
        if after - before < width:
            width, best = after - before, (real, (before + after) // 2)
    return best


def record(path: Path, cpus: set[int]) -> None:
    """Write packets and clock readings to `path` until standard input closes, then say on standard output how many.

    Keeps to `cpus`, if any. Raises `OSError`.
    """
    if cpus:
        os.sched_setaffinity(0, cpus)
    # Only when nothing else wants the core: whatever the server has to do comes first.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    packets = read_ns = 0
    buffer = bytearray(BIGGEST_PACKET)
    view = memoryview(buffer)
    with open_capture() as sock, path.open("wb", buffering=1 << 20) as file:
        print("ready", flush=True)
        going = True
        while going:
            going = not select.select([0], [], [], DRAIN_S)[0]
            if not going or monotonic_ns() - read_ns > READINGS_S * 1e9:
                real, read_ns = clock_pair()
                file.write(RECORD.pack(real, read_ns, 0))
            while True:
                try:
                    size, extra, _, address = sock.recvmsg_into([buffer], 64)
                except BlockingIOError:
                    break
                if address[1:3] != (ETH_P_IP, PACKET_HOST):
                    continue
                seconds, ns = struct.unpack("qq", extra[0][2])
                file.write(RECORD.pack(seconds * 1_000_000_000 + ns, 0, size))
                file.write(view[:size])
                packets += 1
        _, dropped = struct.unpack("II", sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    print(json.dumps({"packets": packets, "dropped": dropped}), flush=True)


class Flow:
    """One direction of one TCP connection: its bytes, and where in them each segment begins."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.starts: list[int] = []
        self.stamps: list[int] = []
        self._next: int | None = None

    def add(self, stamp: int, sequence: int, payload: bytes) -> None:
        """Append what is new of a segment, behind a newline if others are missing before it."""
        ahead = 0 if self._next is None else (sequence - self._next) & _MASK
        if ahead > _MASK // 2:
            payload, sequence = payload[_MASK + 1 - ahead :], sequence + _MASK + 1 - ahead
        elif ahead:
            self.data += b"\n"
        if payload:
            self.starts.append(len(self.data))
            self.stamps.append(stamp)
            self.data += payload
            self._next = (sequence + len(payload)) & _MASK

    def chunks(self) -> Iterator[tuple[str, int, bool]]:
        """Completion id, stamp of the segment with the content's first byte, whether the content ends in another."""
        for found in CHUNK.finditer(self.data):
            first, last = (bisect_right(self.starts, at) for at in (found.start(2), found.end(2) - 1))
            yield found[1].decode(), self.stamps[first - 1], first != last


class Captured(NamedTuple):
    """What a capture says of the content chunks that crossed loopback; stamps are CLOCK_REALTIME ns."""

    stamps: dict[str, list[int]]
    """By completion id, chunk by chunk in order."""
    clocks: list[tuple[int, int]]
    """CLOCK_REALTIME and CLOCK_MONOTONIC of the same moments, ns."""
    split: int
    """Chunks whose content began in one segment and ended in another."""


def parse(path: Path) -> Captured:
    """Read what `record` wrote. Raises `OSError`."""
    data = path.read_bytes()
    flows: defaultdict[bytes, Flow] = defaultdict(Flow)
    clocks = []
    at = 0
    while at < len(data):
        real, mono, size = RECORD.unpack_from(data, at)
        at += RECORD.size
        if size:
            ip = data[at : at + size]
            tcp = ip[(ip[0] & 15) * 4 :]
            (sequence,) = struct.unpack_from(">I", tcp, 4)
            flows[ip[12:20] + tcp[:4]].add(real, sequence, tcp[(tcp[12] >> 4) * 4 :])  # by addresses and ports
            at += size
        else:
            clocks.append((real, mono))
    stamps: defaultdict[str, list[int]] = defaultdict(list)
    split = 0
    for flow in flows.values():
        for completion, real, is_split in flow.chunks():
            stamps[completion].append(real)
            split += is_split
    return Captured(dict(stamps), clocks, split)


if __name__ == "__main__":
    record(Path(sys.argv[1]), {int(cpu) for cpu in sys.argv[2:]})
