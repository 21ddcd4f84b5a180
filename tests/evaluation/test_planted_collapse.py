"""Planted collapses are called so within 200 steps; the same objectives, whole, are not."""

from functools import partial

import pytest
import torch

from medssl.core.seeding import seed_everything
from medssl.core.task import StepOutput
from medssl.core.viewspec import Setting
from medssl.evaluation.health import verdict
from medssl.evaluation.monitor import HealthMonitor, Probe
from medssl.objectives import barlow, dino, simclr, swav, vicreg
from medssl.objectives._parts.views import ViewOptions, pair_of_views
from tests.objectives.collapse import collapsing_byol, sound_byol
from tests.objectives.planted import without_centring
from tests.objectives.tiny import ENCODERS, batch_of, make
from tests.objectives.toys import CROP, TinyEncoder, toy_batch, train

STEPS, SAMPLES = 200, 16


def objective(module, **options):
    setting = Setting(crop=CROP, records=10_000)
    return module.Objective(TinyEncoder(), module.Config(**options), setting)


def small_dino(**options):
    sizes = {"hidden": 64, "bottleneck": 32, "prototypes": 32, "local_views": 0}
    return objective(dino, **sizes, patch_weight=0.0, **options)


class Flattened(simclr.Objective):
    """SimCLR that also pulls the encoder's features into one line."""

    def step(self, batch):
        whole = super().step(batch)
        z = self.encoder(batch["views"][0]["x"]).global_BD
        scattered = torch.linalg.svdvals(z - z.mean(0))[1:].square().sum()
        return StepOutput(0.01 * whole.loss + scattered, whole.log)


def flattened():
    config = simclr.Config(hidden=64, out=32, norm="layer")
    return Flattened(TinyEncoder(), config, Setting(crop=CROP, records=10_000))


def states(task, steps=STEPS, parts=4, lr=3e-3):
    """Verdicts over a short training."""
    pairs = [toy_batch(task, samples=64, seed=10_000)["views"][place]["x"] for place in (0, 1)]
    monitor = HealthMonitor(Probe(pairs, toy_batch(task, SAMPLES, seed=20_000), chunk=64))
    first, found = monitor(task), []
    for _ in range(parts):
        train(task.train(), steps // parts, SAMPLES, lr)
        found.append(verdict(monitor(task), first))
    return found


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: collapsing_byol(TinyEncoder(), CROP), "to the loss"),
        (lambda: without_centring(small_dino(koleo_weight=0.0, norm="none")), "targets no longer"),
    ],
    ids=["byol without stop-gradient", "dino without centring"],
)
def test_planted_collapses_are_called_collapsed(make, words):
    seed_everything(0)
    found = states(make())
    assert found[-1].state == "collapsed", found
    assert words in found[-1].why


def test_lost_dimensions_are_called_shrinking():
    seed_everything(0)
    found = states(flattened())
    shrinking = [str(verdict) for verdict in found if verdict.state == "shrinking"]
    assert any("LiDAR" in words for words in shrinking), found


GOOD = {
    "byol": lambda: sound_byol(TinyEncoder(), CROP),
    "dino": small_dino,
    "dino with a centre": partial(small_dino, targets="centring"),
    "simclr": partial(objective, simclr, hidden=64, out=32),
    "vicreg": partial(objective, vicreg, hidden=64, out=32),
    "barlow": partial(objective, barlow, hidden=64, out=32),
    "swav": partial(objective, swav, hidden=64, out=32, prototypes=16, local_views=0),
}


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD)
def test_good_runs_are_not(make):
    seed_everything(0)
    found = states(make(), lr=1e-3)
    assert {verdict.state for verdict in found} == {"healthy"}, found


RESENC = "resenc-xs"


def states_on_phantoms(task, steps=40, parts=4):
    """Verdicts over a short training on eight volumes; untrained spreads are below 0.05 there."""
    setting = Setting(crop=ENCODERS[RESENC][0], records=8)
    pairs = batch_of(task, 16, spec=pair_of_views(ViewOptions(), setting), purpose="probe")
    probe = Probe([view["x"] for view in pairs["views"]], batch_of(task, 8), chunk=8)
    monitor = HealthMonitor(probe)
    first, found = monitor(task), []
    optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], 3e-3)
    for step in range(1, steps + 1):
        task.train().step(batch_of(task, 8, purpose=f"step {step}")).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        task.after_update(step / steps)
        if step % (steps // parts) == 0:
            found.append(verdict(monitor(task), first))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norm"), [("byol", "layer"), ("moco", "none")])
def test_good_runs_of_a_convolutional_encoder_are_not_called_so(name, norm):
    found = states_on_phantoms(make(name, RESENC, norm=norm))
    assert "collapsed" not in {verdict.state for verdict in found}, found


@pytest.mark.slow
def test_a_planted_collapse_of_a_convolutional_encoder_is():
    task = make("byol", RESENC)
    found = states_on_phantoms(collapsing_byol(task.encoder, ENCODERS[RESENC][0]))
    assert found[-1].state == "collapsed", found
