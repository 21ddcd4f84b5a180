"""Partners from a store: whose they are, the same for all workers, ranks and resumed runs."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from medssl.archive.store import Store
from medssl.core.errors import NothingUsableError
from medssl.core.geometry import Geometry
from medssl.core.preprocess import Contract, prepare
from medssl.core.viewspec import PartnerSpec, View, ViewSpec
from medssl.objectives import mae
from medssl.stages import index, pretrain
from medssl.stages._records import fill_store, stored
from medssl.stages._sources import StoredRecords
from medssl.stages._style import views_of
from medssl.stages.pretrain import PretrainConfig
from medssl.training.data import StepSampler, loader
from medssl.views.matching import BodyMatcher
from tests.training_archive import save, volume

SPEC = ViewSpec(views=(View(crop=(8, 8, 8), count=2),), partner=PartnerSpec(kind="anatomy"))
STYLED = SPEC.model_copy(update={"style": (0.4, 0.6)})
BATCH = 4


@pytest.fixture
def records(tmp_path):
    """Six volumes of three patients."""
    store = Store(tmp_path, Contract())
    for seed in range(6):
        prepared = prepare(volume(seed)[0][None], Geometry.of_volume(np.eye(4)), "MR", Contract())
        store.put(f"v{seed}", prepared, str(seed))
    entries = [store.entry(f"v{seed}") for seed in range(6)]
    return StoredRecords(store, entries, [0, 0, 1, 1, 2, 2])


def dataset(records, spec=SPEC):
    return views_of(records, spec, 0, BATCH, BodyMatcher(spec, records))


def equal(one, other):
    """Whether two batches hold the same, bitwise."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return torch.equal(one, other)


def batches(data, *, start=0, steps=4, accumulate=1, rank=0, world=1, workers=0):
    sampler = StepSampler(start, steps, BATCH, accumulate, rank, world)
    return list(loader(data, sampler, workers=workers, pin=False))


