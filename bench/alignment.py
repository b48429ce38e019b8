"""Which of the texts sent each text received is: what was lost, repeated, out of order or not what was sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher


@dataclass(frozen=True, slots=True)
class Alignment:
    """The outcome of a comparison: `matched` texts arrived, in any order; the other counts are of texts received."""

    matched: int
    repeated: int
    reordered: int
    corrupted: int
    places: list[int] | None
    """For each text received its place among those sent, -1 for none; None when text i is simply i."""


def align(sent: Sequence[str], received: Sequence[str]) -> Alignment:
    """Compare the texts received with those sent.

    Runs that agree are matched in order first; what is left over is then looked up among the texts that found no
    partner (out of order), among all texts sent (repeated), and is otherwise corrupted.
    """
    if len(received) <= len(sent) and list(received) == list(sent[: len(received)]):
        return Alignment(len(received), 0, 0, 0, None)
    places = [-1] * len(received)
    free = set(range(len(sent)))
    # Strip what agrees at both ends, so that the quadratic part sees only the trouble.
    start = 0
    while start < min(len(sent), len(received)) and sent[start] == received[start]:
        places[start] = start
        free.discard(start)
        start += 1
    tail = 0
    while tail < min(len(sent), len(received)) - start and sent[-1 - tail] == received[-1 - tail]:
        tail += 1
        places[len(received) - tail] = len(sent) - tail
        free.discard(len(sent) - tail)
    matcher = SequenceMatcher(
        None, sent[start : len(sent) - tail], received[start : len(received) - tail], autojunk=False
    )
    for block in matcher.get_matching_blocks():
        for i in range(block.size):
            places[start + block.b + i] = start + block.a + i
            free.discard(start + block.a + i)
    repeated = reordered = corrupted = 0
    unclaimed: dict[str, list[int]] = {}
    for place in sorted(free, reverse=True):
        unclaimed.setdefault(sent[place], []).append(place)
    known = Counter(sent)
    for i, place in enumerate(places):
        if place >= 0:
            continue
        if waiting := unclaimed.get(received[i]):
            places[i] = waiting.pop()
            reordered += 1
        elif received[i] in known:
            repeated += 1
        else:
            corrupted += 1
    matched = sum(place >= 0 for place in places)
    return Alignment(matched, repeated, reordered, corrupted, places)
