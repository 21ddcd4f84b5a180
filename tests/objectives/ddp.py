"""Two processes with half a batch each against one process with the whole batch.

    assert_two_ranks_equal_one({"simclr": (make_task, make_batch), ...})

``make_task`` and ``make_batch`` are functions of a module (or ``functools.partial`` of them): they
travel to other processes by name. All cases run in one pair of processes, which costs about 5 s.
"""

import os
import tempfile
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils._pytree import tree_map

from medssl.core.seeding import seed_everything

WORLD = 2
TOLERANCE = 1e-8
# A loaded machine is slow, not stuck.
PATIENCE = timedelta(minutes=5)


def assert_two_ranks_equal_one(cases, tolerance=TOLERANCE):
    """Loss, every gradient, and the state after the update agree in float64.

    ``cases``: name -> (make_task, make_batch). The batch has an even number of samples.
    """
    found = run_two_ranks(cases)
    wrong = []
    for name, case in cases.items():
        expected = outcome(*case, rank=0, world=1)
        for rank in range(WORLD):
            wrong += [
                f"{name}, rank {rank}: {w}" for w in compare(expected, found[name][rank], tolerance)
            ]
    assert not wrong, "\n".join(wrong)


def run_two_ranks(cases):
    """What each rank computes: name -> [outcome of rank 0, of rank 1]."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(
            _rank, args=(dict(cases), folder), nprocs=WORLD, start_method="spawn"
        )
        files = [Path(folder) / f"rank{rank}.pt" for rank in range(WORLD)]
        ranks = [torch.load(file, weights_only=True) for file in files]
    return {name: [rank[name] for rank in ranks] for name in cases}


def outcome(make_task, make_batch, rank, world):
    """Loss, gradients (averaged over ranks as DDP does) and state after the update."""
    seed_everything(0)
    task = make_task().double().train()
    batch = tree_map(lambda value: _share(value, rank, world), dict(make_batch()))
    loss = task.step(batch).loss
    loss.backward()
    found = {"loss": _mean(loss.detach(), world)}
    for name, parameter in task.named_parameters():
        if parameter.grad is not None:
            found[f"gradient of {name}"] = _mean(parameter.grad, world)
    task.after_update(0.5)
    return found | {f"state {name}": value for name, value in task.state_dict().items()}


def compare(expected, found, tolerance):
    """One line per value that differs."""
    wrong = [f"{name} is missing" for name in expected.keys() ^ found.keys()]
    for name in expected.keys() & found.keys():
        scale = max(1.0, float(expected[name].double().abs().max()))
        gap = float((expected[name].double() - found[name].double()).abs().max()) / scale
        if not gap <= tolerance:
            wrong.append(f"{name} differs by {gap:.2g}")
    return sorted(wrong)


def _share(value, rank, world):
    value = value.double() if torch.is_tensor(value) and value.is_floating_point() else value
    return value.chunk(world)[rank] if torch.is_tensor(value) else value


def _mean(value, world):
    value = value.clone()
    if world > 1:
        dist.all_reduce(value)
    return value / world


def _rank(rank, cases, folder):
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = dist.FileStore(f"{folder}/store", WORLD)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD, timeout=PATIENCE)
    found = {name: outcome(*case, rank=rank, world=WORLD) for name, case in cases.items()}
    torch.save(found, f"{folder}/rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
