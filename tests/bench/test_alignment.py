"""Loss, repetition, disorder and corruption are counted exactly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bench.alignment import Alignment, align

SENT = ["a", "b", "c", "d", "e", "f"]


def test_all_as_sent() -> None:
    assert align(SENT, list(SENT)) == Alignment(6, 0, 0, 0, None)


def test_a_stream_cut_short_is_in_place() -> None:
    assert align(SENT, SENT[:3]) == Alignment(3, 0, 0, 0, None)
    assert align(SENT, []) == Alignment(0, 0, 0, 0, None)


def test_one_lost() -> None:
    assert align(SENT, ["a", "b", "d", "e", "f"]) == Alignment(5, 0, 0, 0, [0, 1, 3, 4, 5])


def test_one_lost_among_equal_neighbours() -> None:
    found = align(["x", "x", "y", "x", "x"], ["x", "x", "x", "x"])
    assert (found.matched, found.repeated, found.reordered, found.corrupted) == (4, 0, 0, 0)


def test_one_repeated() -> None:
    found = align(SENT, ["a", "b", "b", "c", "d", "e", "f"])
    assert (found.matched, found.repeated, found.reordered, found.corrupted) == (6, 1, 0, 0)


def test_a_tail_sent_again() -> None:
    found = align(SENT, [*SENT, "e", "f"])
    assert (found.matched, found.repeated, found.reordered, found.corrupted) == (6, 2, 0, 0)


def test_two_swapped() -> None:
    found = align(SENT, ["a", "c", "b", "d", "e", "f"])
    assert (found.matched, found.repeated, found.reordered, found.corrupted) == (6, 0, 1, 0)
    assert sorted(found.places or []) == list(range(6))


def test_one_corrupted() -> None:
    found = align(SENT, ["a", "b", "?", "d", "e", "f"])
    assert (found.matched, found.repeated, found.reordered, found.corrupted) == (5, 0, 0, 1)
    assert found.places == [0, 1, -1, 3, 4, 5]


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60), st.data())
def test_what_is_dropped_is_lost(sent: list[str], data: st.DataObject) -> None:
    gone = data.draw(st.sets(st.integers(0, len(sent) - 1)))
    received = [text for i, text in enumerate(sent) if i not in gone]
    found = align(sent, received)
    assert found.matched + found.repeated + found.corrupted == len(received)
    assert found.corrupted == 0
    assert len(sent) - found.matched - len(gone) == found.repeated


@given(st.lists(st.sampled_from("abcd"), max_size=40), st.lists(st.sampled_from("abcdX"), max_size=40))
def test_every_text_received_is_accounted_for_once(sent: list[str], received: list[str]) -> None:
    found = align(sent, received)
    assert found.matched + found.repeated + found.corrupted == len(received)
    places = [place for place in found.places or [] if place >= 0]
    assert len(places) == len(set(places))
    if found.places is not None:
        assert all(place < 0 or sent[place] == received[i] for i, place in enumerate(found.places))
