"""In which order trials stand and take turns."""

from __future__ import annotations

import itertools

import pytest

from bench.order import block_order, rounds
from bench.scenario import Contrast

PAIRS = [Contrast("a", "b"), Contrast("c", "d"), Contrast("e", "f")]


def test_arms_that_are_compared_with_no_others_stand_side_by_side() -> None:
    contrasts = [Contrast("a", "b"), Contrast("c", "d")]
    orders = [block_order(list("xacbd"), block, 7, contrasts) for block in range(1, 400)]
    for order in orders:
        assert sorted(order) == list("abcdx")
        assert abs(order.index("a") - order.index("b")) == abs(order.index("c") - order.index("d")) == 1
    assert len(set(map(tuple, orders))) == 24, "every order of the three, and of either pair"
    chain = [Contrast("a", "b"), Contrast("b", "c")]
    chained = [block_order(list("abc"), block, 7, chain) for block in range(60)]
    assert len(set(map(tuple, chained))) == 6


def test_orders_come_from_the_seed_and_do_not_depend_on_how_many_there_are() -> None:
    arms = ["a", "b", "c", "d"]
    orders = [block_order(arms, block, 7) for block in range(1, 9)]
    assert orders == [block_order(arms, block, 7) for block in range(1, 9)]
    assert orders != [block_order(arms, block, 8) for block in range(1, 9)]


def turns(order: str, contrasts: list[Contrast], number: int = 40) -> list[str]:
    """Who has the turn, for so many rounds."""
    return [arm for one in itertools.islice(rounds(order, contrasts), number) for arm in one]


@pytest.mark.parametrize("order", ["ab", "abc", "abcd", "fedcba", "abxcd", "dcxyba"])
@pytest.mark.parametrize("contrasts", [[], PAIRS, [Contrast("a", "b"), Contrast("b", "c")]])
def test_nobody_has_two_turns_running_and_all_have_as_many(order: str, contrasts: list[Contrast]) -> None:
    had = turns(order, contrasts)
    assert all(one != next_ for one, next_ in itertools.pairwise(had))
    assert all(had.count(arm) == 40 for arm in order)
    assert had[: len(order)] == list(order)


@pytest.mark.parametrize("order", ["abcd", "fecdba", "baxcd", "cdyxab"])
def test_what_the_arms_of_a_pair_find_is_alike(order: str) -> None:
    had = turns(order, PAIRS, 41)
    places = {arm: [place for place, other in enumerate(had) if other == arm] for arm in order}
    for pair in PAIRS:
        if pair.baseline not in order:
            continue
        both = places[pair.baseline], places[pair.other]
        lead = [a - b for a, b in zip(*both, strict=True)]
        assert {*lead} == {-1, 1}
        assert sum(lead[:40]) == 0, "each is first in half of the rounds, so that a steady drift favours neither"
        away = [sorted(b - a for a, b in itertools.pairwise(some)) for some in both]
        assert away[0] == away[1], "and is away for as long"
        after = [sum(had[place - 1] in (pair.baseline, pair.other) for place in some[1:]) for some in both]
        assert after[0] == after[1], "and comes as often right after the other"


def test_two_arms_alone_take_plain_turns() -> None:
    assert turns("ba", PAIRS, 4) == list("babababa")


def test_arms_compared_with_several_keep_their_order() -> None:
    assert turns("abc", [Contrast("a", "b"), Contrast("b", "c")], 3) == list("abcabcabc")
