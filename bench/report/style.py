"""Colours, markers and line styles: one set for every chart, the same arm always the same.

Hues are Okabe and Ito's, told apart by all common kinds of colour vision, and olive for a seventh arm; a marker and a
line style repeat what the hue says. Every colour of a chart stands for a role: in the HTML report it becomes a CSS
variable, with a dark twin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Look(NamedTuple):
    """How an arm looks. `ink` is its hue darkened until text in it is readable on white."""

    colour: str
    ink: str
    marker: str
    line: Any
    """A line style as matplotlib takes it."""


class Tone(NamedTuple):
    """A colour on white and its twin on a dark ground."""

    variable: str
    light: str
    dark: str


_HUES: tuple[tuple[str, str, str, str, str, Any], ...] = (
    ("#0072b2", "#00598c", "#3d9bd6", "#6db6e6", "o", "-"),
    ("#d55e00", "#a34800", "#f0782b", "#f79a5e", "s", "--"),
    ("#009e73", "#00694c", "#1fbf93", "#4fd3ae", "^", "-."),
    ("#cc79a7", "#93436f", "#dd94bb", "#e8b3cf", "D", ":"),
    ("#e69f00", "#855c00", "#e69f01", "#f0b73c", "v", (0, (5, 1))),
    ("#56b4e9", "#1f6f9c", "#56b4ea", "#8acbf0", "P", (0, (1, 1))),
    ("#7a7a00", "#5c5c00", "#b3b32e", "#cccc66", "X", (0, (3, 1, 1, 1))),
)
_KNOWN = {"sse-aiohttp": 0, "ws-aiohttp": 1, "ws-websockets": 2}

INK, MUTED, GRID, PAPER = "#1b1d20", "#5c636b", "#dcdfe3", "#fffffe"
PARTS = ("#2f4858", "#9c86b5", "#55768c", "#86a3b3", "#b98b3e", "#d9b36c", "#ecdcb9")
"""For the parts of a whole, in order; they stand for no arm, so they are none of its hues; neighbours differ."""

TONES: tuple[Tone, ...] = (
    Tone("ink", INK, "#eceef0"),
    Tone("muted", MUTED, "#a4abb3"),
    Tone("grid", GRID, "#373c42"),
    Tone("paper", PAPER, "#16181b"),
    *(Tone(f"arm{i}", h[0], h[2]) for i, h in enumerate(_HUES)),
    *(Tone(f"arm{i}-ink", h[1], h[3]) for i, h in enumerate(_HUES)),
    *(
        Tone(f"part{i}", light, dark)
        for i, (light, dark) in enumerate(
            zip(PARTS, ("#7fa8c2", "#705a8c", "#587d95", "#3b5666", "#8a672b", "#c39a4d", "#ead3a0"), strict=True)
        )
    ),
)


def looks(arms: Sequence[str]) -> dict[str, Look]:
    """The look of every arm: the three of the shipped scenarios keep theirs, others take what is left, in order."""
    free = [i for i in range(len(_HUES)) if i not in {_KNOWN[a] for a in arms if a in _KNOWN}]
    found: dict[str, Look] = {}
    spare = 0
    for arm in arms:
        place = _KNOWN.get(arm)
        if place is None:
            place = free[spare % len(free)] if free else spare % len(_HUES)
            spare += 1
        colour, ink, _, _, marker, line = _HUES[place]
        found[arm] = Look(colour, ink, marker, line)
    return found


def variable_of(arm: str, arms: Sequence[str]) -> str:
    """The CSS variable of an arm's colour."""
    colour = looks(arms)[arm].colour
    return next(t.variable for t in TONES if t.light == colour)
