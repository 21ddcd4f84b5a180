"""Work in processes that may die: every item has an outcome, in order."""

import os

import pytest

from medssl.archive._pool import map_items
from medssl.core.errors import ReadError


def square_or_fail(number):
    if number == 3:
        raise ReadError("odd", "three")
    if number == 11:
        os._exit(1)  # as a decoder that writes where it must not
    return number**2


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_come_back_as_results(workers):
    results = dict(map_items(square_or_fail, range(6), workers=workers, chunk=2))
    assert results[3].reason == "odd"
    assert [results[n] for n in (0, 1, 2, 4, 5)] == [0, 1, 4, 16, 25]


def test_a_worker_that_dies_costs_one_item():
    results = list(map_items(square_or_fail, range(16), workers=2, chunk=4))
    assert [item for item, _ in results] == list(range(16))
    crashed = [
        item for item, r in results if isinstance(r, ReadError) and r.reason == "decoder_crash"
    ]
    assert crashed == [11]
    assert results[15][1] == 225
