"""One fine-tuning of a comparison: train, predict the test scans, score them."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from medssl.core.errors import UsageError
from medssl.stages import run_stage

MEASURES = {"segmentation": "dice", "classification": "balanced_accuracy"}
"""Score of a task that is compared."""


class Job(NamedTuple):
    """One fine-tuning: arm, labelled patients, seed, steps."""

    arm: str
    labels: int
    seed: int
    steps: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.arm}_labels{self.labels}_seed{self.seed}_steps{self.steps}"


@dataclass(frozen=True)
class Tested:
    """What is tested on: folders of scans and references, and the table of patients."""

    images: Path
    references: Path
    patients: Path | None = None


def carry_out(
    folder: Path, recipe: str | Path | None, options: Mapping[str, Any], tested: Tested
) -> dict[str, Any]:
    """Fine-tune, predict the test scans, evaluate; leaves ``metrics.json`` and the model.

    Args:
        folder: of the job; what a killed run left there goes first.
        recipe: config of ``finetune``, name or path.
        options: of ``finetune``; ``task`` among them.
        tested: scans and references.

    Returns:
        The ledger's row: the first score of the task, digest of the labelled cases, time taken.
    """
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    shutil.rmtree(folder, ignore_errors=True)
    task = options["task"]
    run = run_stage("finetune", recipe, {"out": folder / "finetune", "quiet": True, **options})
    predictions = folder / "predictions"
    run_stage("predict", None, {"input": tested.images, "out": predictions, "checkpoint": run.out})
    scored = {"task": task, "pred": predictions, "ref": tested.references}
    groups = {"groups": tested.patients} if tested.patients and task == "segmentation" else {}
    run_stage("evaluate", None, {**scored, **groups, "out": folder / "metrics.json"})
    shutil.rmtree(predictions)
    shutil.rmtree(run.out / "checkpoints", ignore_errors=True)  # frozen encoders leave none
    card = json.loads((run.out / "model" / "card.json").read_text(encoding="utf-8"))
    seen = card["provenance"]
    return {
        "cases_digest": seen.get("cases_digest") or seen["frames_digest"],
        "wall_s": round(time.perf_counter() - wall_s, 1),
        "cpu_s": round(time.process_time() - cpu_s, 1),
    }


def score(metrics: Path, measure: str) -> dict[str, Any]:
    """A score of a ``metrics.json``, for the ledger."""
    found = json.loads(metrics.read_text(encoding="utf-8"))[measure]
    return {key: found[key] for key in ("mean", "low", "high", "n")}


def refuse_different_cases(ledger: Sequence[dict[str, Any]]) -> None:
    """All arms must have learnt from the same labelled cases.

    Raises:
        UsageError: naming the label count and seed where they have not.
    """
    digests: dict[tuple[int, int], set[str]] = {}
    for row in ledger:
        digests.setdefault((row["labels"], row["seed"]), set()).add(row["cases_digest"])
    for (labels, seed), found in digests.items():
        if len(found) > 1:
            what = f"{labels} labelled, seed {seed}: the runs had different labelled cases"
            raise UsageError(what, fix="delete these runs and their rows of ledger.jsonl")
