"""DISCOVR: masks, order of tokens, live gradients, centres and schedules (methods 1.1)."""

import numpy as np
import pytest
import torch

from medssl.core.ema import cosine_momentum
from medssl.core.errors import ConfigError
from medssl.core.masks import draw_mask
from medssl.core.viewspec import Setting
from medssl.encoders._base import build_encoder
from medssl.objectives._parts.dino import all_views_entropy
from medssl.objectives._parts.trunk import TokenDecoder
from medssl.objectives._parts.tubelets import as_frames, per_tubelet, visible_first
from medssl.objectives.discovr import Config, Objective
from tests.objectives.tiny import batch_of, make, run

ENCODER = "video_vit-xs"


@pytest.fixture
def task():
    return make("discovr", ENCODER)


def test_160_of_1568_tokens_are_visible_5_of_49_in_every_tubelet():
    encoder = build_encoder(ENCODER, {}, 1)
    setting = Setting(crop=(64, 112, 112), records=1, kind="clip")
    view = Objective(encoder, Config(), setting).views().views[0]
    grid = encoder.grid(view.crop)
    hidden = draw_mask(np.random.default_rng(0), view.mask, grid).reshape(grid)
    assert hidden.size == 1568 and (~hidden).sum() == 160
    assert (hidden.sum((1, 2)) == 44).all()
    assert (hidden == hidden[0]).all()


def test_each_clip_has_four_masks_and_one_look(task):
    views = batch_of(task)["views"]
    assert len(views) == 4
    assert all(torch.equal(view["x"], views[0]["x"]) for view in views)
    assert len({view["mask"][0].numpy().tobytes() for view in views}) > 1


def test_the_decoder_puts_visible_tokens_back_where_they_were():
    encoder = build_encoder(ENCODER, {}, 1)
    decoder = TokenDecoder(encoder, 1, 1)

    class Plain(torch.nn.Module):
        def enter(self, x):
            return x

        def forward(self, x):
            return x

    decoder.trunk, decoder.mask_token = Plain(), torch.nn.Parameter(torch.zeros(96))
    mask = torch.rand(1, 24).argsort(1) < 18
    ids = torch.arange(24.0)[None, :, None].expand(1, 24, 96)
    visible = ids[~mask].view(1, -1, 96)
    there = decoder(visible, mask, (2, 3, 4)) - decoder(0 * visible, mask, (2, 3, 4))
    assert torch.equal(there.round(), ids * ~mask[..., None])


def test_visible_first_is_an_order_of_all_tokens_that_can_be_undone():
    mask = torch.rand(2, 24).argsort(1) < 18
    ids = torch.arange(24.0)[None, :, None].expand(2, 24, 1)
    order = visible_first(ids, mask)[..., 0]
    assert torch.equal(order.sort(1).values, ids[..., 0])
    assert torch.equal(mask.gather(1, order.long()).float().argmax(1), (~mask).sum(1))


@pytest.mark.parametrize("misaligned", [False, True])
def test_equal_tokens_at_equal_places_are_assigned_alike_unless_misaligned(misaligned):
    # Decoder and teacher both give each place its own direction, which is its prototype too.
    task = make("discovr", ENCODER, misaligned=misaligned, clusters=32)
    ids = torch.eye(32, 192)[None].expand(4, -1, -1)
    task.cluster_prototypes.weight.data = torch.eye(32, 192) - torch.eye(32, 192).mean(0)
    task.token_decoder.forward = lambda *_: ids
    view = batch_of(task)["views"][0]
    view["tissue"] = torch.ones_like(view["tissue"])
    seen = task.encoder(view["x"], view["mask"])
    wanted, logits, _ = task.clusters(view, seen, ids)
    accuracy = (wanted.argmax(1) == logits.argmax(1)).float().mean()
    assert accuracy < 0.5 if misaligned else accuracy == 1


def test_a_still_clip_has_the_tokens_of_its_one_frame(task):
    still = torch.randn(2, 1, 1, 16, 16).expand(-1, -1, 4, -1, -1)
    tokens = task.image_teacher(as_frames(still)).tokens_BND
    by_tubelet = per_tubelet(tokens, 2, 2)
    one = task.image_teacher(still[:, :, :1]).tokens_BND
    torch.testing.assert_close(by_tubelet, torch.cat([one, one], 1), atol=1e-5, rtol=1e-4)


def test_frames_are_averaged_before_time_and_place_become_one_axis():
    frames = torch.arange(4.0)[None, :, None, None] * 10 + torch.arange(7.0)[None, None, :, None]
    by_tubelet = per_tubelet(frames.flatten(0, 1), 1, 2).view(2, 7)
    assert torch.equal(by_tubelet, torch.tensor([[5.0], [25.0]]) + torch.arange(7.0))


def test_clusters_reach_prototypes_decoder_and_encoder_and_no_teacher(task):
    cluster = task.terms(batch_of(task))["cluster"]
    for part in (task.cluster_prototypes, task.token_decoder, task.encoder):
        grads = torch.autograd.grad(cluster, list(part.parameters()), retain_graph=True)
        assert all(grad.isfinite().all() for grad in grads)
        assert any(grad.abs().max() > 0 for grad in grads)
    frames = list(task.image_encoder.parameters())
    assert set(torch.autograd.grad(cluster, frames, allow_unused=True)) == {None}


