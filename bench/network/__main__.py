"""A relay process: `python -m bench.network packets|streams`.

Says on stdout, in one line of JSON, where it is once it passes things on. On stdin, `report` asks for its counts and,
for streams, `reach HOST PORT [BYTES[,BYTES...]]` for a listener that may cut what passes into pieces; both are answered
by a line. Ends when stdin is closed or on SIGTERM, with a last report.
"""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

import msgspec

from bench.network.profiles import Network


class _Parser(argparse.ArgumentParser):
    """Complains in one line."""

    def error(self, message: str) -> NoReturn:
        _give_up(message)


def _give_up(message: str) -> NoReturn:
    """Say why on stderr and exit with 2."""
    print(f"python -m bench.network: {message}", file=sys.stderr)
    raise SystemExit(2)


def main(argv: list[str] | None = None) -> None:
    """Read the command line and be the relay."""
    parser = _Parser(prog="python -m bench.network", description="Be a delay line until stdin is closed or SIGTERM.")
    parser.add_argument("kind", choices=["packets", "streams"], help="between two network namespaces, or as a proxy")
    parser.add_argument("--network", default='{"rtt_ms":0}', metavar="JSON", help="as in a scenario (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="fixes losses and jitter (%(default)s)")
    arguments = parser.parse_args(argv)
    try:
        network = msgspec.json.decode(arguments.network, type=Network)
    except msgspec.MsgspecError as error:
        parser.error(f"argument --network: {error}")
    if arguments.kind == "streams":
        from bench.network.proxy import run
    else:
        from bench.network.packets import run
    try:
        run(network, arguments.seed)
    except OSError as error:  # such as a standard input that cannot be waited for
        _give_up(": ".join(filter(None, (error.filename, error.strerror))))


if __name__ == "__main__":
    main()
