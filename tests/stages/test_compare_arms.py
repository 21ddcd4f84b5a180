"""Arms of a comparison: each pretrained network against random weights of its own kind."""

from pathlib import Path

import pytest

from medssl.archive.labelled import Labelled
from medssl.core.config import Component
from medssl.core.errors import UsageError
from medssl.core.preprocess import Contract
from medssl.encoders._base import build_encoder
from medssl.encoders.card import Card, load_card, save_model
from medssl.stages._compare_arms import arms_of, write_random
from medssl.stages.finetune import FinetuneConfig

LABELLED = Labelled(labels={0: "b", 1: "a"}, channels=("MR",), modality="MR", cases=())


def write_run(folder, encoder="resenc-xs", *, steps=10, **contract):
    net = build_encoder(encoder, {}, 1)
    card = Card(
        encoder=Component(name=encoder),
        in_channels=1,
        channels=("channel 0",),
        contract=Contract(**contract),
        modality="MR",
        patch_size=(32, 32, 32),
        objective="mae",
        provenance={"stage": "pretrain", "steps": steps, "batch_size": 8},
    )
    save_model(folder / "model", card, {"encoder": net})
    return folder


def arms(tmp_path, *given, **more):
    config = FinetuneConfig(data=tmp_path, out=tmp_path, steps=5, batch_size=4)
    return config, arms_of(given, config, LABELLED, tmp_path / "arms", **more)


def test_runs_of_one_network_share_its_random_weights_and_others_have_their_own(tmp_path):
    runs = [write_run(tmp_path / "one"), write_run(tmp_path / "two")]
    runs.append(write_run(tmp_path / "three", "vit3d-xs"))
    runs.append(write_run(tmp_path / "four", spacing_mm=(1.0, 1.0, 1.0)))
    _, found = arms(tmp_path, *runs)
    against = {arm.name: arm.against for arm in found}
    assert against["one"] == against["two"] == "scratch_resenc-xs"
    assert against["three"] == "scratch_vit3d-xs"
    # Another resolution is another input: its own random weights see the same.
    assert against["four"] not in {"", against["one"], against["three"]}
    write_random(found, 0, LABELLED)
    for arm in found:
        assert load_card(arm.init(0))[0].encoder.name == arm.encoder
    card, _ = load_card(next(a for a in found if a.name == against["four"]).init(0))
    assert card.contract.spacing_mm == (1.0, 1.0, 1.0)


def test_random_weights_of_another_network_are_drawn_anew_and_of_the_same_are_kept(tmp_path):
    """A comparison that was stopped before its first training, and goes on with another run."""
    _, found = arms(tmp_path, write_run(tmp_path / "one"))
    write_random(found, 0, LABELLED)
    weights = found[0].init(0) / "weights.safetensors"
    written = weights.stat().st_mtime_ns
    write_random(found, 0, LABELLED)
    assert weights.stat().st_mtime_ns == written
    _, other = arms(tmp_path, write_run(tmp_path / "two", "vit3d-xs"))
    assert other[0].init(0) == found[0].init(0)
    write_random(other, 0, LABELLED)
    assert load_card(other[0].init(0))[0].encoder.name == "vit3d-xs"


def test_arms_that_train_as_long_have_seen_as_many_samples(tmp_path):
    config, found = arms(tmp_path, write_run(tmp_path / "run", steps=9), equal_compute=True)
    scratch, longer, run = found
    assert (scratch.name, longer.name) == ("scratch", "scratch_as_long_as_run")
    assert run.samples == 9 * 8
    assert longer.steps(config) * 4 == run.steps(config) * 4 + run.samples
    assert longer.init(1) == scratch.init(1)


def test_two_runs_of_one_name_are_refused(tmp_path):
    runs = [write_run(tmp_path / place / "run") for place in "ab"]
    with pytest.raises(UsageError, match="two of --init are called 'run'"):
        arms(tmp_path, *runs)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no model"):
        arms(tmp_path, tmp_path)


def test_results_tell_of_no_folder(tmp_path):
    _, found = arms(tmp_path, write_run(tmp_path / "run"))
    shown = str([arm.as_json() for arm in found])
    assert str(Path(tmp_path)) not in shown
