"""Work in processes that may die: every item has an outcome, in order."""

import os
import pickle
import time
from pathlib import Path

import pytest

from medssl.archive._pool import Pool, loads_reply, map_items
from medssl.core.errors import ReadError
from tests.support import fresh_python


def square_or_fail(number):
    if number == 3:
        raise ReadError("odd", "three")
    if number == 11:
        os._exit(1)  # as a decoder that writes where it must not
    if number == 17:
        time.sleep(60)
    if number == 23:
        raise OSError(28, "No space left on device")
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


def test_an_item_over_its_time_costs_one_item():
    with Pool(2, limit_s=0.5) as pool:
        results = dict(pool.map(square_or_fail, range(12, 22), chunk=4))
    assert results.pop(17).reason == "decoder_timeout"
    assert results == {n: n**2 for n in (12, 13, 14, 15, 16, 18, 19, 20, 21)}


def test_an_error_that_is_no_items_fault_ends_the_run():
    with pytest.raises(OSError, match="No space left"):
        list(map_items(square_or_fail, range(20, 28), workers=2, chunk=2))


def test_leaving_early_leaves_no_process():
    for _ in map_items(square_or_fail, iter(range(100, 10**6)), workers=2, chunk=4):
        break
    children = Path("/proc/self/task").glob("*/children")
    pids = [pid for file in children for pid in file.read_text().split()]
    commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in pids]
    assert not [line for line in commands if "_pool_worker" in line]


def test_a_reply_may_not_name_functions():
    for harmful in (os.system, pickle.loads, eval, exec, Pool.map):
        with pytest.raises(pickle.UnpicklingError):
            loads_reply(pickle.dumps(harmful))
    error = loads_reply(pickle.dumps(ReadError("odd", "three", where="here", fix="count")))
    assert (error.reason, error.what, error.where, error.fix) == ("odd", "three", "here", "count")


def test_a_script_needs_no_main_guard():
    code = "from medssl.archive._pool import map_items\n"
    code += "print(sum(r for _, r in map_items(abs, range(-9, 9), workers=2, chunk=2)))"
    assert fresh_python(code).strip() == str(9 * 10 // 2 + 8 * 9 // 2)
