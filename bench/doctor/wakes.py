"""How late an idle event loop is woken: `python -m bench.doctor.wakes [CORE]` prints what it measured as JSON.

A process of its own, as light as a driver, kept to a core as a trial keeps its processes to theirs.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from time import monotonic_ns

from servers.pacing import Pacer, set_timer_slack

WAKE_NS = 2_000_000
PROBE_NS = 2_500_000
"""The driver probes its loop every 20 ms; more often here, to have two hundred in half a second."""
FOR_NS = 500_000_000


async def _late_ns(pacer: Pacer, first_ns: int, every_ns: int) -> list[int]:
    """How long after its due time each deadline was seen, in ns, sorted."""
    late = []
    for due_ns in range(first_ns, first_ns + FOR_NS, every_ns):
        await pacer.until(due_ns)
        late.append(monotonic_ns() - due_ns)
    return sorted(late)


async def _measure() -> dict[str, object]:
    pacer = Pacer(asyncio.get_running_loop())
    start_ns = monotonic_ns() + 10_000_000
    wakes, probes = await asyncio.gather(
        _late_ns(pacer, start_ns, WAKE_NS), _late_ns(pacer, start_ns + WAKE_NS // 2, PROBE_NS)
    )
    pacer.close()
    return {
        "timer": pacer.timer,
        "wake_p50_ns": wakes[len(wakes) // 2],
        "wake_p99_ns": wakes[len(wakes) * 99 // 100],
        "lag_p99_ns": probes[len(probes) * 99 // 100],
        "lag_max_ns": probes[-1],
    }


def main() -> None:
    """Measure and print."""
    import uvloop

    if len(sys.argv) > 1:
        os.sched_setaffinity(0, [int(sys.argv[1])])
    set_timer_slack()
    gc.disable()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(_measure())))


if __name__ == "__main__":
    main()
