"""Errors cross process borders whole, and each family has its exit code."""

import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from medssl.core import errors


def _fail():
    raise errors.ReadError("gap", "2 slices are missing", where="series 3", fix="export again")


def test_an_error_survives_a_process_border():
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    with pool, pytest.raises(errors.ReadError) as caught:
        pool.submit(_fail).result()
    error = caught.value
    assert (error.reason, error.what) == ("gap", "2 slices are missing")
    assert (error.where, error.fix) == ("series 3", "export again")


CODES = {
    errors.MedsslError: 1,
    errors.UsageError: 2,
    errors.ConfigError: 2,
    errors.NothingUsableError: 3,
    errors.BudgetExceededError: 5,
    errors.ResourceError: 6,
    errors.InterruptedRunError: 130,
}


@pytest.mark.parametrize(("cls", "code"), CODES.items())
def test_pickle_keeps_type_text_and_exit_code(cls, code):
    again = pickle.loads(pickle.dumps(cls("what", where="where", fix="fix")))
    assert type(again) is cls
    assert str(again) == "what\n  where: where\n  fix: fix"
    assert again.exit_code == code


def test_lines_without_content_are_left_out():
    assert str(errors.MedsslError("what")) == "what"
