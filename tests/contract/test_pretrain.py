"""Every objective goes through the stage: what it saves loads, and names no path."""

import pytest

from medssl.core.registry import OBJECTIVES
from medssl.encoders.card import assert_reloads, load_card
from medssl.stages import pretrain
from medssl.stages.pretrain import PretrainConfig
from pipelines._video_files import encode
from tests.objectives.teachers import teacher_run
from tests.objectives.tiny import CLIPS, ENCODERS, config_of, encoders_of
from tests.training_archive import write_images

pytestmark = pytest.mark.slow


def write_clips(folder, count=8):
    """Videos of one second."""
    folder.mkdir()
    for number in range(count):
        encode(folder / f"clip{number}.avi", 25, size=(48, 160), codec="mpeg4")
    return folder


def pretrained(name, out, **options):
    """A run of two steps on its first encoder."""
    encoder = encoders_of(name)[0]
    crop, kept = ENCODERS[encoder]
    values = {**config_of(name).model_dump(mode="json"), **options}
    clips = encoder == CLIPS
    config = PretrainConfig(
        data=(write_clips if clips else write_images)(out.parent / "scans"),
        out=out,
        channels=3 if clips else 1,
        objective={"name": name, **values},
        encoder={"name": encoder, **kept},
        crop=crop,
        steps=2,
        batch_size=4,
        quiet=True,
    )
    pretrain.run(config)
    return out


def check(run, name):
    card, weights = load_card(run)
    assert card.objective == name
    assert_reloads(card, weights)
    assert str(run.parent) not in (run / "model" / "card.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES.names()) - {"self_distill"}))
def test_a_run_of_each_objective_gives_an_encoder_that_loads(name, tmp_path):
    check(pretrained(name, tmp_path / "run"), name)


def test_self_distillation_goes_on_from_a_run_of_the_same_encoder(tmp_path):
    encoder = encoders_of("self_distill")[0]
    teacher = teacher_run(encoder, seed=1, **ENCODERS[encoder][1])
    check(pretrained("self_distill", tmp_path / "run", teacher=str(teacher)), "self_distill")


def test_alice_mines_its_pairs_with_an_embedding_that_was_trained(tmp_path):
    embedding = pretrained("anatomy", tmp_path / "anatomy")
    check(pretrained("alice", tmp_path / "alice", embedding=str(embedding)), "alice")
