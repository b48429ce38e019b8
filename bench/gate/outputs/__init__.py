"""What a gate leaves for people and for other tools: one file each, from the same `Gate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from bench.gate.result import Gate

__all__ = ["print_gate", "write_all"]


def write_all(gate: Gate, folder: Path) -> dict[str, Path]:
    """Write every output into a folder; return the paths by name. Raises `OSError`."""
    from bench.gate.outputs import write

    return write.write_all(gate, folder)


def print_gate(gate: Gate, console: Console) -> None:
    """Print what the gate comes to."""
    from bench.gate.outputs import terminal

    terminal.print_gate(gate, console)
