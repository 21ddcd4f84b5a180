"""Scratch against pretrained, as a user compares them: fair, resumable, honest about overlap."""

import csv
import json
import random

import pytest

import medssl
from medssl.archive.cases import Case
from medssl.archive.labelled import load_labelled
from medssl.core.errors import ConfigError, NothingUsableError, UsageError
from medssl.encoders.card import load_card
from medssl.stages import compare
from medssl.stages._compare_data import draw_test, load
from medssl.stages._segment import choose_cases
from medssl.stages.finetune import FinetuneConfig
from tests.training_archive import save, volume, write_images, write_labelled

FINETUNE = {"steps": 2, "batch_size": 2, "crop": (16, 32, 16), "accelerator": "cpu"}
PRETRAIN = {**FINETUNE, "steps": 1, "quiet": True, "health": False}
COMMON = {"labels": (1, 2), "seeds": 2, "finetune": FINETUNE, "quiet": True}
NAMES = {"results.json", "results.md", "compare.html", "ledger.jsonl", "run.json"}


def pretrain(out, archive, **more):
    options = {"splits": ("train", "val"), **PRETRAIN, **more}
    return medssl.pretrain(data=archive, out=out, objective="mae", **options).out


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Six labelled volumes, and a run that was pretrained on others."""
    base = tmp_path_factory.mktemp("compare")
    write_labelled(base / "data", 6)
    for seed in range(2):
        save(base / "others" / f"scan_{seed}.nii.gz", volume(100 + seed)[0])
    pretrain(base / "masked", base / "others")
    return base


@pytest.fixture(scope="module")
def done(place):
    return medssl.compare(data=place / "data", init=place / "masked", out=place / "out", **COMMON)


def rows_of(folder):
    rows = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    return {(r["arm"], r["labels"], r["seed"]): r for r in rows}


def test_every_arm_learns_from_the_same_cases_and_is_tested_on_the_same(done, place):
    rows = rows_of(done.out)
    assert len(rows) == 2 * 2 * 2
    for labels in (1, 2):
        for seed in range(2):
            scratch, masked = rows["scratch", labels, seed], rows["masked", labels, seed]
            assert scratch["cases_digest"] == masked["cases_digest"]
    tested = {
        tuple(sorted({case["case"] for case in json.loads(file.read_text())["cases"]}))
        for file in (done.out / "runs").glob("*/metrics.json")
    }
    assert len(tested) == 1
    data = load(place / "data", "segmentation", 0.3)
    assert tested == {tuple(sorted(case.name for case in data.tested))}


def test_results_hold_gains_with_n_seeds_and_time(done):
    assert {path.name for path in done.out.iterdir()} >= NAMES
    results = json.loads((done.out / "results.json").read_text())
    assert results["test"] == {"cases": 2, "patients": 2, "drawn": True}
    (row,) = [r for r in results["rows"] if (r["arm"], r["labels"]) == ("masked", 2)]
    (base,) = [r for r in results["rows"] if (r["arm"], r["labels"]) == ("scratch", 2)]
    assert row["gain"]["mean"] == pytest.approx(row["mean"] - base["mean"])
    assert row["gain"]["low"] <= row["gain"]["mean"] <= row["gain"]["high"]
    assert (row["n"], row["seeds"], row["patients"]) == (2, 2, 2)
    assert row["wall_s"] > 0
    assert row["samples"] == 2 * 2 + 1 * 2  # both trainings, steps times batch
    assert base["samples"] == 2 * 2
    assert base["gain"] is None


def test_table_and_page_say_what_was_found(done):
    table = (done.out / "results.md").read_text()
    assert table.count("| masked |") == table.count("| scratch |") == 2
    assert "2 seeds" in table
    assert "none found" in table
    page = (done.out / "compare.html").read_text()
    assert page.count("<svg") >= 3
    assert 'class="band' in page
    assert "http" not in page.replace("Content-Security-Policy", "").replace("http-equiv", "")
    assert "equal_compute=true" in page


def test_random_weights_have_the_card_of_the_pretrained_ones_and_other_values(done, place):
    theirs, trained = load_card(place / "masked")
    ours, drawn = load_card(done.out / "arms" / "scratch_seed0")
    for key in ("encoder", "contract", "in_channels", "modality"):
        assert getattr(ours, key) == getattr(theirs, key)
    same = [key for key in drawn if key.endswith("weight") and drawn[key].equal(trained[key])]
    assert not [key for key in same if drawn[key].ndim > 1]
    _, other = load_card(done.out / "arms" / "scratch_seed1")
    assert any(not drawn[key].equal(other[key]) for key in drawn)


def test_a_killed_comparison_goes_on_and_finds_the_same(done, place, tmp_path, monkeypatch):
    real, started = compare.carry_out, []

    def dying(folder, *args):
        started.append(folder.name)
        if len(started) == 3:
            (folder / "finetune").mkdir(parents=True)
            (folder / "finetune" / "half").write_text("a run that was killed")
            raise KeyboardInterrupt
        return real(folder, *args)

    monkeypatch.setattr(compare, "carry_out", dying)
    given = {"data": place / "data", "init": place / "masked", "out": tmp_path / "out"}
    with pytest.raises(KeyboardInterrupt):
        medssl.compare(**given, **COMMON)
    with (tmp_path / "out" / "ledger.jsonl").open("a") as ledger:
        ledger.write('{"arm": "scratch", "lab')  # a row that was being written
    with pytest.raises(UsageError, match="not empty"):
        medssl.compare(**given, **COMMON)
    again = medssl.compare(**given, **COMMON, resume=True)
    assert len(started) == 3 + 8 - 2
    assert started[2] == started[3]
    scores = [{key: row["mean"] for key, row in rows_of(one.out).items()} for one in (done, again)]
    assert scores[0] == scores[1]
    assert not list((tmp_path / "out").rglob("half"))


def test_a_changed_plan_is_refused_and_more_seeds_are_not(done, place, monkeypatch):
    monkeypatch.setattr(compare, "carry_out", lambda *_: pytest.fail("nothing is to be trained"))
    given = {"data": place / "data", "init": place / "masked", "out": done.out, "resume": True}
    changed = {**COMMON, "finetune": {**FINETUNE, "lr": 0.5}}
    with pytest.raises(UsageError, match="8 trainings in the output folder are of another plan"):
        medssl.compare(**given, **changed)
    fewer = medssl.compare(**given, **{**COMMON, "labels": "2", "seeds": 2})
    assert [row["labels"] for row in fewer.result["rows"]] == [2, 2]


@pytest.mark.parametrize("part", ["tested", "learnt"])
def test_results_against_other_references_do_not_go_into_one_table(done, place, monkeypatch, part):
    monkeypatch.setattr(compare, "carry_out", lambda *_: pytest.fail("nothing is to be trained"))
    label = getattr(load(place / "data", "segmentation", 0.3), part)[0].label
    before = label.read_bytes()
    save(label, volume(50)[1], "uint8")  # the same picture, another outline
    try:
        with pytest.raises(UsageError, match="of another plan"):
            medssl.compare(
                data=place / "data", init=place / "masked", out=done.out, resume=True, **COMMON
            )
    finally:
        label.write_bytes(before)


def test_a_pretraining_that_has_seen_test_scans_is_refused_or_marked(place, tmp_path):
    seen = pretrain(tmp_path / "seen", write_images(tmp_path / "archive", 6), allow_test=True)
    given = {"data": place / "data", "init": seen, "labels": (1,), "seeds": 1}
    given |= {"finetune": FINETUNE, "quiet": True}
    with pytest.raises(UsageError, match="has seen 2 of 2 test cases") as error:
        medssl.compare(**given, out=tmp_path / "out")
    assert "allow_test=true" in error.value.fix
    assert not (tmp_path / "out").exists()
    found = medssl.compare(**given, out=tmp_path / "out", allow_test=True)
    assert found.result["arms"][1]["overlap"] == "transductive"
    assert "transductive" in (tmp_path / "out" / "compare.html").read_text()
    # One seed says nothing of the spread of training.
    (row,) = [row for row in found.result["rows"] if row["gain"]]
    assert row["gain"]["low"] is None
    assert row["gain"]["verdict"] == "no interval"
    assert "one seed: no interval" in (tmp_path / "out" / "results.md").read_text()


def test_a_run_that_does_not_say_what_it_has_seen_is_unknown(place, tmp_path):
    (place / "masked" / "model" / "seen.json").rename(tmp_path / "kept.json")
    try:
        found = medssl.compare(
            data=place / "data", init=place / "masked", out=tmp_path / "out", labels=(1,), seeds=1,
            finetune=FINETUNE, equal_compute=True, quiet=True,
        )  # fmt: skip
    finally:
        (tmp_path / "kept.json").rename(place / "masked" / "model" / "seen.json")
    overlap = {arm["name"]: arm["overlap"] for arm in found.result["arms"]}
    longer = "scratch_as_long_as_masked"
    assert overlap == {"scratch": "none found", longer: "none found", "masked": "unknown"}
    by_arm = {row["arm"]: row for row in found.result["rows"]}
    assert by_arm[longer]["samples"] == by_arm["masked"]["samples"] == 6
    assert by_arm[longer]["steps"] == 3
    assert by_arm["masked"]["gain_equal_compute"]["against"] == longer


def test_labels_that_are_not_there_are_named_before_anything_runs(place, tmp_path):
    with pytest.raises(UsageError, match="labels=10, but 4 labelled patients are left") as error:
        medssl.compare(data=place / "data", init=place / "masked", out=tmp_path / "out")
    assert error.value.fix == "--labels 2"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"labels": "2,2"}, "different numbers"),
        ({"seeds": 0}, "greater than or equal to 1"),
        ({"finetune": {"seed": 3}}, "finetune.seed is set by the comparison"),
        ({"finetune": {"stepz": 3}}, "stepz"),
    ],
)
def test_options_that_cannot_be_are_refused(place, tmp_path, values, message):
    with pytest.raises(ConfigError, match=message):
        medssl.compare(data=place / "data", init=place / "masked", out=tmp_path / "o", **values)


def test_nothing_to_compare_with_is_refused(place, tmp_path):
    with pytest.raises(UsageError, match="nothing to compare with"):
        medssl.compare(data=place / "data", init=[], out=tmp_path / "o", labels=(1,), seeds=1)


def test_copies_of_test_scans_among_the_labelled_are_refused(place, tmp_path):
    data = write_labelled(tmp_path / "data", 6)
    cases = load(data, "segmentation", 0.3)
    source, target = cases.tested[0].images[0], cases.learnt[0].images[0]
    target.write_bytes(source.read_bytes())
    with pytest.raises(UsageError, match="have the pixels of labelled training cases"):
        medssl.compare(data=data, init=place / "masked", out=tmp_path / "out", labels=(1,))


@pytest.mark.parametrize("key", range(5))
def test_patients_are_disjoint_and_choices_nested_under_any_grouping(key, tmp_path):
    """G21: whatever the table calls a patient, nobody is learnt from and tested on."""
    rng = random.Random(key)
    names = [f"case_{n:03d}" for n in range(40)]
    patient = {name: f"p{rng.randrange(rng.choice((4, 12, 40)))}" for name in names}
    cases = [
        Case(name=name, images=(tmp_path / name,), label=tmp_path / name, patient=patient[name])
        for name in names
    ]
    test = draw_test(cases, 0.3)
    rest = [case for case in cases if case.patient not in test]
    assert test
    assert {case.patient for case in cases if case.patient in test}.isdisjoint(
        case.patient for case in rest
    )
    labelled = load_labelled(write_labelled(tmp_path / "data", 1))
    labelled = type(labelled)(**{**vars(labelled), "cases": tuple(rest)})
    there = len({case.patient for case in rest})
    before: set[str] = set()
    for count in range(1, min(there, 9) + 1):
        config = FinetuneConfig(data=tmp_path, out=tmp_path, labelled=count, seed=key)
        chosen = choose_cases(labelled, config)
        now = {case.patient for case in (*chosen.train, *chosen.val)}
        assert before < now
        assert len(now) == count
        assert now.isdisjoint(test)
        before = now


def test_the_split_of_the_data_set_is_kept(place, tmp_path):
    data = place / "data"
    with (tmp_path / "table.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("image", "label", "patient", "split"))
        for n in range(6):
            split = "test" if n in (1, 4) else ""
            parts = [data / part / f"case_{n:03d}.nii.gz" for part in ("imagesTr", "labelsTr")]
            table.writerow((*parts, f"p{n}", split))
    found = load(tmp_path / "table.csv", "segmentation", 0.3)
    assert [case.patient for case in found.tested] == ["p1", "p4"]
    assert not found.drawn
    assert found.patients == 4


def test_one_patient_alone_cannot_be_compared(tmp_path):
    with pytest.raises(NothingUsableError):
        load(write_labelled(tmp_path / "data", 1), "segmentation", 0.3)
