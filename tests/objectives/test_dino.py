"""Self-distillation as it trains: who moves whom, when, and what collapse looks like."""

import math

import pytest
import torch
from pydantic import ValidationError

from medssl.core.errors import ConfigError
from medssl.core.seeding import seed_everything
from medssl.core.viewspec import Setting
from medssl.encoders._base import build_encoder
from medssl.objectives import dino
from medssl.objectives._parts.multicrop import small_crop
from medssl.training.optim import OptimConfig, build_optimizer
from tests.objectives.planted import without_centring
from tests.objectives.tiny import batch_of, make
from tests.objectives.toys import CROP, TinyEncoder, differing, fit, resumed, straight, toy_batch

SMALL = {"prototypes": 8, "hidden": 16, "bottleneck": 8, "local_views": 2}


def task_of(**options):
    seed_everything(0)
    config = dino.Config(**{**SMALL, **options})
    return dino.Objective(TinyEncoder(), config, Setting(crop=CROP, records=8))


CENTRED = {"targets": "centring", "temperature_warmup": 1.0}


def test_teacher_gets_no_gradient_and_sees_full_views_without_masks():
    task, seen = task_of(), []
    task.teacher.module.register_forward_hook(
        lambda module, args, out: seen.append((len(args), args[0].shape))
    )
    task.step(toy_batch(task)).loss.backward()
    assert seen == [(1, (32, 1, 8, 8))]
    assert all(p.grad is None for n, p in task.named_parameters() if "teacher" in n)


def test_there_is_one_target_per_full_view_and_one_answer_per_view():
    task = task_of()
    seen = task._look(toy_batch(task)).assigned
    assert seen.targets_VBK.shape == (2, 16, 8)
    assert seen.logits_VBK.shape == (4, 16, 8)
    torch.testing.assert_close(seen.targets_VBK.sum(2), torch.ones(2, 16))


def test_small_views_have_half_a_side_where_the_encoder_takes_it():
    resenc = build_encoder("resenc-xs", {}, 1)
    assert small_crop(resenc, (64, 64, 32), 0.5) == (32, 32, 16)
    assert small_crop(resenc, (16, 32, 16), 0.5) == (16, 32, 16)  # nothing would be left below
    assert small_crop(TinyEncoder(), (24, 20), 0.6) == (16, 12)


def test_loss_of_a_fresh_task_is_near_log_k():
    task = task_of(prototypes=512, bottleneck=256)
    value = task.terms(toy_batch(task, 64))["distillation"].item()
    assert value == pytest.approx(math.log(512), rel=0.15)


def test_hidden_token_loss_depends_on_hidden_tokens_alone():
    task = task_of()
    batch = toy_batch(task)
    targets, logits, mask = task._look(batch).assigned.patches
    assert len(targets) == len(logits) == mask.sum() > 0
    for view in batch["views"][:2]:  # the student sees nothing of what is hidden
        hidden = view["mask"].view(16, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
        view["x"] = torch.where(hidden, 99.0, view["x"])
    assert torch.equal(task._look(batch).assigned.patches[1], logits)


def test_teacher_follows_once_per_update_with_the_momentum_of_the_schedule():
    task = task_of(momentum=0.9, **CENTRED)
    name = "net.1.weight"
    before = task.teacher.module.state_dict()[name].clone()
    for seed in (0, 1):  # two micro-batches
        task.step(toy_batch(task, seed=seed)).loss.backward()
    assert torch.equal(task.teacher.module.state_dict()[name], before)
    with torch.no_grad():
        task.encoder.net[1].weight.add_(1.0)
    task.after_update(0.5)
    moved = task.teacher.module.state_dict()[name] - before
    torch.testing.assert_close(moved, torch.full_like(moved, 1 - 0.95))  # halfway from 0.9 to 1


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_momentum_0_copies_and_1_freezes(momentum):
    task = task_of(momentum=momentum)
    before = {k: v.clone() for k, v in task.teacher.module.state_dict().items()}
    fit(task, 0, 1)
    expected = before if momentum else task.encoder.state_dict()
    found = task.teacher.module.state_dict()
    # At 1/8 of the run the schedule has left 0 a little.
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0 if momentum else 1e-3)


