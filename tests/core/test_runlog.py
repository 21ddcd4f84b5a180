"""The run folder: atomic files, no foreign folder touched, no path written."""

import errno
import json
import os
from pathlib import Path

import pytest
import yaml

from medssl.core import runlog
from medssl.core.config import Config
from medssl.core.errors import ResourceError, UsageError
from medssl.core.runlog import Run, write_text


class Given(Config):
    data: Path = Path("unset")
    steps: int = 3
    seed: int = 0


def test_a_run_writes_what_was_given_and_what_was_derived(tmp_path):
    run = Run.open("pretrain", tmp_path / "run")
    run.save_config(Given(data=tmp_path / "MUSTER_MAX", steps=7), {"learning_rate": 0.1})
    assert yaml.safe_load((run.out / "config.yaml").read_text()) == {"steps": 7}
    assert yaml.safe_load((run.out / "resolved.yaml").read_text()) == {
        "steps": 7,
        "seed": 0,
        "learning_rate": 0.1,
    }


def test_no_path_reaches_the_run_folder(tmp_path):
    run = Run.open("pretrain", tmp_path / "run")
    run.save_config(Given(data=tmp_path / "MUSTER_MAX"), {})
    run.finish(records=3)
    written = b"".join(f.read_bytes() for f in run.out.rglob("*") if f.is_file())
    assert b"MUSTER_MAX" not in written
    assert str(tmp_path).encode() not in written


def test_run_json_says_what_happened(tmp_path):
    run = Run.open("index", tmp_path / "run")
    run.exit_code = 4
    run.finish(records=3)
    report = json.loads((run.out / "run.json").read_text())
    assert (report["stage"], report["records"], report["exit_code"]) == ("index", 3, 4)


def test_metrics_are_one_json_object_per_line_and_tensorboard(tmp_path):
    run = Run.open("pretrain", tmp_path / "run")
    run.log(1, {"loss": 0.5})
    run.log(2, {"loss": 0.25})
    run.finish()
    lines = [json.loads(line) for line in (run.out / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 0.5), (2, 0.25)]
    assert list((run.out / "tensorboard").iterdir())


def test_a_folder_in_use_is_refused(tmp_path):
    Run.open("pretrain", tmp_path / "run").finish()
    with pytest.raises(UsageError, match="not empty") as caught:
        Run.open("pretrain", tmp_path / "run")
    assert str(tmp_path) not in caught.value.what + caught.value.fix


def test_overwrite_replaces_a_run_but_never_a_foreign_folder(tmp_path):
    Run.open("pretrain", tmp_path / "run").finish()
    Run.open("pretrain", tmp_path / "run", overwrite=True)
    assert list((tmp_path / "run").iterdir()) == []
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter1.tex").write_text("years of work")
    with pytest.raises(UsageError, match="not written by medssl"):
        Run.open("pretrain", foreign, overwrite=True)
    assert (foreign / "chapter1.tex").exists()


def test_resume_keeps_what_is_there(tmp_path):
    Run.open("pretrain", tmp_path / "run").finish()
    Run.open("pretrain", tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "run.json").exists()


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        Run.open("pretrain", tmp_path / "run", overwrite=True)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, code):
    target = tmp_path / "run.json"
    write_text(target, "old")

    def full(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(runlog.os, "fsync", full)
    with pytest.raises(ResourceError):
        write_text(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_secret_files_are_created_for_the_owner_only(tmp_path):
    write_text(tmp_path / "salt", "x", mode=0o600)
    assert (tmp_path / "salt").stat().st_mode & 0o777 == 0o600
