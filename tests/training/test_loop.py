"""The loop does what the schedule, the clip and the guard say."""

import json
import math
import os
import signal

import pytest
import torch
from lightning.fabric import Fabric

from medssl.core.errors import InterruptedRunError, MedsslError, UsageError
from medssl.core.task import StepOutput
from medssl.core.taskmodule import TaskModule
from medssl.encoders._base import build_encoder
from medssl.training.checkpoint import checkpoints, load_latest, save_checkpoint
from medssl.training.data import StepSampler, record_at
from medssl.training.ema import Ema
from medssl.training.loop import MAX_BAD_STEPS, Loop
from medssl.training.optim import OptimConfig, apply_schedule, build_optimizer, is_decayed
from medssl.training.schedule import LoopConfig, warmup_cosine


class Quadratic(TaskModule):
    """Loss (w - x)^2: its minimum and gradient are known."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2, 2))
        self.drop = torch.nn.Dropout(0.5)
        self.progress = []

    def step(self, batch):
        return StepOutput((self.weight - self.drop(batch["x"])).square().sum(), {})

    def after_update(self, progress):
        self.progress.append(progress)


def batches(steps, start=0):
    return [{"x": torch.full((2, 2), float(s + 1))} for s in range(start, steps)]


def make_loop(steps=8, ema=None, fused=True, **optim):
    torch.manual_seed(0)
    task = Quadratic()
    config = LoopConfig(steps=steps, batch_size=1, log_every=1, check_every=2)
    optim = OptimConfig(lr=0.1, warmup=2, **optim)
    fabric = Fabric(accelerator="cpu", devices=1)
    ema = Ema(task, ema) if ema else None
    optimizer = build_optimizer(task.param_groups(), optim, fused=fused)
    return Loop(fabric, task, optimizer, config, optim, ema=ema)


def fit(loop, source, folder, log=lambda _step, _values: None):
    loop.fit(source, checkpoints=folder, stamp={"config_hash": "h"}, log=log)


def test_applied_rate_equals_the_schedule_at_every_step(tmp_path):
    loop, seen = make_loop(), []
    fit(loop, batches(8), tmp_path, lambda step, values: seen.append((step, values["lr"])))
    for step, rate in seen:
        assert rate == pytest.approx(0.1 * warmup_cosine(step - 1, 8, 2))
        assert step < 8 or loop.optimizer.param_groups[0]["lr"] == pytest.approx(rate)


def test_one_kernel_steps_as_tensor_by_tensor_does(tmp_path):
    def weights(fused):
        loop = make_loop(fused=fused, weight_decay=0.1)
        fit(loop, batches(8), tmp_path / str(fused))
        return loop.bare.weight

    torch.testing.assert_close(weights(True), weights(False))


def test_applied_decay_falls_or_rises_along_a_cosine_and_spares_vectors():
    loop = make_loop()
    loop.bare.register_parameter("bias", torch.nn.Parameter(torch.zeros(2)))
    optim = OptimConfig(weight_decay=0.04, weight_decay_end=0.4)
    optimizer = build_optimizer(loop.bare.param_groups(), optim)
    found = []
    for step in (0, 5, 10):
        apply_schedule(optimizer, optim, step, 10)
        found.append([group["weight_decay"] for group in optimizer.param_groups])
    assert found == [pytest.approx([decay, 0.0]) for decay in (0.04, 0.22, 0.4)]


def test_schedule_endpoints():
    assert warmup_cosine(0, 100, 10) == 0.1
    assert warmup_cosine(9, 100, 10) == 1.0
    assert warmup_cosine(55, 100, 10) == pytest.approx(0.5)
    assert warmup_cosine(100, 100, 10) == pytest.approx(0.0)
    falling = [warmup_cosine(s, 100, 10) for s in range(10, 101)]
    assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize("optimizer", ["adamw", "larc"])
def test_resume_is_bitwise_with_optimiser_ema_and_dropout(tmp_path, optimizer):
    whole = make_loop(ema=0.9, optimizer=optimizer)
    fit(whole, batches(8), tmp_path / "a")
    first = make_loop(ema=0.9, optimizer=optimizer)
    first.config = first.config.model_copy(update={"steps": 8})
    with pytest.raises(StopIteration):
        fit(first, batches(4), tmp_path / "b")
    torch.manual_seed(99)
    second = make_loop(ema=0.9, optimizer=optimizer)
    second.restore(load_latest(tmp_path / "b", "h"))
    assert second.step == 4
    fit(second, batches(8, start=4), tmp_path / "b")
    assert torch.equal(second.bare.weight, whole.bare.weight)
    assert torch.equal(second.ema.module.weight, whole.ema.module.weight)


def test_ema_with_fixed_weights_follows_the_geometric_series():
    task = Quadratic()
    ema = Ema(task, 0.9)
    torch.nn.init.constant_(task.weight, 1.0)
    for _ in range(5):
        ema.update(task)
    assert ema.module.weight[0, 0].item() == pytest.approx(1 - 0.9**5)


def test_one_bad_batch_is_skipped_and_counted(tmp_path):
    loop, source = make_loop(), batches(8)
    source[3] = {"x": torch.full((2, 2), math.nan)}
    fit(loop, source, tmp_path)
    assert loop.skipped == 1
    assert torch.isfinite(loop.bare.weight).all()
    assert len(loop.bare.progress) == 7


def test_a_run_of_bad_batches_stops_with_advice(tmp_path):
    loop = make_loop(steps=20)
    source = [{"x": torch.full((2, 2), math.inf)}] * 20
    with pytest.raises(MedsslError, match="precision=32-true"):
        fit(loop, source, tmp_path)
    assert loop.skipped == MAX_BAD_STEPS


def test_gradient_norm_is_clipped(tmp_path):
    loop = make_loop(clip_norm=1e-3, weight_decay=0.0)
    norms = []
    fit(loop, batches(2) * 4, tmp_path, lambda _step, values: norms.append(values["grad_norm"]))
    assert min(norms) > 0.1  # the norm that is logged is the one before clipping


def test_accumulated_micro_batches_give_the_gradient_of_the_whole(tmp_path):
    def weights(accumulate, source):
        loop = make_loop(steps=2)
        loop.bare.drop.p = 0.0
        loop.config = loop.config.model_copy(update={"accumulate": accumulate})
        fit(loop, source, tmp_path / str(accumulate))
        return loop.bare.weight

    halves = [{"x": torch.full((2, 2), value)} for value in (1.0, 3.0, 1.0, 3.0)]
    whole = [{"x": torch.full((2, 2), 2.0)}] * 2  # the gradient is linear in x
    torch.testing.assert_close(weights(2, halves), weights(1, whole))


def test_sigterm_writes_a_checkpoint_and_reports_it(tmp_path):
    loop = make_loop()

    def source():
        for number, batch in enumerate(batches(8)):
            if number == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with pytest.raises(InterruptedRunError) as caught:
        fit(loop, source(), tmp_path)
    assert caught.value.exit_code == 130
    assert load_latest(tmp_path, "h")["step"] == 3
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_damaged_checkpoint_is_passed_over(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, {"config_hash": "h", "step": step}, step)
    newest = checkpoints(tmp_path)[0]
    newest.write_bytes(newest.read_bytes()[:-1])
    assert load_latest(tmp_path, "h")["step"] == 1


def test_two_checkpoints_stay(tmp_path):
    for step in range(5):
        save_checkpoint(tmp_path, {"config_hash": "h", "step": step}, step)
    assert [int(p.name[5:13]) for p in checkpoints(tmp_path)] == [4, 3]


def test_other_configuration_is_refused(tmp_path):
    save_checkpoint(tmp_path, {"config_hash": "h", "step": 1}, 1)
    with pytest.raises(UsageError, match="another configuration"):
        load_latest(tmp_path, "other")


def test_each_pass_shows_every_record_once():
    for epoch in range(3):
        seen = [record_at(7, epoch * 11 + g, 11) for g in range(11)]
        assert sorted(seen) == list(range(11))


def test_ranks_share_the_global_batch_without_overlap():
    ranks = [list(StepSampler(3, 5, 8, 2, rank, 2)) for rank in (0, 1)]
    whole = list(StepSampler(3, 5, 8, 2, 0, 1))
    assert [a + b for a, b in zip(*ranks, strict=True)] == whole
    assert whole[0] == [24, 25, 26, 27]


def test_only_matrices_are_decayed():
    assert is_decayed("conv.weight", torch.nn.Parameter(torch.zeros(2, 2)))
    assert not is_decayed("norm.weight", torch.nn.Parameter(torch.zeros(2)))
    assert not is_decayed("decoder.mask_token", torch.nn.Parameter(torch.zeros(1, 1, 8)))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit3d-xs", {"registers": 2}),
        ("swin_unetr-s", {}),
        ("timm/swin_tiny_patch4_window7_224", {}),
        ("timm/vit_small_patch14_reg4_dinov2", {}),
    ],
)
def test_tokens_and_tables_of_positions_are_never_decayed(name, options):
    weights = dict(build_encoder(name, options, 1).named_parameters())
    layers = {n for n in weights if n.endswith(".weight")}
    assert any(is_decayed(n, weights[n]) for n in layers)
    assert [n for n in weights.keys() - layers if is_decayed(n, weights[n])] == []


def test_log_values_are_plain_numbers(tmp_path):
    lines = []
    fit(make_loop(), batches(8), tmp_path, lambda step, values: lines.append(json.dumps(values)))
    assert {"loss", "lr", "grad_norm", "data_wait_pct", "samples_per_s"} <= json.loads(
        lines[-1]
    ).keys()
