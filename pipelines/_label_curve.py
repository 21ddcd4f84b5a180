"""Scratch against pretrained at several label counts, budgets and seeds; resumable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

import medssl
from medssl.core.runlog import write_text
from medssl.core.seeding import generator
from medssl.stages._compare_job import Job, Tested, carry_out, refuse_different_cases, score
from medssl.stages._jobs import missing, read_rows, run_missing
from medssl.stages._paired import mean_score, score_difference
from pipelines._msd import link_cases


@dataclass(frozen=True)
class Curve:
    """The experiment: data, recipes and where its runs lie."""

    out: Path
    data: Path
    pretrain: str
    finetune: str
    pool: dict[str, list[str]]
    """Training cases by group; labelled cases come from different groups."""
    groups: dict[str, str]
    """Group of each test case, for the bootstrap."""
    pretrain_overrides: dict[str, Any] = field(default_factory=dict)
    remark: str = ""
    """How the recipe came about; stands below the table."""
    task: str = "segmentation"
    measures: dict[str, str] = field(default_factory=lambda: {"dice": "Dice"})
    """Scores of each case of a ``metrics.json``, with their names; the first goes to the ledger."""

    def pretrained(self) -> Path:
        """The pretraining run on the training images, made or continued if need be."""
        run = self.out / "pretrain"
        if (run / "run.json").is_file():
            return run
        catalog = self.out / "catalog"
        split = {"train": 1.0, "val": 0.0, "test": 0.0}
        medssl.index(archive=self.out / "train", out=catalog, split=split)
        medssl.pretrain(
            config=self.pretrain, data=catalog, out=run, resume=True, **self.pretrain_overrides
        )
        return run

    def labelled(self, labels: int, seed: int) -> Path:
        """Write the data set of ``labels`` cases from as many groups, the same for both arms."""
        rng = generator(seed, "labelled cases")
        groups = sorted(self.pool)
        chosen = [groups[i] for i in rng.permutation(len(groups))[:labels]]
        cases = [self.pool[group][rng.integers(len(self.pool[group]))] for group in chosen]
        return link_cases(self.data, self.labelled_folder(labels, seed), cases)

    def labelled_folder(self, labels: int, seed: int) -> Path:
        return self.out / "labelled" / f"{labels}_{seed}"

    def init(self, job: Job) -> Path | None:
        """Run that the fine-tuning starts from; ``None`` = random weights."""
        return self.out / "pretrain" if job.arm == "pretrained" else None

    def recipe(self, job: Job) -> dict[str, Any]:  # noqa: ARG002
        """Options of this arm's fine-tuning that differ from the recipe."""
        return {}

    def labels_of(self, job: Job) -> dict[str, Any]:
        """Task and labelled cases of this fine-tuning."""
        return {"task": self.task, "data": self.labelled_folder(job.labels, job.seed)}

    def tested(self) -> tuple[Path, Path]:
        """Inputs and references to test on."""
        return self.out / "test" / "imagesTr", self.out / "test" / "labelsTr"

    def metrics(self, job: Job) -> Path:
        return self.out / job.name / "metrics.json"

    def finish(self, job: Job) -> dict[str, Any]:
        """Fine-tune, predict the test cases, evaluate; returns the ledger's row."""
        folder = self.out / job.name
        options = {
            "store": self.out / "store",
            "steps": job.steps,
            "seed": job.seed,
            **self.labels_of(job),
            **self.recipe(job),
        }
        init = self.init(job)
        row = carry_out(
            folder,
            self.finetune,
            {**options, "init": init} if init else options,
            Tested(*self.tested()),
        )
        return {**row, **score(self.metrics(job), next(iter(self.measures)))}

    def report(self, labels: Sequence[int], seeds: Sequence[int], steps: Sequence[int]) -> str:
        """The results as Markdown."""
        lines = [
            f"# Results: {self.finetune}",
            "",
            self._method(seeds),
            "",
            "| labelled | steps | scratch | pretrained | difference |",
            "|---|---|---|---|---|",
        ]
        for n in labels:
            for k in steps:
                scratch, pretrained = (
                    [self.metrics(Job(arm, n, seed, k)) for seed in seeds]
                    for arm in ("scratch", "pretrained")
                )
                cells = [
                    self.mean(scratch),
                    self.mean(pretrained),
                    self.difference(pretrained, scratch),
                ]
                lines.append(f"| {n} | {k} | {' | '.join(cells)} |")
        remark = [self.remark, ""] if self.remark else []
        return "\n".join([*lines, "", *remark, *self._by_seed(labels, seeds, steps), ""])

    def mean(self, runs: Sequence[Path], measure: str = "") -> str:
        """A score over seeds and cases; default: the first of ``measures``."""
        return cell(mean_score(runs, self.groups, measure or next(iter(self.measures))))

    def difference(self, runs: Sequence[Path], others: Sequence[Path], measure: str = "") -> str:
        """Of two arms, as :meth:`mean`."""
        name = measure or next(iter(self.measures))
        return cell(score_difference(runs, others, self.groups, name), sign="+")

    def _method(self, seeds: Sequence[int]) -> str:
        return (
            f"Written by `pipelines/{self.finetune}.py`; medssl {medssl.__version__}. "
            f"Test Dice, mean of all labels, {len(self.groups)} volumes in "
            f"{len(set(self.groups.values()))} groups, {len(seeds)} seeds. "
            "95 % intervals: groups drawn 10,000 times, Student's t over seeds; the difference "
            "is paired by seed and volume. Both arms have the same labelled cases, recipe and "
            "number of steps; the last checkpoint counts."
        )

    def _by_seed(
        self, labels: Sequence[int], seeds: Sequence[int], steps: Sequence[int]
    ) -> list[str]:
        ledger = read_rows(self.out / "ledger.jsonl")
        rows = {tuple(row[k] for k in Job._fields): row["mean"] for row in ledger}
        refuse_different_cases(ledger)
        lines = ["By seed, scratch → pretrained:", ""]
        for n in labels:
            for k in steps:
                pairs = [
                    f"{rows['scratch', n, s, k]:.3f} → {rows['pretrained', n, s, k]:.3f}"
                    for s in seeds
                ]
                lines.append(f"- {n} labelled, {k} steps: {', '.join(pairs)}")
        return lines


def run_jobs(curve: Curve, plan: Sequence[Job], jobs: int) -> None:
    """Run the missing jobs."""
    ledger = curve.out / "ledger.jsonl"
    for labels, seed in {(job.labels, job.seed) for job in missing(ledger, plan)}:
        curve.labelled(labels, seed)  # before the jobs start: both arms read it
    run_missing(ledger, plan, curve.finish, jobs)


def write_curve(
    curve: Curve,
    results: Path,
    labels: Sequence[int],
    seeds: Sequence[int],
    steps: Sequence[int],
    jobs: int,
) -> None:
    """Pretrain, run the missing jobs of both arms in the order given, write the page."""
    curve.pretrained()
    arms = ("scratch", "pretrained")
    plan = [Job(a, n, s, k) for k in steps for n in labels for s in seeds for a in arms]
    run_jobs(curve, plan, jobs)
    write_text(results, curve.report(sorted(labels), seeds, sorted(steps)))
    typer.echo(f"wrote {results}")


def cell(interval: Any, sign: str = "") -> str:
    """A mean with its interval."""
    return f"{interval.mean:{sign}.3f} ({interval.low:{sign}.3f} to {interval.high:{sign}.3f})"
