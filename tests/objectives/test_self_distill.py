"""Golden checks of self-distillation for further pretraining (methods 2.19)."""

import shutil
from pathlib import Path

import pytest
import torch

from medssl.core.errors import ConfigError, UsageError
from medssl.core.viewspec import Setting
from medssl.encoders._base import build_encoder
from medssl.encoders._tokens import blocks_to_voxels
from medssl.encoders.card import load_card, part_of
from medssl.objectives.self_distill import Config, Objective, token_distance
from medssl.stages import pretrain
from medssl.stages.pretrain import PretrainConfig
from medssl.training.checkpoint import load_newest
from tests.objectives.teachers import teacher_run
from tests.objectives.tiny import ENCODERS, batch_of, make, run
from tests.training_archive import write_images


def with_weights_of(task, other):
    """The task with all weights of a ``mae``, which has the same ones but for the teacher."""
    task.load_state_dict({**task.state_dict(), **other.state_dict()}, strict=True)
    return task


@pytest.mark.parametrize("encoder", ["vit3d-xs", "timm/resnet18"])
def test_weight_0_is_plain_further_mae(encoder):
    plain = make("mae", encoder)
    task = with_weights_of(make("self_distill", encoder, distill_weight=0.0), plain)
    batch = batch_of(plain)
    assert run(task, batch) == run(plain, batch)
    found = task.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in plain.state_dict().items())


@pytest.mark.parametrize("encoder", ENCODERS)
def test_distance_to_an_equal_teacher_stays_0_at_rate_0(encoder):
    task = make("self_distill", encoder).eval()
    task.encoder.load_state_dict(task.teacher.encoder.state_dict())
    for _ in range(2):
        run(task, batch_of(task), steps=1, lr=0.0)
        assert task.eval().step(batch_of(task)).log["distance"] == 0


def test_student_of_a_linear_toy_stays_nearer_to_the_start_than_its_teacher():
    # Least squares stand for the reconstruction; the student's two terms have twice the curvature
    # of one, hence half the rate. It learns, too: the loss of the task falls.
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(1, 40, 6, generator=draw), torch.randn(1, 40, 3, generator=draw)
    seen, start = torch.ones(1, 40, dtype=torch.bool), torch.randn(6, 3, generator=draw)

    def descend(targets, rate):
        weight = start.clone().requires_grad_()
        for _ in range(20):
            loss = sum(token_distance(x @ weight, target, seen) for target in targets)
            [slope] = torch.autograd.grad(loss, weight)
            weight.data -= rate * slope
        return weight.detach()

    teacher = descend([y], 0.1)
    student = descend([y, x @ teacher], 0.05)
    assert 0 < (student - start).norm() < 0.95 * (teacher - start).norm()
    errors = [float(token_distance(x @ w, y, seen)) for w in (start, student)]
    assert errors[1] < errors[0]


def test_teacher_is_unchanged_and_gets_no_gradient():
    task = make("self_distill", "timm/resnet18")
    before = {key: value.clone() for key, value in task.teacher.state_dict().items()}
    run(task.train(), batch_of(task), lr=0.1)
    assert all(torch.equal(value, before[key]) for key, value in task.teacher.state_dict().items())
    assert not any(p.requires_grad for p in task.teacher.parameters())
    assert not any(module.training for module in task.teacher.modules())


@pytest.mark.parametrize("encoder", ["vit3d-xs", "timm/resnet18"])
def test_hidden_voxels_change_neither_side(encoder):
    task = make("self_distill", encoder).eval()
    batch = batch_of(task)
    view = batch["views"][0]
    before = task.terms(batch)["distance"]
    size, grid = task.encoder.token_size, task.encoder.grid(tuple(view["x"].shape[2:]))
    hidden = blocks_to_voxels(view["mask"], grid, size)
    view["x"] = torch.where(hidden, 50 * torch.randn_like(view["x"]), view["x"])
    assert torch.equal(task.terms(batch)["distance"], before)


def refused(config, word):
    encoder = build_encoder("vit3d-xs", {"token_size": (4, 8, 8)}, 1)
    with pytest.raises(ConfigError, match=word) as error:
        Objective(encoder, config, Setting(crop=(16, 32, 16), records=1))
    assert "objective.teacher=RUN" in error.value.fix


def test_a_missing_teacher_is_refused(tmp_path):
    refused(Config(), "no teacher")
    refused(Config(teacher=tmp_path), "no model")


def test_a_teacher_with_another_encoder_is_refused():
    refused(Config(teacher=Path(teacher_run("resenc-xs"))), "another encoder")


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    """Start, teacher and student, as a user makes them."""
    base = tmp_path_factory.mktemp("rounds")
    archive = write_images(base / "archive")
    common = {
        "data": archive, "crop": (16, 32, 16), "batch_size": 2, "steps": 2, "accelerator": "cpu",
        "quiet": True, "health": False, "splits": ("train", "val"),
        "allow_test": True,
    }  # fmt: skip
    pretrain.run(PretrainConfig(out=base / "start", encoder="vit3d-xs", **common))
    pretrain.run(PretrainConfig(out=base / "teacher", init=base / "start", **common))
    student(base, "student", teacher=base / "teacher")
    return base


def student(base, name, teacher, **more):
    """Two steps from the start, or from ``init``."""
    objective = {"name": "self_distill", "teacher": str(teacher)}
    if "continue_from" not in more:
        more = {"init": base / "start", "crop": (16, 32, 16), "batch_size": 2, "warmup": 0, **more}
    options = {
        "steps": 2, "accelerator": "cpu", "quiet": True, "health": False,
        "splits": ("train", "val"), "allow_test": True, **more,
    }  # fmt: skip
    archive = base / "archive"
    config = PretrainConfig(data=archive, out=base / name, objective=objective, **options)
    return pretrain.run(config).out


def test_the_teacher_is_the_one_that_is_named_not_that_of_the_run_it_starts_from(rounds):
    again = student(rounds, "again", teacher=rounds / "start", init=rounds / "student")
    named = part_of(load_card(rounds / "start")[1], "encoder")
    state = load_newest(again / "checkpoints")[0]["task"]
    taught = part_of(state, "teacher.encoder")
    assert all(torch.equal(weight, named[key]) for key, weight in taught.items())
    assert taught.keys() == named.keys()


def test_going_on_with_another_teacher_is_refused(rounds):
    options = {"schedule": "infinite", "cooldown": 0}
    first = student(rounds, "first", teacher=rounds / "teacher", **options)
    with pytest.raises(UsageError, match="another one"):
        student(rounds, "on", teacher=rounds / "start", continue_from=first, steps=3)


def test_a_resumed_run_is_told_that_its_teacher_was_replaced(rounds):
    shutil.copytree(rounds / "teacher", rounds / "moved")
    student(rounds, "short", teacher=rounds / "moved")
    shutil.rmtree(rounds / "moved")
    shutil.copytree(rounds / "start", rounds / "moved")
    with pytest.raises(UsageError, match="teacher_sha256"):
        student(rounds, "short", teacher=rounds / "moved", resume=True)


def test_a_student_is_kept_without_its_teacher(rounds):
    start, student = (load_card(rounds / name)[1] for name in ("start", "student"))
    assert student.keys() == start.keys()
    moved = [
        k
        for k, v in part_of(student, "encoder").items()
        if not torch.equal(v, start[f"encoder.{k}"])
    ]
    assert moved


def test_no_path_of_the_teacher_is_written_down(rounds):
    for file in ("config.yaml", "resolved.yaml", "run.json", "model/card.json"):
        assert str(rounds) not in (rounds / "student" / file).read_text()
