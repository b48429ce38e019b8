"""The smallest scenario with both protocols, for what is about runs rather than about what they measure."""

from __future__ import annotations

from pathlib import Path

TINY = """
title = "Tiny"
[arms.sse-aiohttp]
protocol = "sse"
stack = "aiohttp"
[arms.ws-aiohttp]
protocol = "websocket"
stack = "aiohttp"
[experiment]
blocks = 1
roofline = false
[phases.cold]
load = "closed"
users = 2
turns = 2
connections = "cold"
profile = "p"
[profiles.p]
first = { dist = "constant", ms = 0 }
gap = { dist = "constant", ms = 0 }
length = { dist = "fixed", tokens = 4 }
"""


def tiny(folder: Path) -> Path:
    """The scenario as a file in a folder."""
    path = folder / "tiny.toml"
    path.write_text(TINY)
    return path
