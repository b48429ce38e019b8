"""The half that adds up, shows and judges: in the master, and in a Locust that runs alone. Has no streams."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from time import monotonic_ns
from typing import Any

import gevent
from locust.runners import STATE_MISSING, STATE_RUNNING, STATE_SPAWNING, LocalRunner, MasterRunner

from bench.arrivals import NS, derive_seed, endless_offsets
from bench.swarm import page, show
from bench.swarm.conclusion import CODES, Conclusion, conclude
from bench.swarm.figures import Figures
from bench.swarm.options import Options
from bench.swarm.worker import ARRIVALS, CLEAR, FINISH, REPORT, short
from bench.swarm.workers import Workers, read_report

LOOK_S = 0.5
"""How often it is looked who is there, and who arrives next."""
AHEAD_NS = int(1.5 * NS)
"""Workers are told of arrivals so long before."""
FILL_NS = 2 * NS
"""Locust's own tables are filled anew no more often."""
PATIENCE_S = 10.0
"""Besides the time that a stream may take: how long a worker may take to finish."""


class Master:
    """One Locust's tests, one after another. `environment` and its runner are Locust's."""

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        self._runner = environment.runner
        self._workers = Workers()
        self._options: Options | None = None
        self._folder = Path()
        self._began_ns = 0
        self._testing = self._hurried = False
        self._concluded = gevent.event.Event()
        self._concluded.set()
        self._took: set[str] = set()
        """Workers that have had arrivals in this test."""
        self._arrivals: Iterator[tuple[int, int]] | None = None
        self._filled_ns = 0
        self.conclusion: Conclusion | None = None
        """Of the last test."""
        self._runner.register_message(REPORT, self._reported)
        if isinstance(self._runner, MasterRunner):
            self._runner.greenlet.spawn(self._watch)
        if environment.web_ui is not None:
            base = (environment.parsed_options.web_base_path or "").rstrip("/")
            page.add_page(environment.web_ui, self._html, self._json, base)

    # A test.

    def begin(self, options: Options, folder: Path) -> None:
        """A test begins; its report goes into `folder`."""
        self._options, self._folder = options, folder
        self._began_ns = monotonic_ns()
        self._testing = True
        self._concluded.clear()
        self._took.clear()
        self.conclusion = None
        if isinstance(self._runner, LocalRunner):
            self._workers.joined(short(self._runner.client_id), self._began_ns)
        self._workers.started(self._began_ns)
        self._arrivals = None

    def spawned(self) -> None:
        """All users are there, for the first time or again: in an open loop, arrivals begin."""
        options = self._options
        if self._testing and options is not None and options.rate and self._arrivals is None:
            seed = derive_seed(options.scenario.experiment.seed, options.phase, "arrivals")
            self._arrivals = enumerate(endless_offsets(options.arrivals, options.rate, seed))
            self._runner.greenlet.spawn(self._let_arrive, self._arrivals)

    def finish(self) -> None:
        """Have every worker bring its streams to an end and report; write what there is. Blocks until then."""
        if not self._testing:
            self._concluded.wait()  # whoever asks now may be about to end the process
            return
        self._testing = False
        self._arrivals = None
        at_it = {short(name) for name in self._running()}  # some may not have reported yet
        if isinstance(self._runner, MasterRunner):
            # Else Locust gives users of a worker that leaves now to the others, and hears nobody until they have them.
            self._runner._users_dispatcher = None
            self._runner.spawning_completed = False
        self._runner.send_message(FINISH, {})  # alone, that is all: it returns when the streams are over
        assert self._options is not None
        patience_ns = monotonic_ns() + int((self._options.scenario.timeouts.total_s + PATIENCE_S) * NS)
        while self._unfinished(at_it) and not self._hurried and monotonic_ns() < patience_ns:
            gevent.sleep(0.05)
        self._conclude()
        self._concluded.set()

    def hurry(self) -> None:
        """Once the test is brought to its end, wait for no more reports."""
        self._hurried = True

    def _unfinished(self, at_it: set[str]) -> bool:
        if not isinstance(self._runner, MasterRunner):
            return False
        seen = {worker.name: worker for worker in self._workers.seen(monotonic_ns())}
        at_it = at_it | {name for name, worker in seen.items() if worker.report_age_s is not None}
        return any(name not in seen or (seen[name].state == "there" and not seen[name].final) for name in at_it)

    def clear(self) -> None:
        """Figures begin anew."""
        self._runner.send_message(CLEAR, {})

    def _conclude(self) -> None:
        assert self._options is not None
        figures = Figures.now(self._workers, monotonic_ns(), over=True)
        self.conclusion = conclude(figures, open_loop=bool(self._options.rate))
        self._figures = figures
        self._fill()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._written = show.write(self._folder, figures, self.conclusion, title=self._title())
        except OSError as error:
            self._written = {}
            print(f"tokenwire: {error.filename or self._folder}: cannot be written: {error.strerror}", file=sys.stderr)

    def _fill(self, *, pause: bool = False) -> None:
        if self._options is not None:
            page.fill(
                self._environment.stats,
                self._workers.reports,
                self._options.load.connections,
                (lambda: gevent.sleep(0)) if pause else (lambda: None),
            )

    def tell(self) -> None:
        """Print the figures of the last test, behind Locust's own."""
        from rich.console import Console

        if self.conclusion is not None:
            show.print_terminal(self._figures, Console(highlight=False), self.conclusion)
            if self._written:
                print(f"report: {self._written['html']}")

    @property
    def code(self) -> int | None:
        """Exit code; None where it is Locust's to say."""
        return CODES[self.conclusion.state] or None if self.conclusion is not None else None

    # Workers.

    def _reported(self, msg: Any, **_: Any) -> None:
        now_ns = monotonic_ns()
        if msg.data.get("test", self._folder.name) != self._folder.name:
            return  # of a worker that took too long to end the test before
        try:
            report = read_report(msg.data)
        except ValueError as error:
            print(f"tokenwire: {error}", file=sys.stderr)
            return
        self._workers.reported(report.worker, report, now_ns)
        if now_ns - self._filled_ns >= FILL_NS:  # merging takes ms a worker, and reports of many come all the time
            self._filled_ns = now_ns
            # Alone, there are streams in this process, which must not wait for all of it.
            self._fill(pause=isinstance(self._runner, LocalRunner))

    def _watch(self) -> None:
        """See who is there, and who is gone: Locust tells nobody."""
        known: set[str] = set()
        while True:
            gevent.sleep(LOOK_S)
            now_ns = monotonic_ns()
            nodes = {short(node.id): node.state for node in self._runner.clients.values()}
            missing = {name for name, state in nodes.items() if state == STATE_MISSING}
            there = nodes.keys() - missing
            for name in there - known:
                self._workers.joined(name, now_ns)
            for name in known - there:
                (self._workers.lost if name in missing else self._workers.left)(name, now_ns)
            known = set(there)

    # Arrivals.

    def _let_arrive(self, arrivals: Iterator[tuple[int, int]]) -> None:
        """Tell workers of the arrivals that come next, each its share: of who comes or goes, from then on."""
        # Locust waits a second for users, and workers first warm a server up that may be far away.
        while self._testing and not self._all_there():
            gevent.sleep(0.05)
        epoch_ns = monotonic_ns() + AHEAD_NS
        following = next(arrivals)
        turn = 0
        while self._testing:
            names = self._takers()
            shares: dict[str, list[tuple[int, int]]] = {name: [] for name in names}
            while names and following[1] < monotonic_ns() - epoch_ns + AHEAD_NS:
                shares[names[turn % len(names)]].append(following)
                following, turn = next(arrivals), turn + 1
            for name, share in shares.items():
                told = {"elapsed_ns": monotonic_ns() - epoch_ns, "arrivals": share}
                self._runner.send_message(ARRIVALS, told, client_id=name)
            gevent.sleep(LOOK_S)

    def _all_there(self) -> bool:
        if not isinstance(self._runner, MasterRunner):
            return True
        states = {node.state for node in self._runner.clients.values()} - {STATE_MISSING}
        return states == {STATE_RUNNING}

    def _takers(self) -> list[str]:
        """Who takes arrivals: workers that have their users, or had them and are given others."""
        if isinstance(self._runner, MasterRunner):
            self._took.update(node.id for node in self._runner.clients.running)
            return [name for name in self._running() if name in self._took]
        return self._running()

    def _running(self) -> list[str]:
        """Workers with users, or on the way there."""
        if not isinstance(self._runner, MasterRunner):
            return [self._runner.client_id] if self._runner.state in (STATE_RUNNING, STATE_SPAWNING) else []
        return [node.id for node in self._runner.clients.values() if node.state in (STATE_RUNNING, STATE_SPAWNING)]

    # The page.

    def _title(self) -> str:
        options = self._options
        if options is None:
            return "No test yet"
        how = f"open loop, {options.rate:g} streams/s" if options.rate else "closed loop"
        return f"{options.scenario.name}, {options.phase}: {how}"

    def _now(self) -> tuple[Figures, Conclusion | None]:
        if self.conclusion is not None:
            return self._figures, self.conclusion
        return Figures.now(self._workers, monotonic_ns()), None

    def _html(self) -> str:
        return show.page(*self._now(), title=self._title(), refresh_s=0 if self.conclusion else 3)

    def _json(self) -> bytes:
        return show.as_json(*self._now(), title=self._title())


def new_name(scenario: str) -> str:
    """The name of a test: its scenario and the time."""
    return f"locust-{scenario}-{datetime.now():%Y%m%d-%H%M%S}"
