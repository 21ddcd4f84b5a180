"""Networks over time: receptive field, causality, the smoothing loss, windows of a stream."""

import math

import pytest
import torch
from torch import nn

from medssl.core.seeding import seed_everything
from medssl.heads._temporal import TemporalConfig, TemporalNetwork, smoothing_loss
from medssl.heads.phase import TemporalTask, frame_cross_entropy

WIDTH, PHASES = 6, 4
SMALL = {"maps": 8, "layers": 3}  # sees 15 frames per stage
CAUSAL = ("tcn", "transformer")


def network(frames=None, **options):
    """In eval mode, with features of so many frames; float64: any influence differs from none."""
    seed_everything(0)
    made = TemporalNetwork(WIDTH, PHASES, TemporalConfig(**options)).double().eval()
    return made, None if frames is None else torch.randn(1, frames, WIDTH).double()


@torch.no_grad()
def changed(made, x, place):
    """Frames whose logits of any stage change with the features at ``place``."""
    other = x.clone()
    other[:, place] += torch.randn(WIDTH)
    different = (made(x) - made(other)).abs().amax((0, 1, 3)) > 0
    return set(torch.nonzero(different).flatten().tolist())


def test_the_papers_stage_sees_1023_frames_and_not_one_more():
    made, x = network(1100, stages=1)
    assert (made.past, made.future) == (1022, 0)
    t = 1050
    seen = changed(made, x, t - 1022)
    assert t in seen
    assert t not in changed(made, x, t - 1023)
    assert max(seen) == t


def test_two_stages_see_2045_frames():
    made, _ = network()
    assert made.past + 1 == 2045


@pytest.mark.parametrize("kind", CAUSAL)
def test_a_frame_changes_no_logit_before_it_and_none_beyond_the_reach(kind):
    made, x = network(80, network=kind, **SMALL)
    assert made.past == 2 * 14
    assert changed(made, x, 40) == set(range(40, 40 + 28 + 1))


@pytest.mark.parametrize("kind", CAUSAL)
def test_no_gradient_flows_from_a_frame_to_a_later_one(kind):
    made, x = network(60, network=kind, **SMALL)
    x.requires_grad_(True)
    made(x)[-1, 0, 30].sum().backward()
    assert x.grad[0, 31:].abs().max() == 0
    assert x.grad[0, 30].abs().max() > 0


def test_the_offline_network_sees_both_sides_alike():
    made, x = network(80, network="tcn-offline", **SMALL)
    assert (made.past, made.future) == (14, 14)
    assert changed(made, x, 40) == set(range(40 - 14, 40 + 14 + 1))


@pytest.mark.parametrize("kind", CAUSAL)
@torch.no_grad()
def test_a_window_of_a_stream_gives_the_streams_result(kind):
    made, x = network(100, network=kind, **SMALL)
    window = made(x[:, 100 - made.past - 1 :])[-1, 0, -1]
    torch.testing.assert_close(window, made(x)[-1, 0, -1], rtol=0, atol=1e-12)
    cut = made(x[:, 100 - made.past :])[-1, 0, -1]
    assert not torch.equal(cut, window)


@pytest.mark.parametrize("kind", (*CAUSAL, "tcn-offline"))
def test_a_video_of_one_frame_has_a_result_and_trains(kind):
    seed_everything(0)
    task = TemporalTask(TemporalNetwork(WIDTH, PHASES, TemporalConfig(network=kind, **SMALL)), 0.15)
    batch = {"features": torch.randn(1, 1, WIDTH), "phase": torch.tensor([[2]])}
    loss = task.step(batch).loss
    loss.backward()
    assert torch.isfinite(loss)


def test_dropout_is_on_in_training_and_off_in_eval():
    made, x = network(20, **SMALL)
    with torch.no_grad():
        assert torch.equal(made(x), made(x))
        made.train()
        assert not torch.equal(made(x), made(x))


def test_smoothing_of_constant_logits_is_0_whatever_they_are():
    assert smoothing_loss(torch.randn(1, 1, 5).expand(1, 30, 5)) == 0


@pytest.mark.parametrize("frames", [2, 10, 1000])
def test_one_jump_contributes_at_most_16_times_the_weight_over_t(frames):
    logits = torch.zeros(1, frames, PHASES)
    logits[:, : frames // 2, 0] = 1e4
    logits[:, frames // 2 :, 1] = 1e4
    jump = 0.15 * smoothing_loss(logits).item()
    assert 0 < jump <= 16 * 0.15 / frames + 1e-9


def test_the_earlier_frame_has_no_gradient():
    logits = torch.tensor([[[1.0, 0], [0, 0]]], requires_grad=True)
    smoothing_loss(logits).backward()
    assert logits.grad[0, 0].abs().max() == 0
    assert logits.grad[0, 1].abs().max() > 0


def test_a_jump_beyond_the_clip_has_no_gradient():
    logits = torch.tensor([[[50.0, 0], [0, 50]]], requires_grad=True)
    smoothing_loss(logits).backward()
    assert logits.grad.abs().max() == 0


def test_smoothing_of_half_precision_is_finite():
    assert torch.isfinite(smoothing_loss(1e4 * torch.eye(4).bfloat16()[None]))


def test_frames_without_a_phase_cost_nothing_and_all_without_give_0():
    logits, phase = torch.randn(1, 6, PHASES), torch.tensor([[0, 1, -1, 2, -1, 3]])
    there = phase[0] >= 0
    golden = nn.functional.cross_entropy(logits[0, there], phase[0, there])
    torch.testing.assert_close(frame_cross_entropy(logits, phase), golden)
    assert frame_cross_entropy(logits, torch.full((1, 6), -1)) == 0


def test_loss_is_the_sum_over_stages_of_both_terms():
    made, x = network(12, **SMALL)
    task = TemporalTask(made.float(), 0.15)
    x, phase = x.float(), torch.arange(12)[None] % PHASES
    out = task.step({"features": x, "phase": phase})
    logits = made(x)
    ce = sum(frame_cross_entropy(one, phase) for one in logits)
    smooth = sum(smoothing_loss(one) for one in logits)
    torch.testing.assert_close(out.loss, ce + 0.15 * smooth)
    assert out.loss.dtype == torch.float32


@pytest.mark.parametrize("kind", (*CAUSAL, "tcn-offline"))
def test_it_learns_a_phase_that_only_the_past_tells(kind):
    # phase = whether a mark was seen in the last 8 frames: no single frame shows it.
    seed_everything(0)
    x = 0.1 * torch.randn(1, 64, WIDTH)
    marks = torch.arange(5, 64, 20)
    x[0, marks, 0] += 3
    phase = torch.zeros(1, 64, dtype=torch.long)
    for mark in marks:
        phase[0, mark : mark + 8] = 1
    config = TemporalConfig(network=kind, dropout=0.0, **SMALL)
    task = TemporalTask(TemporalNetwork(WIDTH, PHASES, config), 0.15)
    optimizer = torch.optim.Adam(task.parameters(), lr=5e-3)
    for _ in range(200):
        out = task.step({"features": x, "phase": phase})
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
    assert out.log["accuracy"] > 0.95
    assert out.loss < math.log(2)


def test_every_weight_of_every_stage_has_a_gradient():
    for kind in (*CAUSAL, "tcn-offline"):
        made, x = network(30, network=kind, **SMALL)
        task = TemporalTask(made.float(), 0.15)
        task.step({"features": x, "phase": torch.zeros(1, 30, dtype=torch.long)}).loss.backward()
        assert [n for n, p in task.named_parameters() if p.grad is None] == []
