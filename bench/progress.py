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
from bench.paired import FEWEST_BLOCKS
from bench.scenario import Scenario
from bench.trial import Place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from bench.precision import Width


class Progress:
    """A watcher that shows the block, the time left, open streams, tokens/s, and the intervals narrowing.

    It redraws when a driver speaks, twice a second, so that it takes next to nothing from the cores being measured.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._title = scenario.name
        self._budget_s = scenario.experiment.budget_s
        self._planned = scenario.experiment.blocks
        self._valid = self._void = 0
        self._began = self._block_began = time.monotonic()
        self._block = 0
        self._slowest_s = 0.0
        self._arm = ""
        self._tick: Tick | None = None
        self._tick_at = 0.0
        self._tokens_per_s: float | None = None
        self._widths: Sequence[Width] = ()
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

    def begins(self, block: int, places: Sequence[Place]) -> None:
        """A block is about to start."""
        self._block, self._arm = block, places[0].arm
        self._tick, self._tokens_per_s = None, None
        self._block_began = time.monotonic()
        self._draw()

    def heard(self, place: Place, said: Said) -> None:
        """Take up what a driver said."""
        now = time.monotonic()
        if place.arm != self._arm:
            self._arm, self._tick, self._tokens_per_s = place.arm, None, None
        match said:
            case Tick():
                if self._tick is not None and now > self._tick_at:
                    self._tokens_per_s = (said.tokens - self._tick.tokens) / (now - self._tick_at)
                self._tick, self._tick_at = said, now
                self._draw()
            case PhaseDone():
                self._draw()

    def ended(self, block: int, reasons: Sequence[str], widths: Sequence[Width]) -> None:
        """A block is on disk."""
        took = time.monotonic() - self._block_began
        if block:
            self._slowest_s = max(self._slowest_s, took)
            self._valid, self._void = self._valid + (not reasons), self._void + bool(reasons)
            self._widths = widths
        self._block_began = time.monotonic()
        if self._live is None:
            line = f"block {block} of {self._of()}  {took:.1f} s" if block else f"roofline  {took:.1f} s"
            print(f"{line}  {self._left()} left", file=sys.stderr)
            for width in widths if not reasons else ():
                print(f"    {_width(width)}", file=sys.stderr)
        for reason in reasons:
            self._console.print(Text(f"block {block} is void and runs again: {reason}", style="yellow"))
        sys.stderr.flush()
        self._draw()

    def stopping(self) -> None:
        """The user asked to stop."""
        self._note = "stopping after this block; Ctrl-C again gives it up"
        if self._live is None:
            print(self._note, file=sys.stderr, flush=True)
        self._draw()

    def _of(self) -> str:
        return str(self._planned + self._void) if self._budget_s is None else "as many as needed"

    def _left(self) -> str:
        now = time.monotonic()
        if self._budget_s is not None:
            seconds = max(0.0, self._budget_s - (now - self._began))
            return f"at most {int(seconds) // 60}:{int(seconds) % 60:02d}"
        if not self._slowest_s:
            return "?"
        seconds = max(0.0, self._slowest_s * (self._planned - self._valid) - (now - self._block_began))
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"

    def _draw(self) -> None:
        if self._live is not None:
            self._live.update(self._panel(), refresh=True)

    def _panel(self) -> RenderableType:
        tick = self._tick
        table = Table.grid(padding=(0, 2))
        done = f"{self._valid} of {self._planned} blocks" if self._budget_s is None else f"{self._valid} blocks"
        bar = ProgressBar(total=self._planned, completed=self._valid, width=32)
        table.add_row(
            Text(self._title, style="bold"), *([bar] if self._budget_s is None else []), done, f"{self._left()} left"
        )
        figures = [f"block {self._block}" if self._block else "roofline", self._arm]
        if tick is not None:
            figures.append(f"{tick.phase}: {tick.open} streams open")
            if self._tokens_per_s is not None:
                figures.append(f"{self._tokens_per_s:,.0f} tokens/s")
            if tick.ttft_ms is not None:
                figures.append(f"median TTFT {tick.ttft_ms:.2f} ms")
        rows = Table.grid()
        rows.add_row(table)
        rows.add_row(Text("  ".join(figures), style="dim"))
        if 0 < self._valid < FEWEST_BLOCKS:
            rows.add_row(Text(f"{self._valid} of the {FEWEST_BLOCKS} blocks that a verdict needs", style="dim"))
        for width in self._widths:
            rows.add_row(Text(_width(width), style="dim" if width.narrow else ""))
        if self._note:
            rows.add_row(Text(self._note, style="yellow"))
        return rows


def _width(width: Width) -> str:
    """`first-token, protocol: +0.31 ± 0.08 ms (smallest effect 0.1 ms)`. What it means is for the report to say."""
    scale, unit = (1, width.unit) if width.unit else (100, "%")
    smallest = f"smallest effect {width.smallest_effect * scale:g} {unit}"
    middle = f"{width.primary}, {width.contrast}: {width.estimate * scale:+.2f}"
    if width.half90 is None:
        return f"{middle} {unit}, too few blocks for an interval ({smallest})"
    return f"{middle} ± {width.half90 * scale:.2g} {unit} ({smallest})"
