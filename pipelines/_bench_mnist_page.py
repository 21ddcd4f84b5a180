"""The page of :mod:`pipelines.medmnist`, from its ledger alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import medssl
from medssl.evaluation.compare import gain
from pipelines._bench_mnist import PIXELS, RANDOM, SAME_PATIENTS, SHARES, Mnist

Rows = Sequence[Mapping[str, Any]]
# MedMNIST v2, ResNet-18 at 28 pixels, trained with all labels: accuracy and AUROC.
SUPERVISED = {
    "pathmnist": (0.907, 0.983), "dermamnist": (0.735, 0.917), "octmnist": (0.743, 0.943),
    "pneumoniamnist": (0.854, 0.944), "retinamnist": (0.524, 0.717),
    "breastmnist": (0.863, 0.901), "bloodmnist": (0.958, 0.998), "tissuemnist": (0.676, 0.930),
    "organamnist": (0.935, 0.997), "organcmnist": (0.900, 0.992), "organsmnist": (0.782, 0.972),
}  # fmt: skip
# Fewer labelled pictures than this are marked.
_FEW = 10
_METHOD = (
    "Written by `python -m pipelines.medmnist`; medssl {version}. Each objective is pretrained on "
    "the training pictures of a set alone ({samples:,} samples, timm/resnet18 at 32 pixels, "
    "shipped options but for teachers' momentum, 0.97); the encoder is frozen. A linear probe "
    "learns from 1, 10 and 100 % of the training labels, drawn by class, at least one of each, the "
    "smaller part of the larger; its penalty is chosen on validation pictures that are no copies "
    "of training pictures; test pictures are looked at once. Mean ± SD over {seeds} seeds. Gains: "
    "accuracy against random weights of the same network, 95 % interval over seeds and test "
    "pictures (those that are equal, or of one patient where that is known, together). "
    "{minutes:.0f} minutes of one thread in all."
)
_FOREIGN = (
    "Test pictures of another set told from those of the own one: AUROC, and false positives at "
    "95 % true positives. Size and number of channels are the same; what else differs (noise, "
    "borders, grey levels) makes most of these pairs easy."
)


def page(sets: Sequence[Mnist], rows: Rows) -> str:
    """Markdown of what has been run."""
    seeds = len({row["seed"] for row in rows})
    samples = max(row["samples"] for row in rows)
    minutes = sum(row["wall_s"] for row in rows) / 60
    head = _METHOD.format(version=medssl.__version__, samples=samples, seeds=seeds, minutes=minutes)
    lines = ["# Results: medmnist", "", head, ""]
    for one in sets:
        lines += _few_labels(one, [row for row in rows if row["set"] == one.name])
    return "\n".join([*lines, *_foreign(rows), *_moved(rows)])


def _few_labels(one: Mnist, rows: Rows) -> list[str]:
    copies = len(one.labels("val")) - len(one.without_copies("val", "train"))
    leaked = len(one.labels("test")) - len(one.without_copies("test", "train"))
    sizes = ", ".join(f"{len(one.labels(part)):,} {part}" for part in ("train", "val", "test"))
    lines = [
        f"## {one.name}", "",
        f"{sizes}; {copies} validation and {leaked} test pictures are copies of training pictures.",
        *_reference(one.name), "",
        "| labels | arm | seeds | accuracy | AUROC | balanced accuracy | gain in accuracy |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for share in SHARES:
        arms = dict.fromkeys(row["arm"] for row in rows)
        lines += [_row(one, share, arm, rows) for arm in arms]
    return [*lines, ""]


def _row(one: Mnist, share: float, arm: str, rows: Rows) -> str:
    mine = {row["seed"]: row["shares"][str(share)] for row in rows if row["arm"] == arm}
    base = {row["seed"]: row["shares"][str(share)] for row in rows if row["arm"] == RANDOM}
    cells = [_spread([found[key] for found in mine.values()]) for key in ("acc", "auc", "balanced")]
    labelled = next(iter(mine.values()))["labelled"]
    few = " (few)" if labelled < _FEW else ""
    found = ""
    if arm not in {RANDOM, PIXELS}:
        seeds = sorted(mine.keys() & base.keys())
        ours, theirs = ([_right(arm_of[s]) for s in seeds] for arm_of in (mine, base))
        better = gain(ours, theirs, one.groups("test"))
        found = _interval(better.interval)
    label = f"{share:.0%}, {labelled:,}{few}"
    return f"| {label} | {arm} | {len(mine)} | {' | '.join(cells)} | {found} |"


def _reference(name: str) -> list[str]:
    if name not in SUPERVISED:
        return []
    accuracy, area = SUPERVISED[name]
    return [f"Supervised ResNet-18 on the official set: accuracy {accuracy:.3f}, AUROC {area:.3f}."]


def _foreign(rows: Rows) -> list[str]:
    """Pictures of other sets, in the same size and number of channels."""
    named = [(row["set"], other) for row in rows for other in row["foreign"]]
    if not named:
        return []
    methods = list(next(row["foreign"][o] for row in rows for o in row["foreign"]))
    lines = [
        "## Foreign pictures", "",
        _FOREIGN, "",
        f"| own | other | arm | {' | '.join(methods)} |", "|---" * (3 + len(methods)) + "|",
    ]  # fmt: skip
    for own, other in dict.fromkeys(named):
        mine = [row for row in rows if row["set"] == own]
        for arm in dict.fromkeys(row["arm"] for row in mine):
            found = [row["foreign"][other] for row in mine if row["arm"] == arm]
            cells = [
                f"{np.mean([f[m]['auroc'] for f in found]):.3f}, "
                f"{np.mean([f[m]['fpr95'] for f in found]):.3f}"
                for m in methods
            ]
            lines.append(f"| {own} | {other} | {arm} | {' | '.join(cells)} |")
    return [*lines, ""]


def _moved(rows: Rows) -> list[str]:
    """Encoders of one set, probes on another."""
    named = [(row["set"], other) for row in rows for other in row["moved"]]
    if not named:
        return []
    lines = [
        "## Other sets", "",
        "The encoder of one set, a probe with all labels on another: mean ± SD over seeds.", "",
        "| pretrained on | probed on | arm | accuracy | AUROC | |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for own, other in dict.fromkeys(named):
        shared = "shares patients" if {own, other} <= set(SAME_PATIENTS) else ""
        mine = [row for row in rows if row["set"] == own]
        for arm in dict.fromkeys(row["arm"] for row in mine):
            found = [row["moved"][other] for row in mine if row["arm"] == arm]
            cells = [_spread([f[key] for f in found]) for key in ("acc", "auc")]
            lines.append(f"| {own} | {other} | {arm} | {' | '.join(cells)} | {shared} |")
    return [*lines, ""]


def _right(scores: Mapping[str, Any]) -> list[float]:
    return [float(one) for one in scores["right"]]


def _spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.3f}"
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"


def _interval(found: Any) -> str:
    if np.isnan(found.low):
        return f"{found.mean:+.3f}"
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
