"""What a plan makes of an objective that is asked for: recipe, encoder, crop, records to try."""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
import yaml

import medssl
from medssl.archive.catalog import Catalog
from medssl.core.config import Component, read_yaml
from medssl.core.errors import ResourceError
from medssl.core.preprocess import Contract
from medssl.core.registry import OBJECTIVES
from medssl.core.viewspec import PartnerSpec
from medssl.encoders._base import build_encoder
from medssl.encoders.card import Card, save_model
from medssl.objectives._parts.dense import DenseEmbedding, EmbeddingConfig
from medssl.stages import _plan_rules as rules
from medssl.stages import plan
from medssl.stages._anatomy import load_network
from medssl.stages._crop import crop_of, views_asked
from medssl.stages._plan_count import embedding_bytes
from medssl.stages._plan_facts import Grid
from medssl.stages._plan_page import Estimate
from medssl.stages._plan_trial import to_try
from medssl.stages._train import CLIP_FPS, contract_of
from medssl.stages.pretrain import PretrainConfig
from medssl.training.optim import OptimConfig
from tests.stages.test_plan import ALL_TRAIN, LAPTOP, make_catalog, planned, volumes
from tests.training_archive import write_images

RATES = OptimConfig.model_fields.keys() - {"warmup"} | {"layer_decay", "ema_decay"}


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A catalog of four small volumes, all for training."""
    base = tmp_path_factory.mktemp("plan")
    return make_catalog(write_images(base / "archive", 4), base / "catalog", split=ALL_TRAIN)


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_no_rate_of_a_recipe_is_lost(name):
    known, _ = read_yaml("pretrain", name)
    chosen = rules.as_config(rules.recipe(volumes(), name))
    assert {key: known[key] for key in RATES & known.keys()}.items() <= chosen.items()


def test_volumes_get_an_image_encoder_for_an_objective_of_slices(scans, tmp_path):
    options = planned(scans, tmp_path / "p.yaml", objective="image_volume").result["options"]
    assert (options["encoder"], len(options["crop"])) == ("timm/resnet18", 2)
    assert rules.encoder(volumes(), LAPTOP, "mae").value == "resenc-xs"


@pytest.mark.parametrize(("hours", "enough"), [(29.0, False), (32.0, True)])
def test_hours_that_the_store_alone_takes_are_too_few(scans, tmp_path, monkeypatch, hours, enough):
    took = Estimate(memory_bytes=1e9, store_bytes=1.0, run_bytes=1.0, store_s=30 * 3600.0,
                    step_s=1.0, check_s=1.0, how="")  # fmt: skip
    monkeypatch.setattr(plan, "_tried_out", lambda *_: (8, took))
    config = plan.PlanConfig(catalog=scans, out=tmp_path / "plan.yaml", hours=hours)
    if enough:
        assert plan.run(config).result["hours"] <= hours
        return
    with pytest.raises(ResourceError, match=r"30\.0 hours, of 29\.0 hours") as error:
        plan.run(config)
    assert "--hours 30.1" in error.value.fix
    assert not config.out.exists()


def crop_for(objective, shape):
    """The crop of a pretraining on volumes of this shape, and of how many tiles side by side."""
    config = PretrainConfig(data=".", out=".", objective=objective)
    encoder = build_encoder("resenc-xs", {}, 1)
    return crop_of(config, encoder, [Grid((1, *shape), (1.0, 1.0, 1.0))] * 3)


def test_base_crops_fit_side_by_side_in_the_median_record():
    assert crop_for("mae", (80, 200, 160)) == (80, 96, 96)
    assert crop_for("voco", (80, 200, 160)) == (80, 64, 48)
    assert crop_for({"name": "voco", "tiles": 2}, (80, 200, 160)) == (80, 96, 80)
    assert crop_for("voco", (80, 900, 20)) == (80, 96, 16)  # never more than the cap, or nothing


def test_a_plan_for_base_crops_says_how_many_fit_in_a_record(scans, tmp_path):
    result = planned(scans, tmp_path / "p.yaml", objective="voco").result
    assert result["options"]["crop"] == [32, 16, 16]  # of records of 18 x 34 x 20
    assert result["why"]["crop"].startswith("so that 1 x 3 x 3 side by side fit")


def test_asking_for_views_draws_no_number_that_a_run_would_draw():
    config = PretrainConfig(data=".", out=".", objective="voco")
    encoder, before = build_encoder("resenc-xs", {}, 1), torch.get_rng_state()
    views_asked(config, encoder, (32, 32, 32), 3)
    assert torch.equal(torch.get_rng_state(), before)


def of_patients(scans, patients, each):
    """Records of so many patients, ``each`` of one patient of very different sizes."""
    [one, *_] = Catalog.open(scans).records()
    return [
        replace(one, record_id=f"{p}.{n}", patient_id=f"p{p}", study_id=f"s{p}",
                shape=(1, 8 + 40 * n + (3 if n else 1) * p % 10, 32, 32))
        for p in range(patients) for n in range(each)
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["patient", "study"])
def test_a_trial_holds_whole_patients_where_their_records_are_partners(scans, kind):
    records = of_patients(scans, 10, 2)
    alone = replace(records[0], record_id="alone", patient_id="alone", study_id="alone")
    tried = to_try([alone, *records], Contract(), PartnerSpec(kind=kind))
    assert sorted(Counter(one.patient_id for one in tried).values()) == [2, 2]
    plain = to_try(records, Contract(), None)
    assert len({one.patient_id for one in plain}) == len(plain) == 4


def test_a_trial_holds_several_patients_where_partners_are_of_others(scans):
    records = of_patients(scans, 2, 50)
    tried = to_try(records, Contract(), PartnerSpec(kind="anatomy"))
    assert {one.patient_id for one in tried} == {"p0", "p1"}


def test_a_patient_with_very_many_records_is_not_tried_whole(scans):
    tried = to_try(of_patients(scans, 3, 40), Contract(), PartnerSpec(kind="patient"))
    assert len(tried) == 4
    assert len({one.patient_id for one in tried}) == 1


def embedding_run(folder):
    """A run of ``anatomy`` with random weights: 8 wide."""
    encoder, config = build_encoder("resenc-xs", {}, 1), EmbeddingConfig(width=8, hidden=4)
    contract = contract_of(PretrainConfig(data=".", out="."), 1, CLIP_FPS)
    card = Card(
        encoder=Component(name="resenc-xs"), in_channels=1, channels=("grey",),
        contract=contract, modality="MR", patch_size=(32, 32, 32),
        objective="anatomy", embedding=config.model_dump(),
    )  # fmt: skip
    parts = {"encoder": encoder, "embedding": DenseEmbedding(encoder, config, (32, 32, 32))}
    save_model(folder / "model", card, parts)
    return folder


def test_without_a_trial_embeddings_count_by_their_cells(tmp_path):
    run = embedding_run(tmp_path)
    fine, coarse = (math.prod(step) for step in load_network(run).steps)
    assert embedding_bytes(run, 1000) == pytest.approx(1000 * 2 * (9 / fine + 8 / coarse))


@pytest.mark.slow
def test_embeddings_beside_the_store_are_part_of_a_plan(scans, tmp_path):
    alice = {"name": "alice", "embedding": embedding_run(tmp_path / "anatomy")}
    out = tmp_path / "plan.yaml"
    expected = plan.run(plan.PlanConfig(catalog=scans, out=out, objective=alice)).result
    medssl.pretrain(data=scans, out=tmp_path / "run", config=out, steps=1, warmup=0, health=False,
                    store=tmp_path / "store", quiet=True)  # fmt: skip
    sizes = Counter()
    for file in (tmp_path / "store").rglob("*.*"):
        sizes[file.suffix] += file.stat().st_size
    assert sizes[".npy"] > sizes[".b2nd"]
    assert expected["store_bytes"] == pytest.approx(sizes[".npy"] + sizes[".b2nd"], rel=0.1)


def test_a_plan_names_the_other_run_that_it_needs_and_no_catalog(scans, tmp_path):
    alice = {"name": "alice", "embedding": embedding_run(tmp_path / "anatomy")}
    options = planned(scans, tmp_path / "p.yaml", objective=alice).result["options"]
    assert options["objective"]["embedding"] == str(tmp_path / "anatomy")
    written = (tmp_path / "p.yaml").read_text()
    assert yaml.safe_load(written) == options
    assert str(scans) not in written
