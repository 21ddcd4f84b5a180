"""The label-curve benchmark: fair arms, resumable ledger."""

import json

import pytest

from medssl.core.errors import UsageError
from medssl.stages._compare_job import Job, refuse_different_cases
from medssl.stages._jobs import missing
from pipelines._label_curve import Curve
from pipelines._msd import runs_of_numbers

POOL = runs_of_numbers([f"h_{n:03d}" for n in (1, 2, 3, 5, 8, 9, 12, 14, 16)])


@pytest.fixture
def curve(tmp_path):
    data = tmp_path / "data"
    for part in ("imagesTr", "labelsTr"):
        (data / part).mkdir(parents=True)
    (data / "dataset.json").write_text(json.dumps({"labels": {}}))
    return Curve(out=tmp_path / "out", data=data, pretrain="p", finetune="f", pool=POOL, groups={})


def cases(folder):
    return {path.name.removesuffix(".nii.gz") for path in (folder / "imagesTr").iterdir()}


def test_labelled_cases_come_from_different_runs_of_numbers(curve):
    for seed in range(10):
        chosen = cases(curve.labelled(4, seed))
        groups = [group for group, members in POOL.items() if chosen & set(members)]
        assert len(chosen) == len(groups) == 4


def test_labelled_cases_depend_on_the_seed_alone(curve):
    first = cases(curve.labelled(4, 0))
    assert cases(curve.labelled(4, 0)) == first
    assert any(cases(curve.labelled(4, seed)) != first for seed in range(1, 6))


def test_arms_with_different_cases_are_refused():
    rows = [
        {"labels": 5, "seed": 0, "cases_digest": "a"},
        {"labels": 5, "seed": 1, "cases_digest": "b"},
    ]
    refuse_different_cases(rows)
    with pytest.raises(UsageError, match="5 labelled, seed 1"):
        refuse_different_cases([*rows, {"labels": 5, "seed": 1, "cases_digest": "c"}])


def test_finished_jobs_are_not_run_again(curve):
    plan = [Job("scratch", 2, seed, 300) for seed in range(3)]
    curve.out.mkdir()
    row = {**plan[1]._asdict(), "mean": 0.5}
    ledger = curve.out / "ledger.jsonl"
    ledger.write_text(json.dumps(row) + "\n")
    assert missing(ledger, plan) == [plan[0], plan[2]]
