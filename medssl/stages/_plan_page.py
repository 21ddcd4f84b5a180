"""The plan as a YAML file that ``pretrain --config`` takes, with its reasons as comments."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from medssl import __version__
from medssl.stages._plan_facts import Facts, Machine
from medssl.stages._plan_rules import GB, Choices

TITLE = "# Plan of `medssl plan`"
_WIDTH = 98
# The order in which a reader asks; what is not named comes last.
_ORDER = (
    "objective", "encoder", "crop", "spacing_mm", "size_px", "fps", "channels", "match_channels",
    "batch_size", "accumulate", "precision", "workers", "steps", "warmup", "where",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run of the plan is expected to take; ``None`` = not measured.

    Attributes:
        memory_bytes: peak of the GPU's memory, or of the process's resident memory without one.
        store_bytes, run_bytes: of the preprocessed records, and of checkpoints and model.
        store_s: to fill the store.
        step_s, check_s: per step, and per checkpoint with the health monitor.
        how: where the figures come from.
    """

    memory_bytes: float
    store_bytes: float
    run_bytes: float
    store_s: float
    step_s: float | None
    check_s: float
    how: str

    def hours(self, steps: int, check_every: int) -> float | None:
        """Of a run of so many steps, store included."""
        if self.step_s is None:
            return None
        checks = steps / check_every + 1
        return (self.store_s + steps * self.step_s + checks * self.check_s) / 3600

    def affordable_steps(self, hours: float, check_every: int) -> float:
        """Steps that so many hours are enough for; any number where no time is known."""
        if self.step_s is None:
            return float("inf")
        left_s = hours * 3600 - self.store_s - self.check_s
        return left_s / (self.step_s + self.check_s / check_every)


def as_yaml(head: Mapping[str, str], chosen: Choices) -> str:
    """The file: what it is made for as a comment, then one option after the other."""
    lines = [f"{TITLE}, medssl {__version__}; run it with", f"#   {command()}"]
    for key, text in head.items():
        lines += _comment(f"{key}: {text}.")
    ordered = [key for key in _ORDER if key in chosen]
    for key in [*ordered, *(key for key in chosen if key not in _ORDER)]:
        value, why = chosen[key]
        lines += ["", *_comment(f"{why[:1].upper()}{why[1:]}.")] if why else []
        # As the only item of a list on one line: without braces and document ends.
        listed = yaml.safe_dump([value], sort_keys=False, default_flow_style=True, width=1_000)
        lines.append(f"{key}: {listed.strip()[1:-1]}")
    return "\n".join(lines) + "\n"


def command(catalog: str = "CATALOG", plan: str = "plan.yaml") -> str:
    """What runs the plan."""
    return f"medssl pretrain --config {plan} --data {catalog} --out RUN"


def head(
    facts: Facts, machine: Machine, excluded: Counter[str], estimate: Estimate, hours: float | None
) -> dict[str, str]:
    """What the plan is made for and what it will take, in a few lines."""
    out = {"Data": _data(facts), "Machine": _machine(machine)}
    if excluded:
        out["Left out"] = ", ".join(f"{n} {reason}" for reason, n in excluded.most_common())
    time = "time not estimated" if hours is None else f"{in_words(hours)} ({_step(estimate)})"
    device = "of GPU memory" if machine.gpu else "of memory"
    store, run = estimate.store_bytes / GB, estimate.run_bytes / GB
    out["Expected"] = (
        f"{estimate.memory_bytes / GB:.2f} GB {device}; {store:.2f} GB on the disk for the store "
        f"and {run:.2f} GB for the run; {time}; {estimate.how}"
    )
    return out


def _data(facts: Facts) -> str:
    modalities = ", ".join(f"{n} {name}" for name, n in facts.modalities.items())
    kinds = {"volume": "volumes", "image": "pictures", "clip": "clips"}
    size = " x ".join(map(str, facts.shape[1:] if facts.kind == "image" else facts.shape))
    text = (
        f"{facts.records} {kinds[facts.kind]} ({modalities}) of {facts.patients} patients, {size}"
    )
    units = {"volume": "voxels", "image": "pixels", "clip": "frames and pixels"}
    text += f" {units[facts.kind]}"
    if facts.spacing_mm:
        text += f" of {' x '.join(f'{s:.3g}' for s in facts.spacing_mm)} mm"
    others = facts.counts.keys() - {facts.kind}
    more = "".join(f"; also {facts.counts[kind]} {kinds.get(kind, kind)}" for kind in others)
    return f"{text} (medians){more}"


def _machine(machine: Machine) -> str:
    gpu = f"{machine.gpu}, {machine.gpu_bytes / GB:.0f} GB" if machine.gpu else "no GPU"
    disk = "unknown" if machine.disk_bytes is None else f"{machine.disk_bytes / GB:.0f} GB"
    memory = f"{machine.memory_bytes / GB:.0f} GB of memory"
    return f"{machine.cpus} CPUs, {memory}, {gpu}, {disk} of free disk"


def in_words(hours: float) -> str:
    """Hours, or minutes where they are few."""
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"


def _step(estimate: Estimate) -> str:
    return f"{estimate.step_s:.2f} s a step"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="#   ")
