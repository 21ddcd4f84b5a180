"""The page and table of a comparison say what its numbers allow, and no more."""

import pytest

from medssl.stages._compare_page import as_markdown, as_page


def arm(name, against="", like="", overlap="none found", met=0):
    return {
        "name": name, "weights": "ab" * 32, "against": against, "like": like, "objective": "",
        "encoder": "resenc-xs", "samples": 80, "wall_s": None, "cpu_s": None, "overlap": overlap,
        "met": met,
    }  # fmt: skip


def row(name, labels, mean, gain=None, samples=40):
    return {
        "arm": name, "labels": labels, "steps": 10, "mean": mean, "low": mean - 0.1,
        "high": mean + 0.1, "n": 6, "seeds": 3, "patients": 5, "gain": gain,
        "gain_equal_compute": None, "samples": samples, "samples_finetune": 40, "wall_s": 60.0,
        "cpu_s": 90.0,
    }  # fmt: skip


def results(verdict="better", low=0.01, high=0.05, **more):
    gain = {"mean": 0.03, "low": low, "high": high, "against": "scratch", "verdict": verdict}
    rows = [row("scratch", n, 0.5) for n in (2, 5)]
    rows += [row("mae", n, 0.53, gain, samples=120) for n in (2, 5)]
    return {
        "task": "segmentation", "measure": "dice", "labels": [2, 5], "seeds": 3,
        "test": {"cases": 6, "patients": 5, "drawn": False}, "plan": "0123", "classes": {},
        "arms": [arm("scratch"), arm("mae", "scratch")], "trainings": 12, "wall_s": 720.0,
        "rows": rows, **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("verdict", "level", "words"),
    [
        ("better", "good", "better than random weights"),
        ("worse", "bad", "worse than random weights"),
        ("not told apart", "warn", "not told apart from random weights"),
    ],
)
def test_a_verdict_has_its_words_and_colour(verdict, level, words):
    page = as_page(results(verdict))
    assert f'<li class="{level}">mae, 2 labelled, equal steps: {words}' in page


def test_n_seeds_patients_and_time_stand_at_the_top():
    for text in (as_page(results()), as_markdown(results())):
        assert "6 cases of 5 patients; 3 seeds; 12 trainings, 12 minutes in all" in text


def test_a_gain_without_interval_is_a_bare_number():
    text = as_markdown(results("no interval", low=None, high=None))
    assert "| +0.030 | no interval |" in text


def test_overlap_is_said_where_there_is_any():
    seen = [arm("scratch"), arm("mae", "scratch", overlap="transductive", met=2)]
    assert "its pretraining has seen 2 test cases: transductive" in as_page(results(arms=seen))
    unknown = [arm("scratch"), arm("mae", "scratch", overlap="unknown")]
    assert "is not known" in as_markdown(results(arms=unknown))


def test_a_class_of_few_test_patients_is_said():
    page = as_page(results(classes={"common": 40, "rare": 3, "single": 1, "absent": 0}))
    assert "class common" not in page
    assert "class rare: test patients: 3; intervals are rough" in page
    assert "class single: test patients: 1; no interval" in page
    assert "class absent: test patients: 0; it does not count" in page


def test_names_of_runs_are_text_and_nothing_is_loaded():
    named = results()
    named["arms"][1]["name"] = "<script>x"
    for one in named["rows"]:
        one["arm"] = one["arm"].replace("mae", "<script>x")
    page = as_page(named)
    assert "<script" not in page
    assert "default-src 'none'" in page