def test_centre_comes_from_raw_logits_of_both_full_views():
    task = task_of(**CENTRED)
    batch = toy_batch(task)
    with torch.no_grad():
        x = torch.cat([view["x"] for view in batch["views"][:2]])
        raw = task.teacher_heads.module.whole(task.teacher(x).global_BD)
    task.step(batch)
    task.after_update(0.1)
    torch.testing.assert_close(task.targets.centre_K, 0.1 * raw.mean(0))
    assert task.targets.centre_K.min() < 0  # a mean of probabilities never is


def test_validation_moves_nothing_and_skipped_updates_are_forgotten():
    task = task_of(**CENTRED)
    before = {k: v.clone() for k, v in task.targets.state_dict().items()}
    task.eval()
    task.step(toy_batch(task))
    with torch.no_grad():
        task.train().step(toy_batch(task))
    task.step(toy_batch(task))
    task.discard_update()
    task.after_update(0.1)
    assert differing(task.targets.state_dict(), before) == []


def test_frozen_prototypes_do_not_move_even_by_weight_decay():
    task = task_of(freeze_last=0.5)
    optimizer = build_optimizer(task.param_groups(), OptimConfig(weight_decay=0.5))
    weights = [task.heads.whole.prototypes.weight, task.heads.patch.prototypes.weight]
    before = [w.clone() for w in weights]
    fit(task, 0, 4, optimizer=optimizer)
    assert all(torch.equal(w, b) for w, b in zip(weights, before, strict=True))
    task.step(toy_batch(task)).loss.backward()
    task.before_update(0.49)
    assert [w.grad for w in weights] == [None, None]
    task.step(toy_batch(task)).loss.backward()
    task.before_update(0.5)
    assert all(w.grad.abs().max() > 0 for w in weights)
    fit(task, 4, 5, optimizer=optimizer)
    assert not any(torch.equal(w, b) for w, b in zip(weights, before, strict=True))


def test_prototypes_are_never_decayed():
    task = task_of()
    optimizer = build_optimizer(task.param_groups(), OptimConfig(weight_decay=0.5))
    free = {id(p) for g in optimizer.param_groups if not g["weight_decay"] for p in g["params"]}
    assert id(task.heads.whole.prototypes.weight) in free
    assert id(task.mask_token) in free


def test_temperature_follows_the_share_of_steps_done():
    task = task_of(temperature_warmup=0.5, teacher_temperature=(0.04, 0.08))
    found = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        task.progress.fill_(progress)
        found.append(task.temperature())
    assert found == pytest.approx([0.04, 0.06, 0.08, 0.08])


def test_gram_teacher_is_built_only_where_asked_for():
    assert not any("gram" in name for name in task_of().state_dict())
    assert "gram" not in task_of().terms(toy_batch(task_of()))


def test_gram_teacher_is_the_teacher_of_the_last_refresh():
    task = task_of(gram_weight=1.0, gram_at=(0.25, 0.75))
    fit(task, 0, 1)
    assert "gram" not in task.terms(toy_batch(task))
    fit(task, 1, 2)  # a quarter is done
    frozen = {k: v.clone() for k, v in task.gram_teacher.module.state_dict().items()}
    assert differing(frozen, task.teacher.module.state_dict()) == []
    assert task.terms(toy_batch(task))["gram"] > 0
    fit(task, 2, 5)
    assert differing(frozen, task.gram_teacher.module.state_dict()) == []
    fit(task, 5, 6)
    assert differing(task.gram_teacher.module.state_dict(), task.teacher.module.state_dict()) == []


