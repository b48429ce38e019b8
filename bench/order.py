"""In which order the trials of a block stand, and take turns."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence

from bench.scenario import Contrast


def pairs(contrasts: Sequence[Contrast]) -> list[list[str]]:
    """Arms that are compared with each other, and with no third."""
    compared = Counter(arm for contrast in contrasts for arm in (contrast.baseline, contrast.other))
    return [[c.baseline, c.other] for c in contrasts if compared[c.baseline] == compared[c.other] == 1]


def block_order(arms: Sequence[str], block: int, seed: int, contrasts: Sequence[Contrast] = ()) -> list[str]:
    """The order of the arms within a block, random but the same for the same seed.

    The arms of a pair stand side by side: so their slices do in time.
    """
    groups = pairs(contrasts)
    paired = {arm for pair in groups for arm in pair}
    groups = [*([arm] for arm in arms if arm not in paired), *groups]
    rng = random.Random(f"{seed}/{block}")
    rng.shuffle(groups)
    for group in groups:
        rng.shuffle(group)
    return [arm for group in groups for arm in group]


def rounds(order: Sequence[str], contrasts: Sequence[Contrast] = ()) -> Iterator[list[str]]:
    """Who has a turn after whom, without end: in the block's order, where the arms of a pair change places every round.

    Nobody has two turns running, as it would if rounds went forth and back: the second finds its code and data in the
    caches, which is worth more than most differences between arms. Of a pair neither comes always second, which finds
    there what the two have in common. A pair by itself takes plain turns: what each finds is the other's already.
    """
    other = {}
    if len(order) > 2:
        here = (pair for pair in pairs(contrasts) if set(pair) <= set(order))
        other = {arm: partner for one, two in here for arm, partner in ((one, two), (two, one))}
    while True:
        yield list(order)
        yield [other.get(arm, arm) for arm in order]
