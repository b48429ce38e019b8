"""What happens when: Locust's events, and whom they concern. A Locust that runs alone is master and worker in one."""

from __future__ import annotations

import inspect
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import locust
from locust.dispatch import UsersDispatcher
from locust.runners import STATE_INIT, LocalRunner, WorkerRunner

from bench.swarm import options, page
from bench.swarm.master import Master, new_name
from bench.swarm.options import OptionError
from bench.swarm.users import StreamUser
from bench.swarm.worker import ARRIVALS, CLEAR, FINISH, Worker

USAGE = 2
_RUN = "tokenwire_run"
"""Where the master's settings, which Locust sends to workers, have the name of the test."""


def wire_up() -> None:
    """Listen to Locust's events. Once, when a locustfile is loaded."""
    page.keep_microseconds()
    events: Any = locust.events
    events.init_command_line_parser.add_listener(options.add)
    events.init.add_listener(_begin)


def _begin(environment: Any, **_: Any) -> None:
    """Locust is there: take up a part, or both."""
    records = options.own_records()
    part = (_Working if isinstance(environment.runner, WorkerRunner) else _Watched)(environment, records)
    _Interrupts(environment, part.hurry)
    # Locust now sets a timer for --run-time, and gevent counts from when it last looked at the clock: before all that
    # was imported. A test of a second would be over before it began.
    gevent.get_hub().loop.update_now()


class _Interrupts:
    """Ctrl-C: the first ends Locust, another the wait for streams under way.

    Python would raise it in whatever runs, be that a user or the greenlet that brings the test to its end.
    """

    def __init__(self, environment: Any, hurry: Callable[[], None]) -> None:
        self._ending, self._hurry = False, hurry
        self._main = gevent.getcurrent()  # where Locust heeds it
        environment.events.quitting.add_listener(self._quitting)  # the last listener, which Locust calls first
        gevent.signal_handler(signal.SIGINT, self._interrupted)

    def _quitting(self, **_: Any) -> None:
        self._ending = True

    def _interrupted(self) -> None:
        if self._ending:
            self._hurry()
        else:
            self._ending = True
            gevent.kill(self._main, KeyboardInterrupt)


class _Working:
    """The events of a process that has streams."""

    def __init__(self, environment: Any, records: Path) -> None:
        self._environment, self._records = environment, records
        self.worker: Worker | None = None
        # Locust asks this when a test is stopped, with streams under way. The first time it reads the source of every
        # module, which takes 30 ms.
        inspect.stack()
        runner = environment.runner
        runner.register_message(ARRIVALS, lambda msg, **_: self.worker and self.worker.take_arrivals(msg.data))
        runner.register_message(CLEAR, lambda **_: self.worker and self.worker.clear())
        runner.register_message(FINISH, lambda **_: self.finish(), concurrent=True)
        environment.events.test_start.add_listener(self._start)
        environment.events.test_stopping.add_listener(lambda **_: self.finish())
        environment.events.quitting.add_listener(lambda **_: self.finish(leaving=True))
        if getattr(runner, "worker_state", STATE_INIT) != STATE_INIT:
            self._start()  # it joined a test under way, of which Locust told before there was anybody to hear it

    def _start(self, **_: Any) -> None:
        parsed = self._environment.parsed_options
        self.worker = StreamUser.worker = None
        folder = self._records / (getattr(parsed, _RUN, "") or new_name("stray"))
        try:
            known = options.read(parsed, self._environment.host)
        except OptionError as error:
            _refuse(self._environment, error, give_up=False)  # from the page, where it can be put right
            return
        try:
            self.worker = StreamUser.worker = Worker(self._environment, known, folder)
            StreamUser.ready.set()
        except OSError as error:
            _refuse(self._environment, f"--records {self._records}: {error}", give_up=True)

    def finish(self, *, leaving: bool = False) -> None:
        """Bring the test under way to its end."""
        if self.worker is not None:
            self.worker.finish(leaving=leaving)

    def hurry(self) -> None:
        """Cut the streams that a test at its end waits for."""
        if self.worker is not None:
            self.worker.hurry()


