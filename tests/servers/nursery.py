"""A process that has imported what servers need, and forks one whenever asked to: see `forked`."""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import NoReturn

import msgspec
import uvloop  # noqa: F401
from serving import PROFILES

from servers.__main__ import main
from servers.emitter import Profile, prepare
from servers.stacks import STACKS, load


def serve(requests: socket.socket) -> list[str] | None:
    """Fork a child for each request, and tell its pid and its exit code.

    Returns the arguments in the children, and None when nobody can ask any more, all children being killed.
    """
    running: dict[int, int] = {}
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # no work in a handler: a second one would run within the first
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    while True:
        ready = select.select([requests, woken], [], [])[0]
        if woken in ready:
            os.read(woken, 4096)
            for pid, end in list(running.items()):
                gone, status = os.waitpid(pid, os.WNOHANG)
                if gone:
                    tell(end, os.waitstatus_to_exitcode(status))
                    os.close(running.pop(pid))
        if requests not in ready:
            continue
        request, ends, _, _ = socket.recv_fds(requests, 65_536, 3)
        if not request:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
            return None
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            requests.detach()
            os.dup2(ends[0], 1)
            os.dup2(ends[1], 2)
            os.closerange(3, 1024)
            arguments: list[str] = json.loads(request)
            return arguments
        for end in ends[:2]:
            os.close(end)
        running[pid] = ends[2]
        tell(ends[2], pid)


def tell(end: int, number: int) -> None:
    """Write to whoever asked, if it still listens."""
    with suppress(BrokenPipeError):
        os.write(end, b"%d\n" % number)


def run(arguments: list[str]) -> NoReturn:
    """Be the server, and end without the 60 ms an interpreter takes to undo what all share."""
    code = 0
    try:
        main(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    gc.collect()  # what was forgotten complains, as it would
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: whoever started this ends it
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    for name in STACKS:
        load(name)
    for profile in msgspec.convert(PROFILES, dict[str, Profile]).values():
        prepare(profile)
    gc.freeze()  # so that no collection in a child copies what all share
    told = serve(socket.socket(fileno=int(sys.argv[1])))
    if told is not None:
        run(told)
