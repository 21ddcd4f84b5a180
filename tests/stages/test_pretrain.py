"""Pretraining as a user runs it: resume after a crash, a signal, a full disk; several processes."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError

from medssl.core.errors import NothingUsableError, UsageError
from medssl.encoders.card import load_card
from medssl.stages import index, pretrain, run_stage
from medssl.stages.pretrain import PretrainConfig
from medssl.training.checkpoint import checkpoints
from tests.support import ROOT
from tests.training_archive import TRAIN_WORDS, write_images

OPTIONS = {"crop": (16, 32, 16), "batch_size": 2, "log_every": 1, "accelerator": "cpu"}
# The parent kills itself with SIGKILL: once before the update of step 3, once when half of the
# second checkpoint is on the disk.
KILL_AT_STEP = """
import os, medssl.training.loop as loop
real = loop.Loop._update
def dying(self, *args):
    if self.step == 3:
        os.kill(os.getpid(), 9)
    return real(self, *args)
loop.Loop._update = dying
"""
KILL_IN_CHECKPOINT = """
import os, medssl.training.checkpoint as checkpoint, medssl.core.runlog as runlog
real_write = checkpoint.write_bytes
def dying(path, data):
    if 'step_00000004' in path.name:
        path.with_name(f'.{path.name}.{os.getpid()}.tmp').write_bytes(data[: len(data) // 2])
        os.kill(os.getpid(), 9)
    real_write(path, data)
checkpoint.write_bytes = dying
"""
RUN = "import sys; from medssl.cli.main import main; sys.argv[0] = 'medssl'; main()"


def medssl(*words, before="", **popen):
    """Start the command line in a process of its own."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    start = ["-c", before + RUN] if before else ["-m", "medssl"]
    command = [sys.executable, "-W", "ignore", *start, *map(str, words)]
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, **popen)


def finish(process):
    _, err = process.communicate(timeout=300)
    return process.returncode, err


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """A catalog of four volumes, all for training."""
    base = tmp_path_factory.mktemp("pretrain")
    split = {"train": 1.0, "val": 0.0, "test": 0.0}
    archive = write_images(base / "archive")
    index.run(index.IndexConfig(archive=archive, out=base / "catalog", split=split, quiet=True))
    return base / "catalog"


def words(catalog, out, *more):
    return ("pretrain", "--data", catalog, "--out", out, *TRAIN_WORDS, "steps=6", "check_every=2",
            *more)  # fmt: skip


def weights(run):
    return load_card(run)[1]


def losses(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    rows = map(json.loads, lines)
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


@pytest.fixture(scope="module")
def undisturbed(catalog, tmp_path_factory):
    """The run that nothing happened to."""
    out = tmp_path_factory.mktemp("whole") / "run"
    config = PretrainConfig(data=catalog, out=out, steps=6, check_every=2, quiet=True, **OPTIONS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pretrain.run(config)
    torch.set_num_threads(threads)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("crash", [KILL_AT_STEP, KILL_IN_CHECKPOINT])
def test_kill_9_then_resume_gives_the_same_weights_bitwise(catalog, undisturbed, tmp_path, crash):
    code, _ = finish(medssl(*words(catalog, tmp_path / "run"), before=crash))
    assert code == -signal.SIGKILL
    code, err = finish(medssl(*words(catalog, tmp_path / "run", "--resume")))
    assert code == 0, err
    expected, found = weights(undisturbed), weights(tmp_path / "run")
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert losses(tmp_path / "run") == losses(undisturbed)
    assert not list((tmp_path / "run").rglob("*.tmp"))


@pytest.mark.slow
def test_sigterm_exits_130_with_a_checkpoint(catalog, tmp_path):
    out = tmp_path / "run"
    process = medssl(*words(catalog, out, "steps=100000"))
    while not checkpoints(out / "checkpoints"):
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    code, err = finish(process)
    assert code == 130, err
    assert "interrupted" in err


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(catalog, undisturbed, tmp_path):
    code, err = finish(medssl(*words(catalog, tmp_path / "run", "devices=2", "strategy=ddp")))
    assert code == 0, err
    expected, found = losses(undisturbed), losses(tmp_path / "run")
    assert found.keys() == expected.keys()
    assert max(abs(found[step] - expected[step]) for step in expected) < 1e-4


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_full_disk_exits_6_and_keeps_the_last_checkpoint(catalog, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    # Two checkpoints of about 15 MB fit, a third being written does not.
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", disk], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        store = f"store={tmp_path / 'store'}"
        code, err = finish(medssl(*words(catalog, disk / "run", store, "steps=40")))
        assert code == 6, err
        assert "disk is full" in err
        kept = checkpoints(disk / "run" / "checkpoints")
        assert kept
        assert not list(disk.rglob("*.tmp"))
    finally:
        subprocess.run(["umount", disk], check=True)


def test_run_holds_what_the_house_promises(undisturbed):
    names = {path.name for path in undisturbed.iterdir()}
    assert names == {
        "checkpoints", "config.yaml", "health.jsonl", "metrics.jsonl", "model", "resolved.yaml",
        "run.json", "tensorboard",
    }  # fmt: skip
    report = json.loads((undisturbed / "run.json").read_text())
    assert report["records"] == 4
    assert report["exit_code"] == 0


def test_resume_of_a_finished_run_changes_nothing(catalog, undisturbed):
    before = weights(undisturbed)
    pretrain.run(
        PretrainConfig(
            data=catalog,
            out=undisturbed,
            steps=6,
            check_every=2,
            quiet=True,
            resume=True,
            **OPTIONS,
        )
    )
    assert all(torch.equal(weights(undisturbed)[key], value) for key, value in before.items())


def test_used_output_is_refused(catalog, undisturbed):
    config = PretrainConfig(data=catalog, out=undisturbed, steps=6, quiet=True, **OPTIONS)
    with pytest.raises(UsageError, match="not empty"):
        pretrain.run(config)


def test_other_options_cannot_resume(catalog, undisturbed):
    config = PretrainConfig(
        data=catalog, out=undisturbed, steps=6, lr=1.0, quiet=True, resume=True, **OPTIONS
    )
    before = weights(undisturbed)
    with pytest.raises(UsageError, match=r"another configuration \(.*lr\)"):
        pretrain.run(config)
    assert all(torch.equal(weights(undisturbed)[key], value) for key, value in before.items())


def test_a_run_that_did_not_finish_offers_no_model(catalog, tmp_path):
    out = tmp_path / "run"
    finish(medssl(*words(catalog, out), before=KILL_AT_STEP))
    with pytest.raises(UsageError, match="no model"):
        load_card(out)


def test_a_mistake_found_late_leaves_a_folder_that_overwrite_may_replace(catalog, tmp_path):
    options = {"data": catalog, "out": tmp_path / "run", "steps": 1, "quiet": True, **OPTIONS}
    with pytest.raises(UsageError, match="unknown"):
        pretrain.run(PretrainConfig(objective={"name": "mea"}, **options))
    assert pretrain.run(PretrainConfig(overwrite=True, **options)).exit_code == 0


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"batch_size": 0}, {"devices": 0}, {"lr": -1.0}, {"spacing_mm": (0, 1, 1)}],
)
def test_numbers_without_meaning_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        PretrainConfig(data="d", out="o", **wrong)


def test_an_archive_without_one_usable_volume_is_exit_3(tmp_path):
    from tests.training_archive import SHAPE, save

    archive = tmp_path / "archive"
    save(archive / "flat.nii.gz", np.full(SHAPE, 7.0))
    config = PretrainConfig(
        data=archive, out=tmp_path / "run", steps=1, splits=("train", "val"), quiet=True, **OPTIONS
    )
    with pytest.raises(NothingUsableError, match="none of 1"):
        pretrain.run(config)
    assert "constant" in (tmp_path / "run" / "catalog" / "quarantine.jsonl").read_text()


def test_nothing_left_is_exit_3_with_the_reasons(catalog, tmp_path):
    config = PretrainConfig(data=catalog, out=tmp_path / "run", channels=3, quiet=True, **OPTIONS)
    with pytest.raises(NothingUsableError, match="channels_1"):
        pretrain.run(config)


def test_a_bad_volume_is_quarantined_and_the_rest_is_used(tmp_path):
    archive = write_images(tmp_path / "archive", 5)
    nan = archive / "scan_001.nii.gz"
    from tests.training_archive import save, volume

    spoilt = volume(1)[0]
    spoilt[3, 3, 3] = float("nan")
    save(nan, spoilt)
    (archive / "scan_002.nii.gz").write_bytes((archive / "scan_002.nii.gz").read_bytes()[:300])
    out = tmp_path / "run"
    run = pretrain.run(
        PretrainConfig(
            data=archive, out=out, steps=1, quiet=True, splits=("train", "val"), **OPTIONS
        )
    )
    assert run.exit_code == 4
    assert run.ledger == out / "catalog" / "quarantine.jsonl"
    assert run.result["records"] == 3
    lines = (out / "catalog" / "quarantine.jsonl").read_text().splitlines()
    reasons = {json.loads(line)["reason"] for line in lines}
    assert reasons == {"nan_voxels", "truncated"}


def test_a_file_beyond_the_cap_spares_the_rest(tmp_path, monkeypatch):
    from tests.training_archive import save, volume

    archive = write_images(tmp_path / "archive", 3)
    save(archive / "large.nii.gz", volume(9, (40, 40, 40))[0])
    monkeypatch.setattr("medssl.readers._volume.BYTE_CAP", 200_000)
    config = PretrainConfig(
        data=archive, out=tmp_path / "run", steps=1, splits=("train", "val"), quiet=True, **OPTIONS
    )
    assert pretrain.run(config).result["records"] == 3
    assert "too_large" in (tmp_path / "run" / "catalog" / "quarantine.jsonl").read_text()


def test_resolved_options_hold_the_defaults_too(catalog, tmp_path):
    config = PretrainConfig(
        data=catalog, out=tmp_path / "run", steps=1, batch_size=2, accelerator="cpu", quiet=True
    )
    pretrain.run(config)
    resolved = yaml.safe_load((tmp_path / "run" / "resolved.yaml").read_text())["options"]
    assert resolved["objective"]["mask_ratio"] == 0.75
    assert resolved["encoder"]["token_size"] == [8, 8, 8]


def test_refused_options_leave_no_folder_behind_but_an_older_one_stays(tmp_path):
    index.run(index.IndexConfig(archive=write_images(tmp_path / "in"), out=tmp_path / "catalog"))
    given = {"data": tmp_path / "catalog", "objective": "jepa", "encoder": "resenc-xs", **OPTIONS}
    for out in (tmp_path / "new", tmp_path / "old"):
        if out.name == "old":
            out.mkdir()
        with pytest.raises(UsageError, match="leaves hidden tokens out"):
            run_stage("pretrain", None, {**given, "out": out})
    assert not (tmp_path / "new").exists() and (tmp_path / "old").exists()
