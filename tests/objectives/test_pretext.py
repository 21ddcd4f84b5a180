"""Questions about clips: balanced answers, and none where nothing moves (methods 2.32)."""

from itertools import permutations

import pytest
import torch

from medssl.core.errors import ConfigError
from medssl.core.viewspec import Setting
from medssl.encoders._base import build_encoder
from medssl.objectives._parts.pretext import answer_entropy
from medssl.objectives.speed import Config as SpeedConfig
from tests.objectives.tiny import batch_of, make, run

ENCODER = "video_vit-xs"
# Answers of each objective as it is by default.
ANSWERS = {"clip_order": 6, "speed": 3}


@pytest.fixture(params=ANSWERS)
def task(request):
    return make(request.param, ENCODER)


def asked(task, x, time_s=None):
    """Logits, answers and what counts for clips of these voxels."""
    time_s = torch.arange(float(x.shape[2])).expand(len(x), -1) if time_s is None else time_s
    with torch.no_grad():
        return task.eval().ask({"x": x, "time_s": time_s})


def clip(task, samples=2):
    return torch.randn(samples, 1, task.frames, 16, 16)


def test_every_answer_is_right_once_for_every_clip(task):
    logits, answers, counted = asked(task, clip(task))
    assert sorted(answers.tolist()) == list(range(logits.shape[2])) and counted.all()
    assert logits.shape[1:] == (len(answers),) * 2


@pytest.mark.parametrize(("name", "answers"), ANSWERS.items())
def test_a_still_clip_leaves_a_guess(name, answers):
    task = make(name, ENCODER)
    still = torch.randn(2, 1, 1, 16, 16).expand(-1, -1, task.frames, -1, -1)
    logits, answer_P, counted = asked(task, still)
    assert logits.shape[2] == answers
    torch.testing.assert_close(logits, logits[:, :1].expand_as(logits), atol=1e-5, rtol=1e-4)
    least = torch.tensor(float(answers)).log()
    assert answer_entropy(logits, answer_P, counted) >= least - 1e-5
    right = (logits[:, :1].argmax(2).expand(-1, answers) == answer_P).float().mean()
    assert right == pytest.approx(1 / answers)


def test_parts_are_shown_to_the_head_in_the_order_that_is_asked_for():
    task = make("clip_order", ENCODER)
    seen = []
    task.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    x = clip(task, 1)
    asked(task, x)
    own = [task.encoder(x[:, :, a : a + 4]).global_BD[0] for a in (0, 8, 16)]
    for number, order in enumerate(permutations(range(3))):
        wanted = torch.cat([own[part] for part in order])
        torch.testing.assert_close(seen[0][0, number], wanted, atol=1e-5, rtol=1e-4)


def test_frames_between_parts_are_not_seen():
    task = make("clip_order", ENCODER)
    x = clip(task)
    changed = x.clone()
    changed[:, :, 4:8] = 9
    changed[:, :, 12:16] = -9
    assert torch.equal(asked(task, x)[0], asked(task, changed)[0])


def test_all_speeds_start_at_one_frame_and_skip_what_lies_between():
    task = make("speed", ENCODER)
    seen = []
    task.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    frames = torch.arange(13.0).view(1, 1, 13, 1, 1).expand(1, 1, 13, 16, 16)
    asked(task, frames)
    shown = seen[0][:, 0, :, 0, 0].tolist()
    assert shown == [[0, 1, 2, 3], [0, 2, 4, 6], [0, 4, 8, 12]]


def test_clips_that_are_held_do_not_count(task):
    x = clip(task)
    time_s = torch.arange(float(task.frames)).expand(2, -1).clone()
    time_s[1] = time_s[1].clamp(max=time_s[1, task.frames // 2 - 2])
    logits, answers, counted = asked(task, x, time_s)
    assert counted.tolist() == [True, False]
    alone = answer_entropy(logits[:1], answers, counted[:1])
    torch.testing.assert_close(answer_entropy(logits, answers, counted), alone)
    assert answer_entropy(logits, answers, counted & False) == 0


def test_what_goes_one_way_is_learnt():
    # Clips grow brighter: with parts alone in view, only their grey value tells the order.
    task = make("clip_order", ENCODER)
    batch = batch_of(task)
    view = batch["views"][0]
    ramp = torch.linspace(-1, 1, task.frames).view(1, 1, -1, 1, 1)
    view["x"] = (0.1 * torch.randn_like(view["x"]) + ramp).contiguous()
    run(task, batch, steps=60)
    assert task.step(batch).log["accuracy"] > 0.9


@pytest.mark.parametrize("speeds", [(1,), (2, 1), (0, 1), (1, 1)])
def test_speeds_that_do_not_rise_are_refused(speeds):
    with pytest.raises(ValueError, match="rise from 1"):
        SpeedConfig(speeds=speeds)


@pytest.mark.parametrize("name", ANSWERS)
def test_encoders_of_volumes_are_refused(name):
    with pytest.raises(ConfigError, match="learns from clips"):
        make(name, "vit3d-xs")


def test_any_encoder_of_clips_will_do():
    from medssl.objectives.speed import Objective

    net = build_encoder("frames/timm/resnet18", {}, 1)
    task = Objective(net, SpeedConfig(), Setting(crop=(2, 64, 64), records=8, kind="clip"))
    x = torch.randn(2, 1, task.frames, 64, 64)
    assert asked(task, x)[0].shape == (2, 3, 3)
