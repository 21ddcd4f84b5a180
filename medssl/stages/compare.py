"""Is pretraining worth it? The same fine-tuning from random and from pretrained weights.

Each arm is trained with the same options on the same labelled patients, at several label counts
and seeds; those of a smaller count are part of those of a larger one, and the test patients are the
same throughout. Scores are compared seed by seed and patient by patient. In ``out``:
``results.json``, ``results.md``, ``compare.html``, ``ledger.jsonl`` (one row per finished training)
and ``runs``. See docs/compare.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import rich
from pydantic import Field, field_validator

from medssl.core.config import Config, load_config
from medssl.core.errors import ConfigError, UsageError
from medssl.core.runlog import Run, write_text
from medssl.stages import _compare_data as data_of
from medssl.stages._compare_arms import Arm, arms_of, write_random
from medssl.stages._compare_job import (
    MEASURES,
    Job,
    Tested,
    carry_out,
    refuse_different_cases,
    score,
)
from medssl.stages._compare_page import as_markdown, as_page
from medssl.stages._compare_results import Found, job_of
from medssl.stages._jobs import read_rows, run_missing
from medssl.stages._seen import pixels_of, read_seen, refuse_copies
from medssl.stages._train import config_digest
from medssl.stages.finetune import FinetuneConfig

LEDGER, RESULTS, TABLE, PAGE = "ledger.jsonl", "results.json", "results.md", "compare.html"
# Options of ``finetune`` that the comparison sets.
_OURS = {
    "task", "data", "out", "init", "labels", "labelled", "seed", "store", "resume", "overwrite",
}  # fmt: skip


class CompareConfig(Config):
    """Options of ``medssl compare``."""

    data: Path
    """Labelled data set."""
    out: Path
    init: tuple[Path, ...] = ()
    """Runs of ``pretrain``; or ``NAME=WEIGHTS``, an encoder and its public weights, e.g.
    ``timm/resnet18=FILE``."""
    labels: tuple[int, ...] = (2, 5, 10)
    """Labelled patients to learn from."""
    seeds: int = Field(default=3, ge=1)
    """Trainings of each arm at each label count. One says nothing of the spread of training."""
    task: Literal["segmentation", "classification"] = "segmentation"
    plan: str | None = None
    """Config of ``finetune`` for every arm, name or path."""
    finetune: dict[str, Any] = {}
    """Options of ``finetune`` for every arm, e.g. ``finetune.steps=300``."""
    test_fraction: float = Field(default=0.3, gt=0, lt=1)
    """Share of patients to test on, where the data set names none."""
    equal_compute: bool = False
    """Also train random weights for as many samples as each pretrained arm has seen in all."""
    allow_test: bool = False
    """Go on where a pretraining has seen test scans; its results are then marked transductive."""
    jobs: int = Field(default=0, ge=0)
    """Trainings at a time, each a process of one thread; 0 = one, here, with all threads."""
    resume: bool = False
    overwrite: bool = False
    quiet: bool = False

    @field_validator("labels", mode="before")
    @classmethod
    def _is_listed(cls, value: Any) -> Any:
        """``2,5,10`` from the command line."""
        return value.split(",") if isinstance(value, str) else value

    @field_validator("labels")
    @classmethod
    def _counts_patients(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or min(value) < 1 or len(set(value)) < len(value):
            raise ValueError("has to be different numbers of patients, at least 1")
        return tuple(sorted(value))


@dataclass(frozen=True)
class Comparison:
    """What the jobs need to know. Picklable."""

    out: Path
    arms: Mapping[str, Arm]
    digests: Mapping[str, str]
    recipe: str | None
    options: Mapping[str, Any]

    def folder(self, job: Job) -> Path:
        """Where a job leaves its results."""
        return self.out / "runs" / job.name

    def finish(self, job: Job) -> dict[str, Any]:
        """Train and score; the ledger's row."""
        options = {
            **self.options,
            "init": self.arms[job.arm].init(job.seed),
            "labelled": job.labels,
            "seed": job.seed,
            "steps": job.steps,
        }
        test = self.out / "test"
        tested = Tested(test / "images", test / "references", test / "patients.csv")
        row = carry_out(self.folder(job), self.recipe, options, tested)
        found = score(self.folder(job) / "metrics.json", MEASURES[options["task"]])
        return {"plan": self.digests[job.arm], **row, **found}

    def found(
        self,
        jobs: Sequence[Job],
        patients: Mapping[str, str],
        classes: Mapping[str, int],
        batch_size: int,
    ) -> Found:
        """What the jobs found, on test patients, some of each class.

        Raises:
            UsageError: two arms learnt from different cases.
        """
        wanted = set(jobs)
        rows = [row for row in read_rows(self.out / LEDGER) if job_of(row) in wanted]
        refuse_different_cases(rows)
        return Found(
            arms=list(self.arms.values()),
            metrics={job: self.folder(job) / "metrics.json" for job in jobs},
            rows=rows,
            patients=patients,
            classes=classes,
            measure=MEASURES[self.options["task"]],
            batch_size=batch_size,
        )


