"""A plan loads, runs as it is, follows its rules, and says what it will take."""

import hashlib
import json
import math
import subprocess
import sys
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import medssl
from medssl.archive.catalog import Catalog
from medssl.cli.main import app
from medssl.core.config import load_config
from medssl.core.errors import NothingUsableError, ResourceError, UsageError
from medssl.core.preprocess import Contract, prepare
from medssl.core.registry import OBJECTIVES
from medssl.stages import _machine, index, plan
from medssl.stages import _plan_rules as rules
from medssl.stages._plan_count import Count
from medssl.stages._plan_facts import Facts, Machine, candidates, fingerprint, prepared_grid
from medssl.stages.pretrain import PretrainConfig
from tests.scans import SHAPE_DHW, blob_hu, oblique, save_nifti
from tests.training_archive import write_images

LAPTOP = Machine(cpus=4, memory_bytes=16 * 10**9, disk_bytes=10**12, bf16=False)
SERVER = replace(LAPTOP, gpu="GPU", gpu_bytes=80 * 10**9, bf16=True)
ALL_TRAIN = {"train": 1.0, "val": 0.0, "test": 0.0}


def volumes(**changed):
    """Facts of 500 isotropic CT volumes."""
    facts = Facts(
        kind="volume", counts={"volume": 500}, patients=500, modalities={"CT": 500}, channels=1,
        mixed=False, shape=(100, 200, 200), spacing_mm=(1.0, 1.0, 1.0), spread=1.0, thickness=1.0,
        slices=100, side_px=(200, 200, 200),
    )  # fmt: skip
    return replace(facts, **changed)


def pictures(count, **changed):
    """Facts of grey pictures."""
    own = {"kind": "image", "counts": {"image": count}, "spacing_mm": None, "slices": 1}
    return volumes(**own, shape=(1, 200, 200), **changed)


def clips(count, modality="US"):
    """Facts of clips of two seconds."""
    own = {"kind": "clip", "counts": {"clip": count}, "spacing_mm": None, "slices": 30}
    return volumes(**own, shape=(30, 128, 170), modalities={modality: count})


def make_catalog(archive, out, **more):
    index.run(index.IndexConfig(archive=archive, out=out, quiet=True, workers=0, **more))
    return out


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """Eight small volumes, all for training."""
    base = tmp_path_factory.mktemp("plan")
    return make_catalog(write_images(base / "archive", 8), base / "catalog", split=ALL_TRAIN)


def planned(catalog, out, **more):
    return plan.run(plan.PlanConfig(catalog=catalog, out=out, measure=False, **more))


