"""The way from a driver to a server, whatever lies between: nothing, a line for packets, or a model of one.

    with between(network, "auto", seed) as path:
        # start servers that listen on path.server_host, with path.enter_server as preexec_fn
        host, port = path.reach(server_host, server_port)
        # start drivers that connect there, with path.enter_driver as preexec_fn
        path.facts()

One path carries any number of servers and drivers at once.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

import msgspec

from bench.network.namespaces import Entrance
from bench.network.profiles import Network

By: TypeAlias = Literal["auto", "packets", "proxy"]

LOOPBACK = "127.0.0.1"

READY_FACTS = ("start_ns", "scheduling", "mtu", "tcp")
"""What a relay says of itself once, and belongs in a record."""

ANSWER_S = 10.0
"""A relay that has not answered by then has failed."""
STOP_S = 5.0
"""From being told to stop until it is killed."""


class NetworkError(Exception):
    """A path that could not be had, or broke. One line for the user."""


class Path:
    """Loopback, with nothing between."""

    kind: Literal["none", "packets", "modelled"] = "none"
    server_host = LOOPBACK
    """The address that servers must listen on."""
    enter_server: Callable[[], None] | None = None
    """To be called in a server's process between fork and exec, before PR_SET_PDEATHSIG is set; None: nothing to do."""
    enter_driver: Callable[[], None] | None = None
    """The same for drivers."""
    pid: int | None = None
    """The relay's process, whose CPU time is the network's and nobody else's; None: there is none."""

    def __init__(self, network: Network, seed: int) -> None:
        self._asked = {"kind": self.kind, "network": msgspec.to_builtins(network), "seed": seed}

    def reach(self, host: str, port: int, fragment: tuple[int, ...] = ()) -> tuple[str, int]:
        """Return where a driver must connect to reach a server that listens on `host` and `port`.

        `fragment` is for tests, and only for proxies: bytes are passed on in pieces of these sizes, both ways, the last
        size again and again. Raises `NetworkError`.
        """
        if fragment:
            raise NetworkError("only a proxy cuts what passes into pieces; use by = 'proxy'")
        return host, port

    def facts(self) -> dict[str, Any]:
        """What lies between, and for a relay what went through it so far and how late it was. Raises `NetworkError`."""
        return self._asked


class _Relayed(Path):
    """A path with a relay process on it."""

    def __init__(self, network: Network, seed: int, relay: _Relay) -> None:
        super().__init__(network, seed)
        self._relay = relay
        self.pid = relay.ready["pid"]
        self._ready = {name: fact for name, fact in relay.ready.items() if name in READY_FACTS}

    def facts(self) -> dict[str, Any]:
        return {**self._asked, **self._ready, **self._relay.ask("report")}


class _Packets(_Relayed):
    """Two namespaces and a line between them."""

    kind = "packets"

    def __init__(self, network: Network, seed: int, relay: _Relay, stack: contextlib.ExitStack) -> None:
        super().__init__(network, seed, relay)
        ready = relay.ready
        self.server_host = ready["server"]["address"]
        for name in ("driver", "server"):
            try:
                entrance = Entrance(ready[name]["namespace"], ready["user_namespace"])
            except OSError as error:
                raise NetworkError(f"{name}'s network namespace: {error.strerror}; use by = 'proxy'") from None
            stack.callback(entrance.close)
            setattr(self, f"enter_{name}", entrance)


class _Modelled(_Relayed):
    """A proxy that keeps bytes waiting."""

    kind = "modelled"

    def reach(self, host: str, port: int, fragment: tuple[int, ...] = ()) -> tuple[str, int]:
        there = self._relay.ask(f"reach {host} {port} {','.join(map(str, fragment))}")
        return there["host"], there["port"]


class _Relay:
    """A relay process: `python -m bench.network`."""

    def __init__(self, *arguments: str) -> None:
        """Start it. Raises `NetworkError` with its last words when it ends instead of being ready."""
        # A file, not a pipe: nobody reads it while the relay runs.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.network", *arguments],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )
        self._pending = b""
        try:
            self.ready = self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, order: str) -> dict[str, Any]:
        """Give an order and return the answer. Raises `NetworkError`."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended: why is said where the answer is read
            self._process.stdin.write(f"{order}\n".encode())
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        stdout = self._process.stdout
        assert stdout is not None
        deadline = time.monotonic() + ANSWER_S
        while b"\n" not in self._pending:
            if not select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise NetworkError(f"the relay on the network path said nothing for {ANSWER_S:.0f} s")
            data = os.read(stdout.fileno(), 65_536)
            if not data:
                code = self._process.wait()
                words = self.last_words()
                raise NetworkError(words or f"the relay on the network path ended with exit code {code}")
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        del answer["event"]
        return answer

    def last_words(self) -> str:
        """The last line that it wrote on stderr; empty: none."""
        self._errors.seek(0)
        return (self._errors.read().decode("utf-8", "replace").strip().splitlines() or [""])[-1]

    def close(self) -> None:
        """End the process and wait for it."""
        process = self._process
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()
        self._errors.close()


@functools.cache
def permitted() -> str:
    """Return why this process may not have a line for packets, in one line; empty: it may."""
    try:
        _Relay("packets").close()
    except NetworkError as error:
        return str(error).removeprefix("python -m bench.network: ")
    return ""


def kind_of(network: Network, by: By) -> Literal["none", "packets", "modelled"]:
    """What `between` puts there."""
    if by == "auto":
        if is_loopback(network):
            return "none"
        by = "proxy" if permitted() else "packets"
    return "modelled" if by == "proxy" else "packets"


@contextlib.contextmanager
def between(network: Network, by: By, seed: int) -> Iterator[Path]:
    """Put a network between drivers and servers; leaves no process and no interface behind.

    `by` "auto": nothing where the network is plain loopback, else packets where that is permitted, else the proxy; the
    others have a relay for any network. Raises `NetworkError`.
    """
    wanted = kind_of(network, by)
    if wanted == "none":
        yield Path(network, seed)
        return
    if by == "packets" and (why := permitted()):
        raise NetworkError(f"a line for packets is not permitted here: {why}; run as root, or use by = 'proxy'")
    relay_of = "packets" if wanted == "packets" else "streams"
    with contextlib.ExitStack() as stack:
        relay = _Relay(relay_of, "--network", msgspec.json.encode(network).decode(), "--seed", str(seed))
        stack.callback(relay.close)
        yield _Packets(network, seed, relay, stack) if wanted == "packets" else _Modelled(network, seed, relay)


def is_loopback(network: Network) -> bool:
    """Whether nothing lies between."""
    cut = network.cut_every_s and network.cut_ms
    return not any((network.rtt_ms, network.jitter_ms, network.down_mbps, network.up_mbps, network.loss, cut))
