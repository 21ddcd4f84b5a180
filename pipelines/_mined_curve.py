"""Scratch against ``alice`` on pairs of landmarks that ``anatomy`` found."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import medssl
from medssl.stages._compare_job import Job
from pipelines._label_curve import Curve


@dataclass(frozen=True)
class MinedCurve(Curve):
    """The label curve, pretrained in two stages on unlabelled CT."""

    archive: Path = Path()
    network: dict[str, Any] = field(default_factory=dict)
    """Encoder, crop and spacing of all runs."""
    pairs: dict[str, Any] = field(default_factory=dict)
    """Options of ``alice`` alone."""

    def pretrained(self) -> Path:
        catalog = self.out / "catalog"
        split = {"train": 1.0, "val": 0.0, "test": 0.0}
        medssl.index(archive=self.archive, out=catalog, split=split)
        options = {"data": catalog, "where": "modality == 'CT'", **self.network}
        options |= self.pretrain_overrides
        mined = _trained(self.out / "anatomy", config="anatomy", **options)
        options |= {"objective.embedding": mined, **self.pairs}
        return _trained(self.out / "pretrain", config="alice", **options)

    def recipe(self, job: Job) -> dict[str, Any]:  # noqa: ARG002
        return self.network


def _trained(out: Path, **options: Any) -> Path:
    """A finished run, made or continued if need be."""
    if not (out / "run.json").is_file():
        medssl.pretrain(out=out, resume=True, **options)
    return out