@pytest.mark.parametrize("steps", [10, 20, 1000])
def test_gram_teacher_is_refreshed_once_per_share(steps):
    # 0.7 is no number of float32: the step that reaches it must not count twice.
    task = task_of(gram_weight=1.0, gram_at=(0.3, 0.5, 0.7))
    found = []
    task.gram_teacher.follow = lambda *_: found.append(step)
    for step in range(1, steps + 1):
        task.after_update(step / steps)
    assert found == [0.3 * steps, 0.5 * steps, 0.7 * steps]


@pytest.mark.parametrize("shares", [(), (0.5, 0.2), (-0.1,), (1.1,)])
def test_shares_of_refreshes_have_to_rise_from_0_to_1(shares):
    with pytest.raises(ValidationError):
        dino.Config(gram_at=shares)


def test_shared_head_needs_one_width():
    setting = Setting(crop=(32, 32, 32), records=8)
    with pytest.raises(ConfigError, match="one width"):
        dino.Objective(build_encoder("resenc-xs", {}, 1), dino.Config(shared_head=True), setting)


def test_an_encoder_that_cannot_hide_tokens_says_so():
    encoder = TinyEncoder()
    encoder.mask_refusal = "windows shift"
    with pytest.raises(ConfigError, match="windows shift") as caught:
        dino.Objective(encoder, dino.Config(**SMALL), Setting(crop=CROP, records=8))
    assert "patch_weight=0" in caught.value.fix


@pytest.mark.parametrize("targets", ["centring", "sinkhorn"])
def test_constant_pictures_give_finite_loss_and_gradients(targets):
    task = task_of(targets=targets)
    batch = toy_batch(task)
    for view in batch["views"]:
        view["x"] = torch.zeros_like(view["x"])
    loss = task.step(batch).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in task.parameters() if p.requires_grad)


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("options", [CENTRED, {}, {"prototypes": 1}])
def test_tiny_batches_and_one_prototype_work(samples, options):
    task = task_of(**options)
    terms = task.terms(toy_batch(task, samples))
    assert all(torch.isfinite(value) for value in terms.values())
    if options.get("prototypes") == 1:
        assert terms["distillation"].item() == terms["patch"].item() == 0


OPTIONS = [CENTRED, {"targets": "sinkhorn", "gram_weight": 1.0, "gram_at": (0.25, 0.6)}]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_run_taken_up_is_the_run_without_a_break(options):
    assert (
        differing(resumed(lambda: task_of(**options)), straight(lambda: task_of(**options))) == []
    )


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (CENTRED, "targets.centre_K"),
        (CENTRED, "patch_targets.centre_K"),
        (CENTRED, "progress"),
        (CENTRED, "teacher.module.net.1.weight"),
        (CENTRED, "teacher_heads.module.whole.prototypes.weight"),
        (CENTRED, "heads.patch.prototypes.weight"),
        (OPTIONS[1], "gram_teacher.module.net.1.weight"),
    ],
)
def test_every_saved_field_decides_what_comes_next(options, name):
    spoilt = resumed(lambda: task_of(**options), spoil=name)
    changed = differing(spoilt, straight(lambda: task_of(**options)))
    assert "encoder.net.1.weight" in changed


@pytest.mark.parametrize("sound", [True, False])
def test_without_centre_or_sinkhorn_one_prototype_takes_every_sample(sound):
    # Batch norm in the head slows the collapse down beyond a test's patience.
    task = make("dino", "vit3d-xs", local_views=0, norm="batch" if sound else "none")
    if not sound:
        without_centring(task)
    batch = batch_of(task, 4)
    first = task.step(batch).log["mean_entropy"]
    optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], 1e-3)
    for step in range(30):
        output = task.step(batch)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        task.after_update((step + 1) / 200)
    information = output.log["mean_entropy"] - output.log["teacher_entropy"]
    if sound:
        assert output.log["mean_entropy"] > 0.9 * math.log(64)
        assert information > 0.1
    else:
        assert output.log["mean_entropy"] < 0.5 * first
        assert information < 0.1
