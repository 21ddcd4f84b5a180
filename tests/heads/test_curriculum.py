"""The turn from a labelled procedure to another one: its ramp, its teacher, what it weighs."""

from math import log

import numpy as np
import pytest
import torch

from medssl.core.errors import ConfigError
from medssl.core.seeding import seed_everything
from medssl.encoders._base import build_encoder
from medssl.heads import phase
from medssl.heads._curriculum import pseudo_label_loss, ramp
from medssl.stages._curriculum import curriculum_of
from medssl.stages.finetune import FinetuneConfig

SHARPNESS = [0.1, 1.0, 10.0, 100.0]
CROP = (32, 32)


@pytest.mark.parametrize("sharpness", SHARPNESS)
def test_the_weight_starts_at_0_ends_at_its_plateau_and_never_falls(sharpness):
    values = [ramp(n / 100, sharpness) for n in range(101)]
    assert values[0] == pytest.approx(0, abs=1e-12) and values[100] == pytest.approx(1, abs=1e-12)
    assert np.diff(values).min() > 0
    np.testing.assert_allclose(np.add(values, values[::-1]), 1, atol=1e-12)  # one half in between


def test_a_low_sharpness_is_a_line_and_a_high_one_a_step():
    line = [ramp(n / 10, 1e-3) for n in range(11)]
    np.testing.assert_allclose(line, np.arange(11) / 10, atol=1e-6)
    assert ramp(0.4, 1e4) < 0.01 and ramp(0.6, 1e4) > 0.99


def test_equal_answers_cost_log_k_and_a_sure_one_what_the_student_gives_it():
    even = torch.zeros(3, 5)
    assert pseudo_label_loss(even, even, 0.1).item() == pytest.approx(log(5), abs=1e-6)
    sure = torch.eye(5)[:3] * 100
    student = torch.randn(3, 5)
    wanted = torch.nn.functional.cross_entropy(student, torch.arange(3)).item()
    assert pseudo_label_loss(student, sure, 0.1).item() == pytest.approx(wanted, abs=1e-6)


def test_nothing_costs_less_than_the_entropy_of_the_teacher():
    teacher = torch.randn(4, 6)
    p = (teacher / 0.5).softmax(1)
    entropy = -(p * p.log()).sum(1).mean().item()
    assert pseudo_label_loss(teacher / 0.5, teacher, 0.5).item() == pytest.approx(entropy, abs=1e-6)
    assert pseudo_label_loss(torch.randn(4, 6), teacher, 0.5).item() > entropy


def test_a_low_temperature_makes_the_teacher_sure():
    teacher = torch.tensor([[0.0, 0.5]])
    student = torch.tensor([[0.0, 9.0]])
    assert pseudo_label_loss(student, teacher, 0.01) < 1e-3 < pseudo_label_loss(student, teacher, 1)


def test_the_teachers_answer_is_held_fixed_whatever_the_precision():
    student, teacher = (torch.randn(4, 3, requires_grad=True) for _ in range(2))
    pseudo_label_loss(student, teacher, 0.1).backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0
    half = pseudo_label_loss(student.bfloat16(), teacher.bfloat16(), 0.1)
    assert half.dtype == torch.float32


def head(**options):
    seed_everything(0)
    config = phase.Config(**{"curriculum": {}, **options})
    return phase.Head(build_encoder("timm/test_vit3", {"patch_size": 8}, 1), (5, 3), config, CROP)


def batch(seed=0):
    draw = torch.Generator().manual_seed(seed)
    one, weak, strong = ({"x": torch.randn(4, 1, *CROP, generator=draw)} for _ in range(3))
    return {"views": [one], "target": torch.tensor([0, 1, 0, 1]), "unlabelled": [weak, strong]}


def test_at_the_start_the_loss_is_that_of_the_labelled_frames_alone():
    task = head().eval()
    plain = {key: value for key, value in batch().items() if key != "unlabelled"}
    alone = head(curriculum=None).eval()
    alone.model.load_state_dict(task.model.state_dict())
    assert task.step(batch()).loss.item() == pytest.approx(alone.step(plain).loss.item(), abs=1e-6)


def test_at_the_end_the_weight_is_the_plateau():
    task = head(curriculum={"consistency": 0.7}).eval()
    task.after_update(1.0)
    found = task.step(batch())
    assert found.log["consistency_weight"].item() == pytest.approx(0.7)
    assert found.loss.item() == pytest.approx(
        found.log["ce"].item() + 0.7 * found.log["consistency"].item(), abs=1e-5
    )


def test_the_teacher_gets_no_gradient_and_is_in_no_group():
    task = head()
    task.after_update(1.0)
    task.step(batch()).loss.backward()
    assert all(p.grad is None for p in task.teacher.parameters())
    grouped = {id(p) for group in task.param_groups() for p in group.params.values()}
    assert not grouped & {id(p) for p in task.teacher.parameters()}
    assert not any(module.training for module in task.train().teacher.modules())


def test_the_teacher_follows_once_per_step():
    task = head(curriculum={"momentum": 0.9})
    for p in task.model.parameters():
        torch.nn.init.constant_(p.data, 1.0)
    for p in task.teacher.parameters():
        torch.nn.init.constant_(p.data, 0.0)
    for step in range(5):
        task.after_update((step + 1) / 5)
    weights = torch.cat([p.flatten() for p in task.teacher.parameters()])
    torch.testing.assert_close(weights, torch.full_like(weights, 1 - 0.9**5))


@pytest.mark.parametrize(("progress", "share"), [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)])
def test_the_rate_of_the_linear_layer_falls_as_the_ramp_rises(progress, share):
    task, rate = head(), 0.1
    task.progress.fill_(progress)
    task.step(batch()).loss.backward()
    layer, encoder = task.model.classifier.linear.weight, next(task.encoder.parameters())
    before, other = layer.detach().clone(), encoder.detach().clone()
    task.before_update(progress)
    torch.optim.SGD([p for p in task.model.parameters() if p.requires_grad], rate).step()
    task.after_update(progress)
    torch.testing.assert_close(before - layer, share * rate * layer.grad)
    torch.testing.assert_close(other - encoder, rate * encoder.grad)


def test_a_skipped_update_leaves_nothing_behind():
    task = head()
    task.progress.fill_(1.0)
    task.before_update(1.0)
    task.discard_update()
    torch.nn.init.ones_(task.model.classifier.linear.weight)
    task.after_update(1.0)
    assert (task.model.classifier.linear.weight == 1).all()


def test_a_curriculum_needs_videos_and_an_encoder_that_learns(tmp_path):
    given = FinetuneConfig(data=tmp_path, out=tmp_path, task="phase")
    with pytest.raises(ConfigError, match="needs videos"):
        curriculum_of(given, phase.Config(curriculum={}))
    assert curriculum_of(given, phase.Config()).curriculum is None
    other = given.model_copy(update={"unlabelled": tmp_path})
    with pytest.raises(ConfigError, match="frozen"):
        curriculum_of(other, phase.Config(freeze_encoder=True))
    assert curriculum_of(other, phase.Config()).curriculum is not None
