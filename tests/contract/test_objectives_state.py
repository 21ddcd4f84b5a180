"""The state of every registered objective is whole: resumed runs and ranks give equal numbers."""

import copy
from functools import partial

import pytest
import torch
from lightning.fabric import Fabric

from medssl.core.registry import OBJECTIVES
from medssl.core.seeding import seed_everything
from medssl.objectives._parts.norm import across_ranks
from medssl.training.checkpoint import load_latest
from medssl.training.loop import Loop
from medssl.training.optim import OptimConfig, build_optimizer
from medssl.training.schedule import LoopConfig
from tests.objectives.ddp import assert_two_ranks_equal_one
from tests.objectives.tiny import batch_of, encoders_of, make, passes, ready, run

NAMES = OBJECTIVES.names()
HALF = 2
TOTAL = 30
# Options that put all of an objective's state to use.
OPTIONS = {
    "barlow": {"mixed": 1.0},
    "deepcluster": {"cluster_every": 2},
    "local_global": {"global_share": 0.5},
    "swav": {"queue": 8, "queue_from": 0.12},
    "image_volume": {"queue": 8, "volumes_from": 0.12},
}
# Nothing reads the running statistics of a teacher's batch norms: they use those of the batch.
# Nor the classes of its decoder, of which only maps are taken.
UNREAD = ("running_mean", "running_var", "num_batches_tracked", "seg_layers.0.bias",
          "seg_layers.0.weight")  # fmt: skip


def looped(task):
    """The real loop around a task."""
    optim = OptimConfig(lr=1e-3, warmup=1)
    config = LoopConfig(steps=2 * HALF, batch_size=4, log_every=1, check_every=HALF)
    fabric = Fabric(accelerator="cpu", devices=1)
    return Loop(fabric, task, build_optimizer(task.param_groups(), optim), config, optim)


def batches(task, start=0):
    return [batch_of(task, first=4 * step) for step in range(start, 2 * HALF)]


def fit(loop, source, folder):
    task, seen = loop.bare, []
    loop.fit(
        source, checkpoints=folder, stamp={"config_hash": "h"},
        log=lambda step, values: seen.append((step, values["loss"])),
        passes=partial(passes, task),
    )  # fmt: skip
    return seen


@pytest.mark.parametrize("name", NAMES)
def test_resume_is_bitwise(name, tmp_path):
    seed_everything(5)
    whole = looped(make(name, encoders_of(name)[0]))
    torch.manual_seed(6)
    losses = fit(whole, batches(whole.bare), tmp_path / "whole")
    first = looped(make(name, encoders_of(name)[0]))
    torch.manual_seed(6)
    with pytest.raises(StopIteration):  # the power fails
        fit(first, batches(first.bare)[:HALF], tmp_path / "parts")
    torch.manual_seed(99)
    second = looped(make(name, encoders_of(name)[0]))
    second.restore(load_latest(tmp_path / "parts", "h"))
    assert second.step == HALF
    assert fit(second, batches(second.bare, HALF), tmp_path / "parts") == losses[HALF:]
    found = second.bare.state_dict()
    for key, value in whole.bare.state_dict().items():
        assert torch.equal(found[key], value), key


def trained(name):
    """An objective after some steps, so that queues and banks hold something."""
    task = make(name, encoders_of(name)[0], **OPTIONS.get(name, {}))
    run(task, batch_of(task), steps=3, total=TOTAL)
    return task


def lasting(task):
    """Saved fields that no optimiser moves; of teachers one per module, of norms none."""
    frozen = {name for name, p in task.named_parameters() if not p.requires_grad}
    buffers = {name for name, _ in task.named_buffers()} & task.state_dict().keys()
    seen, found = set(), []
    for name in sorted(frozen | buffers):
        group = ".".join(name.split(".")[:3])
        if (
            name.startswith("encoder.")
            or name.endswith(UNREAD)
            or (name in frozen and group in seen)
        ):
            continue
        seen.add(group)
        found.append(name)
    return found


def shaken(name, value):
    """Another value of the same kind."""
    if "record" in name:
        return torch.full_like(value, -1)  # as if the place had never been filled
    if value.dtype.is_floating_point:
        return value + 0.5 + torch.rand_like(value)
    return (value + 1).clamp(max=int(value.max())) if value.ndim and value.any() else value + 1


def what_follows(task):
    """Losses, and the state."""
    torch.manual_seed(0)
    told = run(task, batch_of(task, purpose="later"), steps=3, start=3, total=TOTAL)
    told.append([task.prepare_at(step) for step in range(1000)])
    return told, task.state_dict()


@pytest.mark.parametrize("name", NAMES)
def test_every_saved_field_matters(name):
    task, idle = trained(name), []
    told, state = what_follows(copy.deepcopy(task))
    for field in lasting(task):
        other = copy.deepcopy(task)
        with torch.no_grad():
            value = other.state_dict()[field]
            value.copy_(shaken(field, value))
        told_other, state_other = what_follows(other)
        rest = state.keys() - {field}
        if told == told_other and all(torch.equal(state[k], state_other[k]) for k in rest):
            idle.append(field)
    assert idle == []


def two_rank_case(name):
    """Cases travel to other processes by name."""
    return across_ranks(ready(make(name, encoders_of(name)[0])))


def two_rank_batch(name):
    return batch_of(make(name, encoders_of(name)[0]), samples=4)


def test_two_ranks_equal_one():
    assert_two_ranks_equal_one(
        {name: (partial(two_rank_case, name), partial(two_rank_batch, name)) for name in NAMES}
    )
