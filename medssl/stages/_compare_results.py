"""What a comparison found, as numbers: a row per arm and label count."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medssl.evaluation.compare import Gain, gain, mean_score
from medssl.stages._compare_arms import Arm
from medssl.stages._compare_job import Job
from medssl.stages._paired import score_table


@dataclass(frozen=True)
class Found:
    """Finished jobs, where their scores lie, and the patients of the test cases.

    Attributes:
        rows: of the ledger, of the present arms.
        metrics: file of each job of the plan.
        classes: test patients of each class; empty where there are none.
        batch_size: of the fine-tuning.
    """

    arms: Sequence[Arm]
    metrics: Mapping[Job, Path]
    rows: Sequence[Mapping[str, Any]]
    patients: Mapping[str, str]
    classes: Mapping[str, int]
    measure: str
    batch_size: int

    def table(self) -> list[dict[str, Any]]:
        """Label count by label count, arms in their order."""
        counts = sorted({job.labels for job in self.metrics})
        return [self._row(arm, labels) for labels in counts for arm in self.arms]

    def _row(self, arm: Arm, labels: int) -> dict[str, Any]:
        jobs = self._jobs(arm.name, labels)
        mean = self._known(mean_score(*self._scores(jobs)))
        taken = [row for row in self.rows if job_of(row) in jobs]
        samples = jobs[0].steps * self.batch_size
        before = 0 if arm.like else arm.samples
        return {
            "arm": arm.name,
            "labels": labels,
            "steps": jobs[0].steps,
            **mean.interval.as_json(),
            "seeds": mean.seeds,
            "patients": mean.groups,
            "gain": self._gain(jobs, arm.against),
            "gain_equal_compute": self._gain(jobs, self._as_long(arm)),
            "samples": samples + before,
            "samples_finetune": samples,
            "wall_s": round(float(np.mean([row["wall_s"] for row in taken])), 1),
            "cpu_s": round(float(np.mean([row["cpu_s"] for row in taken])), 1),
        }

    def _gain(self, jobs: list[Job], other: str) -> dict[str, Any] | None:
        """Against another arm, at the same labels and seeds."""
        if not other:
            return None
        a_SN, groups = self._scores(jobs)
        b_SN, _ = self._scores(self._jobs(other, jobs[0].labels))
        return as_json(self._known(gain(a_SN, b_SN, groups)), other)

    def _known(self, found: Gain) -> Gain:
        """One patient of a class says nothing of the spread of its recall: no interval."""
        if 1 not in self.classes.values():
            return found
        return found._replace(interval=found.interval._replace(low=math.nan, high=math.nan))

    def _as_long(self, arm: Arm) -> str:
        return next((one.name for one in self.arms if one.like == arm.name), "")

    def _jobs(self, arm: str, labels: int) -> list[Job]:
        return [job for job in self.metrics if (job.arm, job.labels) == (arm, labels)]

    def _scores(self, jobs: list[Job]) -> tuple[np.ndarray[Any, np.dtype[np.float64]], list[str]]:
        values_SN, names = score_table(
            [self.metrics[job] for job in jobs], self.patients, self.measure
        )
        return values_SN, [self.patients[name] for name in names]


def as_json(found: Gain, against: str) -> dict[str, Any]:
    """A difference, and what it allows to say."""
    return {**found.interval.as_json(), "against": against, "verdict": found.verdict}


def job_of(row: Mapping[str, Any]) -> Job:
    """The job of a ledger's row."""
    return Job(**{key: row[key] for key in Job._fields})
