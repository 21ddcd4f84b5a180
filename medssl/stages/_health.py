"""Watches the health of a pretraining: a fixed probe set, ``health.jsonl``, stop on collapse."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.fabric import Fabric
from rich.console import Console
from torch import nn
from torch.utils.data import default_collate

from medssl.core.errors import MedsslError
from medssl.core.runlog import Run
from medssl.core.seeding import generator
from medssl.core.viewspec import Setting
from medssl.evaluation.health import STATES, Verdict, verdict
from medssl.evaluation.monitor import HealthMonitor, Probe
from medssl.evaluation.shortcut import Readout, shortcut
from medssl.objectives._parts.distributed import gather, rank, total, world
from medssl.objectives._parts.views import ViewOptions, pair_of_views
from medssl.stages._data import ViewDataset
from medssl.stages._train import Training, drop_later_metrics

# Samples of the probe and augmented views of each.
MOST_SAMPLES, VIEWS = 128, 2
FEWEST_SAMPLES = 16
# The probe's views stay in memory; as many samples as fit here.
PROBE_BYTES = 256 * 2**20
SHORTCUT_FIX = "what it means and what may help: docs/embed.md"
# Encoder passes of one evaluation, as a share of the samples trained on between two.
_COST = 0.1


@dataclass
class HealthWatch:
    """The monitor that a training loop calls; rank 0 writes, and decides for all."""

    monitor: HealthMonitor
    fabric: Fabric
    run: Run
    first: Mapping[str, float]
    stop: bool
    quiet: bool
    warmup: int
    """Steps in which fewer directions than the untrained network's are no news."""
    state: str = "healthy"
    shortcut: str = ""

    def __call__(self, step: int, task: nn.Module) -> Mapping[str, float]:
        """Measure, judge, write one line of ``health.jsonl``.

        Raises:
            MedsslError: collapsed, and ``stop_on_collapse`` is set.
        """
        values = self.monitor(task)
        self._look_for_shortcut(step, values)
        found: Verdict = self.fabric.broadcast(verdict(values, self.first))
        if found.state == "shrinking" and step <= self.warmup:
            found = Verdict("healthy", f"in the warm-up; {found.why}")
        if self.fabric.is_global_zero:
            write_line(self.run, step, found, values, self.shortcut)
            if found.state not in ("healthy", self.state):
                Console(stderr=True, quiet=self.quiet).print(f"health at step {step}: {found}")
        self.state = found.state
        self.run.result["health"] = str(found)
        if self.stop and found.state == "collapsed":
            what = f"collapsed at step {step}: {found.why}"
            raise MedsslError(what, fix=f"{found.fix}; or stop_on_collapse=false")
        logged = {f"health/{key}": value for key, value in values.items()}
        return {**logged, "health/state": float(STATES.index(found.state))}

    def _look_for_shortcut(self, step: int, values: Mapping[str, float]) -> None:
        before, self.shortcut = self.shortcut, shortcut_in(values)
        if self.shortcut or before:
            self.run.result["shortcut"] = self.shortcut
        if self.shortcut and not before and self.fabric.is_global_zero:
            words = f"at step {step}: {self.shortcut}; {SHORTCUT_FIX}"
            Console(stderr=True, quiet=self.quiet).print(words)


def shortcut_in(values: Mapping[str, float]) -> str:
    """The warning that these measures give; empty = none."""
    named = {key.partition("/")[2]: key for key in values if key.startswith("knn/")}
    return shortcut(
        {name: Readout(values[key], values[f"knn_error/{name}"]) for name, key in named.items()}
    )


def watch(
    training: Training, setting: Setting, labels: Mapping[str, Sequence[str]], *, stop: bool
) -> HealthWatch:
    """The watch of a training that has not begun; measures the untrained network first.

    ``labels`` are free labels of the records, by name and number of the record.
    """
    fabric, run = training.fabric, training.run
    monitor = HealthMonitor(
        probe=_probe(training, setting, labels),
        autocast=fabric.autocast,
        gather=gather,
        mean=lambda x: total(x) / world(),
    )
    training.task.to(fabric.device)
    first = monitor(training.task)
    if fabric.is_global_zero and not (run.out / "health.jsonl").is_file():
        write_line(run, 0, Verdict("healthy", "before training"), first, "")
    config = training.config
    return HealthWatch(monitor, fabric, run, first, stop, config.quiet, config.warmup)


def write_line(
    run: Run, step: int, found: Verdict, values: Mapping[str, float], shortcut: str
) -> None:
    """Append to ``health.jsonl``; lines of steps that are repeated go."""
    path = run.out / "health.jsonl"
    drop_later_metrics(path, step - 1)
    line: dict[str, Any] = {"step": step, "state": found.state, "why": found.why, "try": found.fix}
    line |= {**({"shortcut": shortcut} if shortcut else {}), **values}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def samples_of_probe(config: Any, crop: tuple[int, ...], channels: int, ranks: int) -> int:
    """How many samples the probe has; the same number on every rank.

    Few steps between evaluations, or large crops, make it smaller.
    """
    trained = config.check_every * config.batch_size
    bytes_each = 4 * VIEWS * channels * math.prod(crop)
    wanted = min(MOST_SAMPLES, int(_COST * trained / VIEWS), PROBE_BYTES // bytes_each)
    return max(wanted, FEWEST_SAMPLES) // ranks * ranks


def _probe(training: Training, setting: Setting, labels: Mapping[str, Sequence[str]]) -> Probe:
    config, dataset = training.config, training.dataset
    task: Any = training.task
    assert isinstance(dataset, ViewDataset)
    count = samples_of_probe(config, setting.crop, task.encoder.in_channels, world())
    chunk = config.batch_size // config.accumulate // world()
    # Records come twice where there are fewer than samples; their crops differ.
    order = generator(config.seed, "probe").permutation(len(dataset.records))
    numbers = [int(order[i % len(order)]) for i in range(max(count, chunk * world()))]
    spec = pair_of_views(ViewOptions(), setting, count=VIEWS)
    pairs = _part(dataset, spec, numbers, count // world())
    batch = _part(dataset, task.views(), numbers, chunk)
    seen = numbers[: count // world() * world()]
    return Probe(
        [view["x"] for view in pairs["views"]],
        batch,
        chunk,
        labels={name: [values[n] for n in seen] for name, values in labels.items()},
        patients_N=dataset.records.patients[seen],
    )


def _part(dataset: ViewDataset, spec: Any, numbers: list[int], share: int) -> dict[str, Any]:
    """This rank's ``share`` of the records called ``numbers``, as one batch."""
    chosen = ViewDataset(dataset.records, spec, dataset.seed, matcher=dataset.matcher)
    mine = range(rank() * share, (rank() + 1) * share)
    # By place, not by record: records that come twice show two crops.
    rngs = {place: generator(dataset.seed, "pass", place) for place in mine}
    return dict(default_collate([chosen.sample(numbers[n], rng) for n, rng in rngs.items()]))
