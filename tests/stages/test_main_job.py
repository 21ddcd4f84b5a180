"""The whole way as a user runs it: what it writes, whom it calls, what it gives away."""

import json

import pytest

RUN = "import sys; from medssl.cli.main import main; main()"
SHORT = ["patients=4", "operations=4", "pretrain_steps=3", "finetune_steps=3"]
# What may hold names: the archive itself, the owner's table of paths, and the names of
# predictions, which mirror the names of their scans.
MAY_HOLD_NAMES = {"phantom", "predictions", "metrics.json"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """One short demo without a network: its folder, its process, the connections it tried."""
    import sys

    from tests.support import Offline

    folder = tmp_path_factory.mktemp("demo")
    offline = Offline(python=sys.executable, log=folder / "connections.txt")
    done = offline.run("-c", RUN, "demo", "-o", folder / "out", *SHORT)
    return folder / "out", done, offline.attempts()


def test_demo_ends_well_and_names_what_it_wrote(demo):
    out, done, _ = demo
    assert done.returncode == 0, done.stderr
    made = ["pretrained", "finetuned", "predictions", "metrics.json"]
    for name in ("catalog", *made, *(f"video/{name}" for name in made)):
        assert str(out / name) in done.stdout
        assert (out / name).exists()


def test_nothing_is_sent_anywhere(demo):
    _, _, attempts = demo
    assert attempts == []


def test_names_of_patients_stay_in_the_archive(demo):
    out, _, _ = demo
    names = [p.name.encode() for p in (out / "phantom" / "archive" / "ct").iterdir()]
    names += [p.name.split(".")[0].encode() for p in (out / "phantom").glob("labelled/images*/*")]
    assert len(names) > 8
    for file in out.rglob("*"):
        kept = file.relative_to(out).parts[0] in MAY_HOLD_NAMES or file.name == "paths.parquet"
        if file.is_file() and not kept:
            content = str(file.relative_to(out)).encode() + file.read_bytes()
            assert [name for name in names if name in content] == [], file


def test_paths_and_salt_belong_to_their_owner(demo):
    out, _, _ = demo
    for file in out.rglob("*"):
        if file.name in {"paths.parquet", "salt"}:
            assert file.stat().st_mode & 0o077 == 0, file


def test_broken_files_are_in_the_ledger_with_their_reason(demo):
    out, _, _ = demo
    expected = json.loads((out / "phantom" / "run.json").read_text())["broken"].values()
    lines = (out / "catalog" / "quarantine.jsonl").read_text().splitlines()
    reasons = {json.loads(line)["reason"] for line in lines}
    # Voxels show that a scan is constant; the demo reads those of known modality only.
    assert set(expected) - {"constant"} == reasons


def test_phases_of_the_test_operations_are_predicted_second_by_second_and_scored(demo):
    out, _, _ = demo
    [table] = (out / "video" / "predictions").glob("*_phases.csv")
    rows = table.read_text().splitlines()
    assert rows[0] == "time_s,phase,probability" and len(rows) > 40
    metrics = json.loads((out / "video" / "metrics.json").read_text())
    assert metrics["accuracy"]["n"] == 1
    encoder = json.loads((out / "video" / "finetuned" / "run.json").read_text())["loaded_from_init"]
    assert encoder["encoder_tensors"] > 50


def test_segmentations_lie_on_the_grids_of_their_scans(demo):
    import nibabel as nib
    import numpy as np

    out, _, _ = demo
    results = list((out / "predictions").glob("*_seg.nii.gz"))
    assert len(results) == 3
    for file in results:
        scan = nib.load(out / "phantom/labelled/imagesTs" / file.name.replace("_seg", ""))
        assert nib.load(file).shape == scan.shape
        np.testing.assert_array_equal(nib.load(file).affine, scan.affine)
