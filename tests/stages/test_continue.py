"""A run that goes on from another one, with other data; and one that takes its weights alone."""

import json

import pytest
import torch
import yaml

from medssl.core.errors import ConfigError, UsageError
from medssl.encoders.card import load_card, part_of
from medssl.stages import finetune, index, pretrain
from medssl.stages.finetune import FinetuneConfig
from medssl.stages.pretrain import PretrainConfig
from medssl.training.checkpoint import load_newest
from tests.training_archive import save, volume, write_images, write_labelled

OPTIONS = {"accelerator": "cpu", "quiet": True, "log_every": 1, "check_every": 4, "health": False}
FIRST = {
    "objective": {"name": "mae", "decoder_depth": 1},
    "encoder": {"name": "vit3d-xs", "token_size": (4, 8, 8)},
    "crop": (16, 32, 16), "batch_size": 2, "ema_decay": 0.5,
    "schedule": "infinite", "warmup": 2, "cooldown": 2,
}  # fmt: skip


def catalog(base, name, write):
    write(base / name)
    split = {"train": 1.0, "val": 0.0, "test": 0.0}
    out = base / f"{name}_catalog"
    index.run(index.IndexConfig(archive=base / name, out=out, split=split, quiet=True))
    return out


def other_scanner(folder):
    """Three volumes with inverted contrast."""
    for seed in range(3):
        save(folder / f"new_{seed}.nii.gz", 400 - volume(seed + 50)[0])


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Two catalogs and a run of 6 steps on the first one."""
    base = tmp_path_factory.mktemp("continue")
    old, new = catalog(base, "old", write_images), catalog(base, "new", other_scanner)
    train(old, base / "first", steps=6, **FIRST)
    return {"old": old, "new": new, "first": base / "first"}


def train(data, out, **more):
    return pretrain.run(PretrainConfig(data=data, out=out, **{**OPTIONS, **more}))


def state(run):
    return load_newest(run / "checkpoints")[0]


def rates(run):
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["lr"] for row in rows if "lr" in row}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(v, two[k]) for k, v in one.items())


def test_going_on_with_the_same_data_is_the_longer_run(places, tmp_path):
    train(places["old"], tmp_path / "whole", steps=9, **FIRST)
    train(places["old"], tmp_path / "on", steps=9, continue_from=places["first"])
    whole, on = state(tmp_path / "whole"), state(tmp_path / "on")
    assert same(on["task"], whole["task"])
    assert same(on["ema"], whole["ema"])
    assert rates(places["first"]) | rates(tmp_path / "on") == rates(tmp_path / "whole")


def test_new_data_begin_at_the_constant_rate_with_the_optimisers_state(places, tmp_path):
    train(places["new"], tmp_path / "on", steps=8, continue_from=places["first"])
    assert rates(tmp_path / "on") == {7: pytest.approx(4e-4), 8: pytest.approx(4e-4)}
    assert state(tmp_path / "on")["optimizer"]["state"][0]["step"] == 8
    resolved = yaml.safe_load((tmp_path / "on" / "resolved.yaml").read_text())
    assert resolved["continued_from"] == load_newest(places["first"] / "checkpoints")[1]
    assert resolved["batch_size"] == 2


def test_a_continuation_resumes(places, tmp_path):
    more = {"steps": 8, "check_every": 1, "continue_from": places["first"]}
    train(places["new"], tmp_path / "whole", **more)
    train(places["new"], tmp_path / "on", **more)
    newest = sorted((tmp_path / "on" / "checkpoints").iterdir())[-1]
    newest.write_bytes(b"half")
    train(places["new"], tmp_path / "on", resume=True, **more)
    assert same(state(tmp_path / "on")["task"], state(tmp_path / "whole")["task"])


def test_an_annealed_run_is_no_start_but_the_run_before_it_is(places, tmp_path):
    more = {"continue_from": places["first"], "anneal": 2, "final_share": 0.1, "steps": 8}
    train(places["old"], tmp_path / "release", **more)
    assert rates(tmp_path / "release")[8] == pytest.approx(1e-4)
    with pytest.raises(UsageError, match="annealed"):
        train(places["new"], tmp_path / "on", continue_from=tmp_path / "release", steps=9)
    train(places["new"], tmp_path / "on", continue_from=places["first"], steps=7)


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"steps": 6}, "steps=6"),
        ({"steps": 8, "anneal": 3}, "before step 6"),
        ({"lr": 1e-4}, "lr"),
        ({"objective": "simmim"}, "objective"),
        ({"encoder": "vit3d-s"}, "encoder"),
        ({"crop": (16, 16, 16)}, "crop"),
        ({"schedule": "cosine"}, "schedule"),
    ],
)
def test_other_options_are_refused_by_name(places, tmp_path, more, word):
    with pytest.raises(UsageError, match=word) as error:
        train(
            places["new"], tmp_path / "on", **{"steps": 9, "continue_from": places["first"], **more}
        )
    assert error.value.fix
    assert not (tmp_path / "on").exists()


def test_a_rate_that_fell_along_a_cosine_is_no_start(places, tmp_path):
    train(places["old"], tmp_path / "cosine", steps=1, **{**FIRST, "schedule": "cosine"})
    with pytest.raises(UsageError, match="cosine") as error:
        train(places["new"], tmp_path / "on", continue_from=tmp_path / "cosine", steps=9)
    assert "--init" in error.value.fix


def test_stages_along_the_progress_are_refused_at_a_constant_rate(places, tmp_path):
    staged = {**FIRST, "objective": "local_global", "encoder": "resenc-xs"}
    with pytest.raises(ConfigError, match="stages"):
        train(places["old"], tmp_path / "run", steps=6, **staged)


def test_a_folder_without_checkpoints_is_no_start(places, tmp_path):
    with pytest.raises(UsageError, match="no checkpoint"):
        train(places["new"], tmp_path / "on", continue_from=places["new"], steps=9)


@pytest.mark.parametrize("start", ["old", "new"])
def test_labels_of_records_do_not_carry_over(places, tmp_path, start):
    # With as many records, the old labels would fit by number and mean nothing.
    objective = {"name": "deepcluster", "clusters": 2, "iterations": 1}
    first = {**FIRST, "objective": objective, "steps": 4}
    train(places["old"], tmp_path / "first", **first)
    with pytest.raises(UsageError, match=r"each record|bank") as error:
        train(places[start], tmp_path / "on", continue_from=tmp_path / "first", steps=5)
    assert "--init" in error.value.fix


def test_init_brings_weights_and_neither_step_nor_optimiser(places, tmp_path):
    more = {"steps": 1, "lr": 0.0, "init": places["first"], "batch_size": 2, "crop": (16, 32, 16)}
    run = train(places["new"], tmp_path / "on", objective=FIRST["objective"], **more)
    assert same(*(part_of(load_card(r)[1], "encoder") for r in (run.out, places["first"])))
    decoders = [
        {k: v for k, v in state(r)["task"].items() if k.startswith("token_decoder")}
        for r in (run.out, places["first"])
    ]
    assert decoders[0]
    assert same(*decoders)
    assert state(run.out)["step"] == 1


def test_init_of_another_objective_brings_the_encoder_alone(places, tmp_path):
    more = {"steps": 1, "lr": 0.0, "init": places["first"], "batch_size": 2, "crop": (16, 32, 16)}
    run = train(places["new"], tmp_path / "on", objective="simmim", **more)
    assert same(*(part_of(load_card(r)[1], "encoder") for r in (run.out, places["first"])))
    resolved = yaml.safe_load((run.out / "resolved.yaml").read_text())
    assert resolved["loaded_from_init"]["objective_tensors"] == 0


def test_init_and_continue_from_exclude_each_other(places, tmp_path):
    more = {"init": places["first"], "continue_from": places["first"], "steps": 9}
    with pytest.raises(ConfigError, match="both"):
        train(places["new"], tmp_path / "on", **more)


def test_the_encoder_of_init_may_be_named_with_its_options(places, tmp_path):
    more = {"init": places["first"], "encoder": FIRST["encoder"], "crop": FIRST["crop"], "steps": 1}
    run = train(places["old"], tmp_path / "run", objective=FIRST["objective"], batch_size=2, **more)
    assert load_card(run.out)[0].encoder.options["token_size"] == [4, 8, 8]


def test_init_of_another_encoder_is_refused(places, tmp_path):
    with pytest.raises(UsageError, match="--init holds vit3d-xs"):
        train(places["new"], tmp_path / "on", init=places["first"], encoder="vit3d-s", steps=1)


def test_adapters_are_added_to_a_run_and_alone_learn(places, tmp_path):
    encoder = {"name": "vit3d-xs", "adapter": 4}
    more = {"steps": 2, "batch_size": 2, "crop": (16, 32, 16), "objective": "mae"}
    train(places["new"], tmp_path / "on", init=places["first"], encoder=encoder, **more)
    before, after = (
        part_of(load_card(r)[1], "encoder") for r in (places["first"], tmp_path / "on")
    )
    moved = {k for k, v in after.items() if k not in before or not torch.equal(v, before[k])}
    assert moved == {k for k in after if k.startswith("adapters.")} != set()


def test_a_run_with_adapters_is_fine_tuned_with_them(places, tmp_path):
    encoder = {"name": "vit3d-xs", "adapter": 4}
    more = {"steps": 1, "batch_size": 2, "crop": (16, 32, 16)}
    train(places["new"], tmp_path / "on", init=places["first"], encoder=encoder, **more)
    data = write_labelled(tmp_path / "data")
    config = {"data": data, "out": tmp_path / "ft", "init": tmp_path / "on", **OPTIONS, **more}
    del config["health"]
    finetune.run(FinetuneConfig(**config))
    before, after = (load_card(tmp_path / name)[1] for name in ("on", "ft"))
    still = [k for k, v in before.items() if torch.equal(v, after[k])]
    assert {k for k in before if k.startswith("encoder.adapters.")}.isdisjoint(still)
    assert all(k in still for k in before if not k.startswith("encoder.adapters."))
