"""What happens when: Locust's events, and whom they concern. A Locust that runs alone is master and worker in one."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import locust
from locust.dispatch import UsersDispatcher
from locust.runners import LocalRunner, WorkerRunner

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
    parsed = environment.parsed_options
    records = Path(parsed.records)  # before the master's settings come: where to keep records is this machine's to say
    if not isinstance(environment.runner, WorkerRunner):
        _Watched(environment, records)
    else:
        _Working(environment, records)


class _Working:
    """The events of a process that has streams."""

    def __init__(self, environment: Any, records: Path) -> None:
        self._environment, self._records = environment, records
        self.worker: Worker | None = None
        runner = environment.runner
        runner.register_message(ARRIVALS, lambda msg, **_: self.worker and self.worker.take_arrivals(msg.data))
        runner.register_message(CLEAR, lambda **_: self.worker and self.worker.clear())
        runner.register_message(FINISH, lambda **_: self.finish(), concurrent=True)
        environment.events.test_start.add_listener(self._start)
        environment.events.test_stopping.add_listener(lambda **_: self.finish())
        environment.events.quitting.add_listener(lambda **_: self.finish())

    def _start(self, **_: Any) -> None:
        parsed = self._environment.parsed_options
        folder = self._records / (getattr(parsed, _RUN, "") or new_name("stray"))
        try:
            self.worker = StreamUser.worker = Worker(
                self._environment, options.read(parsed, self._environment.host), folder
            )
        except (OptionError, OSError) as error:
            logging.getLogger(__name__).error(error)
            self._environment.process_exit_code = USAGE
            self._environment.runner.quit()

    def finish(self) -> None:
        """Bring the test under way to its end."""
        if self.worker is not None:
            self.worker.finish()


class EvenDispatcher(UsersDispatcher):
    """Gives every worker as many users of each class as the next.

    Locust's own deals classes and workers in turn: of two classes to two workers, one would have all SSE and the other
    all WebSocket, and what were compared are workers.
    """

    def _user_gen(self) -> Iterator[str | None]:
        for user in super()._user_gen():
            for _ in self._worker_nodes:
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
        if isinstance(environment.runner, LocalRunner):
            _Working(environment, records)

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
        wanted = {
            user: user.protocol in known.protocols for user in environment.user_classes if issubclass(user, StreamUser)
        }
        environment.user_classes = [user for user in environment.user_classes if wanted.get(user, True)]

    def _start(self, **_: Any) -> None:
        environment = self._environment
        try:
            known = options.read(environment.parsed_options, environment.host)
        except OptionError as error:  # from the page
            logging.getLogger(__name__).error(error)
            environment.runner.quit()
            return
        name = new_name(known.scenario.name)
        setattr(environment.parsed_options, _RUN, name)
        self._master.begin(known, self._records / name)

    def _quitting(self, **_: Any) -> None:
        self._environment.runner.stop()
        self._master.finish()
        if self._master.code is not None:
            self._environment.process_exit_code = self._master.code
