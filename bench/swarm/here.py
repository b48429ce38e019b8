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
    with _target(known.scenario) as url, contextlib.ExitStack() as workers:
        port = _free_port()
        locust = [
            sys.executable,
            "-m",
            "locust",
            "-f",
            str(Path(__file__).with_name("locustfile.py")),
            "--records",
            str(known.records),
        ]
        for _ in range(known.workers):
            joining = [*locust, "--worker", "--master-port", str(port), "--loglevel", "WARNING"]
            workers.enter_context(_process(joining))
        master = [
            *locust, "--master", "--master-bind-port", str(port), "--master-bind-host", "127.0.0.1",
            "--expect-workers", str(known.workers), "--headless", "--only-summary",
            "--scenario", known.scenario, "--host", url, *known.more,
        ]  # fmt: skip
        return subprocess.call(master)


@contextlib.contextmanager
def _target(scenario: str) -> Iterator[str]:
    """A server of the scenario; yields its URL."""
    command = [sys.executable, "-m", "bench", "serve", "--scenario", scenario]
    with _process(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line:
            sys.exit(server.wait())  # it has said why
        ready = json.loads(line)
        yield f"http://{ready['host']}:{ready['port']}"


@contextlib.contextmanager
def _process(command: Sequence[str], stdout: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=stdout)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    """A port that nobody listens on: Locust cannot say which one the system chose for it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
