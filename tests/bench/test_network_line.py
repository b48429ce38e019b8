"""The line as arithmetic, on answers known beforehand."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from bench.network.flow import HEADER_BYTES, RTO_NS, SYN_RTO_NS, TRIES, WINDOW_BYTES, End, Flow, handshake
from bench.network.lateness import Lateness
from bench.network.line import Line
from bench.network.pieces import Pieces
from bench.network.profiles import Network

MS = 1_000_000
S = 1_000_000_000


def test_a_packet_flies_for_half_a_round_trip() -> None:
    line = Line(Network(rtt_ms=10), "up", seed=1)
    assert [line.take(now, 100) for now in (0, 0, 3, MS)] == [5 * MS, 5 * MS, 5 * MS + 3, 6 * MS]


def test_packets_are_sent_one_after_another_at_the_rate_of_their_direction() -> None:
    network = Network(rtt_ms=20, down_mbps=12, up_mbps=6)
    down, up = Line(network, "down", seed=1), Line(network, "up", seed=1)
    # 1,500 bytes are 12,000 bits: 1 ms at 12 Mbit/s.
    assert [down.take(0, 1500) for _ in range(3)] == [11 * MS, 12 * MS, 13 * MS]
    assert up.take(0, 1500) == 12 * MS
    assert down.take(3 * MS, 1500) == 14 * MS
    assert down.take(50 * MS, 1500) == 61 * MS, "an idle line has saved nothing up"


def test_what_would_wait_too_long_is_dropped() -> None:
    line = Line(Network(rtt_ms=0, down_mbps=12, queue_ms=10), "down", seed=1)
    taken = [line.take(0, 1500) for _ in range(20)]
    # The twelfth would wait 11 ms.
    assert taken == [n * MS for n in range(1, 12)] + [None] * 9
    assert line.overflowed == 9
    assert line.take(MS, 1500) == 12 * MS


@pytest.mark.parametrize("loss", [0.001, 0.02, 0.5])
def test_the_share_lost_is_the_share_asked_for(loss: float) -> None:
    line, packets = Line(Network(rtt_ms=1, loss=loss), "up", seed=7), 50_000
    lost = sum(line.take(now, 100) is None for now in range(packets))
    # Within 4 standard deviations of the binomial.
    assert abs(lost - loss * packets) < 4 * (packets * loss * (1 - loss)) ** 0.5
    assert line.counts() == {"packets": packets, "bytes": 100 * packets, "lost": lost, "overflowed": 0, "cut": 0}


def test_losses_are_independent() -> None:
    line = Line(Network(rtt_ms=1, loss=0.2), "up", seed=3)
    fates = [line.take(now, 100) is None for now in range(50_000)]
    both = sum(a and b for a, b in pairwise(fates))
    assert abs(both / len(fates) - 0.04) < 0.005


def test_jitter_is_spread_evenly_when_packets_are_far_apart() -> None:
    line = Line(Network(rtt_ms=10, jitter_ms=4), "down", seed=5)
    flights = [(line.take(now, 100) or 0) - now for now in range(0, 5000 * 10 * MS, 10 * MS)]
    assert 5 * MS <= min(flights) < 5.1 * MS
    assert 8.9 * MS < max(flights) < 9 * MS
    assert abs(sum(flights) / len(flights) - 7 * MS) < 0.07 * MS  # 4 standard errors


def test_packets_stay_in_order_whatever_the_jitter() -> None:
    line = Line(Network(rtt_ms=10, jitter_ms=40, down_mbps=50, loss=0.1), "down", seed=5)
    gaps = Random(1)
    now, last, came = 0, 0, 0
    for _ in range(5000):
        now += gaps.randrange(2 * MS)
        due = line.take(now, 1500)
        if due is not None:
            assert due >= max(last, now + 5 * MS)
            last, came = due, came + 1
    assert came > 4000


def test_nothing_gets_through_while_the_line_is_cut() -> None:
    line = Line(Network(rtt_ms=2, cut_every_s=2, cut_ms=500), "up", seed=1, start_ns=100 * S)
    through = [line.take(100 * S + ms * MS, 100) is not None for ms in range(0, 7000, 100)]
    assert [n * 100 for n, passed in enumerate(through) if not passed] == [
        *range(2000, 2500, 100),
        *range(4000, 4500, 100),
        *range(6000, 6500, 100),
    ]
    assert line.cut == 15


def test_a_seed_is_the_same_line_again_and_directions_differ() -> None:
    network = Network(rtt_ms=10, jitter_ms=5, loss=0.3)

    def dues(direction: str, seed: int) -> list[int | None]:
        line = Line(network, direction, seed)  # type: ignore[arg-type]
        return [line.take(now * MS, 100) for now in range(100)]

    assert dues("up", 1) == dues("up", 1)
    assert dues("up", 1) != dues("up", 2)
    assert dues("up", 1) != dues("down", 1)


def test_which_packets_are_lost_does_not_depend_on_jitter() -> None:
    with_jitter, without = (Line(Network(rtt_ms=10, jitter_ms=j, loss=0.3), "up", seed=1) for j in (5, 0))
    fates = [(with_jitter.take(now, 100) is None, without.take(now, 100) is None) for now in range(500)]
    assert all(a == b for a, b in fates)


class Fated(Line):
    """A line that loses just the packets named, counted from 1."""

    def __init__(self, network: Network, *lost: int) -> None:
        super().__init__(network, "down", seed=1)
        self._lost_ones, self._seen = lost, 0

    def loses(self) -> bool:
        self._seen += 1
        return self._seen in self._lost_ones


def drain(flow: Flow) -> list[tuple[int, bytes | End]]:
    """When what comes out, in ms."""
    out = []
    while (due := flow.next_ns()) is not None:
        out.append((due // MS, flow.take()))
    return out


def test_a_stream_comes_out_whole_at_the_rate_of_the_line() -> None:
    line = Line(Network(rtt_ms=20, down_mbps=12), "down", seed=1)
    flow, sent = Flow(line, 20 * MS), Random(1).randbytes(5000)
    flow.put(0, sent)
    flow.put(0, End.FINISHED)
    assert flow.bytes == 5000
    out = drain(flow)
    assert b"".join(item for _, item in out if isinstance(item, bytes)) == sent
    assert [ms for ms, _ in out] == [11, 12, 13, 13, 13]
    assert out[-1][1] is End.FINISHED
    assert line.bytes == 5000 + 5 * HEADER_BYTES
    assert flow.bytes == 0


def test_streams_share_the_bandwidth() -> None:
    line = Line(Network(rtt_ms=0, down_mbps=12), "down", seed=1)
    one, other = Flow(line, 0), Flow(line, 0)
    one.put(0, bytes(1448))
    other.put(0, bytes(1448))
    assert (one.next_ns(), other.next_ns()) == (MS, 2 * MS)


def test_a_lost_last_segment_waits_for_the_timer() -> None:
    flow = Flow(Fated(Network(rtt_ms=20), 2), 20 * MS)
    for now_ms in (0, 1, 2):
        flow.put(now_ms * MS, b"x")
    assert [ms for ms, _ in drain(flow)] == [10, 10 + 1 + 20 + RTO_NS // MS, 10 + 1 + 20 + RTO_NS // MS]


def test_three_later_segments_tell_of_a_lost_one_a_round_trip_later() -> None:
    flow = Flow(Fated(Network(rtt_ms=20), 2), 20 * MS)
    for now_ms in (0, 5, 10, 15, 20, 25):
        flow.put(now_ms * MS, b"x")
    # The third after it arrives at 30: asked for again, it comes a round trip after that.
    assert [ms for ms, _ in drain(flow)] == [10, 50, 50, 50, 50, 50]


def test_a_segment_lost_twice_waits_for_the_timer_whatever_follows() -> None:
    flow = Flow(Fated(Network(rtt_ms=20), 1, 2), 20 * MS)
    for now_ms in range(6):
        flow.put(now_ms * MS, b"x")
    assert {ms for ms, _ in drain(flow)} == {10 + 3 * (20 + RTO_NS // MS)}


def test_a_loss_on_one_stream_holds_no_other() -> None:
    line = Fated(Network(rtt_ms=20), 1)
    one, other = Flow(line, 20 * MS), Flow(line, 20 * MS)
    one.put(0, b"x")
    other.put(0, b"x")
    assert other.next_ns() == 10 * MS


def test_a_cut_is_waited_out_as_tcp_tries_again() -> None:
    network = Network(rtt_ms=20, cut_every_s=1, cut_ms=500)
    flow = Flow(Line(network, "down", seed=1), 20 * MS)
    flow.put(990 * MS, b"x")
    flow.put(1100 * MS, b"x")
    # Again after 220 ms, cut still, and 440 ms after that.
    assert [ms for ms, _ in drain(flow)] == [1000, 1100 + 220 + 440 + 10]


def test_a_stream_is_crowded_when_the_queue_or_the_window_is_full() -> None:
    flow = Flow(Line(Network(rtt_ms=0, down_mbps=12, queue_ms=10), "down", seed=1), 0)
    flow.put(0, bytes(10 * 1448))
    assert flow.crowded_ns(0) == 0
    flow.put(0, bytes(2 * 1448))
    assert flow.crowded_ns(0) == 2 * MS
    wide = Flow(Line(Network(rtt_ms=10), "down", seed=1), 10 * MS)
    wide.put(0, bytes(WINDOW_BYTES))
    assert wide.crowded_ns(MS) == 4 * MS
    wide.take()
    assert wide.crowded_ns(MS) == 0


def test_a_handshake_takes_a_round_trip_and_a_second_more_when_it_is_lost() -> None:
    network = Network(rtt_ms=20)
    assert handshake(Fated(network), Fated(network), 0) == (10 * MS, 20 * MS)
    for lost in ((Fated(network, 1), Fated(network)), (Fated(network), Fated(network, 1))):
        assert handshake(*lost, 0) == (SYN_RTO_NS + 10 * MS, SYN_RTO_NS + 20 * MS)


def test_a_cut_that_keeps_time_with_the_timers_is_got_through() -> None:
    # Every try a second, two and four later meets a cut.
    network = Network(rtt_ms=20, cut_every_s=1, cut_ms=100)
    line = Line(network, "up", seed=1)
    assert handshake(line, Line(network, "down", seed=1), 1010 * MS) == (64 * S + 20 * MS, 64 * S + 30 * MS)
    always = Line(Network(rtt_ms=20, cut_every_s=1, cut_ms=1000), "down", seed=1)
    flow = Flow(always, 20 * MS)
    flow.put(2 * S, b"x")
    assert flow.next_ns() == 827 * S + 70 * MS  # 10 waits that double from 220 ms, 5 of 120 s, and the flight
    assert always.cut == TRIES


@pytest.mark.parametrize("size", [1, 2, 7, 20, 100])
def test_pieces_are_cut_where_asked_however_the_stream_comes(size: int) -> None:
    pieces, data = Pieces((3, 5, 2)), bytes(range(20))
    cut = [piece for start in range(0, 20, size) for piece in pieces.cut(data[start : start + size])]
    assert b"".join(cut) == data
    ends = {sum(map(len, cut[: n + 1])) for n in range(len(cut))}
    assert ends == {3, 8, *range(10, 21, 2)} | set(range(size, 21, size))


def test_lateness_is_told_in_us() -> None:
    late = Lateness()
    assert late.summary() is None
    for us in range(1, 101):
        late.add(us * 1000 - 1)
    assert late.summary() == {"p50": 50, "p99": 99, "max": 99.999}
    late.add(3 * S)
    summary = late.summary()
    assert summary is not None
    assert summary["max"] == 3e6
