"""Every fault of the matrix again, met by the same client on gevent: the same fates, and nothing kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from driven import on_gevent
from test_fault_matrix import (
    Matrix,
    all_met,
    test_it_ends_in_time,
    test_it_ends_under_its_own_name,
    test_nothing_is_kept,
    test_streams_beside_it_are_what_they_always_are,
)

__all__ = (
    "test_it_ends_in_time",
    "test_it_ends_under_its_own_name",
    "test_nothing_is_kept",
    "test_streams_beside_it_are_what_they_always_are",
)


pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    yield from all_met(tmp_path_factory.mktemp("matrix"), on_gevent)
