"""What a relay process says and is told: lines of JSON on stdout, lines of words on stdin."""

from __future__ import annotations

import contextlib
import json
import os
import sys


def say(event: str, **facts: object) -> None:
    """Print one line of JSON. Nobody listening is no error: whoever started this process is gone."""
    with contextlib.suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), json.dumps({"event": event, **facts}).encode() + b"\n")


class Orders:
    """What comes in on stdin, as lists of words."""

    def __init__(self) -> None:
        self.fd = sys.stdin.fileno()
        self._pending = b""

    def read(self) -> list[list[str]] | None:
        """Read once, when there is something; return the whole lines, or None when stdin has been closed."""
        data = os.read(self.fd, 4096)
        if not data:
            return None
        *lines, self._pending = (self._pending + data).split(b"\n")
        return [line.decode().split() for line in lines]
