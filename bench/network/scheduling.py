"""A network is not slower because a server is busy: a relay comes before those it serves, where that is permitted."""

from __future__ import annotations

import os

from servers.pacing import set_timer_slack


def come_first() -> str:
    """Wake this process without rounding and before all others; return how: "fifo", or "normal" where that is denied.

    Under sched(7)'s SCHED_FIFO a busy relay can starve a core, but the kernel keeps a twentieth of it for the others.
    """
    set_timer_slack()
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(os.sched_get_priority_min(os.SCHED_FIFO)))
    except (AttributeError, OSError):  # not Linux, or not root
        return "normal"
    return "fifo"
