"""How an experiment goes, while it goes: one live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bench.drivers.plan import PhaseDone, Said, Tick
from bench.trial import Place

if TYPE_CHECKING:
    from rich.console import RenderableType


class Progress:
    """A watcher that shows the trial, the time left, open streams, tokens/s and the current median TTFT.

    It redraws when the driver speaks, twice a second, so that it takes next to nothing from the cores being measured.
    """

    def __init__(self, title: str, trials: int) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._title = title
        self._trials = trials
        self._done = 0
        self._began = time.monotonic()
        self._trial_began = self._began
        self._place: Place | None = None
        self._tick: Tick | None = None
        self._tick_at = 0.0
        self._tokens_per_s: float | None = None
        self._note = ""
        self._live = (
            Live(console=self._console, auto_refresh=False, transient=True) if self._console.is_terminal else None
        )

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._live is not None:
            self._live.stop()

    def begins(self, place: Place) -> None:
        """A trial is about to start."""
        self._place, self._tick, self._tokens_per_s = place, None, None
        self._trial_began = time.monotonic()
        self._draw()

    def heard(self, said: Said) -> None:
        """Take up what the driver said."""
        now = time.monotonic()
        match said:
            case Tick():
                if self._tick is not None and now > self._tick_at:
                    self._tokens_per_s = (said.tokens - self._tick.tokens) / (now - self._tick_at)
                self._tick, self._tick_at = said, now
                self._draw()
            case PhaseDone():
                self._draw()

    def ended(self, place: Place) -> None:
        """A trial is on disk."""
        self._done += 1
        took = time.monotonic() - self._trial_began
        self._trial_began = time.monotonic()
        if self._live is None:
            ttft = f", median TTFT {self._tick.ttft_ms:.2f} ms" if self._tick and self._tick.ttft_ms is not None else ""
            print(
                f"trial {self._done}/{self._trials}  block {place.block}  {place.arm}  {took:.1f} s{ttft}"
                f"  {self._left()} left",
                file=sys.stderr,
                flush=True,
            )
        self._draw()

    def stopping(self) -> None:
        """The user asked to stop."""
        self._note = "stopping after this trial; Ctrl-C again gives it up"
        if self._live is None:
            print(self._note, file=sys.stderr, flush=True)
        self._draw()

    def _left(self) -> str:
        if not self._done:
            return "?"
        now = time.monotonic()
        each = (self._trial_began - self._began) / self._done
        seconds = max(0.0, each * (self._trials - self._done) - (now - self._trial_began))
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"

    def _draw(self) -> None:
        if self._live is not None:
            self._live.update(self._panel(), refresh=True)

    def _panel(self) -> RenderableType:
        place, tick = self._place, self._tick
        table = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=self._trials, completed=self._done, width=32)
        table.add_row(
            Text(self._title, style="bold"), bar, f"{self._done} of {self._trials} trials", f"{self._left()} left"
        )
        if place is not None:
            figures = [f"block {place.block}", place.arm]
            if tick is not None:
                figures.append(f"{tick.phase}: {tick.open} streams open")
                if self._tokens_per_s is not None:
                    figures.append(f"{self._tokens_per_s:,.0f} tokens/s")
                if tick.ttft_ms is not None:
                    figures.append(f"median TTFT {tick.ttft_ms:.2f} ms")
            rows = Table.grid()
            rows.add_row(table)
            rows.add_row(Text("  ".join(figures), style="dim"))
            if self._note:
                rows.add_row(Text(self._note, style="yellow"))
            return rows
        return table
