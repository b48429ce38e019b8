"""What the locustfile's own command-line arguments say, checked; the rest is Locust's."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import msgspec

from bench.scenario import Closed, Open, Scenario
from bench.scenario_toml import ScenarioError, load

if TYPE_CHECKING:
    from locust.argument_parser import LocustArgumentParser

PROTOCOLS: dict[str, tuple[str, ...]] = {
    "sse": ("sse",), "websocket": ("websocket",), "both": ("sse", "websocket"),
}  # fmt: skip


class OptionError(Exception):
    """Arguments that cannot be used. The message is one line for the user."""


_records = ["results"]
"""As this process was told. Locust puts what the master was told in its place, sometimes before anybody can look."""


def _keep_records(folder: str) -> str:
    _records[0] = folder
    return folder


def own_records() -> Path:
    """Where this process is to keep records."""
    return Path(_records[0])


class Options(msgspec.Struct, frozen=True):
    """What streams to have, and from where."""

    scenario: Scenario
    phase: str
    load: Closed | Open
    protocols: tuple[str, ...]
    host: str
    port: int
    ca_file: str
    """Whom to trust, in PEM; empty without TLS."""
    rate: float
    """Streams a second and protocol, over all workers; 0 for a closed loop."""
    arrivals: Literal["poisson", "constant"]


def add(parser: LocustArgumentParser) -> None:
    """Add the arguments to Locust's."""
    parser.add_argument(
        "--scenario", default="chat", metavar="NAME",
        help="A scenario that comes with tokenwire, or the path of a TOML file (chat). The target must serve the same: "
        "tokenwire serve --scenario NAME",
    )  # fmt: skip
    parser.add_argument("--phase", default="", metavar="NAME", help="Which of its phases; default the first")
    parser.add_argument("--protocol", default="both", choices=list(PROTOCOLS), help="What clients speak (both)")
    parser.add_argument(
        "--rate", type=float, default=0.0, metavar="NUMBER",
        help="Open loop: so many streams start per second and protocol, over all workers, whatever becomes of earlier "
        "ones; the users are then the most that are open at once. 0: every user has one after the other (0)",
    )  # fmt: skip
    parser.add_argument(
        "--arrivals", default="poisson", choices=["poisson", "constant"], help="How starts of an open loop are spread"
    )
    parser.add_argument(
        "--ca-file", default="", metavar="FILE", help="Whom to trust when --host is https://, in PEM; default certifi's"
    )
    parser.add_argument(
        "--records", default="results", metavar="FOLDER", include_in_web_ui=False, type=_keep_records,
        help="Where raw records of streams are kept, on every worker its own, and the master's report (results)",
    )  # fmt: skip
    # A worker that is gone leaves its users to the others.
    parser.set_defaults(enable_rebalancing=True)


def read(parsed: Any, host: str | None) -> Options:
    """Check what was given. Raises `OptionError`."""
    try:
        scenario = load(parsed.scenario)
    except ScenarioError as error:
        raise OptionError(f"--scenario {error}") from None
    name = parsed.phase or next(iter(scenario.phases))
    phase = scenario.phases.get(name)
    if phase is None:
        raise OptionError(
            f"--phase {name}: no such phase in {parsed.scenario}; give one of {', '.join(scenario.phases)}"
        )
    if not isinstance(phase, Closed | Open) or phase.restart:
        usable = [n for n, p in scenario.phases.items() if isinstance(p, Closed | Open) and not p.restart]
        raise OptionError(
            f"--phase {name}: Locust's users take closed and open loads, whose server stays; "
            + (f"give one of {', '.join(usable)}" if usable else f"{parsed.scenario} has none: give another --scenario")
        )
    if not 0 <= parsed.rate <= 100_000:
        raise OptionError(f"--rate {parsed.rate:g}: expected streams per second from 0 to 100000")
    return Options(
        scenario, name, phase, PROTOCOLS[parsed.protocol], *_target(host, parsed.ca_file),
        rate=parsed.rate, arrivals=parsed.arrivals,
    )  # fmt: skip


def _target(url: str | None, ca_file: str) -> tuple[str, int, str]:
    """Host, port, and whom to trust."""
    try:
        parts = urlsplit(url or "")
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise OptionError(
            f"--host {url or ''}: expected the target's URL without a path, such as http://127.0.0.1:8000"
        )
    if parts.scheme == "http":
        return parts.hostname, port or 80, ""
    if not ca_file:
        import certifi

        ca_file = certifi.where()
    if not Path(ca_file).is_file():
        raise OptionError(f"--ca-file {ca_file}: no such file; give the authority of {url} in PEM")
    try:
        ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise OptionError(
            f"--ca-file {ca_file}: {error.strerror or error}; give the authority of {url} in PEM"
        ) from None
    return parts.hostname, port or 443, ca_file
