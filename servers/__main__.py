"""One server process: `python -m servers STACK`. Says on stdout, in one line of JSON, when and where it accepts."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import platform
import signal
import socket
import sys
from collections.abc import Callable
from ipaddress import ip_address
from typing import NoReturn, get_args

import msgspec

from servers import tls
from servers.emission_log import EmissionLog
from servers.emitter import prepare
from servers.faults import BROKEN, Api, Cut
from servers.pacing import Pacer, set_timer_slack
from servers.service import Service
from servers.settings import Settings, SettingsError, read_settings
from servers.stacks import STACKS, Stack, load

GC_THRESHOLDS = (10_000, 20, 50)
"""Collections are far rarer than the default (700, 10, 10), on every stack alike. The collector stays on, because
requests leave cycles behind (a task, its exception, its frames); but a full collection visits every open stream, stops
all of them meanwhile, and would come in the middle of the tokens being timed."""


class _Parser(argparse.ArgumentParser):
    """Complains in one line."""

    def error(self, message: str) -> NoReturn:
        _give_up(message)


def _give_up(message: str) -> NoReturn:
    """Say why on stderr and exit with 2."""
    print(f"python -m servers: {message}", file=sys.stderr)
    raise SystemExit(2)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="python -m servers", description="Serve mock LLM token streams until SIGTERM or SIGINT.")
    parser.add_argument("stack", choices=list(STACKS), metavar="STACK", help=f"one of {', '.join(STACKS)}")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0: the kernel chooses (%(default)s)")
    parser.add_argument("--config", metavar="FILE", help="settings in JSON")
    parser.add_argument(
        "--standby", action="store_true", help="listen when a line comes on standard input, being ready by then"
    )
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.port <= 65535:
        parser.error(f"argument --port: {arguments.port} is not 0 to 65535")
    return arguments


def _listener(host: str, port: int) -> socket.socket:
    """Return a bound socket with TCP_NODELAY, which accepted connections inherit whatever the library does.

    Exits with 2 when the address cannot be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(address)
    except OSError as error:
        _give_up(f"--host {host} --port {port}: {error.strerror}")
    return listener


def _check_faults(source: str, stack: str, settings: Settings) -> None:
    """Exit with 2 when a fault of the settings can never happen here."""
    for model, fault in settings.faults.items():
        if model not in settings.profiles:
            _give_up(f"{source}: faults.{model}: no such model; it must be one of {', '.join(settings.profiles)}")
        if fault.kind in BROKEN and stack != "faulty":
            allowed = ", ".join(get_args(Api) + get_args(Cut))
            _give_up(
                f"{source}: faults.{model}.kind = {fault.kind!r}: stack {stack!r} cannot send such bytes; "
                f"serve with stack 'faulty', or take one of {allowed}"
            )


def _warn_of_others(listener: socket.socket) -> None:
    """Say so when other machines can connect."""
    host, port = listener.getsockname()[:2]
    if not ip_address(host.partition("%")[0]).is_loopback:
        print(
            f"python -m servers: listening on {host} port {port}: reachable from other machines; "
            "leave --host out to serve this one only",
            file=sys.stderr,
        )


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "asyncio":
        return asyncio.new_event_loop
    import uvloop  # not needed by whoever asks for asyncio

    return uvloop.new_event_loop


def _ready_line(stack_name: str, stack: Stack, service: Service, listener: socket.socket) -> bytes:
    settings = service.settings
    versions = {"python": platform.python_version(), "msgspec": msgspec.__version__} | stack.versions()
    if settings.loop == "uvloop":
        versions["uvloop"] = sys.modules["uvloop"].__version__
    host, port = listener.getsockname()[:2]
    in_force = stack.in_force(settings) | {
        "mode": settings.mode,
        "loop": settings.loop,
        "nodelay": bool(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)),
        "timer": service.pacer.timer,
        "resumable": list(settings.resumable),
        "tls": tls.in_force(settings.tls),
        "max_streams": settings.max_streams,
        "cpus": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "gc": {"thresholds": gc.get_threshold(), "frozen": gc.get_freeze_count() > 0},
    }
    if settings.plant is not None:
        in_force["plant"] = msgspec.to_builtins(settings.plant)
    if settings.faults:
        in_force["faults"] = msgspec.to_builtins(settings.faults)
    return msgspec.json.encode(
        {
            "event": "ready",
            "stack": stack_name,
            "host": host,
            "port": port,
            "pid": os.getpid(),
            "protocols": stack.PROTOCOLS,
            "versions": versions,
            "settings": in_force,
        }
    )


async def _serve(stack_name: str, stack: Stack, settings: Settings, log: EmissionLog, listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    told_to_stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_stop.set)
    pacer = Pacer(loop)
    service = Service(settings, pacer, log)
    stop = await stack.start(service, listener)
    _warn_of_others(listener)
    # What exists now stays to the end: no collection need look at it again.
    gc.collect()
    gc.freeze()
    print(_ready_line(stack_name, stack, service, listener).decode(), flush=True)
    if sys.stderr.isatty():
        host, port = listener.getsockname()[:2]
        models = ", ".join(settings.profiles)
        print(f"OpenAI-compatible at http://{host}:{port}/v1; models: {models}. Ctrl-C stops.", file=sys.stderr)
    await told_to_stop.wait()
    await stop()
    pacer.close()


def main(argv: list[str] | None = None) -> None:
    """Run a server until it is told to stop. Exits with 2 and one line on stderr when it cannot start."""
    arguments = _arguments(argv)
    try:
        settings = read_settings(arguments.config) if arguments.config else Settings()
    except SettingsError as error:
        _give_up(str(error))
    listener = None if arguments.standby else _listener(arguments.host, arguments.port)
    source = arguments.config or "settings"
    _check_faults(source, arguments.stack, settings)
    try:
        if settings.cpus is not None:
            os.sched_setaffinity(0, settings.cpus)
    except (OSError, AttributeError) as error:
        _give_up(f"{source}: cpus = {settings.cpus}: {error}; this machine has 0 to {(os.cpu_count() or 1) - 1}")
    try:
        log = EmissionLog(settings.log)
    except OSError as error:
        _give_up(f"{source}: log = {settings.log}: {error.strerror}")
    set_timer_slack()
    gc.set_threshold(*GC_THRESHOLDS)
    logging.basicConfig(level=logging.INFO if settings.logs_access else logging.ERROR)
    for profile in settings.profiles.values():
        prepare(profile)
    stack = load(arguments.stack)
    loop_factory = _loop_factory(settings.loop)
    if listener is None:
        print('{"event":"standby"}', flush=True)
        if not sys.stdin.buffer.readline():
            return  # whoever started it is gone
        listener = _listener(arguments.host, arguments.port)
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(_serve(arguments.stack, stack, settings, log, listener))
    except SettingsError as error:
        _give_up(f"{source}: {error}")
    finally:
        log.close()


if __name__ == "__main__":
    main()