def _refuse(environment: Any, why: object, *, give_up: bool) -> None:
    """Say why a test cannot be."""
    logging.getLogger(__name__).error("tokenwire: %s", why)
    if give_up:
        environment.process_exit_code = USAGE
        gevent.spawn(environment.runner.quit)  # which ends, among others, the greenlet that is here


class EvenDispatcher(UsersDispatcher):
    """Gives every worker as many users of each class as the next.

    Locust's own deals classes and workers in turn: of two classes to two workers, one would have all SSE and the other
    all WebSocket, and what were compared are workers.
    """

    def _user_gen(self) -> Iterator[str | None]:
        fixed = {user.__name__ for user in self._user_classes if user.fixed_count}
        for user in super()._user_gen():
            for _ in self._worker_nodes[: 1 if user in fixed else None]:
                yield user


class _Watched:
    """The events of a process that adds up; alone, it has the streams as well."""

    def __init__(self, environment: Any, records: Path) -> None:
        self._environment, self._records = environment, records
        self._master = Master(environment)
        self._check()
        environment.dispatcher_class = EvenDispatcher
        environment.events.test_start.add_listener(self._start)
        environment.events.spawning_complete.add_listener(lambda **_: self._master.spawned())
        environment.events.test_stopping.add_listener(lambda **_: self._master.finish())
        environment.events.reset_stats.add_listener(lambda **_: self._master.clear())
        if environment.reset_stats:
            environment.events.spawning_complete.add_listener(lambda **_: self._master.clear())
        environment.events.quitting.add_listener(self._quitting)
        environment.events.quit.add_listener(lambda **_: self._master.tell())
        self._working = _Working(environment, records) if isinstance(environment.runner, LocalRunner) else None

    def hurry(self) -> None:
        """Wait for no more streams and reports of a test at its end."""
        self._master.hurry()
        if self._working is not None:
            self._working.hurry()

    def _check(self) -> None:
        """Refuse what cannot be run before anything is; the target may still be given on the page."""
        environment = self._environment
        parsed = environment.parsed_options
        try:
            known = options.read(parsed, environment.host or "http://127.0.0.1")
            if parsed.headless and not environment.host:
                options.read(parsed, None)
        except OptionError as error:
            print(f"tokenwire: {error}", file=sys.stderr)
            sys.exit(USAGE)
        environment._filter_tasks_by_tags()
        streaming = [user for user in environment.user_classes if issubclass(user, StreamUser)]
        left = [user for user in streaming if user.tasks and user.protocol in known.protocols]
        environment.user_classes = [user for user in environment.user_classes if user in left or user not in streaming]
        if not environment.user_classes:
            print(
                f"tokenwire: --protocol {parsed.protocol}: no user is left; give no names of users and no --tags, "
                "or such as speak it",
                file=sys.stderr,
            )
            sys.exit(USAGE)
        spoken = {user.protocol for user in left}
        if len(spoken) == 1:
            parsed.protocol = spoken.pop()  # workers are told: else they would wait for users of both

    def _start(self, **_: Any) -> None:
        environment = self._environment
        headless = environment.parsed_options.headless
        try:
            known = options.read(environment.parsed_options, environment.host)
            name = _new_folder(self._records, known.scenario.name)
        except OptionError as error:
            _refuse(environment, error, give_up=headless)
            return
        except OSError as error:
            _refuse(environment, f"--records {self._records}: {error.strerror}; give one to write in", give_up=headless)
            return
        setattr(environment.parsed_options, _RUN, name)
        self._master.begin(known, self._records / name)

    def _quitting(self, **_: Any) -> None:
        self._environment.runner.stop()
        self._master.finish()
        if self._master.code is not None:
            self._environment.process_exit_code = self._master.code


def _new_folder(records: Path, scenario: str) -> str:
    """Make the folder of a test, and return its name, which no other has. Raises `OSError`."""
    stem = new_name(scenario)
    for suffix in ("", *(f"-{n}" for n in range(2, 100))):
        try:
            (records / (stem + suffix)).mkdir(parents=True)
        except FileExistsError:
            continue
        return stem + suffix
    raise FileExistsError(17, "a hundred tests of this name in one second", str(records / stem))
