"""Contrast of two records that show one thing: what is a pair, what is no negative."""

from functools import partial
from math import log

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import default_collate

from medssl.core.features import Features
from medssl.core.seeding import generator, seed_everything
from medssl.core.viewspec import Setting
from medssl.encoders._base import Encoder
from medssl.objectives._parts.contrast import nt_xent
from medssl.objectives.simclr import Objective
from medssl.views.sample import build_sample
from tests.objectives.ddp import assert_two_ranks_equal_one
from tests.objectives.tiny import CLIPS, batch_of, config_of, make, run
from tests.views.sources import Records, source

STUDY = {"kind": "study"}


def task_of(**options):
    return make("simclr", CLIPS, norm="layer", partner={**STUDY, **options}).eval()


def keeping(batch, *kept):
    return {**batch, "partner": {**batch["partner"], "kept": torch.tensor(kept)}}


def rows(batch, numbers):
    """Some samples of a batch."""
    views = [{"x": view["x"][numbers]} for view in batch["views"]]
    partner = {"kept": batch["partner"]["kept"][numbers]}
    return {**{k: batch[k][numbers] for k in ("record", "patient")}, "views": views,
            "partner": partner}  # fmt: skip


def test_the_second_view_is_that_of_the_partner():
    task = task_of()
    batch = batch_of(task, 4)
    assert len(batch["views"]) == 2
    assert (batch["partner"]["record"] != batch["record"]).all()
    assert (batch["partner"]["patient"] == batch["patient"]).all()
    assert torch.equal(*(view["time_s"] for view in batch["views"]))


def test_pairs_that_are_not_kept_are_left_out():
    task = task_of()
    batch = batch_of(task, 8)
    dropped = keeping(batch, *[True, False] * 4)
    kept = rows(batch, [0, 2, 4, 6])
    assert task.terms(dropped)["contrast"].item() == pytest.approx(
        task.terms(kept)["contrast"].item(), abs=1e-6
    )


def test_without_a_pair_the_loss_is_0_and_does_not_pull():
    task = task_of()
    loss = task.terms(keeping(batch_of(task, 4), *[False] * 4))["contrast"]
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in task.parameters())


def test_no_record_of_the_patient_is_a_negative():
    # Records 0 and 1 are of one patient: each is the partner of the other, at another time.
    task = task_of()
    batch = batch_of(task, 4)
    assert batch["patient"].tolist() == [0, 0, 1, 1]
    assert task.terms(rows(batch, [0, 1]))["contrast"].item() == 0
    assert task.terms(rows(batch, [0, 2]))["contrast"].item() > 0


def test_it_is_the_same_from_either_clip():
    # With one partner of weight 1 ColloSSL's loss is InfoNCE; which device comes first is all one.
    a, b = torch.randn(6, 5), torch.randn(6, 5)
    one, other = (nt_xent(*pair, temperature=0.2) for pair in ((a, b), (b, a)))
    assert one.item() == pytest.approx(other.item(), abs=1e-6)
    z = (
        torch.nn.functional.normalize(torch.cat([a, b]), dim=1)
        @ torch.nn.functional.normalize(torch.cat([a, b]), dim=1).T
    )
    e = torch.exp(z / 0.2)
    positive = e[torch.arange(12), torch.arange(12).roll(6)]
    negatives = e.sum(1) - e.diag() - positive
    assert one.item() == pytest.approx((-(positive / (positive + negatives)).log()).mean().item(),
                                       abs=1e-5)  # fmt: skip


def partly_kept():
    return keeping(batch_of(task_of(), 8), *[True, True, False, True, False, False, True, True])


def none_kept_on_one_rank():
    return keeping(batch_of(task_of(), 8), *[False] * 4, *[True] * 4)


@pytest.mark.slow
def test_two_ranks_equal_one_whatever_each_of_them_keeps():
    make_task = partial(make, "simclr", CLIPS, norm="layer", partner=STUDY)
    batches = (partly_kept, none_kept_on_one_rank)
    assert_two_ranks_equal_one({one.__name__: (make_task, one) for one in batches})


HEARTS, BATCH = 24, 12


class Brightness(Encoder):
    """Sees how bright each frame is, and nothing else."""

    kind = "clip"
    token_size = size_multiple = (1, 8, 8)
    width, in_channels = 32, 1

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, x, _mask=None, _fill_D=None):
        return Features(self.net(x.mean((1, 3, 4))), None, None, [])

    def make_decoder(self, out_channels, name="auto"):
        raise AssertionError


def beating(patient, view):
    """A heart seen in two ways that have its brightness over time in common, and nothing else."""
    beat_T = np.random.default_rng((7, patient)).normal(size=120)
    texture = np.random.default_rng((8, patient, view)).normal(size=(1, 1, 16, 16))
    x = (0.3 * texture + beat_T[:, None, None]).astype(np.float32)
    return source(x, kind="clip", times_s=np.arange(120) / 15, shots=np.array([[0, 120]]))


def contrast_after(steps, *, synchronous):
    """Contrast among hearts, at moments not trained on."""
    hearts = Records([beating(n, v) for n in range(HEARTS) for v in (0, 1)],
                     np.arange(HEARTS).repeat(2))  # fmt: skip
    seed_everything(0)
    config = config_of("simclr", norm="layer", partner={**STUDY, "synchronous": synchronous})
    task = Objective(Brightness(), config, Setting(crop=(4, 8, 8), records=48, kind="clip"))

    def batch(number, word):
        chosen = generator(number, word).permutation(HEARTS)[:BATCH]
        rngs = (generator(number, word, int(n)) for n in chosen)
        records = (int(2 * n) for n in chosen)
        return default_collate([build_sample(task.views(), rng, hearts, n)
                                for rng, n in zip(rngs, records, strict=True)])  # fmt: skip

    for step in range(steps):
        run(task, batch(step, "train"), 1, lr=3e-3)
    with torch.no_grad():
        return np.mean([task.step(batch(n, "test")).loss.item() for n in range(10)])


@pytest.mark.slow
def test_contrast_falls_where_clips_share_the_phase_of_the_beat_and_not_where_they_do_not():
    guess = log(2 * BATCH - 1)
    assert contrast_after(150, synchronous=True) < 0.6 * guess
    assert contrast_after(150, synchronous=False) > 0.9 * guess