def test_targets_of_clusters_have_no_gradient(task):
    # So the mirrored term of the public code, whose other side is held fixed too, is a constant.
    view = batch_of(task)["views"][0]
    seen = task.encoder(view["x"], view["mask"])
    tokens = torch.randn(4, 32, 192, requires_grad=True)
    wanted, logits, _ = task.clusters(view, seen, tokens)
    assert not wanted.requires_grad and logits.requires_grad


def test_centres_are_moving_means_of_raw_logits():
    task = make("discovr", ENCODER, targets="centring", centre_momentum=0.8)
    raw = {"video": [], "image": []}
    for name, seen in raw.items():
        branch = getattr(task, name)
        branch.teacher_head.register_forward_hook(lambda *a, seen=seen: seen.append(a[2]))
    batch = batch_of(task)
    task.step(batch)
    task.after_update(0.1)
    for name, [logits] in raw.items():
        assert len(logits) == {"video": 4, "image": 16}[name]
        centre = getattr(task, name).targets.centre_K
        torch.testing.assert_close(centre, 0.2 * logits.mean(0), atol=1e-6, rtol=0)


def test_equal_logits_cost_log_k_and_nothing_costs_less_than_the_targets_entropy():
    uniform = torch.full((3, 16), 1 / 16)
    cost = all_views_entropy(uniform, torch.ones(4, 3, 16), 0.1)
    torch.testing.assert_close(cost, torch.tensor(16.0).log())
    targets = torch.randn(3, 16).softmax(1)
    entropy = torch.special.entr(targets).sum(1).mean()
    right = all_views_entropy(targets, 0.1 * targets.log().expand(4, -1, -1), 0.1)
    torch.testing.assert_close(right, entropy)
    assert all_views_entropy(targets, torch.randn(4, 3, 16), 0.1) > entropy


def test_all_four_teachers_follow_with_the_momentum_of_the_schedule(task):
    pairs = task.followed()
    assert len(pairs) == 4
    for student in pairs.values():
        for p in student.parameters():
            torch.nn.init.normal_(p)
    old = [[p.clone() for p in teacher.parameters()] for teacher in pairs]
    task.after_update(0.25)
    m = cosine_momentum(0.996, 0.25)
    for before, (teacher, student) in zip(old, pairs.items(), strict=True):
        for a, now, p in zip(before, teacher.parameters(), student.parameters(), strict=True):
            torch.testing.assert_close(now, m * a + (1 - m) * p)
            assert not now.requires_grad


def test_the_teachers_temperature_rises_along_its_schedule(task):
    found = []
    for progress in (0.0, 0.15, 0.3, 1.0):
        task.after_update(progress)
        found.append(task.temperature())
    assert found == pytest.approx([0.04, 0.055, 0.07, 0.07])


def test_the_teacher_sees_the_whole_clip_and_students_a_tenth(task):
    seen = []
    for net in (task.encoder, task.teacher.module, task.image_encoder, task.image_teacher.module):
        net.blocks[0].register_forward_hook(lambda *a: seen.append(tuple(a[2].shape[:2])))
    task.step(batch_of(task))
    # 4 clips of 2 x 16 tokens and 16 frames of 16; 4 masks that leave 2 of 16 places.
    assert sorted(seen) == [(4, 32), (16, 4), (16, 16), (64, 2)]


def test_air_has_no_cluster(task):
    batch = batch_of(task)
    view = batch["views"][0]
    view["tissue"] = torch.zeros_like(view["tissue"])
    view["tissue"][:, :, :2, :4, :4] = True
    seen = task.encoder(view["x"], view["mask"])
    wanted, _, counted = task.clusters(view, seen, torch.randn(4, 32, 192))
    assert len(wanted) == 4 and counted.sum() == 4 and counted[:, 0].all()


def test_prototypes_keep_length_1(task):
    run(task, batch_of(task), steps=3, lr=0.1)
    lengths = task.cluster_prototypes.weight.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


@pytest.mark.parametrize(
    ("options", "terms"),
    [
        ({}, {"video", "image", "cluster"}),
        ({"image_branch": False}, {"video", "cluster"}),
        ({"cluster_weight": 0.0}, {"video", "image"}),
        ({"image_branch": False, "cluster_weight": 0.0}, {"video"}),
        ({"cluster_targets": "hard", "masks": 1}, {"video", "image", "cluster"}),
    ],
)
def test_parts_can_be_left_out(options, terms):
    task = make("discovr", ENCODER, **options)
    assert task.terms(batch_of(task)).keys() == terms
    assert not [n for n, _ in task.named_parameters() if "image" in n] or "image" in terms
    task.step(batch_of(task)).loss.backward()
    assert all(p.grad is not None for p in task.parameters() if p.requires_grad)


def test_clusters_move_the_encoder_of_clips_only_where_they_count():
    loss = {}
    for weight in (0.0, 1.0):
        task = make("discovr", ENCODER, cluster_weight=weight)
        task.step(batch_of(task)).loss.backward()
        loss[weight] = task.encoder.blocks[0].attn.qkv.weight.grad.clone()
    assert not torch.allclose(loss[0.0], loss[1.0])


def test_other_encoders_are_refused_with_a_way_out():
    net = build_encoder("frames/timm/resnet18", {}, 1)
    setting = Setting(crop=(4, 64, 64), records=8, kind="clip")
    with pytest.raises(ConfigError, match="transformer on tubelets") as refusal:
        Objective(net, Config(), setting)
    assert refusal.value.fix == "encoder=video_vit-s"
