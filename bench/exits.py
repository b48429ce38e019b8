"""How the command ends: exit codes that its subcommands share, and the one line that says why."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

FAILED, USAGE, INVALID, INTERRUPTED = 1, 2, 3, 130


def fail(message: object, code: int) -> NoReturn:
    """Say why in a line on stderr, and exit with that code."""
    print(f"tokenwire: {message}", file=sys.stderr)
    raise typer.Exit(code)
