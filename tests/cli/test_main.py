"""Every error ends in its documented exit code and one line; words become config values."""

import errno
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medssl import stages
from medssl.cli.main import app
from medssl.core import errors
from medssl.core.runlog import Run


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


@pytest.fixture
def call(monkeypatch):
    """Run the command with a stage that raises or returns what the test says."""

    def run(*words, does=None):
        seen = {}

        def stage(name, config, values):
            seen.update(stage=name, config=config, values=values)
            if isinstance(does, BaseException):
                raise does
            return does or Run(name, Path(values.get("out", "o")))

        monkeypatch.setattr(stages, "run_stage", stage)
        return CliRunner().invoke(app, [str(word) for word in words]), seen

    return run


CODES = [
    (errors.MedsslError("m"), 1),
    (ValueError("v"), 1),
    (errors.ConfigError("c"), 2),
    (errors.NothingUsableError("n"), 3),
    (errors.BudgetExceededError("b"), 5),
    (errors.ResourceError("r"), 6),
    (MemoryError(), 6),
    (OSError(errno.ENOSPC, "No space left on device"), 6),
    (OutOfMemoryError("CUDA out of memory"), 6),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), 6),
    (PermissionError(errno.EACCES, "Permission denied"), 1),
    (errors.InterruptedRunError("i"), 130),
    (KeyboardInterrupt(), 130),
]


@pytest.mark.parametrize(("error", "code"), CODES, ids=lambda v: type(v).__name__)
def test_errors_end_in_their_exit_code_without_a_traceback(call, error, code):
    result, _ = call("predict", does=error)
    assert result.exit_code == code
    assert "Traceback" not in result.stderr
    assert result.stderr


def test_debug_shows_the_traceback(call):
    result, _ = call("predict", "--debug", does=ValueError("v"))
    assert "Traceback" in result.stderr
    assert result.exit_code == 1


def test_quarantined_items_end_in_4_and_name_the_ledger(call, tmp_path):
    run = Run("predict", tmp_path)
    run.exit_code = 4
    result, _ = call("predict", does=run)
    assert result.exit_code == 4
    assert "quarantine.jsonl" in result.stdout


def test_words_and_options_reach_the_stage(call):
    result, seen = call(
        "pretrain", "--data", "d", "--objective", "mae", "-o", "run", "--config", "mae",
        "steps=400", "objective.mask_ratio=0.6", "--resume",
    )  # fmt: skip
    assert result.exit_code == 0
    assert (seen["stage"], seen["config"]) == ("pretrain", "mae")
    assert seen["values"] == {
        "data": Path("d"),
        "objective": "mae",
        "out": Path("run"),
        "steps": 400,
        "objective.mask_ratio": 0.6,
        "resume": True,
    }


def test_names_of_results_can_be_hashed(call):
    _, seen = call("predict", "--hashed-names")
    assert seen["values"] == {"hashed_names": True}


def test_options_that_are_not_given_leave_the_files_value_alone(call):
    _, seen = call("finetune", "--task", "segmentation")
    assert seen["values"] == {"task": "segmentation"}


def test_an_option_and_a_word_for_one_value_is_an_error(call):
    result, seen = call("pretrain", "--encoder", "resenc-xs", "encoder=vit3d-xs")
    assert result.exit_code == 2
    assert seen == {}


def test_runs_to_start_from_are_options_of_pretraining_and_say_so(call):
    _, seen = call("pretrain", "--init", "a", "--continue-from", "b", "steps=9")
    assert seen["values"] == {"init": Path("a"), "continue_from": Path("b"), "steps": 9}
    for option in ("--init", "--continue-from"):
        result, _ = call("pretrain", option, "a", f"{option[2:].replace('-', '_')}=b")
        assert result.exit_code == 2
        assert "given twice" in result.stderr


@pytest.mark.parametrize("words", [["train"], ["pretrain", "--epochs", "3"], ["pretrain", "steps"]])
def test_wrong_usage_ends_in_2(call, words):
    result, _ = call(*words)
    assert result.exit_code == 2


def test_quiet_prints_nothing_when_all_is_well(call):
    result, _ = call("predict", "--quiet")
    assert result.output == ""


def test_the_log_of_a_failed_run_holds_places_but_no_foreign_text(call, tmp_path):
    error = errors.MedsslError("decoding failed", where="/archive/MUSTER_MAX/1.dcm")
    error.__cause__ = ValueError("PatientName MUSTER^MAX")
    call("pretrain", "-o", tmp_path, does=error)
    log = (tmp_path / "error.log").read_text()
    assert "decoding failed" in log
    assert "ValueError" in log
    assert "MUSTER" not in log


def test_wrong_usage_writes_nothing_into_the_folder(call, tmp_path):
    call("pretrain", "-o", tmp_path, does=errors.UsageError("the output folder is not empty"))
    assert list(tmp_path.iterdir()) == []


def test_info_lists_what_the_registries_hold():
    listed = json.loads(CliRunner().invoke(app, ["info", "--json"]).stdout)
    assert "mae" in {member["name"] for member in listed["objectives"]}
    assert {"resenc-xs", "vit3d-xs"} <= {member["name"] for member in listed["encoders"]}
    assert "segmentation" in {member["name"] for member in listed["heads"]}
    assert {"dicom", "nifti", "image"} <= {member["name"] for member in listed["readers"]}


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_folder_that_may_not_be_written_is_named_without_debug(call, code):
    error = OSError(code, "Not allowed", "/share/OUT")
    result, _ = call("predict", does=error)
    assert result.stderr.splitlines() == [
        "error: Not allowed",
        "  where: /share/OUT",
        "  fix: check who may read and write there",
    ]
