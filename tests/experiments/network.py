"""What the lines between driver and server add of their own, and how near they come to what is asked.

    python -m tests.experiments.network

Prints, for plain loopback, packets and the proxy: connects and round trips of 200 bytes one after another, at several
round-trip times; round trips under the load of token streams, with what the relay costs; bandwidth; and loss. Takes
about two minutes.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path as File
from typing import Any

from bench.network.between import By, Path, between, permitted
from bench.network.profiles import Network

PEER = str(File(__file__).parents[1] / "bench" / "network_peer.py")
TIMES = {0.0: 2000, 10.0: 300, 50.0: 100, 160.0: 50}
"""Round-trip time in ms -> how many are measured."""
STREAMS = (20, 50, 100)
RATES = (1.6, 20.0, 100.0, 200.0)
LOSSES = (0.001, 0.02)


@contextlib.contextmanager
def echo(path: Path) -> Iterator[int]:
    """A server at the far end of a path; its port."""
    command = [sys.executable, PEER, "serve", path.server_host]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=path.enter_server)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def ask(path: Path, what: str, port: int, times: int) -> dict[str, Any]:
    """What a client at the near end finds."""
    host, there = path.reach(path.server_host, port)
    command = [sys.executable, PEER, what, host, str(there), str(times)]
    done = subprocess.run(command, stdout=subprocess.PIPE, preexec_fn=path.enter_driver, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def spread(figures: list[float]) -> str:
    """Median and 99th percentile."""
    ranked = sorted(figures)
    return f"{ranked[len(ranked) // 2]:8.3f} {ranked[len(ranked) * 99 // 100]:8.3f}"


def one_by_one(by: By, rtt_ms: float) -> None:
    with between(Network(rtt_ms=rtt_ms), by, 1) as path, echo(path) as port:
        connects = ask(path, "connects", port, TIMES[rtt_ms] // 2)["took"]
        trips = ask(path, "ping", port, TIMES[rtt_ms])["trips"][1:]
        late = path.facts().get("late_us")
    line = "" if late is None else f"   {late['p50']:5} {late['p99']:6}"
    print(f"{path.kind:9} {rtt_ms:5.0f}   {spread(connects)}   {spread(trips)}{line}")


def under_load(by: By, streams: int) -> None:
    with between(Network(rtt_ms=0 if by == "auto" else 10), by, 1) as path, echo(path) as port:
        before = path.facts()
        trips = ask(path, "paced", port, streams)["trips"]
        facts = path.facts()
    line = ""
    if path.kind != "none":
        packets = facts["up"]["packets"] + facts["down"]["packets"]
        cost = (facts["cpu_us"] - before["cpu_us"]) / packets
        line = f"   {facts['late_us']['p50']:5} {facts['late_us']['p99']:6}   {packets:7} {cost:6.1f}"
    print(f"{path.kind:9} {streams:5}   {spread(trips)}{line}")


def bandwidth(by: By, mbps: float) -> None:
    with between(Network(rtt_ms=10, down_mbps=mbps), by, 1) as path, echo(path) as port:
        found = ask(path, "bulk", port, int(mbps * 1e6 / 8 * 3))
        facts = path.facts()
    down, packets = facts["down"], facts["up"]["packets"] + facts["down"]["packets"]
    print(
        f"{path.kind:9} {mbps:6.1f}   {down['bytes'] * 8 / found['seconds'] / 1e6:7.2f}   {down['overflowed']:6} "
        f"{down.get('unread', 0):6}   {packets:7} {facts['cpu_us'] / packets:6.1f}"
    )


def loss(by: By, share: float) -> None:
    with between(Network(rtt_ms=2, loss=share), by, 1) as path, echo(path) as port:
        found = ask(path, "bulk", port, 3_000_000)
        facts = path.facts()
    packets, lost = (facts["up"][what] + facts["down"][what] for what in ("packets", "lost"))
    print(f"{path.kind:9} {share:7.3%}   {lost / packets:7.3%} of {packets:6}   {found['seconds']:6.2f} s")


def main() -> None:
    """Print the tables."""
    relayed: tuple[By, ...] = ("proxy",) if permitted() else ("packets", "proxy")
    print("One after another, ms: median and p99\n")
    print("kind        rtt            connect          round trip   late p50, p99 us")
    one_by_one("auto", 0.0)
    for rtt_ms in TIMES:
        for by in relayed:
            one_by_one(by, rtt_ms)
    print("\nRound trips of streams at 50 a second each, ms, at an rtt of 10 ms (loopback: 0)\n")
    print("kind      streams    round trip   late p50, p99 us   packets, CPU us of the relay per packet")
    for streams in STREAMS:
        for by in ("auto", *relayed):
            under_load(by, streams)
    print("\nBandwidth down, Mbit/s, over three seconds' worth at an rtt of 10 ms\n")
    print("kind       asked       got   queue full, unread   packets, CPU us per packet")
    for mbps in RATES:
        for by in relayed:
            bandwidth(by, mbps)
    print("\nLoss\n")
    print("kind        asked       got              3 MB and back took")
    for share in LOSSES:
        for by in relayed:
            loss(by, share)


if __name__ == "__main__":
    main()
