"""Mutated files: no crash, no hang, no contradiction, no file without an outcome."""

import pytest

from tests.fuzz.mutate import apply
from tests.fuzz.regressions import REGRESSIONS
from tests.fuzz.run import MAKERS, run_folder, summary
from tests.fuzz.seeds import seeds_of


def check(reader, n, seed):
    result = summary(reader, n, seed)
    assert result["bad"] == []
    assert sum(result["kinds"].values()) == n
    # Mutations that change nothing, that change something and that break the file all occur.
    assert {"equal", "different", "refused"} <= result["kinds"].keys()


@pytest.mark.parametrize("reader", MAKERS)
def test_a_hundred_mutated_files_per_reader(reader):
    check(reader, 100, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("reader", MAKERS)
def test_a_thousand_mutated_files_per_reader(reader):
    check(reader, 1000, seed=0)


@pytest.mark.parametrize("case", REGRESSIONS, ids=lambda case: case[0].replace(" ", "-"))
def test_what_once_went_wrong_stays_right(case, tmp_path):
    _, reader, name, edits, expected = case
    outcome = run_folder(tmp_path, apply(seeds_of(reader)[name], edits))
    assert (outcome.lost, outcome.wrong) == ([], [])
    assert expected in (outcome.reasons or ["read"])


def test_the_same_seed_gives_the_same_mutations():
    from tests.fuzz.run import case

    assert [case("nrrd", n, 3) for n in range(20)] == [case("nrrd", n, 3) for n in range(20)]