def run(config: CompareConfig) -> Run:
    """Train what is missing, write table and page; ``Run.result`` is the content of the results.

    Raises:
        UsageError: a pretraining has seen test scans, labels are missing, or the ledger is of
            another plan.
        NothingUsableError: nobody to learn from or to test on.
    """
    plan = _plan(config)
    data = data_of.load(config.data, config.task, config.test_fraction)
    _refuse_missing(config, data)
    hashes = {case.name: pixels_of(case) for case in (*data.learnt, *data.tested)}
    tested = {case.name: hashes[case.name] for case in data.tested}
    refuse_copies(tested, [hashes[case.name] for case in data.learnt])
    if not config.allow_test:
        _refuse_seen(config.init, tested)
    finished = Run.open("compare", config.out, resume=config.resume, overwrite=config.overwrite)
    finished.save_config(config, {})
    arms = arms_of(
        config.init, plan, data.labelled, config.out / "arms", equal_compute=config.equal_compute
    )
    digests = _digests(plan, arms, data, hashes)
    _refuse_another_plan(config.out / LEDGER, digests)
    patients = data_of.link_tested(data, config.out / "test")
    for seed in range(config.seeds):
        write_random(arms, seed, data.labelled)
    comparison = Comparison(
        out=config.out,
        arms={arm.name: arm for arm in arms},
        digests=digests,
        recipe=config.plan,
        options={
            **config.finetune,
            "task": config.task,
            "data": data_of.write_learnt(data, config.data, config.out / "labelled"),
            "store": config.out / "store",
        },
    )
    jobs = [
        Job(arm.name, n, seed, arm.steps(plan))
        for n in config.labels
        for seed in range(config.seeds)
        for arm in arms
    ]
    run_missing(config.out / LEDGER, jobs, comparison.finish, config.jobs)
    classes = data.tested_classes()
    found = comparison.found(jobs, patients, classes, plan.batch_size)
    test = {"cases": len(data.tested), "patients": len(set(patients.values()))}
    about = {
        "test": {**test, "drawn": data.drawn},
        "classes": classes,
        "arms": [{**arm.as_json(), **_overlap(arm, tested)} for arm in arms],
        "plan": _short(digests),
    }
    return _write(config, finished, found, about)


def _plan(config: CompareConfig) -> FinetuneConfig:
    """The fine-tuning of every arm.

    Raises:
        ConfigError: an option that the comparison sets itself, or none of ``finetune``.
    """
    ours = sorted(_OURS & config.finetune.keys())
    if ours:
        what = f"finetune.{ours[0]} is set by the comparison"
        raise ConfigError(what, fix="leave it out")
    places = {"task": config.task, "data": config.data, "out": config.out}
    return load_config(FinetuneConfig, "finetune", config.plan, {**config.finetune, **places})


def _refuse_missing(config: CompareConfig, data: data_of.Data) -> None:
    if max(config.labels) <= data.patients:
        return
    there = f"{data.patients} labelled patients are left to learn from"
    fits = [n for n in config.labels if n <= data.patients] or [data.patients]
    what = f"labels={max(config.labels)}, but {there}"
    raise UsageError(what, fix=f"--labels {','.join(map(str, fits))}")


def _refuse_seen(given: Sequence[Path], tested: Mapping[str, Sequence[str]]) -> None:
    """No pretraining has seen test scans.

    Raises:
        UsageError: one has.
    """
    for run in given:
        _, met = read_seen(run).overlap(tested)
        if met:
            what = f"a pretraining has seen {len(met)} of {len(tested)} test cases"
            fix = "pretrain without the test patients, or give allow_test=true: the results are "
            raise UsageError(
                what, where=f"{run}: {', '.join(met[:5])}", fix=f"{fix}then marked transductive"
            )


def _overlap(arm: Arm, tested: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What is known of test scans in an arm's pretraining."""
    kind, met = arm.seen().overlap(tested)
    return {"overlap": kind, "met": len(met)}


def _digests(
    plan: FinetuneConfig,
    arms: Sequence[Arm],
    data: data_of.Data,
    hashes: Mapping[str, Sequence[str]],
) -> dict[str, str]:
    """Of everything that decides the results of each arm."""
    common = data_of.digests(data, hashes)
    return {arm.name: config_digest(plan, {**common, "weights": arm.weights}) for arm in arms}


def _refuse_another_plan(ledger: Path, digests: Mapping[str, str]) -> None:
    others = [
        row for row in read_rows(ledger) if row["plan"] != digests.get(row["arm"], row["plan"])
    ]
    if others:
        what = f"{len(others)} trainings in the output folder are of another plan"
        fix = "go on with the options and data it was started with, or choose another --out"
        raise UsageError(what, fix=fix)


def _short(digests: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(digests.values()).encode()).hexdigest()[:12]


def _write(config: CompareConfig, finished: Run, found: Found, about: Mapping[str, Any]) -> Run:
    results = {
        "task": config.task,
        "measure": MEASURES[config.task],
        "labels": list(config.labels),
        "seeds": config.seeds,
        **about,
        "trainings": len(found.rows),
        "wall_s": round(sum(row["wall_s"] for row in found.rows), 1),
        "rows": found.table(),
    }
    write_text(config.out / RESULTS, json.dumps(results, indent=1, allow_nan=False) + "\n")
    write_text(config.out / TABLE, as_markdown(results))
    write_text(config.out / PAGE, as_page(results))
    if not config.quiet:
        shown = as_markdown(results)
        rich.get_console().print(shown, markup=False, highlight=False, soft_wrap=True)
    return finished.finish(**results, outputs=[RESULTS, TABLE, PAGE])