def contents(folder):
    """Hash of every file of a folder."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_plan_holds_every_choice_with_its_reason_and_loads_as_a_config(catalog, tmp_path):
    out = tmp_path / "plan.yaml"
    done = CliRunner().invoke(app, ["plan", str(catalog), "-o", str(out), "measure=false"])
    assert done.exit_code == 0, done.output
    run = planned(catalog, out, overwrite=True)
    given = {"data": catalog, "out": tmp_path / "run"}
    config = load_config(PretrainConfig, "pretrain", out, given)
    assert config.objective.name == "mae"
    assert (config.crop, config.batch_size, config.accumulate) == ((32, 48, 32), 8, 1)
    issue = {"objective", "encoder", "crop", "spacing_mm", "batch_size", "accumulate", "precision",
             "steps"}  # fmt: skip
    assert issue <= run.result["why"].keys()
    assert yaml.safe_load(out.read_text()) == run.result["options"]


def test_a_plan_holds_no_path_but_those_given_in_options(catalog, tmp_path):
    planned(catalog, tmp_path / "plan.yaml")
    assert str(tmp_path.parent) not in (tmp_path / "plan.yaml").read_text()


def test_pretrain_runs_a_plan_as_it_is(catalog, tmp_path):
    planned(catalog, tmp_path / "plan.yaml", encoder="vit3d-xs")
    run = medssl.pretrain(
        data=catalog, out=tmp_path / "run", config=tmp_path / "plan.yaml", steps=1, health=False,
        quiet=True,
    )  # fmt: skip
    assert run.result["records"] == 8


@pytest.mark.slow
def test_memory_time_and_disk_of_a_plan_are_those_of_its_run(tmp_path):
    catalog = make_catalog(write_images(tmp_path / "a", 20), tmp_path / "c", split=ALL_TRAIN)
    before, out = contents(catalog), tmp_path / "plan.yaml"
    expected = plan.run(plan.PlanConfig(catalog=catalog, out=out)).result
    assert contents(catalog) == before
    words = ["--config", out, "--data", catalog, "--out", tmp_path / "run", "--quiet"]
    # A process of its own: this one has held other things.
    command = [sys.executable, "-m", "medssl", "pretrain", *map(str, words), "steps=8"]
    subprocess.run([*command, "log_every=1"], check=True)
    report = json.loads((tmp_path / "run" / "run.json").read_text())
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rates = [json.loads(line).get("samples_per_s") for line in lines]
    step_s = np.mean([expected["options"]["batch_size"] / rate for rate in rates if rate][1:])
    assert expected["memory_bytes"] == pytest.approx(1e6 * report["peak_memory_mb"], rel=0.25)
    assert 0.5 < expected["step_s"] / step_s < 2
    stored = sum(file.stat().st_size for file in (catalog / "store").rglob("*.b2nd"))
    assert expected["store_bytes"] == pytest.approx(stored, rel=0.1)


def test_nothing_to_learn_from_ends_with_3_and_the_reasons(tmp_path):
    archive = write_images(tmp_path / "archive", 2)
    catalog = make_catalog(
        archive, tmp_path / "catalog", split={"train": 0.0, "val": 0.0, "test": 1.0}
    )
    words = ["plan", str(catalog), "-o", str(tmp_path / "plan.yaml"), "measure=false"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 3
    assert "split_test" in done.output
    assert not (tmp_path / "plan.yaml").exists()


def test_an_existing_plan_is_replaced_when_asked_for_and_nothing_else_ever_is(catalog, tmp_path):
    out = tmp_path / "plan.yaml"
    planned(catalog, out)
    with pytest.raises(UsageError, match="exists"):
        planned(catalog, out)
    planned(catalog, out, overwrite=True)
    out.write_text("objective: mae\n")
    with pytest.raises(UsageError, match="not written by"):
        planned(catalog, out, overwrite=True)


@pytest.mark.parametrize(
    ("machine", "what"),
    [
        (replace(LAPTOP, disk_bytes=10**5), "on the catalog's disk"),
        (replace(LAPTOP, memory_bytes=10**8), "does not fit"),
    ],
)
def test_a_machine_that_cannot_run_the_plan_gets_none(
    catalog, tmp_path, monkeypatch, machine, what
):
    monkeypatch.setattr(plan, "this_machine", lambda _: machine)
    with pytest.raises(ResourceError, match=what):
        planned(catalog, tmp_path / "plan.yaml")
    assert not (tmp_path / "plan.yaml").exists()


def test_what_does_not_fit_at_once_is_accumulated(catalog, tmp_path, monkeypatch):
    full = planned(catalog, tmp_path / "a.yaml").result["memory_bytes"]
    small = replace(LAPTOP, memory_bytes=round((full - 1) / 0.8))
    monkeypatch.setattr(plan, "this_machine", lambda _: small)
    options = planned(catalog, tmp_path / "b.yaml").result["options"]
    assert (options["batch_size"], options["accumulate"]) == (8, 2)


def test_clips_get_an_encoder_of_clips_as_large_as_the_machine_and_their_number_allow():
    sizes = [(clips(50), SERVER), (clips(300), SERVER), (clips(3_000), SERVER)]
    names = [rules.encoder(*pair, "videomae").value for pair in [*sizes, (clips(3_000), LAPTOP)]]
    assert names == ["video_vit-xs", "video_vit-s", "video_vit-b", "video_vit-xs"]


@pytest.mark.slow
def test_a_plan_for_ultrasound_runs_as_it_is(tmp_path):
    medssl.phantom(out=tmp_path / "hearts", kind="echo", patients=6)
    catalog = make_catalog(tmp_path / "hearts", tmp_path / "c", split=ALL_TRAIN, modality="US")
    out = tmp_path / "plan.yaml"
    expected = plan.run(plan.PlanConfig(catalog=catalog, out=out, quiet=True)).result
    assert expected["options"]["objective"]["name"] == "discovr"
    run = medssl.pretrain(data=catalog, out=tmp_path / "run", config=tmp_path / "plan.yaml",
                          steps=2, health=False, quiet=True)  # fmt: skip
    stored = sum(file.stat().st_size for file in (catalog / "store").rglob("*.b2nd"))
    assert run.result["records"] == expected["records"]
    assert expected["store_bytes"] == pytest.approx(stored, rel=0.25)


def test_the_largest_part_of_a_batch_that_fits():
    count = Count(fixed=10.0, sample=1.0, parameters=0)
    assert [count.largest(12, limit) for limit in (22.0, 21.9, 14.0, 5.0)] == [12, 6, 4, 1]


@pytest.mark.parametrize("wanted_mm", [None, (2.0, 1.0, 1.5)])
def test_planned_grids_are_those_that_preparing_gives(tmp_path, wanted_mm):
    affine = oblique()[:, [2, 0, 1, 3]]  # slices run along another axis
    x = blob_hu(affine, SHAPE_DHW)
    save_nifti(tmp_path / "archive" / "scan.nii.gz", x, affine)
    catalog = Catalog.open(make_catalog(tmp_path / "archive", tmp_path / "catalog"))
    [record] = catalog.records()
    contract = Contract(spacing_mm=wanted_mm)
    sample = catalog.sample(record)
    done = prepare(sample.array, sample.geometry, record.modality, contract)
    grid = prepared_grid(record, contract)
    assert grid.shape == done.array.shape
    assert np.allclose(grid.spacing_mm, done.spacing_mm, rtol=0.1)


def test_thick_slices_are_thick_along_their_own_axis(tmp_path):
    for number in range(2):
        affine = np.diag([4.0, 1.0, 1.0, 1.0])  # sagittal: slices along W
        save_nifti(tmp_path / "a" / f"{number}.nii.gz", blob_hu(affine, (40, 40, 20)), affine)
    catalog = make_catalog(tmp_path / "a", tmp_path / "c", split=ALL_TRAIN)
    facts = fingerprint(candidates(Catalog.open(catalog).records(), ("train",)))
    assert facts.spacing_mm == pytest.approx((1, 1, 4))
    assert (facts.shape, facts.slices, facts.thickness) == ((40, 40, 20), 20, 4)
    assert rules.token_size(facts) == (8, 8, 2)


def test_volumes_of_one_spacing_keep_it_and_others_get_the_median():
    assert rules.input_of(volumes(spread=1.1))["spacing_mm"].value is None
    mixed = rules.input_of(volumes(spread=2.0, spacing_mm=(2.5, 0.7, 0.7)))
    assert mixed["spacing_mm"].value == [2.5, 0.7, 0.7]


@pytest.mark.parametrize(
    "facts", [volumes(thickness=7.0, spacing_mm=(7.0, 1.0, 1.0)), volumes(slices=12)]
)
def test_very_thick_or_few_slices_are_learnt_one_by_one(facts):
    assert rules.encoder(facts, LAPTOP, "mae").value == "timm/resnet18"


def test_cubes_of_isotropic_voxels_are_cubes():
    assert rules.token_size(volumes()) == (8, 8, 8)


@pytest.mark.parametrize(
    ("facts", "machine", "names"),
    [
        (volumes(counts={"volume": 20}), LAPTOP, ["mae"]),
        (volumes(), SERVER, ["mae"]),
        (volumes(counts={"volume": 5000}), SERVER, ["dino"]),
        (volumes(counts={"volume": 5000}), LAPTOP, ["mae"]),
        (pictures(30), LAPTOP, ["mae"]),
        (pictures(3000), LAPTOP, ["simclr", "moco"]),
        (pictures(50_000), SERVER, ["dino"]),
        (pictures(50_000), LAPTOP, ["simclr", "moco"]),
        (clips(300), LAPTOP, ["discovr", "videomae"]),
        (clips(300, "ES"), SERVER, ["videomae"]),
    ],
)
def test_the_objective_follows_from_kind_and_number(facts, machine, names):
    found = rules.objectives(facts, machine, flat=facts.kind == "image")
    assert [choice.value for choice in found] == names


@pytest.mark.parametrize(
    ("machine", "precision"),
    [
        (LAPTOP, "32-true"),
        (replace(LAPTOP, bf16=True), "bf16-mixed"),
        (SERVER, "bf16-mixed"),
        (replace(SERVER, bf16=False), "16-mixed"),
    ],
)
def test_precision_is_what_the_hardware_computes(machine, precision):
    assert rules.hardware(machine)["precision"].value == precision


@pytest.mark.parametrize("name", OBJECTIVES.names())
@pytest.mark.parametrize("records", [1, 5, 20, 5000])
def test_a_batch_shows_no_record_twice(name, records):
    batch = rules.recipe(volumes(counts={"volume": records}), name)["batch_size"].value
    assert 1 <= batch <= records


def test_hours_limit_the_steps_and_the_plan_says_so():
    facts = volumes()
    enough = rules.steps(facts, 16, math.inf)["steps"]
    assert enough.value == 500 * rules.PASSES // 16
    short = rules.steps(facts, 16, 100.7)["steps"]
    assert short.value == 100
    assert str(enough.value) in short.why


def test_pictures_of_many_sizes_become_one_scale():
    own = rules.input_of(pictures(100, side_px=(300, 1024, 3000), channels=3, mixed=True))
    options = rules.as_config(own)
    assert options == {"match_channels": True, "size_px": 256, "channels": 3}
    assert "size_px" not in rules.input_of(pictures(100, side_px=(96, 96, 96)))


def test_an_unreadable_record_is_no_end_and_only_unreadable_ones_are(tmp_path):
    write_images(tmp_path / "a", 2)
    for file in (tmp_path / "a").iterdir():
        image = nib.load(file)
        nib.save(nib.Nifti1Image(np.full(image.shape, np.nan, np.float32), image.affine), file)
    catalog = make_catalog(tmp_path / "a", tmp_path / "c", split=ALL_TRAIN)
    with pytest.raises(NothingUsableError, match="none of the 2 records"):
        plan.run(plan.PlanConfig(catalog=catalog, out=tmp_path / "plan.yaml"))


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("0::/job/7\n", "job/memory.max"),
        ("4:memory:/job/7\n", "memory/job/memory.limit_in_bytes"),
        ("0::/elsewhere\n", "memory.max"),
    ],
)
def test_memory_is_capped_by_any_control_group_above(tmp_path, monkeypatch, line, place):
    (tmp_path / "own").write_text(line)
    limit = tmp_path / "groups" / place
    limit.parent.mkdir(parents=True)
    limit.write_text("4096\n")
    monkeypatch.setattr(_machine, "_CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(_machine, "_OWN_CGROUPS", tmp_path / "own")
    assert _machine.machine(tmp_path)["memory_bytes"] == 4096
