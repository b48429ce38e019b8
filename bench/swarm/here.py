"""A distributed load on this machine: `python -m bench.swarm.here` starts a target, a master and workers, and waits.

The path that many machines take, to see that it runs and what it shows. For figures of protocols it is the wrong way:
target, master and workers share the cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

STOP_S = 30.0
_LOCUST = [sys.executable, "-m", "locust", "-f", str(Path(__file__).with_name("locustfile.py"))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; return the master's exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.swarm.here", description=__doc__.partition("\n")[0] if __doc__ else "",
        epilog="What follows -- goes to the master's command line, such as: -- -u 200 -r 50 -t 1m",
    )  # fmt: skip
    parser.add_argument("--scenario", default="chat", help="what the target serves, and clients ask for (chat)")
    parser.add_argument("--workers", type=int, default=2, help="how many worker processes (2)")
    parser.add_argument("--records", type=Path, default=Path("results"), help="where records and report go (results)")
    parser.add_argument("more", nargs="*", help=argparse.SUPPRESS)
    known = parser.parse_args(arguments)
    with target(known.scenario) as url, contextlib.ExitStack() as workers:
        port = free_port()
        for _ in range(known.workers):
            workers.enter_context(process(worker(port, known.records)))
        wanted = ["--expect-workers", str(known.workers), "--scenario", known.scenario, "--host", url, *known.more]
        return subprocess.call(master(port, known.records, wanted))


def worker(port: int, records: Path) -> list[str]:
    """The command of a worker that joins a master on this machine."""
    return [*_LOCUST, "--records", str(records), "--worker", "--master-port", str(port), "--loglevel", "WARNING"]


def master(port: int, records: Path, wanted: Sequence[str]) -> list[str]:
    """The command of a master without a page, which does what is wanted when its workers are there."""
    bound = ["--master", "--master-bind-port", str(port), "--master-bind-host", "127.0.0.1"]
    return [*_LOCUST, "--records", str(records), *bound, "--headless", "--only-summary", *wanted]


@contextlib.contextmanager
def target(scenario: str) -> Iterator[str]:
    """A server of the scenario; yields its URL."""
    command = [sys.executable, "-m", "bench", "serve", "--scenario", scenario]
    with process(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line:
            sys.exit(server.wait())  # it has said why
        ready = json.loads(line)
        yield f"http://{ready['host']}:{ready['port']}"


@contextlib.contextmanager
def process(command: Sequence[str], stdout: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A child that is gone when the block is left."""
    child = subprocess.Popen(command, stdout=stdout)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def free_port() -> int:
    """A port that nobody listens on: Locust cannot say which one the system chose for it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