def test_a_batch_holds_what_the_spec_declares(records):
    batch = batches(dataset(records), steps=1)[0]
    assert len(batch["views"]) == 4
    assert batch["spacing_mm"].dtype == torch.float32
    assert batch["spacing_mm"].shape == (BATCH, 3)
    partner = batch["partner"]
    assert partner["kept"].dtype == torch.bool
    assert (batch["patient"] == batch["record"] // 2).all()
    assert (partner["patient"] == partner["record"] // 2).all()


@pytest.mark.parametrize("spec", [SPEC, STYLED], ids=["plain", "styled"])
def test_no_sample_is_paired_with_its_own_patient(records, spec):
    data = dataset(records, spec)
    samples = [data[position] for position in range(60)] + [data.in_pass(n) for n in range(6)]
    assert all(one["patient"] != one["partner"]["patient"] for one in samples)
    assert any(one["partner"]["kept"] for one in samples)


@pytest.mark.parametrize("spec", [SPEC, STYLED], ids=["plain", "styled"])
def test_ranks_and_resumed_runs_see_the_same_pairs(records, spec):
    whole = batches(dataset(records, spec))
    assert equal(whole[2:], batches(dataset(records, spec), start=2))
    parts = [batches(dataset(records, spec), rank=rank, world=2) for rank in range(2)]
    for batch, *shares in zip(whole, *parts, strict=True):
        for name in ("record", "score", "kept"):
            joined = torch.cat([share["partner"][name] for share in shares])
            assert torch.equal(batch["partner"][name], joined)
        x = torch.cat([share["views"][3]["x"] for share in shares])
        assert torch.equal(batch["views"][3]["x"], x)


@pytest.mark.slow
def test_workers_see_the_same_pairs(records):
    assert equal(batches(dataset(records)), batches(dataset(records), workers=2))


def test_whole_passes_hold_partners_too_and_repeat_them(records):
    data = dataset(records)
    first = list(data.whole_pass(3))
    data[7]  # a step in between
    assert equal(first, list(data.whole_pass(3)))
    assert [len(batch["views"]) for batch in first] == [4, 4]


PARTS = ViewSpec(views=(View(crop=(8, 8, 8)),), partitions=4)


@pytest.mark.parametrize("spec", [SPEC, PARTS], ids=["partners", "parts"])
def test_every_view_has_a_style_of_its_own(records, spec):
    styled = dataset(records, spec.model_copy(update={"style": (0.4, 0.6)}))
    both = [[data[i]["views"] for i in range(BATCH)] for data in (styled, dataset(records, spec))]
    for views in range(4):
        kept = [
            np.allclose(one[views]["x"], other[views]["x"], atol=1e-4)
            for one, other in zip(*both, strict=True)
        ]
        assert sum(kept) == 1  # the reference of this view


def test_samples_whose_partner_is_damaged_are_replaced_and_counted(records):
    file = next(records.store.folder.rglob("v0.b2nd"))
    anyone = PartnerSpec(kind="anatomy", threshold=-1)
    spec = SPEC.model_copy(update={"partner": anyone})
    data = dataset(records, spec)
    whole = [data[position] for position in range(12)]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    data = dataset(replace(records, store=Store(records.store.root, Contract())), spec)
    again = [data[position] for position in range(12)]
    touched = [0 in (one["record"], one["partner"]["record"]) for one in whole]
    assert any(one["record"] and t for one, t in zip(whole, touched, strict=True))
    assert [bool(one["replaced"]) for one in again] == touched


def make_catalog(folder, files):
    """Of volumes {path: seed}; the patient is the folder."""
    for name, seed in files.items():
        save(folder / "archive" / name, volume(seed)[0])
    split = {"train": 1.0, "val": 0.0, "test": 0.0}
    config = index.IndexConfig(
        archive=folder / "archive", out=folder / "catalog", split=split, quiet=True
    )
    index.run(config)
    return pretrain.Catalog.open(folder / "catalog")


def stored_of(catalog):
    store = Store(catalog.folder / "store", Contract())
    fill_store(catalog, catalog.records(), store, 0.0)
    return stored(catalog.records(), store)


FILES = {f"sub-{n // 2}/scan_{n % 2}.nii.gz": n for n in range(6)}


def test_numbers_of_patients_do_not_depend_on_salt_or_names(tmp_path):
    renamed = {f"sub-{9 - n // 2}/{n}.nii.gz": n for n in FILES.values()}
    one = stored_of(make_catalog(tmp_path / "a", FILES))
    again = stored_of(make_catalog(tmp_path / "b", renamed))
    assert [e.pixel_hash for e in one.entries] == [e.pixel_hash for e in again.entries]
    assert one.patients.tolist() == again.patients.tolist()
    assert sorted(one.patients) == [0, 0, 1, 1, 2, 2]


def test_patients_who_share_a_picture_are_one(tmp_path):
    # Scan 1 lies in the folders of two patients: the scans of both are no pairs of strangers.
    shared = {**FILES, "sub-1/copy.nii.gz": 1}
    found = stored_of(make_catalog(tmp_path, shared))
    assert len(found) == 6
    assert sorted(np.bincount(found.patients)) == [2, 4]


def with_partner(monkeypatch, **options):
    """MAE that asks for partners, and trains on the sample's own views."""
    views, step = mae.Objective.views, mae.Objective.step
    partner = {"partner": PartnerSpec(**options)}
    monkeypatch.setattr(mae.Objective, "views", lambda s: views(s).model_copy(update=partner))
    monkeypatch.setattr(mae.Objective, "step", lambda s, b: step(s, {**b, "views": b["views"][:1]}))


def config_of(catalog, out, **more):
    return PretrainConfig(
        data=catalog.folder, out=out, crop=(16, 32, 16), batch_size=2, steps=2, log_every=1,
        accelerator="cpu", quiet=True, health=False, **more,
    )  # fmt: skip


@pytest.mark.parametrize(("threshold", "dropped"), [(-1.0, 0.0), (1.0, 1.0)])
def test_dropped_pairs_are_counted_and_logged(tmp_path, monkeypatch, threshold, dropped):
    with_partner(monkeypatch, kind="anatomy", threshold=threshold)
    run = pretrain.run(config_of(make_catalog(tmp_path, FILES), tmp_path / "run"))
    lines = [json.loads(line) for line in (run.out / "metrics.jsonl").read_text().splitlines()]
    assert [line["pairs_dropped"] for line in lines if "loss" in line] == [dropped] * 2


def test_one_patient_has_no_partner_of_another(tmp_path, monkeypatch):
    with_partner(monkeypatch, kind="anatomy")
    catalog = make_catalog(tmp_path, {f"sub-0/scan_{n}.nii.gz": n for n in range(3)})
    with pytest.raises(NothingUsableError, match="other patients"):
        pretrain.run(config_of(catalog, tmp_path / "run"))


def test_the_health_probe_takes_pairs(tmp_path, monkeypatch):
    with_partner(monkeypatch, kind="patient")
    config = config_of(make_catalog(tmp_path, FILES), tmp_path / "run")
    run = pretrain.run(config.model_copy(update={"health": True}))
    assert len((run.out / "health.jsonl").read_text().splitlines()) == 2
