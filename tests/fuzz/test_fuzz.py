"""Mutated files: no crash, no hang, no contradiction, no file without an outcome."""

import tempfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutate import apply
from tests.fuzz.regressions import REGRESSIONS
from tests.fuzz.run import MAKERS, case, run_folder, summary
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


@pytest.mark.parametrize("bug", REGRESSIONS, ids=lambda bug: bug[0].replace(" ", "-"))
def test_what_once_went_wrong_stays_right(bug, tmp_path):
    _, reader, name, edits, expected = bug
    outcome = run_folder(tmp_path, apply(seeds_of(reader)[name], edits))
    assert (outcome.lost, outcome.wrong) == ([], [])
    assert expected in (outcome.reasons or ["read"])


@pytest.mark.parametrize("reader", MAKERS)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_few_bytes_may_be_anything(reader, data):
    """As above, but Hypothesis chooses, and shrinks what it finds."""
    name = data.draw(st.sampled_from(sorted(seeds_of(reader))))
    files = seeds_of(reader)[name]
    file = data.draw(st.sampled_from(sorted(files)))
    byte = st.tuples(st.integers(0, len(files[file]) - 1), st.integers(0, 255))
    edits = [
        ("set", file, at, f"{value:02x}") for at, value in data.draw(st.lists(byte, max_size=4))
    ]
    with tempfile.TemporaryDirectory() as folder:
        outcome = run_folder(folder, apply(files, edits))
    assert (outcome.lost, outcome.wrong) == ([], [])


def test_the_same_seed_gives_the_same_mutations():
    assert [case("nrrd", n, 3) for n in range(20)] == [case("nrrd", n, 3) for n in range(20)]
